"""The porter with a real Dovecot behind it: exchanges that Dovecot leads, alone and after accounts of our own."""

import hmac

import pytest
from neighbours_who_know import DovecotAuth, Loop
from scramp import ScramClient
from twisted.cred.error import UnauthorizedLogin

from mailgw.credentials import AccountsUnavailable
from mailgw.gateways.dialing import Dialer
from mailgw.journal import Fault, Journal
from mailgw.login.dovecot import Dovecot
from mailgw.login.portal import Accounts
from mailgw.login.porter import Porter
from mailgw.smtp.sasl import Channel
from mailgw.testing import a_client
from mailgw.testing.accounts import Users
from mailgw.testing.server import Notes

pytestmark = pytest.mark.live

PASSWORD = "correct horse=battery, staple"
CHANNEL = Channel({"tls-exporter": b"x" * 32})


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.settle()


@pytest.fixture(scope="module")
def dovecot():
    with DovecotAuth(ann=PASSWORD) as server:
        yield server


def a_porter(loop, server, notes, *before):
    accounts = Dovecot(f"unix:{server.folder}/client", timeout=2.0, dialer=Dialer(loop.reactor), clock=loop.reactor)
    loop.until(lambda: accounts.mechanisms() != {"PLAIN"})  # it has been heard
    named = [Accounts(f"own{number}", one) for number, one in enumerate(before)]
    named.append(Accounts("dovecot", accounts))
    return accounts, Porter(accounts=named, journal=Journal((notes,)), clock=loop.reactor, hostname="mx.example.org")


def client_of(mechanism, password):
    """The initial response, and what answers challenges."""
    if mechanism.startswith("SCRAM"):
        scram = ScramClient([mechanism], "ann", password)

        async def answer(challenge):
            if challenge.startswith(b"v="):
                scram.set_server_final(challenge.decode())
                return b""
            scram.set_server_first(challenge.decode())
            return scram.get_client_final().encode()

        return scram.get_client_first().encode(), answer

    async def said(challenge):
        if mechanism == "CRAM-MD5":
            return f"ann {hmac.new(password.encode(), challenge, 'md5').hexdigest()}".encode()
        if mechanism == "PLAIN":
            return f"\0ann\0{password}".encode()
        return b"ann" if b"name" in challenge.lower() else password.encode()

    return None, said


MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN")


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("before", [(), (Users({"somebody": "else"}),)], ids=["alone", "after our own"])
def test_dovecot_leads(loop, dovecot, mechanism, before):
    if before and mechanism == "CRAM-MD5":
        before = (Users({"somebody": "else"}, names=frozenset({"PLAIN"})),)  # else the challenge would be ours
    notes = Notes()
    accounts, porter = a_porter(loop, dovecot, notes, *before)
    offered = porter.offers(a_client(tls=True), CHANNEL)
    assert set(MECHANISMS) <= set(offered)
    assert ("SCRAM-SHA-256-PLUS" in offered) == (bool(before) and mechanism != "CRAM-MD5")
    for password in (PASSWORD, "wrong"):
        initial, respond = client_of(mechanism, password)
        attempt = porter.login(a_client(tls=True), CHANNEL, mechanism, initial, respond)
        if password == PASSWORD:
            assert loop.run(attempt) == "ann"
        else:
            with pytest.raises(UnauthorizedLogin):
                loop.run(attempt)
    assert not notes.of(Fault)
    accounts.close()


def test_dovecot_is_away(loop):
    with DovecotAuth(ann=PASSWORD) as server:
        accounts, porter = a_porter(loop, server, Notes())
        server.stop()
        for mechanism in MECHANISMS:
            initial, respond = client_of(mechanism, PASSWORD)
            with pytest.raises(AccountsUnavailable):
                loop.run(porter.login(a_client(tls=True), CHANNEL, mechanism, initial, respond))
        accounts.close()
