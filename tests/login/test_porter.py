"""Who is let in, and what is written down: several accounts in order, the guard, faults, patience, pass-through."""

import hmac
from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
from attrs import define, field
from scramp import ScramClient
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts, ILoginGuard, ISaslDialogue, LoginRefused
from mailgw.journal import Fault, Journal, LoggedIn, LoginFailed
from mailgw.login.portal import Accounts
from mailgw.login.porter import Porter
from mailgw.observe.log import line_of
from mailgw.smtp.sasl import BadResponse, Certificate, Channel
from mailgw.testing import a_client, run
from mailgw.testing.accounts import Users
from mailgw.testing.server import Notes
from mailgw.values.reply import Reply

ANNA, BEN = {"anna": "secret"}, {"ben": "hunter2"}
CHANNEL = Channel({"tls-exporter": b"x" * 32, "tls-unique": b"u" * 12}, Certificate("ab" * 32))
IN_CLEAR = Channel()


class Gone(Exception):
    """What a conversation says when the client is away."""


def never_asked(challenge):
    raise AssertionError(f"{challenge!r} was sent")


def answering(*responses):
    """A client that gives these responses, whatever the challenges; an exception among them is raised."""
    waiting = list(responses)

    async def respond(challenge):
        respond.challenges.append(challenge)
        response = waiting.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    respond.challenges = []
    return respond


@define(eq=False)
class House:
    porter: Porter
    clock: Clock = field(factory=Clock)
    notes: Notes = field(factory=Notes)

    def login(self, mechanism="PLAIN", initial=None, respond=never_asked, channel=CHANNEL, client=None):
        return self.porter.login(client or a_client(tls=True, listener="submission"), channel, mechanism, initial, respond)

    @property
    def failures(self):
        return [(event.account, event.reason) for event in self.notes.of(LoginFailed)]


def a_house(*accounts, timeout=30.0, **more):
    clock, notes = Clock(), Notes()
    named = [Accounts(f"store{number}", one, timeout) for number, one in enumerate(accounts, 1)]
    porter = Porter(accounts=named, journal=Journal((notes,)), clock=clock, hostname="mx.example.org", nonce=lambda: "nonce", **more)
    return House(porter, clock, notes)


def plain(name="anna", password="secret", authzid=""):
    return f"{authzid}\0{name}\0{password}".encode()


# ── One account ──


def test_who_is_believed_is_written_down():
    house = a_house(Users(ANNA))
    assert run(house.login(initial=plain())) == "anna"
    [event] = house.notes.events
    assert event == LoggedIn("test", "192.0.2.99", "PLAIN", "anna", "submission")
    assert line_of(event) == "session=test login client=192.0.2.99 mechanism=PLAIN login=anna listener=submission"


@pytest.mark.parametrize(("name", "password"), [("anna", "wrong"), ("nobody", "secret")], ids=["wrong password", "unknown user"])
def test_who_is_not_believed_is_written_down(name, password):
    house = a_house(Users(ANNA))
    with pytest.raises(UnauthorizedLogin):
        run(house.login(initial=plain(name, password)))
    [event] = house.notes.events
    told = f'client=192.0.2.99 account={name} mechanism=PLAIN listener=submission reason="wrong name or proof"'
    assert line_of(event) == f"session=test login failed: {told}"


def test_what_the_client_calls_itself_cannot_forge_a_line():
    house = a_house(Users(ANNA))
    with pytest.raises(UnauthorizedLogin):
        run(house.login(initial=plain("x client=203.0.113.1 account=y")))
    assert 'account="x client=203.0.113.1 account=y"' in line_of(house.notes.events[0])


def test_octets_that_are_no_response():
    house = a_house(Users(ANNA))
    with pytest.raises(BadResponse):
        run(house.login(initial=b"anna secret"))
    assert house.failures == [("", "bad response: response is not authzid NUL authcid NUL password")]


def test_a_client_that_goes_away_is_no_failure():
    house = a_house(Users(ANNA))
    with pytest.raises(Gone):
        run(house.login("LOGIN", None, answering(b"anna", Gone())))
    assert house.notes.events == []


def test_a_client_that_goes_away_while_the_accounts_challenge_it():
    house = a_house(Users(ANNA))
    with pytest.raises(Gone):
        run(house.login("SCRAM-SHA-256", b"n,,n=anna,r=abc", answering(Gone())))
    assert house.notes.events == []


# ── The authzid ──


@pytest.mark.parametrize(("authzid", "good"), [("", True), ("anna", True), ("ben", False)])
def test_nobody_acts_as_another(authzid, good):
    house = a_house(Users(ANNA))
    if good:
        assert run(house.login(initial=plain(authzid=authzid))) == "anna"
    else:
        with pytest.raises(UnauthorizedLogin):
            run(house.login(initial=plain(authzid=authzid)))
        assert house.failures == [("anna", "may not act as ben")]


def test_who_may_act_as_another():
    house = a_house(Users(ANNA), may_act_as=lambda login, other: (login, other) == ("anna", "ben"))
    assert run(house.login(initial=plain(authzid="ben"))) == "ben"
    with pytest.raises(UnauthorizedLogin):
        run(house.login(initial=plain(authzid="carl")))


# ── Several accounts ──

SCRAM_ANNA = ("SCRAM-SHA-256", "anna", "secret")


def scram(name="anna", password="secret", mechanism="SCRAM-SHA-256"):
    """A client of another library: its initial response, and what answers challenges."""
    client = ScramClient([mechanism], name, password)
    first = client.get_client_first().encode()

    async def respond(challenge):
        if challenge.startswith(b"v="):
            client.set_server_final(challenge.decode())
            return b""
        client.set_server_first(challenge.decode())
        return client.get_client_final().encode()

    return first, respond


def cram(name="anna", password="secret"):
    async def respond(challenge):
        return f"{name} {hmac.new(password.encode(), challenge, 'md5').hexdigest()}".encode()

    return None, respond


def shown(mechanism, name, password):
    return {"PLAIN": lambda *one: (plain(*one), never_asked), "SCRAM-SHA-256": scram, "CRAM-MD5": cram}[mechanism](name, password)


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5", "SCRAM-SHA-256"])
@pytest.mark.parametrize(
    ("stores", "name", "password", "result"),
    [
        pytest.param([Users(ANNA), Users(BEN)], "anna", "secret", "anna", id="the first knows"),
        pytest.param([Users(ANNA), Users(BEN)], "ben", "hunter2", "ben", id="the second knows"),
        pytest.param([Users(ANNA), Users(BEN)], "ben", "wrong", UnauthorizedLogin, id="the second knows better"),
        pytest.param([Users(ANNA), Users(BEN)], "carl", "x", UnauthorizedLogin, id="nobody knows"),
        pytest.param([Users(unavailable="down"), Users(BEN)], "ben", "hunter2", "ben", id="the first is down, the second knows"),
        pytest.param([Users(unavailable="down"), Users(BEN)], "ben", "wrong", AccountsUnavailable, id="perhaps the first would know"),
        pytest.param([Users(ANNA), Users(unavailable="down")], "anna", "secret", "anna", id="the second is down, the first knows"),
        pytest.param([Users(ANNA), Users(unavailable="down")], "ben", "hunter2", AccountsUnavailable, id="perhaps the second would"),
        pytest.param([Users(fault=KeyError("hunter2")), Users(BEN)], "ben", "hunter2", "ben", id="the first is broken"),
        pytest.param([Users(fault=KeyError("hunter2"))], "ben", "hunter2", AccountsUnavailable, id="the only one is broken"),
        pytest.param([Users(ANNA, names=frozenset({"X-OTHER"})), Users(BEN)], "ben", "hunter2", "ben", id="the first cannot"),
    ],
)
def test_in_order(mechanism, stores, name, password, result):
    house = a_house(*stores)
    initial, respond = shown(mechanism, name, password)
    if isinstance(result, str):
        assert run(house.login(mechanism, initial, respond)) == result
        assert [event.login for event in house.notes.of(LoggedIn)] == [result]
    else:
        with pytest.raises(result):
            run(house.login(mechanism, initial, respond))
        [(account, reason)] = house.failures
        assert account == name
        assert reason.startswith("wrong" if result is UnauthorizedLogin else "unavailable: store")
    assert "hunter2" not in repr(house.notes.events)


def test_the_password_in_an_exception_is_not_written_down():
    house = a_house(Users(fault=KeyError("hunter2")))
    with pytest.raises(AccountsUnavailable):
        run(house.login(initial=plain("ben", "hunter2")))
    [fault] = house.notes.of(Fault)
    assert (fault.component, fault.problem) == ("accounts store1", "failed: KeyError")
    assert "requestAvatarId" in fault.traceback
    assert "hunter2" not in repr(fault)


ENDINGS = {"leaves": SystemExit("hunter2"), "interrupts": KeyboardInterrupt(), "closes": GeneratorExit()}


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_accounts_that_would_end_us_are_a_fault(ending, later):
    class Broken(Users):
        def requestAvatarId(self, credentials):  # noqa: N802
            if later:
                return fail(ending)
            raise ending

    house = a_house(Broken(), Users({"anna": "hunter2"}, names=frozenset({"PLAIN"})))
    assert run(house.login(initial=plain("anna", "hunter2"))) == "anna"
    [fault] = house.notes.of(Fault)
    assert (fault.component, fault.problem) == ("accounts store1", f"failed: {type(ending).__name__}")
    assert "hunter2" not in repr(fault)


@pytest.mark.parametrize("login", ["", None, b"anna", "a\nb", "x" * 300, ()], ids=repr)
def test_an_answer_that_is_no_login(login):
    @implementer(IAccounts)
    class Odd(Users):
        async def requestAvatarId(self, credentials):  # noqa: N802
            return login

    house = a_house(Odd(ANNA))
    with pytest.raises(AccountsUnavailable):
        run(house.login(initial=plain()))
    [fault] = house.notes.of(Fault)
    assert "is no login" in fault.problem


def test_twisted_style_answers():
    class Later(Users):
        def requestAvatarId(self, credentials):  # noqa: N802
            return Deferred.fromCoroutine(super().requestAvatarId(credentials))

    assert run(a_house(Later(ANNA)).login(initial=plain())) == "anna"


def test_accounts_that_do_not_answer_are_given_up():
    house = a_house(Users(hang=True), timeout=5.0)
    login = Deferred.fromCoroutine(house.login(initial=plain()))
    house.clock.advance(4.9)
    assert not login.called
    house.clock.advance(0.2)
    with pytest.raises(AccountsUnavailable):
        run(login)
    assert house.failures == [("anna", "unavailable: store1: no answer within 5 s")]
    assert not house.clock.getDelayedCalls()


async def stubborn():
    while True:
        with suppress(Exception):
            await Deferred()


def raises(_):
    raise KeyError("hunter2")


HANGING = {
    "a coroutine that goes on when it is cancelled": lambda: Deferred.fromCoroutine(stubborn()),
    "a Deferred that waits for another": lambda: succeed(None).addCallback(lambda _: Deferred()),
    "a Deferred that cannot be cancelled": lambda: Deferred(raises),
}


@pytest.mark.parametrize("make", HANGING.values(), ids=HANGING)
@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5", "SCRAM-SHA-256"])
def test_accounts_that_do_not_heed_that_their_time_is_up(mechanism, make):
    class Hanging(Users):
        def requestAvatarId(self, credentials):  # noqa: N802
            return make()

    house = a_house(Hanging(), Users(ANNA), timeout=5.0)
    login = Deferred.fromCoroutine(house.login(mechanism, *shown(mechanism, "anna", "secret")))
    house.clock.advance(4.9)
    assert not login.called
    house.clock.advance(0.2)
    assert run(login) == "anna"
    assert not house.clock.getDelayedCalls()


@define(eq=False)
class TooLate(Users):
    """Goes on when its time is up, and has its say later."""

    gate: Deferred = field(factory=Deferred)
    became: list = field(factory=list)

    async def requestAvatarId(self, credentials):  # noqa: N802
        with suppress(Exception):
            await Deferred()
        await self.gate
        try:
            return await self.speak(credentials)
        except Exception as problem:
            self.became.append(type(problem))
            raise

    async def speak(self, credentials):
        return await super().requestAvatarId(credentials)


@define(eq=False)
class TooLateElsewhere(TooLate):
    credentialInterfaces: tuple = (ISaslDialogue,)  # noqa: N815

    async def speak(self, credentials):
        return (await credentials.respond(b"Password, please")).decode()


@pytest.mark.parametrize(
    ("late", "mechanism"),
    [(TooLate, "SCRAM-SHA-256"), (TooLateElsewhere, "PLAIN"), (TooLateElsewhere, "X-TWICE")],
    ids=["SCRAM", "pass-through, others follow", "pass-through"],
)
def test_who_comes_too_late_says_nothing_to_the_client(late, mechanism):
    """Whether others speak to it by now, or nobody does any more."""
    hanging = late(passwords=ANNA, names=frozenset({mechanism}))
    house = a_house(hanging, Users(ANNA), timeout=5.0)
    initial, answer = scram() if mechanism.startswith("SCRAM") else (plain(), never_asked)
    gates, challenges = [], []

    async def respond(challenge):
        challenges.append(challenge)
        gates.append(Deferred())
        await gates[-1]
        return await answer(challenge)

    login = Deferred.fromCoroutine(house.login(mechanism, initial, respond))
    house.clock.advance(5.1)
    heard = list(challenges)
    hanging.gate.callback(None)
    assert hanging.became == [AccountsUnavailable]
    assert challenges == heard
    for gate in gates:  # grows meanwhile
        gate.callback(None)
    if mechanism == "X-TWICE":
        with pytest.raises(AccountsUnavailable):
            run(login)
    else:
        assert run(login) == "anna"
    assert not house.clock.getDelayedCalls()


def test_the_time_of_the_client_is_not_that_of_the_accounts():
    house = a_house(Users(ANNA), timeout=5.0)
    first, respond = scram()
    gate = Deferred()

    async def slow(challenge):
        if challenge.startswith(b"r="):
            await gate
        return await respond(challenge)

    login = Deferred.fromCoroutine(house.login("SCRAM-SHA-256", first, slow))
    house.clock.advance(100)
    gate.callback(None)
    assert run(login) == "anna"
    assert not house.clock.getDelayedCalls()


def test_a_made_up_verifier_is_never_proved():
    # Its password is "", as `Users` makes it up: somebody who knew that must not get in.
    house = a_house(Users({}))
    client = ScramClient(["SCRAM-SHA-256"], "nobody", "x")
    client.password = type(client.password)("")
    first = client.get_client_first().encode()

    async def respond(challenge):
        if challenge.startswith(b"v="):
            return b""
        client.set_server_first(challenge.decode())
        return client.get_client_final().encode()

    with pytest.raises(UnauthorizedLogin):
        run(house.login("SCRAM-SHA-256", first, respond))


# ── Those who judge whole exchanges ──


@implementer(IAccounts)
@define(eq=False)
class Elsewhere:
    """Accounts that lead each exchange themselves, as Dovecot does."""

    names: frozenset[str] = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "X-TWICE", "EXTERNAL", "ANONYMOUS"})
    passwords: dict[str, str] = field(factory=lambda: {"dora": "explorer"})
    credentialInterfaces: tuple = (ISaslDialogue,)  # noqa: N815
    heard: list = field(factory=list)

    def mechanisms(self):
        return self.names

    async def requestAvatarId(self, dialogue):  # noqa: N802
        self.heard.append((dialogue.mechanism, dialogue.initial))
        if dialogue.mechanism == "PLAIN":
            response = dialogue.initial if dialogue.initial is not None else await dialogue.respond(b"")
            _, name, password = response.decode().split("\0")
        elif dialogue.mechanism == "LOGIN":
            name = (dialogue.initial or await dialogue.respond(b"User Name\0")).decode()
            password = (await dialogue.respond(b"Password\0")).decode()
        elif dialogue.mechanism == "CRAM-MD5":
            name, digest = (await dialogue.respond(b"<theirs@elsewhere>")).decode().split(" ")
            password = self.passwords.get(name, "")
            if hmac.new(password.encode(), b"<theirs@elsewhere>", "md5").hexdigest() != digest:
                raise UnauthorizedLogin()
        else:
            name = (await dialogue.respond(b"one")).decode()
            password = (await dialogue.respond(b"two")).decode()
        if self.passwords.get(name) != password:
            raise UnauthorizedLogin()
        return name


@pytest.mark.parametrize(
    ("mechanism", "initial", "respond", "heard"),
    [
        pytest.param("PLAIN", plain("dora", "explorer"), never_asked, plain("dora", "explorer"), id="PLAIN"),
        pytest.param("PLAIN", None, answering(plain("dora", "explorer")), plain("dora", "explorer"), id="PLAIN in two steps"),
        pytest.param("LOGIN", None, answering(b"dora", b"explorer"), None, id="LOGIN"),
        pytest.param("LOGIN", b"dora", answering(b"explorer"), b"dora", id="LOGIN with the name at once"),
        pytest.param("CRAM-MD5", *cram("dora", "explorer"), None, id="CRAM-MD5, their challenge"),
        pytest.param("X-TWICE", None, answering(b"dora", b"explorer"), None, id="one that we do not know"),
    ],
)
def test_pass_through(mechanism, initial, respond, heard):
    elsewhere = Elsewhere()
    house = a_house(elsewhere)
    assert run(house.login(mechanism, initial, respond)) == "dora"
    assert elsewhere.heard == [(mechanism, heard)]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize(("name", "password"), [("anna", "secret"), ("dora", "explorer")])
@pytest.mark.parametrize("turned", [False, True], ids=["ours first", "theirs first"])
def test_what_was_said_once_is_said_again_to_the_next(mechanism, name, password, turned):
    stores = [Elsewhere(), Users(ANNA)] if turned else [Users(ANNA), Elsewhere()]
    respond = answering(name.encode(), password.encode())
    house = a_house(*stores)
    if mechanism == "PLAIN":
        assert run(house.login("PLAIN", plain(name, password), never_asked)) == name
    else:
        assert run(house.login("LOGIN", None, respond)) == name
        assert respond.challenges == [b"Username:", b"Password:"]


def test_a_digest_of_our_challenge_is_nothing_for_others():
    house = a_house(Users(ANNA), Elsewhere())
    assert run(house.login("CRAM-MD5", *cram())) == "anna"
    with pytest.raises(UnauthorizedLogin):
        run(house.login("CRAM-MD5", *cram("dora", "explorer")))


def test_an_exchange_that_happened_elsewhere_is_over():
    house = a_house(Elsewhere(names=frozenset({"SCRAM-SHA-256"}), passwords={}), Users(ANNA))
    with pytest.raises(UnauthorizedLogin):
        run(house.login("SCRAM-SHA-256", b"n,,n=anna,r=abc", answering(b"anna", b"secret")))


# ── What is offered ──

ALL = (
    "SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS SCRAM-SHA-256 SCRAM-SHA-1 EXTERNAL OAUTHBEARER XOAUTH2 CRAM-MD5 PLAIN LOGIN".split()  # noqa: SIM905
)


@pytest.mark.parametrize(
    ("accounts", "cleartext", "ip", "tls", "channel", "offered"),
    [
        pytest.param([Users()], False, "192.0.2.1", True, CHANNEL, ALL, id="everything"),
        pytest.param([Users()], False, "192.0.2.1", True, IN_CLEAR, [*ALL[2:4], *ALL[5:]], id="TLS that proves nothing"),
        pytest.param([Users()], False, "192.0.2.1", False, IN_CLEAR, [], id="in clear"),
        pytest.param([Users()], False, "127.0.0.1", False, IN_CLEAR, [], id="in clear, from ourselves"),
        pytest.param([Users()], True, "192.0.2.1", False, IN_CLEAR, ["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"], id="allowed in clear"),
        pytest.param([Users()], True, "::1", False, IN_CLEAR, [*ALL[2:4], *ALL[5:]], id="allowed in clear, from ourselves"),
        pytest.param([Elsewhere()], True, "192.0.2.1", False, IN_CLEAR, ["CRAM-MD5"], id="who knows what X-TWICE shows"),
        pytest.param([Elsewhere()], False, "192.0.2.1", True, CHANNEL, ["CRAM-MD5", "PLAIN", "LOGIN", "X-TWICE"], id="passed on"),
        pytest.param(
            [Users(names=frozenset({"PLAIN"})), Users(names=frozenset({"LOGIN"}))],
            *(False, "192.0.2.1", True, CHANNEL, ["PLAIN", "LOGIN"]),
            id="what any of them can",
        ),
        pytest.param([Users(names=frozenset({"GSSAPI", "LOGIN"}))], False, "192.0.2.1", True, CHANNEL, ["LOGIN"], id="no way to show it"),
    ],
)
def test_offers(accounts, cleartext, ip, tls, channel, offered):
    house = a_house(*accounts, allow_cleartext=cleartext)
    assert list(house.porter.offers(a_client(ip=ip, tls=tls), channel)) == offered


@pytest.mark.parametrize("problem", [RuntimeError("odd"), SystemExit(3)], ids=repr)
def test_accounts_that_cannot_say_their_mechanisms(problem):
    class Broken(Users):
        def mechanisms(self):
            raise problem

    house = a_house(Broken(), Users(ANNA, names=frozenset({"PLAIN"})))
    assert house.porter.offers(a_client(tls=True), CHANNEL) == ("PLAIN",)
    assert [fault.component for fault in house.notes.of(Fault)] == ["accounts store1"]
    assert run(house.login(initial=plain())) == "anna"


# ── Tokens, certificates ──


def test_a_token_that_is_refused_is_answered_before_it_is():
    respond = answering(b"\x01")
    house = a_house(Users(tokens={"good": "anna"}))
    with pytest.raises(UnauthorizedLogin):
        run(house.login("OAUTHBEARER", b"n,a=anna,\x01auth=Bearer bad\x01\x01", respond))
    assert respond.challenges == [b'{"status":"invalid_token"}']
    assert run(house.login("OAUTHBEARER", b"n,,\x01auth=Bearer good\x01\x01")) == "anna"
    assert run(house.login("XOAUTH2", b"user=anna\x01auth=Bearer good\x01\x01")) == "anna"


@pytest.mark.parametrize(("authzid", "good"), [(b"", True), (b"anna", True), (b"ben", False)])
def test_a_certificate(authzid, good):
    house = a_house(Users(fingerprints={"ab" * 32: "anna"}))
    if good:
        assert run(house.login("EXTERNAL", authzid)) == "anna"
    else:
        with pytest.raises(UnauthorizedLogin):
            run(house.login("EXTERNAL", authzid))


# ── Channel binding, with another library ──


@pytest.mark.parametrize(("binding", "good"), [(b"u" * 12, True), (b"v" * 12, False)])
def test_channel_binding(binding, good):
    client = ScramClient(["SCRAM-SHA-256-PLUS"], "anna", "secret", channel_binding=("tls-unique", binding))
    first = client.get_client_first().encode()

    async def respond(challenge):
        if challenge.startswith(b"v="):
            client.set_server_final(challenge.decode())
            return b""
        client.set_server_first(challenge.decode())
        return client.get_client_final().encode()

    house = a_house(Users(ANNA))
    if good:
        assert run(house.login("SCRAM-SHA-256-PLUS", first, respond)) == "anna"
    else:
        with pytest.raises(UnauthorizedLogin):
            run(house.login("SCRAM-SHA-256-PLUS", first, respond))


def test_a_downgrade_is_noticed():
    client = ScramClient(["SCRAM-SHA-256"], "anna", "secret", channel_binding=("tls-unique", b"u" * 12))
    house = a_house(Users(ANNA))
    with pytest.raises(UnauthorizedLogin):
        run(house.login("SCRAM-SHA-256", client.get_client_first().encode()))
    assert "somebody stands between" in house.failures[0][1]


# ── The guard ──


@implementer(ILoginGuard)
@define(eq=False)
class Guard:
    refusal: Reply | None = None
    instead: Reply | None = None
    fault: Exception | None = None
    told: list = field(factory=list)

    async def before(self, client, account):
        self.told.append(("before", account))
        if self.fault:
            raise self.fault
        return self.refusal

    async def failed(self, client, account):
        self.told.append(("failed", account))
        return self.instead

    async def doubted(self, client, account):
        self.told.append(("doubted", account))

    async def succeeded(self, client, account):
        self.told.append(("succeeded", account))


@pytest.mark.parametrize(
    ("password", "told"), [("secret", [("before", "anna"), ("succeeded", "anna")]), ("wrong", [("before", "anna"), ("failed", "anna")])]
)
def test_the_guard_is_asked_and_told(password, told):
    guard = Guard()
    house = a_house(Users(ANNA), guard=guard)
    if password == "secret":
        run(house.login(initial=plain()))
    else:
        with pytest.raises(UnauthorizedLogin):
            run(house.login(initial=plain(password=password)))
    assert guard.told == told


def test_the_guard_refuses_unseen():
    users, guard = Users(ANNA), Guard(refusal=Reply(421, "4.7.0", "come back later"))
    house = a_house(users, guard=guard)
    with pytest.raises(LoginRefused) as caught:
        run(house.login(initial=plain()))
    assert caught.value.reply.code == 421
    assert users.asked == []
    assert house.failures == [("anna", "refused by the guard")]


def test_the_guard_has_another_reply_after_a_failure():
    house = a_house(Users(ANNA), guard=Guard(instead=Reply(421, "4.7.0", "that was too much")))
    with pytest.raises(LoginRefused):
        run(house.login(initial=plain(password="wrong")))


def test_without_its_guard_nobody_gets_in():
    users = Users(ANNA)
    house = a_house(users, guard=Guard(fault=RuntimeError("odd")))
    with pytest.raises(AccountsUnavailable):
        run(house.login(initial=plain()))
    assert users.asked == []
    assert [fault.component for fault in house.notes.of(Fault)] == ["login guard"]


@pytest.mark.parametrize("first", [0, 1])
def test_the_guard_is_told_where_some_have_refused_and_others_cannot_say(first):
    guard, both = Guard(), [Users(ANNA), Users(unavailable="down")]
    house = a_house(both[first], both[1 - first], guard=guard)
    with pytest.raises(AccountsUnavailable, match="down"):
        run(house.login(initial=plain(password="wrong")))
    assert guard.told == [("before", "anna"), ("doubted", "anna")]


def test_the_guard_is_not_told_where_nobody_could_say():
    guard = Guard()
    house = a_house(Users(unavailable="down"), guard=guard)
    with pytest.raises(AccountsUnavailable):
        run(house.login(initial=plain()))
    assert guard.told == [("before", "anna")]


# ── Other protocols ──


@pytest.mark.parametrize("accounts", [Users(ANNA), Elsewhere(passwords=ANNA)], ids=["ours", "pass-through"])
def test_a_name_and_a_password_of_another_protocol(accounts):
    house = a_house(accounts)
    client = a_client(tls=True)
    assert run(house.porter.login_with_password(client, "anna", "secret", "POP3")) == "anna"
    with pytest.raises(UnauthorizedLogin):
        run(house.porter.login_with_password(client, "anna", "wrong", "POP3"))
    with pytest.raises(UnauthorizedLogin):
        run(house.porter.login_with_password(client, "anna", "", "POP3"))
    assert [event.mechanism for event in house.notes.events] == ["POP3"] * 3


def test_nothing_secret_shows():
    token = b64encode(b"a token of some length").decode()
    house = a_house(Users(ANNA, {token: "anna"}))
    run(house.login(initial=plain()))
    first, respond = scram()
    run(house.login("SCRAM-SHA-256", first, respond))
    run(house.login("OAUTHBEARER", f"n,,\x01auth=Bearer {token}\x01\x01".encode()))
    told = repr(house.notes.events)
    assert "secret" not in told
    assert token not in told
    assert b64decode(token).decode() not in told
