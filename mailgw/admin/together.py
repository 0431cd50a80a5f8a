"""The operations over several queues as over one: the workers' of a gateway, or the parts that one process looks after.

Each member answers the same operations for its own share. Lists are merged by message number, numbers are added, and what is about
one message goes to whoever has it. A member that cannot answer is left out, and the answer says so: ``"missing": [2]``.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred, DeferredList

from mailgw.admin.merging import add_up
from mailgw.admin.operations import Operations
from mailgw.admin.reading import Performer, Refusal
from mailgw.admin.selecting import DEFAULT_LIMIT, MOST, BadRequest, selection_from

__all__ = ["Together"]

_ORDERS = ("queue_retry", "queue_hold", "queue_release", "queue_drop")
_ONE_MESSAGE = ("queue_show", "queue_content")
_AWAY = "unavailable"  # the kind of refusal of who cannot answer now; any other is an answer
_Answer = dict[str, Any]


@frozen(kw_only=True)
class Together:
    """Several members that answer as one."""

    members: Callable[[], Mapping[int, Performer]]  # by number, those who are there at this moment
    part_of: Callable[[int], int]  # the part in which a message lies
    who_has: Callable[[int], int | None] = field(default=lambda part: part)  # the member that looks after a part
    unattended: Callable[[], Sequence[int]] = field(default=tuple)  # parts that nobody looks after at this moment
    more: Mapping[str, Callable[..., Awaitable[_Answer]]] = field(factory=dict)  # operations that are not about the queue, by name

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Reading.perform`. Raises Refusal."""
        if operation in self.more:
            return await self.more[operation](**arguments)
        if operation not in Operations.offered:
            raise Refusal("bad-request", f'there is no operation "{operation}"')
        if not self.members():
            raise Refusal(_AWAY, "no part of the queue can be asked now")
        if operation in _ONE_MESSAGE:
            return await self._one(operation, arguments)
        if operation in _ORDERS:
            return await self._order(operation, arguments)
        if operation == "queue_list":
            return await self._list(arguments)
        if operation == "queue_stats":
            return await self._stats(arguments)
        if operation in ("sessions", "status"):
            answers, missing = await self.ask_all(operation, arguments)
            return {**add_up(list(answers.values())), **missing}
        return await self._anyone(operation, arguments)

    async def _anyone(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What all know alike, or only one of them: the first answer."""
        *others, last = self.members().values()
        for member in others:
            try:
                return await member.perform(operation, arguments)
            except Refusal as problem:
                if problem.kind != _AWAY:
                    raise
        return await last.perform(operation, arguments)

    async def _ask(self, asked: Mapping[int, Mapping[str, Any]], operation: str) -> tuple[dict[int, _Answer], dict[str, Any]]:
        """The answers by member, and what is to be said about those who gave none. Raises Refusal if nobody answered."""
        members = self.members()
        asking = [Deferred.fromCoroutine(members[number].perform(operation, arguments)) for number, arguments in asked.items()]
        results: Any = await DeferredList(asking, consumeErrors=True)
        answers: dict[int, _Answer] = {}
        missing = set(self.unattended())
        for number, (good, result) in zip(asked, results, strict=True):
            if good:
                answers[number] = result
            elif result.check(Refusal) and result.value.kind == _AWAY:
                missing.add(number)
            else:
                result.raiseException()
        if not answers:
            if not asked:
                raise Refusal(_AWAY, "no part of the queue can be asked now")
            results[0][1].raiseException()
        return answers, {"missing": sorted(missing)} if missing else {}

    async def ask_all(self, operation: str, arguments: Mapping[str, Any]) -> tuple[dict[int, _Answer], dict[str, Any]]:
        """The answers of all members, by number, and ``{"missing": [2]}`` where there are some. Raises Refusal."""
        return await self._ask(dict.fromkeys(self.members(), arguments), operation)

    async def _list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        answers, missing = await self.ask_all("queue_list", arguments)
        entries = sorted((entry for answer in answers.values() for entry in answer["entries"]), key=lambda entry: entry["message"])
        limit = arguments["selection"].get("limit") or DEFAULT_LIMIT
        more = len(entries) > limit or any(answer["more"] for answer in answers.values())
        return {"entries": entries[:limit], "more": more, **missing}

    async def _stats(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            limit = selection_from({"limit": arguments.get("limit", 1000)}, 0.0).limit
        except BadRequest as problem:
            raise Refusal("bad-request", str(problem)) from problem
        # The fullest of all need not be among the fullest of each.
        answers, missing = await self.ask_all("queue_stats", {**arguments, "limit": MOST})
        whole = add_up(list(answers.values()))
        fullest = sorted(whole["destinations"], key=lambda row: (-row["waiting"] - row["held"], row["gateway"], row["next_hop"]))
        return {**whole, "destinations": fullest[:limit], "more": whole["more"] or len(fullest) > limit, **missing}

    async def _one(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        message, members = arguments.get("message"), self.members()
        part = self.part_of(message) if isinstance(message, int) and _is_number(message) else 0
        member = self.who_has(part)
        if member is not None and member in members:
            return await members[member].perform(operation, arguments)
        if part in self.unattended():
            raise Refusal(_AWAY, f"nobody looks after part {part} of the queue now, in which message {message} lies")
        # There is no such part, or it is no number at all: anyone says so.
        return await self._anyone(operation, arguments)

    async def _order(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        selection = arguments.get("selection")
        messages = selection.get("messages") if isinstance(selection, Mapping) else None
        if not isinstance(messages, list) or not all(map(_is_number, messages)):
            answers, missing = await self.ask_all(operation, arguments)
            return {**add_up(list(answers.values())), **missing}
        assert isinstance(selection, Mapping)
        groups: dict[int, list[int]] = {}
        away: set[int] = set()
        for message in messages:
            part = self.part_of(message)
            member = self.who_has(part)
            if member is not None and member in self.members():
                groups.setdefault(member, []).append(message)
            elif part in self.unattended():
                away.add(part)
        if not groups and not away:  # nobody can have them: anyone says so
            groups[next(iter(self.members()))] = messages
        asked = {member: {**arguments, "selection": {**selection, "messages": some}} for member, some in groups.items()}
        if not asked:
            raise Refusal(_AWAY, f"nobody looks after part {min(away)} of the queue now")
        answers, missing = await self._ask(asked, operation)
        return {**add_up(list(answers.values())), **missing}


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**63
