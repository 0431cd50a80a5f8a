"""Writing down what happened: settlements and releases, in groups, until the store has taken them."""

from collections.abc import Callable, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mailgw.interfaces import IQueueStore, StoreUnavailable
from mailgw.journal import Bounced, Fault, Journal
from mailgw.values.delivery import Destination
from mailgw.values.ledger import Notice, Parcel, Put, Settlement

__all__ = ["Finished", "Settling", "Told"]

FIRST_PAUSE = 1.0  # seconds until the store is asked again; doubled each time
LONGEST_PAUSE = 60.0


@frozen
class Told:
    """A DSN that is to be queued, and what it is about."""

    notice: Notice
    action: str
    session: str
    message: int


@frozen
class Finished:
    """What belongs into one transaction: recipients of one shipment, and the DSNs about them."""

    settlements: Sequence[Settlement]
    told: Sequence[Told] = ()
    waiting: Sequence[tuple[Destination, float]] = ()  # where recipients will be waiting again, and from when


class Settling:
    """Collects what is finished while the store is busy with the last group, so one call settles many messages.

    What the store cannot take stays here and is tried again; the outcome of a delivery is never forgotten while the process
    lives. After a failed group, what brings no DSN is written first: it frees room, and one DSN too many for the disk must not
    hold up the others.
    """

    def __init__(
        self,
        store: IQueueStore,
        journal: Journal,
        clock: IReactorTime,
        *,
        settled: Callable[[Finished, Sequence[Put]], None],
        written: Callable[[], None],
        gather: float = 0.0,
    ) -> None:
        """``gather``: seconds to wait for more, so that it is written together; a crash meanwhile costs that many duplicates.

        ``settled`` is called with each group that was committed, and the `Put` of each of its DSNs.

        ``written`` is called when nothing is left to write, or only what must be tried again later.
        """
        self._store = store
        self._journal = journal
        self._clock = clock
        self._settled = settled
        self._written = written
        self._finished: list[Finished] = []
        self._released: list[Parcel] = []
        self._stuck: list[Finished] = []
        self._writing = False
        self._pause = FIRST_PAUSE
        self._timer: IDelayedCall | None = None
        self._gather = gather
        self._gathering: IDelayedCall | None = None
        self.is_blocked = False  # the store takes nothing: what is delivered now could not be written down

    def add(self, finished: Finished) -> None:
        """Take over something finished; `flush` writes it."""
        self._finished.append(finished)

    def release(self, parcel: Parcel) -> None:
        """End the lease of a parcel without an attempt; `flush` writes it."""
        self._released.append(parcel)

    @property
    def is_idle(self) -> bool:
        """Whether everything is written."""
        return not (self._writing or self._finished or self._released or self._stuck)

    @property
    def pending(self) -> int:
        """How many finished shipments are not written yet."""
        return len(self._finished) + len(self._stuck)

    def flush(self) -> None:
        """Write what was collected, after the time to gather more; a write that is going on goes on with it."""
        if self._writing or self._gathering is not None or not (self._finished or self._released):
            return
        if self._gather:
            self._gathering = self._clock.callLater(self._gather, self._gathered)
        else:
            self._begin([])

    def _gathered(self) -> None:
        self._gathering = None
        if not self._writing and (self._finished or self._released):
            self._begin([])

    def hurry(self) -> None:
        """Gather no more from now on."""
        self._gather = 0.0
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathered()
        self.flush()

    def again(self) -> None:
        """Try at once what the store could not take."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._writing:
            stuck, self._stuck = self._stuck, []
            self._begin(stuck)

    def stop(self) -> None:
        """Try nothing again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self, stuck: list[Finished]) -> None:
        self._writing = True
        Deferred.fromCoroutine(self._write(stuck)).addErrback(self._fault)

    async def _write(self, stuck: list[Finished]) -> None:
        failed = False
        try:
            for portion in stuck:
                if not await self._settle(portion):
                    self._stuck.append(portion)
            while (self._finished or self._released) and not failed:
                group, self._finished = self._finished, []
                released, self._released = self._released, []
                if group:
                    await self._settle_group(group)
                if released and not await self._release(released):
                    failed, self._released = True, released + self._released
                if self._gather:
                    break
        finally:
            self._writing = False
            if self._stuck or failed:
                self._wait()
            else:
                self._pause = FIRST_PAUSE
        if not failed:
            self.flush()
        self._written()

    async def _settle_group(self, group: list[Finished]) -> None:
        if len(group) == 1:
            if not await self._settle(group[0]):
                self._stuck += group
        elif not await self._settle(_together(group)):
            quiet = [finished for finished in group if not finished.told]
            portions = [_together(quiet)] if quiet else []
            for portion in portions + [finished for finished in group if finished.told]:
                if not await self._settle(portion):
                    self._stuck.append(portion)

    async def _settle(self, portion: Finished) -> bool:
        try:
            puts = await self._store.settle(portion.settlements, [told.notice for told in portion.told])
        except Exception as problem:
            # A full disk that has no room for a DSN may well have room to remove what was delivered.
            self._trouble("settle", problem, blocks=not portion.told and isinstance(problem, StoreUnavailable))
            return False
        self.is_blocked = False
        for told, put in zip(portion.told, puts, strict=True):
            self._journal.note(Bounced(told.session, told.message, put.message, told.action, str(told.notice.recipient.address)))
        self._settled(portion, puts)
        return True

    async def _release(self, parcels: list[Parcel]) -> bool:
        try:
            await self._store.release(parcels)
        except Exception as problem:
            self._trouble("release", problem, blocks=False)
            return False
        return True

    def _trouble(self, what: str, problem: Exception, blocks: bool) -> None:
        if blocks:
            self.is_blocked = True
        if self._pause == FIRST_PAUSE:  # once for each time that the store is out of order
            self._journal.note(Fault("", "store", f"{what} failed, it will be tried again: {problem!r}"))

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(self._pause, self._timed)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _timed(self) -> None:
        self._timer = None
        self.again()

    def _fault(self, failure: Failure) -> None:
        self._journal.note(Fault("", "queue", f"settling failed: {failure.value!r}", failure.getTraceback()))


def _together(group: list[Finished]) -> Finished:
    return Finished(
        [settlement for finished in group for settlement in finished.settlements],
        [told for finished in group for told in finished.told],
        [waiting for finished in group for waiting in finished.waiting],
    )
