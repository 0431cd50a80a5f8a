"""Damaged, full and read-only: what the embedded queue does when its disk fails."""

import random
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from mailgw.admin.reading import Refusal
from mailgw.admin.recovering import Recovering
from mailgw.interfaces import StoreDamaged, StoreFull, StoreUnavailable
from mailgw.storage.folder import Folder
from mailgw.storage.room import Room
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import Pump
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Order, Selection, Settlement, State

HERE = Destination("mailboxes")
ENVELOPE = Envelope(sender=Address.parse("anna@example.com"), arrived=1000.0)
TO = [(Recipient(Address.parse("bert@example.org")), HERE)]
PAGE = 8192


@pytest.fixture
def pump():
    return Pump()


def put_all(store, pump, number, size=3000):
    content = Content.of(b"x" * size)
    return [pump.run(store.put(ENVELOPE, content, TO)) for _ in range(number)]


def messages_of(store, pump):
    return {entry.message for entry in pump.run(store.find(Selection(limit=1_000_000)))}


def delivered(put):
    return [Settlement(put.message, one.number, State.DELIVERED, "") for parcel in put.parcels for one in parcel.queued]


@pytest.fixture
def crashed(tmp_path, pump):
    """A folder as a crash leaves it: part of 60 messages in the database, part of them in its log, one in a file."""
    store = SqliteStore.open(tmp_path / "alive", pump)
    put_all(store, pump, 40)
    pump.run(store._writer.ask(lambda: store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()))
    received = store.incoming / "x"
    received.write_bytes(b"y" * 300_000)
    pump.run(store.put(ENVELOPE, Content(received, 300_000), TO))
    put_all(store, pump, 19)
    folder = tmp_path / "state"
    shutil.copytree(tmp_path / "alive", folder, ignore=shutil.ignore_patterns("*-shm"))
    pump.run(store.close())
    return folder


def overwrite(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def drop_header(folder):
    (folder / "queue.db-wal").unlink(missing_ok=True)  # it has the first page, too
    overwrite(folder / "queue.db", 0, b"\xff" * 100)


def drop_page(folder):
    pages = (folder / "queue.db").stat().st_size // PAGE
    overwrite(folder / "queue.db", (pages // 2) * PAGE, random.Random(1).randbytes(PAGE))


def zero_page(folder):
    overwrite(folder / "queue.db", 3 * PAGE, bytes(PAGE))


def cut(folder):
    # What the log brings back must not hide it: pages in the middle are only in the database.
    with open(folder / "queue.db", "r+b") as file:
        file.truncate(10 * PAGE)


def empty(folder):
    (folder / "queue.db").write_bytes(b"")


def spoil_log_header(folder):
    overwrite(folder / "queue.db-wal", 16, b"\xff" * 4)


def spoil_log(folder):
    overwrite(folder / "queue.db-wal", 32, random.Random(1).randbytes(3 * (24 + PAGE)))


def fill_log_with_garbage(folder):
    path = folder / "queue.db-wal"
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


DAMAGES = [drop_header, drop_page, zero_page, cut, empty, spoil_log_header, spoil_log, fill_log_with_garbage]


def files_of(folder):
    # The index of the log is made anew whenever somebody looks.
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"}


@pytest.mark.parametrize("spoil", DAMAGES, ids=lambda one: one.__name__)
def test_a_damaged_queue_does_not_start_and_stays_as_it_is(crashed, pump, spoil):
    spoil(crashed)
    before = files_of(crashed)
    for _ in range(2):
        with pytest.raises(StoreDamaged, match=r"queue\.db is damaged: \S+"):
            SqliteStore.open(crashed, pump)
    assert files_of(crashed) == before


@pytest.mark.parametrize("spoil", DAMAGES, ids=lambda one: one.__name__)
def test_a_damaged_queue_is_set_aside_whole(crashed, pump, spoil):
    spoil(crashed)
    before = files_of(crashed)
    store = SqliteStore.open(crashed, pump, start_new=True)
    (aside,) = crashed.glob("damaged-*")
    assert store.set_aside.startswith(f"{aside.name}: ")
    moved = files_of(aside)
    assert moved == {name: data for name, data in before.items() if name != "lock"}
    assert "content/41" in moved
    assert messages_of(store, pump) == set()
    (put,) = put_all(store, pump, 1)
    assert put.message > 60
    pump.run(store.close())
    again = SqliteStore.open(crashed, pump)
    assert again.set_aside == ""
    assert messages_of(again, pump) == {put.message}
    pump.run(again.close())
    assert files_of(aside) == moved


@pytest.mark.parametrize("base", [0, 3 * 10**12])
def test_no_number_is_given_out_twice_even_if_nothing_can_be_read(tmp_path, pump, base):
    store = SqliteStore.open(tmp_path, pump, base=base)
    last = put_all(store, pump, 3)[-1].message
    pump.run(store.close())
    drop_header(tmp_path)
    store = SqliteStore.open(tmp_path, pump, base=base, start_new=True)
    assert last + 1_000_000 < put_all(store, pump, 1)[0].message < base + 10**11
    pump.run(store.close())


def test_what_a_crash_leaves_is_no_damage(crashed, pump):
    store = SqliteStore.open(crashed, pump)
    assert len(messages_of(store, pump)) == 60
    pump.run(store.close())


@pytest.mark.parametrize("octets", [1, PAGE, 2 * PAGE + 100])
def test_a_torn_end_of_the_log_is_no_damage(crashed, pump, octets):
    # The power was lost while a commit was written: nobody had heard 250 for it.
    log = crashed / "queue.db-wal"
    with open(log, "r+b") as file:
        file.truncate(log.stat().st_size - octets)
    store = SqliteStore.open(crashed, pump)
    assert len(messages_of(store, pump)) >= 58
    pump.run(store.close())


def test_the_last_commit_unfinished_is_no_damage(crashed, pump):
    log = crashed / "queue.db-wal"
    overwrite(log, log.stat().st_size - 24 - PAGE, random.Random(1).randbytes(24 + PAGE))
    pump.run(SqliteStore.open(crashed, pump).close())


def test_a_log_whose_room_was_only_made_is_no_damage(tmp_path, pump):
    store = SqliteStore.open(tmp_path, pump)
    put_all(store, pump, 2)
    pump.run(store.close())
    (tmp_path / "queue.db-wal").write_bytes(bytes(32 + 24 + PAGE))
    store = SqliteStore.open(tmp_path, pump)
    assert len(messages_of(store, pump)) == 2
    pump.run(store.close())


def test_damage_that_is_found_while_running_is_told_once_and_remembered(tmp_path, pump):
    store = SqliteStore.open(tmp_path, pump)
    told = []
    store.tell_damage = told.append
    puts = put_all(store, pump, 60)
    pump.run(store._writer.ask(lambda: store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()))
    pump.run(store.release([parcel for put in puts for parcel in put.parcels]))
    # Another connection would go on with what it has in memory.
    pump.run(store._writer.ask(lambda: store._database.execute("PRAGMA shrink_memory").fetchall()))
    for page in range(3, (tmp_path / "queue.db").stat().st_size // PAGE):
        overwrite(tmp_path / "queue.db", page * PAGE, b"\xff" * PAGE)
    for _ in range(2):
        with pytest.raises(StoreDamaged):
            pump.run(store.lease(HERE, 1e12, 100))
    assert len(told) == 1
    assert "malformed" in told[0]
    pump.run(store.close())
    with pytest.raises(StoreDamaged, match="malformed"):
        SqliteStore.open(tmp_path, pump)
    store = SqliteStore.open(tmp_path, pump, start_new=True)
    put_all(store, pump, 1)
    pump.run(store.close())
    pump.run(SqliteStore.open(tmp_path, pump).close())


# ── Getting out what can be read ──


def recover_all(store, pump, folder):
    recovering = Recovering(store, folder, store.aside)
    recovered, unreadable, left = 0, [], 1
    while left:
        answer = pump.run(recovering.some(next(folder.glob("damaged-*")).name))
        recovered, left = recovered + answer["recovered"], answer["left"]
        unreadable += [one["message"] for one in answer["unreadable"]]
    return recovered, unreadable


def unspoilt(folder):
    Folder(folder).suspect.write_text("somebody said so")


@pytest.mark.parametrize(
    "spoil", [unspoilt, drop_page, zero_page, spoil_log, spoil_log_header, fill_log_with_garbage], ids=lambda one: one.__name__
)
def test_what_can_be_read_is_queued_again(crashed, pump, spoil):
    spoil(crashed)
    store = SqliteStore.open(crashed, pump, start_new=True)
    recovered, unreadable = recover_all(store, pump, crashed)
    entries = pump.run(store.find(Selection(limit=1000)))
    assert recovered == len(entries) >= 30
    # What is only in the log is lost with it, and nobody can know how much that was.
    if spoil in (unspoilt, drop_page, zero_page):
        assert recovered + len(unreadable) == 60
    if spoil is unspoilt:
        assert unreadable == []
    sizes = set()
    for entry in entries:
        assert (entry.sender, entry.address, entry.arrived, entry.leased) == ("anna@example.com", "bert@example.org", 1000.0, False)
        text = pump.run(store.content(entry.message)).read()
        assert text in (b"x" * 3000, b"y" * 300_000)
        sizes.add(len(text))
    if spoil is unspoilt:
        assert sizes == {3000, 300_000}
    # Where the name of the destination is lost, the routes are asked again.
    assert set(pump.run(store.waiting())) <= ({HERE, Destination("", "")} if spoil is zero_page else {HERE})
    again = Recovering(store, crashed, store.aside)
    assert pump.run(again.some(next(crashed.glob("damaged-*")).name)) == {"recovered": 0, "unreadable": [], "left": 0}
    pump.run(store.close())


@pytest.mark.parametrize("spoil", [unspoilt, drop_page], ids=lambda one: one.__name__)
@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_queue_that_was_half_set_aside_stays_together(crashed, pump, monkeypatch, spoil, renames):
    spoil(crashed)
    done, rename = [], Path.rename

    def last(path, target):
        if len(done) == renames:
            raise OSError("as if it died here")
        done.append(target)
        return rename(path, target)

    with monkeypatch.context() as dying, suppress(StoreUnavailable):
        dying.setattr(Path, "rename", last)
        pump.run(SqliteStore.open(crashed, pump, start_new=True).close())
    store = SqliteStore.open(crashed, pump, start_new=True)
    recovered, unreadable = recover_all(store, pump, crashed)
    if spoil is unspoilt:
        assert (recovered, unreadable) == (60, [])
        assert b"y" * 300_000 in [pump.run(store.content(entry.message)).read() for entry in pump.run(store.find(Selection(limit=1000)))]
    assert recovered + len(unreadable) == 60
    pump.run(store.close())


@pytest.mark.parametrize("left", [["content"], ["queue.db-wal"], ["content", "queue.db-wal"]], ids="+".join)
def test_a_queue_is_not_put_to_what_is_left_of_an_older_one(crashed, pump, left):
    older = crashed / "damaged-20260105T100000000000Z"
    older.mkdir()
    for name in left:  # somebody has taken its database away
        (shutil.copytree if name == "content" else shutil.copy)(crashed / name, older / name)
    before = sorted(older.rglob("*"))
    unspoilt(crashed)
    store = SqliteStore.open(crashed, pump, start_new=True)
    assert sorted(older.rglob("*")) == before
    older.rename(crashed / "older")
    assert recover_all(store, pump, crashed) == (60, [])
    pump.run(store.close())


def test_what_was_held_stays_held_and_what_is_over_stays_away(tmp_path, pump):
    store = SqliteStore.open(tmp_path, pump)
    three = [(Recipient(Address.parse(f"{name}@example.org")), HERE) for name in ("one", "two", "three")]
    put = pump.run(store.put(ENVELOPE, Content.of(b"x\r\n"), three))
    pump.run(store.settle([Settlement(put.message, put.parcels[0].queued[0].number, State.DELIVERED, "")]))
    pump.run(store.release(put.parcels))
    pump.run(store.tell(Selection(recipient="two@example.org"), Order.HOLD, "odd"))
    pump.run(store.close())
    unspoilt(tmp_path)
    store = SqliteStore.open(tmp_path, pump, start_new=True)
    assert recover_all(store, pump, tmp_path) == (1, [])
    found = {entry.address: (entry.state, entry.reason) for entry in pump.run(store.find(Selection()))}
    assert found == {"two@example.org": (State.HELD, "odd"), "three@example.org": (State.WAITING, "")}
    pump.run(store.close())


@pytest.mark.parametrize("spoil", [drop_header, empty], ids=lambda one: one.__name__)
def test_where_nothing_can_be_read_it_is_said(crashed, pump, spoil):
    spoil(crashed)
    store = SqliteStore.open(crashed, pump, start_new=True)
    with pytest.raises(Refusal, match="cannot be recovered"):
        recover_all(store, pump, crashed)
    with pytest.raises(Refusal, match="holds no queue"):
        pump.run(Recovering(store, crashed, store.aside).some("nowhere"))
    pump.run(store.close())


# ── Room ──


class Disk:
    """What `os.statvfs` says."""

    f_frsize, f_files, f_favail = 4096, 1000, 900

    def __init__(self, free):
        self.f_bavail = free // 4096


BLOCK = 64 * 1024  # octets: less does not count as room


def test_room_is_what_is_free_without_the_reserve(tmp_path, monkeypatch):
    now, told = [0.0], []
    disk = {"free": 10 * BLOCK}
    monkeypatch.setattr("os.statvfs", lambda path: Disk(disk["free"]))
    room = Room(tmp_path, reserve=2 * BLOCK, seconds=lambda: now[0], tell=told.append)
    assert room.has(8 * BLOCK)
    assert not room.has(8 * BLOCK + 1)
    assert room.claim(5 * BLOCK)
    assert not room.claim(4 * BLOCK)
    assert room.left == 3 * BLOCK
    now[0] = 1.0
    assert room.left == 8 * BLOCK
    disk["free"] = BLOCK
    assert room.has(0)  # not looked at again yet
    now[0] = 2.0
    assert not room.has(0)
    disk["free"] = 3 * BLOCK - 4096
    now[0] = 3.0
    assert not room.has(0)
    assert room.left == 0  # a little room is none: it would be for some only
    disk["free"] = 3 * BLOCK
    now[0] = 4.0
    assert told == [False]
    assert room.has(BLOCK)
    assert told == [False, True]


def test_a_disk_without_files_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(Disk, "f_favail", 3)
    monkeypatch.setattr("os.statvfs", lambda path: Disk(10**9))
    assert not Room(tmp_path).has(0)


@pytest.mark.parametrize("is_replaced", [False, True], ids=["removed", "replaced"])
def test_nothing_new_is_taken_into_a_database_that_is_gone(tmp_path, pump, is_replaced):
    told, now, folder = [], [0.0], tmp_path / "state"
    store = SqliteStore.open(folder, pump)
    store.room.seconds, store.room.tell = lambda: now[0], told.append
    [put] = put_all(store, pump, 1)
    folder.rename(tmp_path / "aside")
    if is_replaced:
        folder.mkdir()
        (folder / "queue.db").touch()
    now[0] = 1.0
    with pytest.raises(StoreFull, match="removed or replaced"):
        put_all(store, pump, 1)
    assert (told, store.room.left) == ([False], 0)
    assert pump.run(store.settle(delivered(put))) == ()  # what is here still goes out
    shutil.rmtree(folder, ignore_errors=True)
    (tmp_path / "aside").rename(folder)
    now[0] = 2.0
    assert len(put_all(store, pump, 1)) == 1
    assert told == [False, True]
    pump.run(store.close())


def test_new_mail_leaves_the_reserve_to_what_becomes_of_the_old(tmp_path, pump):
    store = SqliteStore.open(tmp_path, pump)
    puts = put_all(store, pump, 3)
    store.room.reserve = 2**62
    store.room.seconds = lambda: 1e12
    with pytest.raises(StoreFull, match="min_free"):
        put_all(store, pump, 1)
    pump.run(store.settle(delivered(puts[0])))
    assert len(messages_of(store, pump)) == 2
    store.room.reserve, store.room.seconds = 0, lambda: 2e12
    put_all(store, pump, 1)
    assert len(messages_of(store, pump)) == 3
    pump.run(store.close())


# ── Read-only ──


def test_read_only_refuses_and_recovers(tmp_path, pump):
    store = SqliteStore.open(tmp_path, pump)
    puts = put_all(store, pump, 2)

    def read_only(on):
        pump.run(store._writer.ask(lambda: store._database.execute(f"PRAGMA query_only = {on}").fetchall()))

    read_only(1)
    with pytest.raises(StoreUnavailable) as caught:
        put_all(store, pump, 1)
    assert type(caught.value) is StoreUnavailable
    with pytest.raises(StoreUnavailable):
        pump.run(store.settle(delivered(puts[0])))
    assert store.leased() == 2
    assert store.damage == ""
    read_only(0)
    pump.run(store.settle(delivered(puts[0])))
    assert put_all(store, pump, 1)[0].message > puts[1].message
    pump.run(store.close())


@pytest.mark.parametrize("reads_fail", [False, True], ids=["writes fail", "reads fail, too"])
def test_a_destination_that_was_rolled_back_is_given_to_nobody(tmp_path, pump, reads_fail):
    new = Destination("internet", "new.example")

    def trouble(action, table, *_):
        fails = (action, table) == (sqlite3.SQLITE_INSERT, "recipient")
        fails = fails or (reads_fail and (action, table) == (sqlite3.SQLITE_READ, "destination"))
        return sqlite3.SQLITE_DENY if fails else sqlite3.SQLITE_OK

    store = SqliteStore.open(tmp_path, pump)
    putting = (ENVELOPE, Content.of(b"x"), [(TO[0][0], new)])
    store._database.set_authorizer(trouble)
    with pytest.raises(StoreUnavailable):
        pump.run(store.put(*putting))
    store._database.set_authorizer(None)
    message = pump.run(store.put(*putting)).message
    assert messages_of(store, pump) == {message}
    pump.run(store.close())
    again = SqliteStore.open(tmp_path, pump)
    assert list(pump.run(again.waiting())) == [new]
    pump.run(again.close())


def test_a_read_only_folder_does_not_start(tmp_path, pump):
    pump.run(SqliteStore.open(tmp_path, pump).close())
    database = sqlite3.connect(tmp_path / "queue.db")
    database.close()
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    with pytest.raises(StoreUnavailable, match="lock"):
        SqliteStore.open(tmp_path, pump)
