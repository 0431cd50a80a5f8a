"""Who is being delivered at this moment, kept in memory: a lease ends with the process that holds it."""

from collections.abc import Iterable

from attrs import define, field

__all__ = ["Leases"]


@define
class Leases:
    """The leased recipients by number, and how many there are at each destination.

    One thread changes it; any thread may ask whether a number is in it, and how many there are.
    """

    _destinations: dict[int, int] = field(factory=dict, init=False)  # by recipient
    _counts: dict[int, int] = field(factory=dict, init=False)  # by destination

    def take(self, leased: Iterable[tuple[int, int]]) -> None:
        """Lease recipients: (recipient, destination), by number."""
        destinations, counts = self._destinations, self._counts
        for recipient, destination in leased:
            destinations[recipient] = destination
            counts[destination] = counts.get(destination, 0) + 1

    def end(self, recipients: Iterable[int]) -> None:
        """End leases; numbers that are not leased are ignored."""
        destinations, counts = self._destinations, self._counts
        for recipient in recipients:
            destination = destinations.pop(recipient, None)
            if destination is None:
                continue
            left = counts[destination] - 1
            if left:
                counts[destination] = left
            else:
                del counts[destination]

    def at(self, destination: int) -> int:
        """How many recipients of a destination are leased."""
        return self._counts.get(destination, 0)

    def __contains__(self, recipient: object) -> bool:
        return recipient in self._destinations

    def __len__(self) -> int:
        return len(self._destinations)
