import shutil

import pytest

from mailgw.interfaces import StoreUnavailable
from mailgw.storage.desk import read_only_desk
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import Pump
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Selection

HERE = Destination("here")


def put(pump, store, content):
    envelope = Envelope(sender=Address.parse("anna@example.com"), arrived=1000.0)
    return pump.run(store.put(envelope, content, [(Recipient(Address.parse("bert@example.org")), HERE)]))


@pytest.fixture
def pump():
    return Pump()


@pytest.fixture
def store(tmp_path, pump):
    store = SqliteStore.open(tmp_path / "state", pump)
    yield store
    pump.run(store.close())


def everything(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "queue.db-shm"}


def check(desk):
    (small, big) = desk.find(Selection(recipient="BERT@example.org"))
    assert (small.message, small.leased, small.size) == (1, False, 7)
    assert desk.find(Selection(limit=1)) == [small]
    assert desk.content(1).read() == b"small\r\n"
    assert desk.content(big.message).read() == b"big\r\n"
    assert desk.content(99) is None
    assert desk.stats() == {HERE: {"waiting": 2, "held": 0, "delivered": 0, "failed": 0, "dropped": 0, "oldest": 1000}}


@pytest.fixture
def filled(store, pump):
    put(pump, store, Content.of(b"small\r\n"))
    file = store.incoming / "x"
    file.write_bytes(b"big\r\n")
    put(pump, store, Content(file, 5))
    return store


def test_reads_after_a_clean_end_and_changes_nothing(filled, pump, tmp_path):
    pump.run(filled.close())
    before = everything(tmp_path / "state")
    with read_only_desk(tmp_path / "state") as desk:
        check(desk)
    assert {**everything(tmp_path / "state"), "queue.db-wal": b""} == {**before, "queue.db-wal": b""}


def test_reads_what_a_crash_left_in_the_log_and_changes_nothing(filled, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(tmp_path / "state", folder, ignore=shutil.ignore_patterns("*-shm"))
    assert (folder / "queue.db-wal").stat().st_size > 0
    before = everything(folder)
    with read_only_desk(folder) as desk:
        check(desk)
    assert everything(folder) == before


def test_reads_beside_the_owner(filled, pump, tmp_path):
    with read_only_desk(tmp_path / "state") as desk:
        check(desk)
        put(pump, filled, Content.of(b"small\r\n"))
        assert len(desk.find(Selection())) == 3


def test_the_owner_can_start_after_a_reader(filled, pump, tmp_path):
    pump.run(filled.close())
    with read_only_desk(tmp_path / "state"):
        again = SqliteStore.open(tmp_path / "state", pump)
        put(pump, again, Content.of(b"small\r\n"))
        pump.run(again.close())


def test_cannot_write(filled, tmp_path):
    with read_only_desk(tmp_path / "state") as desk, pytest.raises(StoreUnavailable, match="readonly"):
        desk._rows("DELETE FROM recipient")


def test_says_what_is_missing(tmp_path):
    with pytest.raises(StoreUnavailable, match="holds no queue"):
        read_only_desk(tmp_path)
    (tmp_path / "queue.db").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="is empty"):
        read_only_desk(tmp_path)
    (tmp_path / "queue.db").write_bytes(b"something else" * 1000)
    with pytest.raises(StoreUnavailable, match=r"queue\.db: file is not a database"):
        read_only_desk(tmp_path)
