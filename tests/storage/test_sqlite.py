import os
import shutil
import sqlite3
import stat
from time import monotonic, sleep

import pytest
from twisted.internet.defer import ensureDeferred

from mailgw.interfaces import StoreFull, StoreUnavailable
from mailgw.storage import writer
from mailgw.storage.housekeeping import frames_in_use
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import Pump, QueueStoreContract
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Recipient
from mailgw.values.ledger import Notice, Order, Selection, State

SMALL = Content.of(b"Subject: x\r\n\r\nhello\r\n")


def until(condition):
    """Ask again and again, until the housekeeper has done its work."""
    end = monotonic() + 20
    while not condition():
        assert monotonic() < end
        sleep(0.01)


def after_a_crash(folder, copy):
    """What a dead process leaves: its files, without the memory that SQLite shares and without the lock."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm"))
    return copy


class TestSqliteStore(QueueStoreContract):
    def make_store(self, folder, reactor):
        return SqliteStore.open(folder, reactor)

    # ── What the disk remembers ──

    def test_after_a_crash_everything_committed_is_there_and_waiting(self, store, pump, tmp_path):
        kept = self.keep(store, pump, "a@example.org", "b@example.org")
        done = self.keep(store, pump, "c@example.org")
        late = self.keep(store, pump, "d@example.org")
        pump.run(store.settle(self.settled(done.parcels[0], State.DELIVERED)))
        pump.run(store.settle(self.settled(late.parcels[0], State.WAITING, due=7000.0, attempts=1)))
        assert store.leased() == 2
        again = SqliteStore.open(after_a_crash(tmp_path / "state", tmp_path / "copy"), pump)
        assert again.leased() == 0
        assert pump.run(again.waiting()) == {self.mx: 1000.0}
        assert list(pump.run(again.lease(self.mx, 6999.0, 10))) == list(kept.parcels)
        assert pump.run(again.waiting()) == {self.mx: 7000.0}
        assert self.keep(again, pump, "e@example.org").message == late.message + 1
        pump.run(again.close())

    def test_numbers_are_not_used_again_by_the_next_process(self, tmp_path, pump):
        seen = []
        for _ in range(3):
            store = SqliteStore.open(tmp_path, pump)
            put = self.keep(store, pump, "a@example.org")
            seen.append((put.message, put.parcels[0].queued[0].number))
            pump.run(store.settle(self.settled(put.parcels[0], State.DELIVERED)))
            pump.run(store.close())
        assert seen == [(1, 1), (2, 2), (3, 3)]

    def test_big_content_lies_in_a_file(self, store, pump, tmp_path):
        received = store.incoming / "x"
        received.write_bytes(b"big" * 100000)
        put = pump.run(store.put(self.envelope(), Content(received, 300000), self.to("a@example.org")))
        (file,) = (tmp_path / "state" / "content").iterdir()
        assert (file.name, file.stat().st_size) == (str(put.message), 300000)
        assert put.parcels[0].content.original == file
        assert list(store.incoming.iterdir()) == []
        again = SqliteStore.open(after_a_crash(tmp_path / "state", tmp_path / "copy"), pump)
        (parcel,) = pump.run(again.lease(self.mx, 1e12, 1))
        assert parcel.content.read() == b"big" * 100000
        pump.run(again.close())

    def test_a_file_from_another_file_system_is_copied(self, store, pump, tmp_path):
        if not os.path.isdir("/dev/shm") or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("no second file system here")
        received = f"/dev/shm/mailgw-test-{os.getpid()}"
        with open(received, "wb") as file:
            file.write(b"far\r\n")
        put = pump.run(store.put(self.envelope(), Content(type(tmp_path)(received), 5), self.to("a@example.org")))
        assert put.parcels[0].content.read() == b"far\r\n"
        assert not os.path.exists(received)

    def test_a_dsn_can_lie_in_a_file(self, store, pump):
        put = self.keep(store, pump, "a@example.org")
        report = store.incoming / "dsn"
        report.write_bytes(b"report\r\n")
        notice = Notice(self.envelope(""), Content(report, 8), Recipient(self.envelope().sender), self.lmtp)
        (dsn,) = pump.run(store.settle(self.settled(put.parcels[0], State.FAILED), [notice]))
        assert dsn.parcels[0].content.read() == b"report\r\n"
        assert not report.exists()

    def test_the_start_removes_what_belongs_to_nobody(self, tmp_path, pump):
        store = SqliteStore.open(tmp_path, pump)
        received = store.incoming / "x"
        received.write_bytes(b"kept\r\n")
        kept = pump.run(store.put(self.envelope(), Content(received, 6), self.to("a@example.org")))
        gone = self.keep(store, pump, "a@example.org")
        pump.run(store.close())
        (tmp_path / "content" / str(gone.message)).write_bytes(b"left by a crash")
        (tmp_path / "content" / "notes.txt").write_bytes(b"not ours")
        (tmp_path / "incoming" / "half").write_bytes(b"half a message")
        store = SqliteStore.open(tmp_path, pump)
        pump.run(store.stats())  # by the same thread, so the strays are gone by then
        assert sorted(file.name for file in (tmp_path / "content").iterdir()) == [str(kept.message), "notes.txt"]
        assert list(store.incoming.iterdir()) == []
        pump.run(store.close())

    def test_a_file_of_a_commit_that_did_not_happen_is_replaced(self, store, pump, tmp_path):
        (tmp_path / "state" / "content" / "1").write_bytes(b"left by a crash")
        received = store.incoming / "x"
        received.write_bytes(b"new\r\n")
        put = pump.run(store.put(self.envelope(), Content(received, 5), self.to("a@example.org")))
        assert (put.message, put.parcels[0].content.read()) == (1, b"new\r\n")

    def test_only_the_owner_can_read(self, tmp_path, pump):
        before = os.umask(0)
        try:
            store = SqliteStore.open(tmp_path / "state", pump)
            self.keep(store, pump, "a@example.org")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "state", *(tmp_path / "state").iterdir()]}
        finally:
            os.umask(before)
        folders = {name: modes.pop(name) for name in ("state", "content", "incoming")}
        assert set(folders.values()) == {0o700}
        assert {"queue.db", "queue.db-wal", "queue.db-shm", "lock"} == set(modes)
        assert set(modes.values()) == {0o600}
        pump.run(store.close())

    # ── Who may open it ──

    def test_a_folder_has_one_owner(self, store, pump, tmp_path):
        with pytest.raises(StoreUnavailable, match=r"state is in use by another mailgw"):
            SqliteStore.open(tmp_path / "state", pump)
        pump.run(store.close())
        pump.run(SqliteStore.open(tmp_path / "state", pump).close())

    @pytest.mark.parametrize(
        ("spoil", "text"),
        [
            pytest.param("PRAGMA user_version = 99", "newer mailgw: it has schema 99, this one knows 1", id="newer"),
            pytest.param("PRAGMA application_id = 7", "not a mailgw queue", id="not ours"),
            pytest.param("DROP TABLE counter", "damaged: it has no counter", id="not whole"),
            pytest.param(None, "queue.db: file is not a database", id="no database"),
        ],
    )
    def test_what_is_not_our_queue_is_left_alone(self, tmp_path, pump, spoil, text):
        pump.run(SqliteStore.open(tmp_path, pump).close())
        path = tmp_path / "queue.db"
        if spoil:
            database = sqlite3.connect(path)
            database.execute(spoil)
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            database.close()
        else:
            path.write_bytes(b"something else" * 1000)
        before = path.read_bytes()
        for _ in range(2):  # the first refusal gives the folder back
            with pytest.raises(StoreUnavailable, match=text):
                SqliteStore.open(tmp_path, pump)
        assert path.read_bytes() == before

    def test_a_folder_that_cannot_be_made(self, tmp_path, pump):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StoreUnavailable, match="file"):
            SqliteStore.open(tmp_path / "file" / "state", pump)

    # ── Groups ──

    def test_what_comes_together_is_committed_together(self, store, pump):
        said = []
        store._database.set_trace_callback(said.append)
        puts = pump.run_all([store.put(self.envelope(), SMALL, self.to("a@example.org")) for _ in range(50)])
        pump.run_all([store.settle(self.settled(put.parcels[0], State.DELIVERED)) for put in puts])
        store._database.set_trace_callback(None)
        assert [said.count(statement) for statement in ("BEGIN IMMEDIATE", "COMMIT")] == [2, 2]
        assert pump.run(store.find(Selection())) == []

    def test_somebody_who_writes_holds_up_the_writer_but_not_the_reactor(self, store, pump, tmp_path):
        other = sqlite3.connect(tmp_path / "state" / "queue.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        putting = ensureDeferred(store.put(self.envelope(), SMALL, self.to("a@example.org")))
        began = monotonic()
        pump._calls.get()()  # a turn of the reactor
        assert monotonic() - began < 5  # half of what the writer's thread waits
        other.execute("ROLLBACK")
        other.close()
        assert pump.run(putting).message > 0

    def test_somebody_who_writes_for_long_is_waited_for_once(self, store, pump, tmp_path, monkeypatch):
        monkeypatch.setattr(writer, "_PATIENCE", 10)
        other = sqlite3.connect(tmp_path / "state" / "queue.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        said = []
        store._database.set_trace_callback(said.append)
        puts = pump.run_all([store.put(self.envelope(), SMALL, self.to("a@example.org")) for _ in range(50)])
        store._database.set_trace_callback(None)
        assert {str(one) for one in puts} == {"OperationalError: database is locked"}
        assert {type(one) for one in puts} == {StoreUnavailable}
        assert said.count("BEGIN IMMEDIATE") == 2  # the reactor, which does not wait, and the thread
        other.execute("ROLLBACK")
        other.close()
        assert self.keep(store, pump, "a@example.org").message > 0

    def test_only_the_guilty_one_of_a_group_fails(self, store, pump, tmp_path):
        file = store.incoming / "good"
        file.write_bytes(b"good\r\n")
        leased = self.keep(store, pump, "z@example.org")
        bad_name = self.envelope(helo="\udc80")  # cannot be stored as text
        one, bad, lost, big, settled = pump.run_all(
            [
                store.put(self.envelope(), SMALL, self.to("a@example.org", at=Destination("new"))),
                store.put(bad_name, SMALL, self.to("b@example.org", at=Destination("newer"))),
                store.put(self.envelope(), Content(store.incoming / "nowhere", 5), self.to("c@example.org")),
                store.put(self.envelope(), Content(file, 6), self.to("d@example.org", at=Destination("newer"))),
                store.settle(self.settled(leased.parcels[0], State.DELIVERED)),
            ]
        )
        assert [type(bad), type(lost)] == [StoreUnavailable, StoreUnavailable]
        assert list(settled) == []
        assert big.parcels[0].content.read() == b"good\r\n"
        assert [entry.address for entry in pump.run(store.find(Selection()))] == ["a@example.org", "d@example.org"]
        assert [entry.destination for entry in pump.run(store.find(Selection()))] == [Destination("new"), Destination("newer")]
        assert [int(kept.name) for kept in (tmp_path / "state" / "content").iterdir()] == [big.message]
        assert one.message < big.message
        assert store.leased() == 2

    def test_settle_is_all_or_nothing(self, store, pump):
        put = self.keep(store, pump, "a@example.org", "b@example.org")
        notice = Notice(self.envelope("", helo="\udc80"), SMALL, Recipient(self.envelope().sender), Destination("other"))
        with pytest.raises(StoreUnavailable):
            pump.run(store.settle(self.settled(put.parcels[0], State.FAILED), [notice]))
        assert {entry.state for entry in pump.run(store.find(Selection()))} == {State.WAITING}
        assert store.leased() == 2
        pump.run(store.settle(self.settled(put.parcels[0], State.FAILED)))
        assert pump.run(store.find(Selection())) == []
        assert store.leased() == 0

    def test_a_full_disk_keeps_nothing_and_heals(self, store, pump):
        put = self.keep(store, pump, "a@example.org")
        (pages,) = store._database.execute("PRAGMA page_count").fetchone()
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        received = store.incoming / "x"
        received.write_bytes(b"x")
        answers = pump.run_all(
            [
                store.put(self.envelope(), Content.of(b"x" * 100_000), self.to("b@example.org")),
                store.put(self.envelope(), Content.of(b"x" * 100_000), self.to("b@example.org")),
            ]
        )
        assert [type(answer) for answer in answers] == [StoreFull, StoreFull]
        with pytest.raises(StoreFull):
            pump.run(store.put(self.envelope(helo="h" * 100_000), Content(received, 1), self.to("c@example.org")))
        assert received.exists()  # it still belongs to the receiver
        assert len(pump.run(store.find(Selection()))) == store.leased() == 1
        pump.run(store.settle(self.settled(put.parcels[0], State.WAITING, due=5.0)))
        store._database.execute("PRAGMA max_page_count = 1000000")
        pump.run(store.put(self.envelope(), Content.of(b"x" * 100_000), self.to("b@example.org")))
        assert len(pump.run(store.find(Selection()))) == 2

    # ── The end ──

    def test_close_commits_what_waits(self, tmp_path, pump):
        store = SqliteStore.open(tmp_path, pump)
        put, *_ = pump.run_all([store.put(self.envelope(), SMALL, self.to("a@example.org")), store.close(), store.close()])
        assert put.message == 1
        for late in (
            store.put(self.envelope(), SMALL, self.to("a@example.org")),
            store.waiting(),
            store.settle([]),
            store.find(Selection()),
        ):
            with pytest.raises(StoreUnavailable, match="closed"):
                pump.run(late)
        again = SqliteStore.open(tmp_path, pump)
        assert pump.run(again.waiting()) == {self.mx: 1000.0}
        pump.run(again.close())

    @pytest.mark.parametrize("what", ["put", "lease", "settle"])
    def test_leases_that_nobody_hears_of_are_given_back(self, store, pump, what):
        put = self.keep(store, pump, "a@example.org")
        if what == "put":
            asked = store.put(self.envelope(arrived=5.0), SMALL, self.to("b@example.org"))
        elif what == "lease":
            pump.run(store.release(put.parcels))
            asked = store.lease(self.mx, 1e12, 10)
        else:
            notice = Notice(self.envelope("", 5.0), SMALL, Recipient(self.envelope().sender), self.mx)
            asked = store.settle(self.settled(put.parcels[0], State.FAILED), [notice])
        gone = ensureDeferred(asked)
        gone.addErrback(lambda _: None)
        gone.cancel()
        pump.run(store.waiting())
        pump.run(store.waiting())
        assert store.leased() == (1 if what == "put" else 0)
        assert list(pump.run(store.waiting()).values()) == [1000.0 if what == "lease" else 5.0]

    def test_a_clean_end_leaves_no_log(self, tmp_path, pump):
        store = SqliteStore.open(tmp_path, pump)
        self.keep(store, pump, "a@example.org")
        assert len(pump.run(store.find(Selection()))) == 1
        pump.run(store.close())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["content", "incoming", "lock", "queue.db"]

    # ── Crowds ──

    def test_an_order_reaches_more_than_one_transaction_holds(self, store, pump):
        addresses = [f"user{number}@example.org" for number in range(12_000)]
        put = self.keep(store, pump, *addresses)
        pump.run(store.release(put.parcels))
        assert pump.run(store.tell(Selection(gateway="internet"), Order.HOLD)) == 12_000
        assert pump.run(store.tell(Selection(gateway="internet"), Order.DROP)) == 12_000
        assert pump.run(store.stats()) == {}

    def test_unused_destinations_are_forgotten(self, store, pump):
        store._destinations.sweep_at = 3
        kept = self.keep(store, pump, "a@example.org")
        for number in range(10):
            to = self.to("a@example.org", at=Destination("g", f"hop{number}"))
            put = pump.run(store.put(self.envelope(), SMALL, to))
            pump.run(store.settle(self.settled(put.parcels[0], State.DELIVERED)))
        assert store._destinations.sweep_at > 3
        assert store._database.execute("SELECT count(*) FROM destination").fetchone()[0] < 11
        pump.run(store.release(kept.parcels))
        assert pump.run(store.waiting()) == {self.mx: 1000.0}

    def test_room_is_given_back_after_a_crowd(self, store, pump):
        puts = [pump.run(store.put(self.envelope(), Content.of(b"x" * 1_000_000), self.to("a@example.org"))) for _ in range(12)]

        def pages():
            return pump.run(store._writer.ask(lambda: store._database.execute("PRAGMA page_count").fetchone()[0]))

        assert pages() > 1400
        pump.run_all([store.settle(self.settled(put.parcels[0], State.DELIVERED)) for put in puts])
        until(lambda: pages() <= 1000 + 100)

    def test_who_writes_does_not_wait_for_who_asks(self, store, pump):
        told = []

        async def ask(name):
            await store._writer.ask(lambda: sleep(0.02))
            told.append(name)

        async def write(name):
            await store.put(self.envelope(), SMALL, self.to("a@example.org"))
            told.append(name)
            if name == "write 1":
                await write("write 2")

        pump.run_all([ask("ask 1"), ask("ask 2"), ask("ask 3"), write("write 1")])
        assert told == ["write 1", "ask 1", "write 2", "ask 2", "ask 3"]

    def test_the_log_begins_anew(self, store, pump, tmp_path):
        state = tmp_path / "state"

        def crowd(number):
            for _ in range(number):
                pump.run(store.put(self.envelope(), Content.of(b"x" * 200_000), self.to("a@example.org")))

        crowd(50)
        until(lambda: crowd(1) is None and frames_in_use(state / "queue.db") < 100)
        assert (state / "queue.db").stat().st_size > 50 * 200_000

    def test_a_long_reader_does_not_let_the_log_grow_for_ever(self, store, pump, tmp_path, monkeypatch):
        monkeypatch.setattr("mailgw.storage.housekeeping._TOO_MUCH", 1500)
        database = tmp_path / "state" / "queue.db"
        answer = []
        # An operator's question that never ends by itself.
        endless = "WITH RECURSIVE n(x) AS (SELECT count(*) FROM message UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n, message"
        ensureDeferred(self.ask(store, endless)).addBoth(answer.append)
        text = Content.of(b"x" * 200_000)
        until(lambda: pump.run(store.put(self.envelope(), text, self.to("a@example.org"))) and answer)
        assert isinstance(answer[0].value, StoreUnavailable)
        until(lambda: pump.run(store.put(self.envelope(), text, self.to("a@example.org"))) and frames_in_use(database) < 100)

    async def ask(self, store, question):
        return await store.aside(lambda: store._desk._rows(question))


    @pytest.mark.parametrize(
        ("statement", "values"),
        [
            pytest.param("FIRST_DUE", (), id="waiting"),
            pytest.param("IN_ORDER", (1, 1.0), id="lease"),
        ],
    )
    def test_a_million_rows_are_not_looked_at(self, store, statement, values):
        from mailgw.storage import statements

        plan = store._database.execute(f"EXPLAIN QUERY PLAN {getattr(statements, statement)}", values).fetchall()
        steps = [step[3] for step in plan]
        assert any("USING COVERING INDEX queue (destination=? AND state=?" in step for step in steps)
        assert not any("SCAN r" in step or "TEMP B-TREE" in step for step in steps)

    def test_an_operator_s_search_reads_no_message_it_does_not_need(self, store):
        from mailgw.storage import desk

        condition, values = desk.selecting(Selection(gateway="internet", sender="anna@example.com", domain="example.org"))
        statement = desk._FIND.format(tables=desk.TABLES, condition=condition)
        plan = [step[3] for step in store._database.execute(f"EXPLAIN QUERY PLAN {statement}", (*values, 10)).fetchall()]
        assert [step.split()[1] for step in plan] == ["r", "d", "m"]


def test_the_pump_says_when_nothing_happens():
    class Never:
        def __await__(self):
            from twisted.internet.defer import Deferred

            return Deferred().__await__()

    with pytest.raises(AssertionError, match="nothing happened"):
        Pump().run(Never(), patience=0.01)
