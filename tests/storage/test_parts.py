"""The parts of a queue: where they lie, which numbers they give, what is left of those whose workers are no more."""

import pytest

from mailgw.storage.parts import NUMBERS, base_of, folder_of, has_mail, part_of, parts_in
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing import an_envelope
from mailgw.testing.stores import Pump
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Recipient
from mailgw.values.ledger import Order, Selection


def put_into(state, part):
    """One message, held; gives its number."""
    pump = Pump()
    store = SqliteStore.open(folder_of(state, part), pump, base=base_of(part))
    content, to = Content.of(b"Subject: x\r\n\r\nx\r\n"), Recipient(Address.parse("b@example.org"))
    put = pump.run(store.put(an_envelope(), content, [(to, Destination("mx"))], hold="wait"))
    pump.run(store.close())
    return put.message


def empty(state, part):
    pump = Pump()
    store = SqliteStore.open(folder_of(state, part), pump)
    pump.run(store.tell(Selection(), Order.DROP))
    pump.run(store.close())


@pytest.mark.parametrize("part", [1, 2, 7, 64])
def test_numbers_and_folders(tmp_path, part):
    assert put_into(tmp_path, part) == base_of(part) + 1
    assert put_into(tmp_path, part) == base_of(part) + 2
    assert part_of(base_of(part) + 1) == part_of(base_of(part) + NUMBERS) == part
    assert parts_in(tmp_path) == [part]


def test_an_old_queue_keeps_its_count(tmp_path):
    put_into(tmp_path, 2)
    pump = Pump()
    pump.run(SqliteStore.open(folder_of(tmp_path, 2), pump, base=5).close())
    assert put_into(tmp_path, 2) == NUMBERS + 2


def test_what_is_no_part_is_left_alone(tmp_path):
    assert parts_in(tmp_path / "nowhere") == []
    for name in ("worker-", "worker-1", "worker-02", "worker-x", "worker-2.old", "worker-3", "content"):
        (tmp_path / name).mkdir()
        if name != "worker-3":
            (tmp_path / name / "queue.db").touch()
    assert parts_in(tmp_path) == []
    for part in (4, 1, 12):
        put_into(tmp_path, part)
    assert parts_in(tmp_path) == [1, 4, 12]


def test_whether_there_is_mail(tmp_path):
    put_into(tmp_path, 2)
    assert has_mail(tmp_path, 2)
    empty(tmp_path, 2)
    assert not has_mail(tmp_path, 2)
    (folder_of(tmp_path, 2) / "queue.db").write_bytes(b"nobody knows what this is" * 100)
    assert has_mail(tmp_path, 2)
