"""The contract of a queue store as a suite of tests, and a hand-driven reactor to run it.

A store of your own passes the suite like this::

    class TestMyStore(QueueStoreContract):
        def make_store(self, folder, reactor):
            return MyStore(folder)
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.interfaces import IQueueDesk, IQueueStore
from mailgw.values.address import NULL, Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Notice, Order, Parcel, Put, Selection, Settlement, State

__all__ = ["Pump", "QueueStoreContract"]

_Result = TypeVar("_Result")


@implementer(IReactorFromThreads)
class Pump:
    """A reactor that does nothing but `callFromThread`, in the thread of the test and only while `run` waits."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002, N802
        """See twisted's IReactorFromThreads."""
        self._calls.put(lambda: callable(*args, **kwargs))

    def run(self, awaitable: Awaitable[_Result], patience: float = 20.0) -> _Result:
        """Wait for an answer and give it, or raise what it raised; AssertionError if nothing happens for ``patience`` seconds."""
        answers: list[Any] = []

        async def wait() -> _Result:
            return await awaitable

        ensureDeferred(wait()).addBoth(answers.append)
        while not answers:
            try:
                call = self._calls.get(timeout=patience)
            except Empty:
                raise AssertionError(f"nothing happened for {patience} seconds") from None
            call()
        (answer,) = answers
        if isinstance(answer, Failure):
            answer.raiseException()
        return answer  # type: ignore[no-any-return]

    def run_all(self, awaitables: Iterable[Awaitable[Any]]) -> list[Any]:
        """Start all of them in one turn, and give their answers or exceptions in the same order."""
        started: list[list[Any]] = []

        async def wait(awaitable: Awaitable[Any]) -> Any:
            return await awaitable

        for awaitable in awaitables:
            answers: list[Any] = []
            ensureDeferred(wait(awaitable)).addBoth(answers.append)
            started.append(answers)
        while not all(started):
            self._calls.get(timeout=20)()
        return [answer.value if isinstance(answer, Failure) else answer for (answer,) in started]


class QueueStoreContract:
    """What every `IQueueStore` with its `IQueueDesk` must do. Give it a `make_store`."""

    mx = Destination("internet", "example.org")
    lmtp = Destination("mailboxes")

    def make_store(self, folder: Path, reactor: Pump) -> Any:
        """A new, empty store; ``folder`` is its own."""
        raise NotImplementedError

    @pytest.fixture
    def pump(self) -> Pump:
        """The reactor."""
        return Pump()

    @pytest.fixture
    def store(self, tmp_path: Path, pump: Pump) -> Iterator[Any]:
        """The store, closed after the test."""
        store = self.make_store(tmp_path / "state", pump)
        yield store
        pump.run(store.close())

    # ── Words for the tests ──

    def envelope(self, sender: str = "anna@example.com", arrived: float = 1000.0, **fields: Any) -> Envelope:
        """An envelope with everything filled in."""
        return Envelope(sender=Address.parse(sender) if sender else NULL, arrived=arrived, session="s1", **fields)

    def to(self, *addresses: str, at: Destination | None = None) -> list[tuple[Recipient, Destination]]:
        """Recipients at one destination."""
        return [(Recipient(Address.parse(address)), at or self.mx) for address in addresses]

    def settled(self, parcel: Parcel, state: State, **fields: Any) -> list[Settlement]:
        """The same settlement for all recipients of a parcel."""
        return [Settlement(parcel.message, queued.number, state, "said", **fields) for queued in parcel.queued]

    def keep(self, store: Any, pump: Pump, *addresses: str, **fields: Any) -> Put:
        """Put a message for these recipients at `mx`."""
        put: Put = pump.run(store.put(self.envelope(**fields), Content.of(b"Subject: x\r\n\r\nhello\r\n"), self.to(*addresses)))
        return put

    # ── put ──

    def test_provides_both_interfaces(self, store: Any) -> None:
        assert verifyObject(IQueueStore, store)
        assert verifyObject(IQueueDesk, store)

    def test_put_leases_one_parcel_for_each_destination(self, store: Any, pump: Pump) -> None:
        content = Content.of(b"body\r\n", b"Received: x\r\n")
        recipients = [*self.to("a@example.org", "b@example.org"), *self.to("c@example.net", at=self.lmtp)]
        put = pump.run(store.put(self.envelope(), content, recipients))
        assert [(parcel.destination, [str(q.recipient.address) for q in parcel.queued]) for parcel in put.parcels] == [
            (self.mx, ["a@example.org", "b@example.org"]),
            (self.lmtp, ["c@example.net"]),
        ]
        assert {parcel.message for parcel in put.parcels} == {put.message}
        assert all(parcel.content.read() == b"Received: x\r\nbody\r\n" for parcel in put.parcels)
        assert store.leased() == 3
        assert pump.run(store.waiting()) == {}
        assert pump.run(store.lease(self.mx, 1e12, 10)) == []

    def test_put_on_hold_leases_nothing(self, store: Any, pump: Pump) -> None:
        put = pump.run(store.put(self.envelope(), Content.of(b"x\r\n"), self.to("a@example.org"), hold="looks odd"))
        assert put.parcels == ()
        assert store.leased() == 0
        assert pump.run(store.waiting()) == {}
        (entry,) = pump.run(store.find(Selection(state=State.HELD)))
        assert (entry.message, entry.reason, entry.leased) == (put.message, "looks odd", False)

    def test_a_message_without_recipients_is_a_mistake(self, store: Any, pump: Pump) -> None:
        with pytest.raises(ValueError, match="recipient"):
            pump.run(store.put(self.envelope(), Content.of(b"x\r\n"), []))

    def test_numbers_are_never_used_twice(self, store: Any, pump: Pump) -> None:
        seen: set[int] = set()
        for _ in range(3):
            put = self.keep(store, pump, "a@example.org")
            numbers = {q.number for parcel in put.parcels for q in parcel.queued}
            assert put.message not in seen
            seen.add(put.message)
            pump.run(store.settle(self.settled(put.parcels[0], State.DELIVERED)))
            assert len(numbers) == 1
        assert len(seen) == 3

    def test_a_file_is_taken_over(self, store: Any, pump: Pump) -> None:
        received = store.incoming / "received"
        received.write_bytes(b"big\r\n")
        put = pump.run(store.put(self.envelope(), Content(received, 5, b"A: b\r\n"), self.to("a@example.org")))
        (parcel,) = put.parcels
        assert parcel.content.read() == b"A: b\r\nbig\r\n"
        assert parcel.content.original_size == 5
        kept = pump.run(store.content(put.message))
        assert kept.read() == b"A: b\r\nbig\r\n"
        assert pump.run(store.settle(self.settled(parcel, State.DELIVERED))) is not None
        assert not kept.original.exists()
        assert not received.exists()

    # ── lease, release ──

    def test_released_recipients_are_waiting_again(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org", "b@example.org")
        pump.run(store.release(put.parcels))
        assert store.leased() == 0
        assert pump.run(store.waiting()) == {self.mx: 1000.0}
        assert pump.run(store.lease(self.mx, 999.0, 10)) == []
        assert pump.run(store.lease(self.lmtp, 2000.0, 10)) == []
        assert list(pump.run(store.lease(self.mx, 1000.0, 10))) == list(put.parcels)
        assert store.leased() == 2
        assert pump.run(store.waiting()) == {}

    def test_what_is_leased_says_everything_again(self, store: Any, pump: Pump) -> None:
        envelope = self.envelope(
            body="8BITMIME",
            smtputf8=True,
            requiretls=True,
            ret="HDRS",
            envid="id+1",
            listener="mx",
            client_ip=ip_address("2001:db8::1"),
            helo="client.example",
            login="anna",
            tags=frozenset({"spam", "two words"}),
        )
        recipient = Recipient(Address("ä b", "example.org"), frozenset({"SUCCESS", "DELAY"}), "rfc822;x@example.org")
        put = pump.run(store.put(envelope, Content.of(b"\0\xff", b"A: b\r\n"), [(recipient, self.mx)]))
        pump.run(store.release(put.parcels))
        assert list(pump.run(store.lease(self.mx, 1e12, 1))) == list(put.parcels)

    def test_leases_are_given_earliest_first(self, store: Any, pump: Pump) -> None:
        puts = [self.keep(store, pump, "a@example.org", arrived=arrived) for arrived in (3.0, 1.0, 2.0)]
        for put in puts:
            pump.run(store.release(put.parcels))
        assert pump.run(store.waiting()) == {self.mx: 1.0}
        first = pump.run(store.lease(self.mx, 10.0, 2))
        assert [parcel.message for parcel in first] == [puts[1].message, puts[2].message]
        assert pump.run(store.waiting()) == {self.mx: 3.0}
        assert [parcel.message for parcel in pump.run(store.lease(self.mx, 10.0, 2))] == [puts[0].message]

    @pytest.mark.parametrize(
        ("limit", "taken"),
        [(0, []), (1, [1]), (2, [2]), (3, [2]), (4, [2]), (5, [2, 3]), (9, [2, 3])],
    )
    def test_a_lease_does_not_split_a_message_unless_it_must(self, store: Any, pump: Pump, limit: int, taken: list[int]) -> None:
        for put in (self.keep(store, pump, "a@x.org", "b@x.org"), self.keep(store, pump, "c@x.org", "d@x.org", "e@x.org")):
            pump.run(store.release(put.parcels))
        leased = pump.run(store.lease(self.mx, 1e12, limit))
        assert [len(parcel.queued) for parcel in leased] == taken
        assert store.leased() == sum(taken)

    # ── settle ──

    def test_a_message_is_removed_when_all_is_over(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org", "b@example.org")
        (parcel,) = put.parcels
        one, two = self.settled(parcel, State.DELIVERED)
        assert list(pump.run(store.settle([one]))) == []
        assert [entry.state for entry in pump.run(store.find(Selection()))] == [State.DELIVERED, State.WAITING]
        assert store.leased() == 1
        pump.run(store.settle([two]))
        assert pump.run(store.find(Selection())) == []
        assert pump.run(store.content(put.message)) is None
        assert pump.run(store.stats()) == {}
        assert store.leased() == 0

    def test_a_deferral_waits_until_it_is_due(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org")
        moved = Destination("elsewhere", "hop")
        later = self.settled(put.parcels[0], State.WAITING, due=5000.0, attempts=3, delay_told=True, peer="p", destination=moved)
        pump.run(store.settle(later))
        assert store.leased() == 0
        assert pump.run(store.waiting()) == {moved: 5000.0}
        assert pump.run(store.lease(moved, 4999.0, 10)) == []
        (parcel,) = pump.run(store.lease(moved, 5000.0, 10))
        (queued,) = parcel.queued
        assert (parcel.destination, queued.attempts, queued.delay_told) == (moved, 3, True)
        (entry,) = pump.run(store.find(Selection(gateway="elsewhere")))
        assert (entry.reply, entry.attempts, entry.due, entry.leased) == ("said", 3, 5000.0, True)

    def test_what_is_due_late_can_be_brought_forward(self, store: Any, pump: Pump) -> None:
        """When the clock was set back."""
        puts = [self.keep(store, pump, f"{number}@example.org") for number in range(3)]
        held = pump.run(store.put(self.envelope(), Content.of(b"x\r\n"), self.to("held@example.org"), hold="odd"))
        for put, due in zip(puts, (1500.0, 5000.0, 9000.0), strict=True):
            pump.run(store.settle(self.settled(put.parcels[0], State.WAITING, due=due)))
        pump.run(store.bring_forward(4000.0, 2000.0))
        found = {entry.message: entry.due for entry in pump.run(store.find(Selection(state=State.WAITING)))}
        assert found == {puts[0].message: 1500.0, puts[1].message: 1000.0, puts[2].message: 5000.0}
        assert pump.run(store.find(Selection(message=held.message)))[0].due == 1000.0
        assert pump.run(store.waiting()) == {self.mx: 1000.0}

    def test_a_failure_and_its_dsn_are_one(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org")
        notice = Notice(self.envelope(""), Content.of(b"report\r\n"), Recipient(Address.parse("anna@example.com")), self.lmtp)
        (dsn,) = pump.run(store.settle(self.settled(put.parcels[0], State.FAILED), [notice]))
        assert dsn.message > put.message
        assert [(parcel.destination, parcel.content.read()) for parcel in dsn.parcels] == [(self.lmtp, b"report\r\n")]
        assert store.leased() == 1
        (entry,) = pump.run(store.find(Selection(sender="<>")))
        assert (entry.message, entry.sender, entry.address) == (dsn.message, "<>", "anna@example.com")

    def test_what_is_not_leased_cannot_be_settled(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org")
        pump.run(store.release(put.parcels))
        pump.run(store.settle(self.settled(put.parcels[0], State.DELIVERED)))
        assert pump.run(store.waiting()) == {self.mx: 1000.0}
        assert list(pump.run(store.settle([]))) == []

    # ── find, tell, stats ──

    @pytest.mark.parametrize(
        ("selection", "found"),
        [
            pytest.param(Selection(), "abcd", id="all"),
            pytest.param(Selection(limit=2), "ab", id="limit"),
            pytest.param(Selection(message=1), "ab", id="message"),
            pytest.param(Selection(message=77), "", id="no such message"),
            pytest.param(Selection(sender="ANNA@Example.COM"), "ab", id="sender without case"),
            pytest.param(Selection(sender="<>"), "c", id="null reverse-path"),
            pytest.param(Selection(sender="Ärger@bücher.example"), "d", id="sender in another spelling"),
            pytest.param(Selection(recipient="A@EXAMPLE.org"), "a", id="recipient without case"),
            pytest.param(Selection(recipient="Ü@example.net"), "c", id="recipient beyond ASCII"),
            pytest.param(Selection(recipient="nobody"), "", id="no address"),
            pytest.param(Selection(domain="Example.NET"), "bc", id="domain without case"),
            pytest.param(Selection(gateway="mailboxes"), "bc", id="gateway"),
            pytest.param(Selection(gateway="mail_oxes"), "", id="no patterns"),
            pytest.param(Selection(state=State.HELD), "d", id="state"),
            pytest.param(Selection(older_than=2000.0), "ab", id="older than"),
            pytest.param(Selection(domain="example.net", gateway="mailboxes", older_than=2000.0), "b", id="all of it"),
        ],
    )
    def test_find(self, store: Any, pump: Pump, selection: Selection, found: str) -> None:
        self._fill(store, pump)
        numbers = {1: "a", 2: "b", 3: "c", 4: "d"}
        assert "".join(numbers[entry.recipient] for entry in pump.run(store.find(selection))) == found

    def _fill(self, store: Any, pump: Pump) -> None:
        body = Content.of(b"x\r\n")
        pump.run(store.put(self.envelope(), body, [*self.to("a@example.org"), *self.to("b@example.net", at=self.lmtp)]))
        pump.run(store.put(self.envelope("", 2000.0), body, self.to("ü@example.net", at=self.lmtp)))
        pump.run(store.put(self.envelope("ärger@bücher.example", 3000.0), body, self.to("d@example.com"), hold="odd"))

    def test_stats(self, store: Any, pump: Pump) -> None:
        self._fill(store, pump)
        none = {state.value: 0 for state in State}
        assert pump.run(store.stats()) == {
            self.mx: {**none, "waiting": 1, "held": 1, "oldest": 1000},
            self.lmtp: {**none, "waiting": 2, "oldest": 1000},
        }

    def test_orders_reach_nothing_that_is_leased(self, store: Any, pump: Pump) -> None:
        self.keep(store, pump, "a@example.org")
        assert [pump.run(store.tell(Selection(), order)) for order in Order] == [0, 0, 0, 0]
        assert len(pump.run(store.find(Selection()))) == 1

    def test_hold_and_release(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org", "b@example.org")
        pump.run(store.release(put.parcels))
        assert pump.run(store.tell(Selection(recipient="a@example.org"), Order.HOLD, "why not")) == 1
        assert [(entry.state, entry.reason) for entry in pump.run(store.find(Selection()))] == [
            (State.HELD, "why not"),
            (State.WAITING, ""),
        ]
        assert [len(parcel.queued) for parcel in pump.run(store.lease(self.mx, 1e12, 10))] == [1]
        assert pump.run(store.tell(Selection(), Order.HOLD)) == 0
        assert pump.run(store.tell(Selection(), Order.RETRY)) == 0
        assert pump.run(store.tell(Selection(), Order.RELEASE)) == 1
        assert pump.run(store.waiting()) == {self.mx: 0.0}
        assert [entry.reason for entry in pump.run(store.find(Selection()))] == ["", ""]

    def test_retry_is_due_now(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org")
        pump.run(store.settle(self.settled(put.parcels[0], State.WAITING, due=9000.0, attempts=2)))
        assert pump.run(store.tell(Selection(limit=0), Order.RETRY)) == 1
        (parcel,) = pump.run(store.lease(self.mx, 0.0, 10))
        assert parcel.queued[0].attempts == 2

    def test_drop(self, store: Any, pump: Pump) -> None:
        put = self.keep(store, pump, "a@example.org", "b@example.org")
        pump.run(store.release(put.parcels))
        assert pump.run(store.tell(Selection(recipient="a@example.org"), Order.DROP, "spam")) == 1
        assert [(entry.state, entry.reason) for entry in pump.run(store.find(Selection(state=State.DROPPED)))] == [(State.DROPPED, "spam")]
        assert pump.run(store.tell(Selection(), Order.DROP)) == 1
        assert pump.run(store.find(Selection())) == []
        assert pump.run(store.content(put.message)) is None

    def test_drop_and_delivery_of_one_message(self, store: Any, pump: Pump) -> None:
        recipients = [*self.to("a@example.org"), *self.to("b@example.net", at=self.lmtp)]
        put = pump.run(store.put(self.envelope(), Content.of(b"x\r\n"), recipients))
        pump.run(store.release(put.parcels[1:]))
        assert pump.run(store.tell(Selection(), Order.DROP)) == 1
        assert len(pump.run(store.find(Selection()))) == 2
        pump.run(store.settle(self.settled(put.parcels[0], State.DELIVERED)))
        assert pump.run(store.find(Selection())) == []
