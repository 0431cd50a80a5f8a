"""Notices of our own making: what they look like, and that nobody can answer them."""

from email import message_from_bytes
from email.policy import default
from random import Random

import pytest
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from mailgw.assemble import Identity
from mailgw.interfaces import IPostOffice, StoreUnavailable
from mailgw.journal import Journal
from mailgw.queue.post_office import PostOffice, compose
from mailgw.storage.in_process import InProcessStore
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing import at, run
from mailgw.testing.stores import Pump
from mailgw.values.address import NULL, Address
from mailgw.values.delivery import Destination
from mailgw.values.ledger import Selection

NOON = "2026-01-05T12:00+00:00"
US = Identity("mx.example.org", Address.parse("postmaster@example.org"))
ANNA = Address.parse("anna@example.net")


class Notes:
    def __init__(self):
        self.events = []

    def note(self, event):
        self.events.append(event)


def test_a_notice_is_queued(tmp_path):
    store, offered, notes = InProcessStore(tmp_path), [], Notes()
    office = PostOffice(US, at(NOON), Random(1))
    assert verifyObject(IPostOffice, office)
    office.open(store, offered.append, Journal((notes,)))
    number = run(office.post(ANNA, "the disk is nearly full", "Only 100 MB are left.\n"))
    [put] = offered
    [parcel] = put.parcels
    assert put.message == parcel.message == number
    assert parcel.destination == Destination("")  # asks the routes
    assert parcel.envelope.sender == NULL
    assert parcel.queued[0].recipient.notify == {"NEVER"}
    [entry] = run(store.find(Selection()))
    assert (entry.sender, entry.address) == ("<>", "anna@example.net")
    [event] = notes.events
    assert (type(event).__name__, event.message, event.recipient) == ("Posted", number, "anna@example.net")
    message = message_from_bytes(parcel.content.read(), policy=default)
    assert not message.defects
    assert {name: str(value) for name, value in message.items()} == {
        "From": '"mailgw at mx.example.org" <postmaster@example.org>',
        "To": "anna@example.net",
        "Subject": "the disk is nearly full",
        "Date": "Mon, 05 Jan 2026 12:00:00 +0000",
        "Message-ID": message["Message-ID"],
        "Auto-Submitted": "auto-generated",
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "7bit",
    }
    assert message.get_content() == "Only 100 MB are left.\r\n"


def test_nothing_is_sent_before_there_is_a_queue(tmp_path):
    office = PostOffice(US, at(NOON), Random(1))
    with pytest.raises(StoreUnavailable, match="before mailgw has started"):
        run(office.post(ANNA, "x", "y"))
    store = InProcessStore(tmp_path)
    store.trouble = StoreUnavailable("gone")
    office.open(store, lambda put: None, Journal())
    with pytest.raises(StoreUnavailable, match="gone"):
        run(office.post(ANNA, "x", "y"))


def test_a_notice_that_nobody_waits_for_any_more_is_delivered_all_the_same(tmp_path):
    pump, offered = Pump(), []
    store = SqliteStore.open(tmp_path, pump)
    office = PostOffice(US, at(NOON), Random(1))
    office.open(store, offered.append, Journal())
    posting = Deferred.fromCoroutine(office.post(ANNA, "x", "y"))
    posting.cancel()  # the time of the policy that sends it is up
    posting.addErrback(lambda failure: failure.trap(CancelledError))
    pump.run(store.waiting())
    [entry] = pump.run(store.find(Selection()))
    assert [put.message for put in offered] == [entry.message]
    pump.run(store.close())


def as_utf8(text):
    return text.encode("utf-8", "surrogateescape").decode()


@pytest.mark.parametrize(
    ("recipient", "subject", "text"),
    [
        pytest.param("anna@example.net", "two\r\nBcc: everybody@example.com", "x", id="line break in the subject"),
        pytest.param("anna@example.net", "s" * 5000, "x", id="long subject"),
        pytest.param("anna@example.net", "Überfüllt", "Grüße\n.\n..\nFrom x\n" + "y" * 3000, id="not ASCII"),
        pytest.param('"a, b; <c>"@example.net', "x", "", id="quoted local-part"),
        pytest.param("Ünal@example.net", "x", "y", id="internationalized"),
        pytest.param("postmaster@[192.0.2.1]", "x", "y\r\nz\rw", id="address literal"),
    ],
)
def test_any_notice(recipient, subject, text):
    address = Address.parse(recipient)
    raw = compose(US, address, subject, text, date="Mon, 05 Jan 2026 12:00:00 +0000", word="w")
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    message = message_from_bytes(raw, policy=default)
    assert not message.defects
    assert sorted(message.keys()) == sorted(
        ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"]
    )
    assert [(as_utf8(one.username), one.domain) for one in message["To"].addresses] == [(address.local_part, address.domain)]
    assert message["Subject"] == " ".join(subject.split())[:200]
    assert message.get_content().splitlines() == (text.rstrip("\n") or "\n").splitlines()
