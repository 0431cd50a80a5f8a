"""The story of a decision, in the words of the operator: which rule, on which fact, in which line of the configuration."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mailgw.admin.stories import Story

__all__ = ["summary", "tell"]

_STAGES = {"connect": "before the greeting", "auth": "at AUTH", "mail": "at MAIL", "rcpt": "at RCPT", "data": "at the end of the content"}
_SAYS_NO = ("reject", "defer", "discard", "quarantine")
_DECIDES = {"held": ("quarantine",), "discarded": ("discard",)}  # by event; else all of the above
Entry = Mapping[str, Any]


def summary(entry: Entry) -> str:
    """One line about a record or a delivery."""
    words = [_when(entry["time"]), entry["event"]]
    if "client" in entry:
        words.append(f"{entry['client']['ip']} {entry['client']['listener']}")
        words.append(f"<{entry.get('sender', '-').strip('<>')}> -> {_recipients(entry)}")
        if entry.get("by"):
            words.append(f"by {entry['by']}")
    else:
        words.append(f"message {entry['message']} to {entry['recipient']}")
        if entry.get("gateway"):
            words.append(f"by {entry['gateway']}")
    if "message" in entry and "client" in entry:
        words.append(f"message {entry['message']}")
    if entry.get("reply"):
        words.append(entry["reply"])
    return "  ".join(words)


def _recipients(entry: Entry) -> str:
    ways = entry.get("recipients", ())
    if not ways:
        return "-"
    first = ways[0]["address"]
    return first if len(ways) == 1 else f"{first} and {len(ways) - 1} more"


def tell(story: Story) -> Iterator[str]:
    """The whole story, line by line."""
    entry = story.record
    if "client" not in entry:  # its record is gone, or it was a bounce of ours
        yield f"Message {entry['message']}: how it came is not in the records."
        yield from _later(story.later)
        return
    yield from _headline(entry)
    yield ""
    if grounds := list(_grounds(entry)):
        yield from grounds
        yield ""
    yield from _who(entry)
    yield from _ways(entry)
    yield from _asked(entry)
    yield from _later(story.later)


def _decisive(entry: Entry) -> Entry | None:
    """What was said that decided. Nobody is named who has thrown a message away where recipients were thrown away one by one."""
    by, verdicts = entry.get("by", ""), _DECIDES.get(entry["event"], _SAYS_NO)
    for said in reversed(entry.get("asked", ())):
        is_meant = said["policy"] == by or (not by and entry["event"] == "discarded" and not said.get("observed"))
        if is_meant and said["verdict"] in verdicts:
            decisive: Entry = said
            return decisive
    return None


def _headline(entry: Entry) -> Iterator[str]:
    number = f" as message {entry['message']}" if "message" in entry else ""
    when, stage = _when(entry["time"]), _STAGES.get(entry["stage"], entry["stage"])
    name = entry.get("by") or (_decisive(entry) or {}).get("policy", "")
    by = f" by {name}" if '"' in name else f' by "{name}"' if name else ""
    match entry["event"]:
        case "refused":
            yield entry["reply"]
            yield f"Refused {stage}{by}, {when}"
        case "accepted":
            yield f"Accepted{number}, {when}"
        case "held":
            yield f"Accepted{number} and held{by}, {when}"
        case "discarded":
            yield f"Accepted and thrown away{by}, {when}"
        case _:
            yield f"Given up by the client {stage}, {when}"


def _grounds(entry: Entry) -> Iterator[str]:
    """The rule, the facts, and what would have to be different."""
    by, one = entry.get("by", ""), _decisive(entry)
    if one is not None:
        yield f"rule       {one['policy']}, {one['where']}" if one["where"] else f"rule       {one['policy']}"
        if one.get("fault"):
            yield f"trouble    {one['fault']}"
            yield "otherwise  an answer; on_error in its table says what follows where there is none"
        elif (why := entry.get("why") or one.get("why")) and why not in entry.get("reply", ""):  # not what is said above already
            yield f"because    {why}"
        for name, value, source in one.get("evidence", ()):
            yield f"fact       {name}: {value}" + (f"  ({source})" if source else "")
        if one.get("remedy"):
            yield f"otherwise  {one['remedy']}"
    elif by == "permit":
        yield from _not_permitted(entry)
    elif by == "route":
        yield "rule       no [[route]] matches" if not entry.get("why") else f"trouble    {entry['why']}"
        yield 'otherwise  a [[route]] whose "to" has this domain, or one with otherwise = true'
    else:
        if entry.get("why"):
            yield f"because    {entry['why']}"
        for way in entry.get("recipients", ()):
            if way.get("permit"):
                yield f"permitted  {way['address']} by {way['permit']}" + (f", {way['permit_where']}" if way.get("permit_where") else "")


def _not_permitted(entry: Entry) -> Iterator[str]:
    client, recipient = entry["client"], entry["recipients"][-1]["address"]
    rules = [said for said in entry.get("asked", ()) if said["stage"] == "relay"]
    for said in rules:
        trouble = f": {said['fault']}" if said.get("fault") else " does not match"
        yield f"rule       {said['policy']}{trouble}" + (f", {said['where']}" if said["where"] else "")
        if said.get("why"):
            yield f"           {said['why']}"
    if not rules:
        yield f'rule       there is no [[permit]] on "{client["listener"]}"'
    yield f"fact       recipient: {recipient}  (the client's RCPT command)"
    login = f"logged in as {client['login']}" if client.get("login") else "not logged in"
    yield f"fact       client: {client['ip']}, {login}  (the connection)"
    domain = recipient.rpartition("@")[2]
    yield f'otherwise  a login, or a [[permit]] on "{client["listener"]}" with to = "{domain}" or from_network = "{client["ip"]}"'


def _who(entry: Entry) -> Iterator[str]:
    client = entry["client"]
    more = [f"{word} {client[key]}" for word, key in (("HELO", "helo"), ("TLS", "tls"), ("login", "login")) if client.get(key)]
    facts = (fact for said in entry.get("asked", ()) for fact in said.get("evidence", ()))
    name = next((value for name, value, _ in facts if name == "reverse name" and value != "none"), "")
    yield ", ".join([f"client     {client['ip']}:{client['port']} on listener {client['listener']}", *([name] if name else []), *more])
    yield f"session    {entry['session']}" + (f", transaction {entry['transaction']}" if entry.get("transaction") else "")
    if "sender" in entry:
        size = f", {entry['size']} octets" if entry.get("size") else ""
        yield f"from       {entry['sender']}{size}"


def _ways(entry: Entry) -> Iterator[str]:
    for way in entry.get("recipients", ()):
        route = (
            f", route {way['route']} ({way.get('route_where', '')}) to {way['gateway']} {way.get('next_hop', '')}".rstrip()
            if way.get("route")
            else ""
        )
        yield f"to         {way['address']}{route}: {way['reply']}"
    if "more" in entry:
        yield f"           and more: {entry['more']['recipients']} recipients, {entry['more']['asked']} questions in all"


def _asked(entry: Entry) -> Iterator[str]:
    decisive = _decisive(entry)
    for said in entry.get("asked", ()):
        about = f" about {said['recipient']}" if said.get("recipient") else ""
        observed = ", only observed" if said.get("observed") else ""
        where = said["where"] or "built in"
        yield f"asked      {said['policy']} at {said['stage']}{about}: {said['verdict']}{observed}, {said['ms']} ms  ({where})"
        if said is not decisive:  # which is told above
            text = said.get("fault") or said.get("why")
            if text and text != said["policy"]:
                yield f"             {text}"
            for name, value, source in said.get("evidence", ()):
                yield f"             {name}: {value}" + (f"  ({source})" if source else "")
        added = [*said.get("results", ()), *(f"tag {tag}" for tag in said.get("tags", ()))]
        if added:
            yield f"             {', '.join(added)}"


def _later(entries: Sequence[Entry]) -> Iterator[str]:
    for one in entries:
        match one["event"]:
            case "bounced":
                yield f"later      {_when(one['time'])} DSN {one['dsn']} ({one['action']}) to {one['recipient']}"
            case event:
                again = f", next attempt {_when(one['next_attempt'])}" if "next_attempt" in one else ""
                peer = f" at {one['peer']}" if one.get("peer") else ""
                yield f"later      {_when(one['time'])} {event} {one['recipient']} by {one['gateway']}{peer}: {one['reply']}{again}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")
