"""What an operator can read of the queue, from the running daemon and from the store alone."""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from inspect import signature
from typing import Any, ClassVar, Protocol

from attrs import evolve, frozen
from twisted.internet.interfaces import IReactorTime

from mailgw.admin.selecting import MOST, BadRequest, selection_from
from mailgw.interfaces import IQueueDesk, StoreUnavailable
from mailgw.values.content import Content
from mailgw.values.ledger import Entry, State

__all__ = ["PIECE", "NotThere", "Performer", "Reading", "Refusal"]

PIECE = 256 * 1024  # octets of a message's content in one answer


class NotThere(Exception):
    """There is no such message; the text says which."""


class Refusal(Exception):
    """An operation was not done. ``kind`` is "bad-request", "not-found", "unavailable" or "fault"; the text says why."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Performer(Protocol):
    """Whoever answers operations: `Reading`, and all that stand for several of them."""

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Reading.perform`."""


@frozen(kw_only=True)
class Reading:
    """The reading operations. They take and give plain data that JSON can carry; times are POSIX seconds, sizes octets.

    All raise BadRequest for arguments that make no sense and pass on StoreUnavailable.
    """

    offered: ClassVar[tuple[str, ...]] = ("queue_list", "queue_show", "queue_content", "queue_stats")

    desk: IQueueDesk
    clock: IReactorTime

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Do the operation of that name, one of `offered`, with plain data as arguments: the door for those who speak JSON.

        Raises Refusal, and passes on what is nobody's mistake but ours.
        """
        try:
            if operation not in self.offered:
                raise BadRequest(f'there is no operation "{operation}"')
            method = getattr(self, operation)
            try:
                signature(method).bind(**arguments)
            except TypeError as problem:
                raise BadRequest(f"{operation}: {problem}") from None
            answer: dict[str, Any] = await method(**arguments)
        except BadRequest as problem:
            raise Refusal("bad-request", str(problem)) from problem
        except NotThere as problem:
            raise Refusal("not-found", str(problem)) from problem
        except StoreUnavailable as problem:
            raise Refusal("unavailable", f"the queue cannot be used now: {problem}") from problem
        except OSError as problem:
            raise Refusal("unavailable", f"the message cannot be read: {problem}") from problem
        return answer

    async def queue_list(self, selection: Mapping[str, Any]) -> dict[str, Any]:
        """``{"entries": [...], "more": bool}``: the recipients that match (see `selection_from`), by message number."""
        wanted = selection_from(_table(selection, "selection"), self.clock.seconds())
        entries = await self.desk.find(evolve(wanted, limit=wanted.limit + 1))
        return {"entries": [_plain(entry) for entry in entries[: wanted.limit]], "more": len(entries) > wanted.limit}

    async def queue_show(self, message: int) -> dict[str, Any]:
        """One message: its envelope, its recipients as entries, and its header section as text. Raises NotThere."""
        wanted = selection_from({"message": message}, 0.0)
        entries = await self.desk.find(evolve(wanted, limit=MOST))
        if not entries:
            raise NotThere(f"there is no message {message} in the queue")
        content = await self.desk.content(message)
        first = entries[0]
        return {
            "message": message,
            "sender": first.sender,
            "arrived": first.arrived,
            "size": first.size,
            "session": first.session,
            "recipients": [_plain(entry) for entry in entries],
            "header": content.header().decode("utf-8", "replace").replace("\r\n", "\n") if content else "",
        }

    async def queue_content(self, message: int, offset: int = 0) -> dict[str, Any]:
        """``{"size": 120000, "piece": "..."}``: up to `PIECE` octets of the whole message from ``offset`` on, in Base64.

        The piece is empty at the end. Raises NotThere.
        """
        selection_from({"message": message}, 0.0)
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise BadRequest("offset must be a whole number, at least 0")
        content = await self.desk.content(message)
        if content is None:
            raise NotThere(f"there is no message {message} in the queue")
        return {"size": content.size, "piece": b64encode(_piece(content, offset)).decode("ascii")}

    async def queue_stats(self, limit: int = 1000) -> dict[str, Any]:
        """``{"destinations": [...], "more": bool, "total": {...}}``: recipients by state, the fullest destinations first.

        ``oldest`` is the time of arrival of the oldest recipient, or null.
        """
        limit = selection_from({"limit": limit}, 0.0).limit
        stats = await self.desk.stats()
        fullest = sorted(stats.items(), key=lambda item: (-_open(item[1]), item[0]))
        total: Counter[str] = Counter()
        for counts in stats.values():
            total.update(_counts(counts))
        oldest = min((counts["oldest"] for counts in stats.values() if "oldest" in counts), default=None)
        return {
            "destinations": [
                {"gateway": destination.gateway, "next_hop": destination.next_hop, **_counts(counts), "oldest": counts.get("oldest")}
                for destination, counts in fullest[:limit]
            ],
            "more": len(fullest) > limit,
            "total": {**_counts(total), "oldest": oldest},
        }


def _counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {state.value: counts.get(state.value, 0) for state in State}


def _open(counts: Mapping[str, int]) -> int:
    return counts.get(State.WAITING.value, 0) + counts.get(State.HELD.value, 0)


def _table(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadRequest(f"{name} must be an object")
    return value


def _plain(entry: Entry) -> dict[str, Any]:
    return {
        "message": entry.message,
        "sender": entry.sender,
        "recipient": entry.address,
        "gateway": entry.destination.gateway,
        "next_hop": entry.destination.next_hop,
        "state": entry.state.value,
        "leased": entry.leased,
        "arrived": entry.arrived,
        "due": entry.due,
        "attempts": entry.attempts,
        "size": entry.size,
        "reply": entry.reply,
        "session": entry.session,
        "reason": entry.reason,
    }


def _piece(content: Content, offset: int) -> bytes:
    if offset < len(content.added):
        return content.added[offset : offset + PIECE]
    offset -= len(content.added)
    if isinstance(content.original, bytes):
        return content.original[offset : offset + PIECE]
    with content.original.open("rb") as file:
        file.seek(offset)
        return file.read(PIECE)
