"""Does the sender's domain allow this client to send in its name (RFC 7208)?"""

from collections.abc import Awaitable
from typing import Annotated, Literal

from attrs import evolve, field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IIdentity, IResolver, ISenderPolicy, LookupFailed
from mailgw.policies.action import act
from mailgw.senderauth.received_spf import received_spf
from mailgw.senderauth.spf import SpfAnswer, check_host
from mailgw.values.address import parse_domain
from mailgw.values.decision import AuthResult, Decision, Evidence, HeaderField, Verdict, defer, proceed
from mailgw.values.facts import ClientFacts, SenderFacts

__all__ = ["Spf"]

Consequence = Literal["reject", "defer", "quarantine", "discard", "mark"]
Identity = Literal["mailfrom", "helo", "null"]  # null: HELO in place of the null reverse-path (RFC 7208 §2.4)

_MOST_EXPLANATION = 200  # characters of a stranger's text in our reply
_MOST_LOOKUPS = 20  # in the decision record


def _parse_pattern(text: str) -> str:
    return f".{parse_domain(text[1:])}" if text.startswith(".") else parse_domain(text)


@implementer(ISenderPolicy)
@frozen
class Spf:
    """``type = "spf"``: asks the record of the sender's domain, and of the HELO name, whether the client may send for them.

    Nothing is asked about who has logged in. For each result but "pass", "none" and "neutral" there is a consequence: reject, defer,
    quarantine, discard, or mark, which lets it through with the tag ``spf-RESULT`` (``spf-helo-RESULT``). For the null reverse-path the
    HELO name stands in. All results go to later policies and into the Authentication-Results field.
    """

    fail: Consequence = "reject"
    softfail: Consequence = "mark"
    temperror: Consequence = "defer"  # the DNS does not answer
    permerror: Consequence = "mark"  # the domain's record is not valid
    helo: Literal["reject", "defer", "mark", "ignore"] = "mark"  # where the HELO name's own record says "fail"; ignore: it is not asked
    forwarders: list[Annotated[str, parse_domain]] = field(factory=list)  # domains whose servers may bring mail of anybody
    exempt_senders: list[Annotated[str, _parse_pattern]] = field(factory=list)  # domains (".x": all below) whose results are only marked
    explanation: bool = True  # the peer hears what the domain says about it (exp=)
    received_spf: bool = False  # also add a Received-SPF field (RFC 7208 §9.1)
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)
    clock: IClock = given(IClock)

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        return _FINE if facts.client.is_authenticated else self._check(facts)

    async def _check(self, facts: SenderFacts) -> Decision:
        client, sender = facts.client, facts.sender
        if not sender.domain:
            answer = await self._ask(client, client.helo, f"postmaster@{client.helo}")
            return await self._decide(facts, answer, self._consequence(answer), "null")
        earlier = _FINE
        if self.helo != "ignore":
            answer = await self._ask(client, client.helo, f"postmaster@{client.helo}")
            if answer.result != "none":
                earlier = await self._decide(facts, answer, self.helo if answer.result == "fail" else "mark", "helo")
                if earlier.verdict is not Verdict.PROCEED:
                    return earlier
        answer = await self._ask(client, sender.domain, f"{sender.local_part}@{sender.domain}")
        consequence = "mark" if self._is_exempt(sender.domain) else self._consequence(answer)
        return _together(earlier, await self._decide(facts, answer, consequence, "mailfrom"))

    async def _ask(self, client: ClientFacts, domain: str, sender: str) -> SpfAnswer:
        now = self.clock.now().timestamp()
        return await check_host(self.resolver, client.ip, domain, sender, client.helo, self.identity.hostname, now)

    def _consequence(self, answer: SpfAnswer) -> Consequence:
        match answer.result:
            case "fail":
                return self.fail
            case "softfail":
                return self.softfail
            case "temperror":
                return self.temperror
            case "permerror":
                return self.permerror
        return "mark"

    def _is_exempt(self, domain: str) -> bool:
        return any(domain == one or (one[0] == "." and domain.endswith(one)) for one in self.exempt_senders)

    async def _decide(self, facts: SenderFacts, answer: SpfAnswer, consequence: Consequence, identity: Identity) -> Decision:
        client, result, domain = facts.client, answer.result, answer.domain
        kind = "mailfrom" if identity == "mailfrom" else "helo"
        results = (AuthResult("spf", result, ((f"smtp.{kind}", domain),)),) if domain else ()
        headers: tuple[HeaderField, ...] = ()
        if self.received_spf:
            value = received_spf(answer, client.ip, str(facts.sender), client.helo, self.identity.hostname, kind)
            headers = (HeaderField("Received-SPF", value),)
        evidence = _grounds(client, answer, identity)
        why = f"{_IDENTITIES[identity]} {domain}: {result}" + (f" by {answer.mechanism}" if answer.mechanism else "")
        if result in _HARMLESS:
            return proceed(results=results, headers=headers, why=why, evidence=evidence)
        tag = f"spf-helo-{result}" if identity == "helo" else f"spf-{result}"
        if consequence != "mark" and self.forwarders:
            forwarder = await self._forwarder(client)
            if forwarder is not None:
                why = f"{why}, but it comes from a forwarder"
                return proceed(results=results, headers=headers, tags={tag}, why=why, evidence=(*evidence, forwarder))
        if consequence == "mark":
            return proceed(results=results, headers=headers, tags={tag}, why=why, evidence=evidence)
        text, status, remedy = self._refusal(client, answer, identity)
        if consequence == "defer":
            return defer(text, code=451, enhanced=f"4.{status}", why=why, evidence=evidence, remedy=remedy)
        decision = act(consequence, text, status=status, why=why, evidence=evidence, remedy=remedy)
        if decision.verdict is Verdict.REJECT:
            return decision
        return evolve(decision, results=results, headers=headers, tags=frozenset({tag}))

    def _refusal(self, client: ClientFacts, answer: SpfAnswer, identity: Identity) -> tuple[str, str, str]:
        """What the peer hears, the status without its class (RFC 7372 §3.2), and what would have to be different."""
        whom = answer.domain if identity == "mailfrom" else f"{answer.domain} (HELO)"
        match answer.result:
            case "temperror":
                return f"SPF of {whom} cannot be checked now", "7.24", f"name servers that answer: {answer.problem}"
            case "permerror":
                where = answer.record_domain or answer.domain
                return f"SPF record of {whom} is not valid", "7.24", f"a valid record in TXT {where}: {answer.problem}"
        text = f"SPF {answer.result} for {whom}"
        if self.explanation and answer.explanation:
            text += f", which explains: {answer.explanation[:_MOST_EXPLANATION]}"  # RFC 7208 §8.4: say whose words they are
        remedy = f"{client.ip} in the SPF record of {answer.domain}, or a server that is there; for a forwarder: its domain in forwarders"
        return text, "7.23", remedy

    async def _forwarder(self, client: ClientFacts) -> Evidence | None:
        """What shows that the client belongs to one of the forwarders. Raises LookupFailed where that cannot be said now."""
        trouble = ""
        for domain in self.forwarders:
            answer = await self._ask(client, domain, f"postmaster@{domain}")
            if answer.result == "pass":
                return Evidence("forwarder", f"{domain} lets {client.ip} send by {answer.mechanism}", f"TXT {answer.record_domain}")
            if answer.result == "temperror":
                trouble = trouble or answer.problem
        helo = client.helo.lower().removesuffix(".")
        if any(helo == domain or helo.endswith(f".{domain}") for domain in self.forwarders):
            kind = "A" if client.ip.version == 4 else "AAAA"
            if client.ip in (await self.resolver.lookup(helo, kind)).records:
                return Evidence("forwarder", f"HELO {helo} is {client.ip}", f"{kind} {helo}")
        if trouble:
            raise LookupFailed(f"whether {client.ip} is a forwarder: {trouble}")
        return None


_FINE = proceed()
_HARMLESS = ("pass", "none", "neutral")
_IDENTITIES = {"mailfrom": "MAIL FROM", "helo": "HELO", "null": "HELO (the reverse-path is null)"}


def _together(earlier: Decision, decision: Decision) -> Decision:
    """The later decision, with what was found before it."""
    if earlier is _FINE:
        return decision
    return evolve(
        decision,
        results=earlier.results + decision.results,
        headers=earlier.headers + decision.headers,
        tags=earlier.tags | decision.tags,
        evidence=earlier.evidence + decision.evidence,
        why=f"{earlier.why}; {decision.why}",
    )


def _grounds(client: ClientFacts, answer: SpfAnswer, identity: Identity) -> tuple[Evidence, ...]:
    said = [Evidence(f"SPF of {_IDENTITIES[identity]}", f"{answer.domain} about {client.ip}: {answer.result}", "RFC 7208")]
    if answer.record:
        said.append(Evidence("SPF record", answer.record, f"TXT {answer.record_domain}"))
    if answer.path:
        said.append(Evidence("way to it", ", ".join(answer.path), "the records"))
    if answer.problem:
        said.append(Evidence("problem", answer.problem, f"TXT {answer.record_domain}" if answer.record_domain else ""))
    if answer.result not in _HARMLESS:
        others = [one for one in answer.lookups if one.answer != answer.record]  # which is said already
        said += [Evidence("DNS", one.answer, f"{one.kind} {one.name}") for one in others[:_MOST_LOOKUPS]]
    return tuple(said)
