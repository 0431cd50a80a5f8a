"""What an operator can see and do about logins: the bans, and who has fetched mail."""

from ipaddress import ip_address, ip_network
from typing import Any, ClassVar

from attrs import asdict, frozen

from mailgw.admin.reading import Reading, Refusal
from mailgw.admin.selecting import BadRequest
from mailgw.interfaces import IClock, IMemory, MemoryUnavailable
from mailgw.login.throttle import LoginThrottle
from mailgw.policies.recently_fetched import note_fetch

__all__ = ["Guarding"]


@frozen(kw_only=True)
class Guarding(Reading):
    """The operations about logins. All raise Refusal where the memory cannot be reached."""

    offered: ClassVar[tuple[str, ...]] = (*Reading.offered, "bans_list", "bans_lift", "fetched")

    throttle: LoginThrottle | None = None  # none: nobody can log in
    memory: IMemory | None = None
    time_of_day: IClock | None = None

    async def bans_list(self) -> dict[str, Any]:
        """``{"bans": [{"network", "since", "until", "failures", "account"}]}``, by network; times are POSIX seconds."""
        if self.throttle is None:
            return {"bans": []}
        try:
            return {"bans": [asdict(ban) for ban in await self.throttle.bans()]}
        except MemoryUnavailable as problem:
            raise _unreachable(problem) from problem

    async def bans_lift(self, network: str = "", everything: bool = False) -> dict[str, Any]:
        """``{"lifted": ["192.0.2.1/32"]}``: ends the bans of an address, of all in a network, or all there are. Raises BadRequest."""
        if not isinstance(network, str) or not isinstance(everything, bool) or bool(network) == everything:
            raise BadRequest("network must be a text, or everything must be true: one of the two")
        try:
            wanted = ip_network(network, strict=False) if network else None
        except ValueError:
            raise BadRequest(f'"{network}" is no IP address and no network') from None
        if self.throttle is None:
            return {"lifted": []}
        try:
            bans = [ban.network for ban in await self.throttle.bans()]
            meant = [ban for ban in bans if wanted is None or _touch(wanted, ip_network(ban))]
            return {"lifted": [ban for ban in meant if await self.throttle.lift(ban)]}
        except MemoryUnavailable as problem:
            raise _unreachable(problem) from problem

    async def fetched(self, address: str, login: str = "") -> dict[str, Any]:
        """Note that mail was fetched from an IP address: ``{"address": "192.0.2.1"}``, as it is known now. Raises BadRequest."""
        if not isinstance(address, str) or not isinstance(login, str):
            raise BadRequest("address and login must be texts")
        if self.memory is None or self.time_of_day is None:
            raise Refusal("unavailable", "there is no memory here")
        try:
            ip = ip_address(address)
            return {"address": await note_fetch(self.memory, self.time_of_day, ip, login)}
        except ValueError as problem:
            raise BadRequest(f'"{address}" cannot have fetched mail: {problem}') from None
        except MemoryUnavailable as problem:
            raise _unreachable(problem) from problem


def _touch(one: Any, other: Any) -> bool:
    return one.version == other.version and bool(one.overlaps(other))


def _unreachable(problem: MemoryUnavailable) -> Refusal:
    return Refusal("unavailable", f"what is remembered cannot be reached now: {problem}")
