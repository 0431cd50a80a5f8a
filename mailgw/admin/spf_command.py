"""``mailgw spf``: what the records say about a client, and the walk through them."""

import os
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import click
from attrs import asdict
from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004

from mailgw.admin import own_reactor
from mailgw.admin.options import speaking, with_json
from mailgw.admin.speaking import Speaker
from mailgw.admin.tables import Column, Printer
from mailgw.admin.whereabouts import NoConfiguration, find_configuration
from mailgw.config.model import parse_name_server
from mailgw.config.reading import read
from mailgw.dns.resolver import resolver
from mailgw.problems import BadConfiguration
from mailgw.senderauth.spf import SpfAnswer, check_host
from mailgw.values.address import NULL, Address, BadAddress

__all__ = ["spf"]

_PATIENCE = 60.0  # seconds for the whole walk


class Client(click.ParamType[IPv4Address | IPv6Address]):
    """An IP address."""

    name = "ip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IPv4Address | IPv6Address:
        try:
            return ip_address(value)
        except ValueError:
            self.fail(f'"{value}" is no IP address', param, ctx)


class Sender(click.ParamType[Address]):
    """``ann@example.org``, ``<>``, or a domain alone."""

    name = "sender"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        text = value.strip("<>")
        try:
            return NULL if not text else Address.parse(text if "@" in text else f"postmaster@{text}")
        except BadAddress as problem:
            self.fail(f'"{value}" is no sender: {problem}', param, ctx)


class NameServer(click.ParamType[tuple[str, int]]):
    """``127.0.0.1:5353``."""

    name = "server"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        try:
            return parse_name_server(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


@click.command(short_help="Say what SPF says of a client and a sender, and why.")
@click.argument("client", metavar="CLIENT_IP", type=Client())
@click.argument("sender", metavar="MAIL_FROM", type=Sender())
@click.option("--helo", metavar="NAME", default="", help='What the client says in EHLO; it counts where MAIL_FROM is "<>".')
@click.option("--resolver", "server", metavar="HOST:PORT", type=NameServer(), help="Ask this name server, not the configuration's.")
@with_json
@speaking
def spf(speaker: Speaker, client: IPv4Address | IPv6Address, sender: Address, helo: str, server: tuple[str, int] | None) -> None:
    """Say whether CLIENT_IP may send for MAIL_FROM, and how its domain's records lead there (RFC 7208).

    Nothing but the DNS is asked: the name servers of the configuration if there is one, else those of /etc/resolv.conf. The exit status
    is 0, whatever the result is.
    """
    if not sender and not helo:
        raise speaker.failed("bad-request", 'of "<>" only the HELO name can be asked: say --helo NAME')
    domain = sender.domain or helo
    identity = f"{sender.local_part or 'postmaster'}@{domain}"
    servers = (server,) if server is not None else configured_servers(speaker)

    async def ask(reactor: Any) -> SpfAnswer:
        asking = check_host(resolver(reactor, servers), client, domain, identity, helo, "unknown", time.time())
        return await Deferred.fromCoroutine(asking).addTimeout(_PATIENCE, reactor)

    try:
        answer = own_reactor.run(ask)
    except TimeoutError:
        raise speaker.failed("no-answer", f"the name servers took more than {_PATIENCE:g} seconds") from None
    if speaker.as_json:
        speaker.out.json({"client": str(client), "identity": "MAIL FROM" if sender else "HELO", **as_data(answer)})
    else:
        tell(speaker.out, answer, f"{'MAIL FROM' if sender else 'HELO'} {sender if sender else helo}", client)


def configured_servers(speaker: Speaker) -> Sequence[tuple[str, int]]:
    """The name servers that the gateway itself asks; none without a configuration. Raises Exit for one that is broken."""
    try:
        path = find_configuration(speaker.config, os.environ)
    except NoConfiguration:
        return ()
    try:
        return read(path).server.resolvers
    except BadConfiguration as problem:
        raise speaker.failed("configuration", f"{problem}\nwith --resolver HOST:PORT it is not needed") from None


def as_data(answer: SpfAnswer) -> dict[str, Any]:
    """The answer for scripts."""
    data = asdict(answer, filter=lambda field, _: field.name != "lookups")
    return {**data, "lookups": [{"name": one.name, "kind": one.kind, "answer": one.answer} for one in answer.lookups]}


def tell(out: Printer, answer: SpfAnswer, identity: str, client: IPv4Address | IPv6Address) -> None:
    """Print the result, the walk and the questions."""
    where = f" in the record of {answer.record_domain}" if answer.record_domain else ""
    pairs = [
        ("result", answer.result),
        ("client", str(client)),
        ("identity", identity),
        ("decided by", f"{answer.mechanism}{where}" if answer.mechanism else ""),
        ("because", answer.problem),
        ("record", answer.record),
        ("explanation", answer.explanation),
    ]
    out.pairs((name, value) for name, value in pairs if value)
    if answer.steps:
        out.line("")
    above: list[str] = []  # the domain at each depth
    for step in answer.steps:
        if above[step.depth : step.depth + 1] != [step.domain]:
            out.line(f"{'    ' * step.depth}{step.domain}")
        above[step.depth :] = [step.domain]
        out.line(f"{'    ' * step.depth}  {step.term}: {step.outcome}")
    if answer.lookups:
        out.line("")
        out.table(
            [Column("Question"), Column("Answer", folds=True)], [(f"{one.kind} {one.name}", one.answer) for one in answer.lookups]
        )
