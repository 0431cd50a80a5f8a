"""What a policy server is told, what its answers mean, and what its troubles lead to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol

from mailgw.interfaces import LookupFailed
from mailgw.policies.delegated import Delegated, decided
from mailgw.policies.policy_server import NoPolicyServer, encoded
from mailgw.policies.relay import Permit
from mailgw.testing.facts import a_client, a_message, a_recipient, a_sender
from mailgw.testing.network import Network
from mailgw.testing.server import MemoryServer
from mailgw.testing.zone import zone
from mailgw.values.decision import HeaderField

WHERE = "unix:/run/policy"
DNS = zone(
    {
        "9.2.0.192.in-addr.arpa": {"PTR": ["client.example"]},
        "client.example": {"A": ["192.0.2.9"]},
        "8.2.0.192.in-addr.arpa": {"PTR": ["liar.example"]},
        "liar.example": {"A": ["192.0.2.1"]},
        "7.2.0.192.in-addr.arpa": LookupFailed,
    }
)
HANG = object()
DROP = object()


class Server(Factory):
    """Answers one request after the other; the last answer repeats."""

    def __init__(self, *answers):
        self.answers = list(answers) or ["DUNNO"]
        self.requests = []
        self.open = 0

    def buildProtocol(self, _):  # noqa: N802
        return Connection(self)


class Connection(Protocol):
    def __init__(self, server):
        self.server, self.buffer = server, b""

    def connectionMade(self):  # noqa: N802
        self.server.open += 1

    def connectionLost(self, _):  # noqa: N802
        self.server.open -= 1

    def dataReceived(self, data):  # noqa: N802
        self.buffer += data
        while b"\n\n" in self.buffer:
            request, _, self.buffer = self.buffer.partition(b"\n\n")
            server = self.server
            server.requests.append(dict(line.split("=", 1) for line in request.decode().split("\n")))
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            if answer is DROP:
                self.transport.loseConnection()
            elif answer is not HANG:
                self.transport.write(answer if isinstance(answer, bytes) else f"action={answer}\n\n".encode())


def asking(server, step=65536, **options):
    network = Network({WHERE: server}, step=step)
    return network, Delegated(WHERE, **options, dialer=network, resolver=DNS, clock=network.clock)


def verdict(decision):
    return str(decision.reply) if decision.reply else decision.verdict.value


ANSWERS = {
    "dunno": ("DUNNO", "proceed"),
    "ok": ("OK", "proceed"),
    "lower case": ("dunno", "proceed"),
    "ok, text": ("OK fine by me", "proceed"),
    "reject": ("REJECT", "554 5.7.1 access denied"),
    "reject, text": ("REJECT go away", "554 5.7.1 go away"),
    "reject, status": ("REJECT 5.1.8 no such sender", "554 5.1.8 no such sender"),
    "reject, a status of another class": ("REJECT 4.1.8 no such sender", "554 5.1.8 no such sender"),
    "reject, status alone": ("REJECT 5.1.8", "554 5.1.8 access denied"),
    "defer": ("DEFER not now", "450 4.7.1 not now"),
    "defer if permit": ("DEFER_IF_PERMIT Greylisted", "450 4.7.1 Greylisted"),
    "code": ("550 5.7.23 SPF fail", "550 5.7.23 SPF fail"),
    "code alone": ("451", "451 4.7.1 access denied"),
    "code, text": ("451 later", "451 4.7.1 later"),
    "421 does not end the session": ("421 4.7.0 away", "450 4.7.0 away"),
    "521 does not end the session": ("521 no", "554 5.7.1 no"),
    "discard": ("DISCARD worm", "discard"),
    "hold": ("HOLD odd", "quarantine"),
    "prepend": ("PREPEND X-Greylist: delayed 300 s", "proceed"),
    "warn": ("WARN odd client", "proceed"),
    "info": ("INFO seen", "proceed"),
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("step", [65536, 1], ids=["whole", "octets"])
def test_answer(answer, expected, step):
    network, policy = asking(Server(answer), step)
    decision = network.run(policy.check_recipient(a_recipient()))
    assert verdict(decision) == expected
    if decision.verdict.value not in ("proceed",):
        assert decision.evidence[0].value == answer
        assert decision.evidence[0].source == "policy server unix:/run/policy, at RCPT"
        assert decision.remedy == "another answer of the policy server"


def test_why_and_header_fields():
    assert verdict(decided("REJECT 5.1.8", "", "go away")) == "554 5.1.8 go away"
    assert verdict(decided("451", "", "not now")) == "451 4.7.1 not now"
    assert decided("HOLD odd", "", "").why == "odd"
    assert decided("DISCARD", "", "").why == "the policy server said DISCARD"
    assert decided("WARN odd client", "", "").why == "odd client"
    assert decided("PREPEND Received-SPF: pass (x)", "", "").headers == (HeaderField("Received-SPF", "pass (x)"),)
    network, policy = asking(Server("REJECT"), text="not here")
    assert verdict(network.run(policy.check_recipient(a_recipient()))) == "554 5.7.1 not here"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("FILTER smtp:[127.0.0.1]", 'said "FILTER smtp:.*", which mailgw cannot do'),
        ("REDIRECT a@example.org", "which mailgw cannot do"),
        ("DEFER_IF_REJECT x", "which mailgw cannot do"),
        ("", "which mailgw cannot do"),
        ("PREPEND nonsense", 'prepends "nonsense", which is no header field'),
        ("PREPEND a b: c", "no header field name"),
    ],
)
def test_what_cannot_be_done_is_a_fault(answer, text):
    network, policy = asking(Server(answer))
    with pytest.raises(ValueError, match=text):
        network.run(policy.check_recipient(a_recipient()))


TROUBLE = {
    "refused": (None, "unix:/run/policy cannot be reached"),
    "no such socket": (OSError("no such file"), "cannot be reached: no such file"),
    "hangs up": (Server(DROP), "the connection was lost"),
    "no action": (Server(b"result=ok\n\n"), "did not answer as a policy server does"),
    "two actions": (Server(b"action=OK\naction=REJECT\n\n"), "did not answer as a policy server does"),
    "two answers": (Server(b"action=OK\n\naction=OK\n\n"), "did not answer as a policy server does"),
    "speaks SMTP": (Server(b"220 mx.example\r\n\r\n\n\n"), "did not answer as a policy server does"),
    "no end": (Server(b"a" * 70_000), "did not answer as a policy server does"),
}


@pytest.mark.parametrize(("server", "text"), TROUBLE.values(), ids=TROUBLE)
def test_trouble(server, text):
    network, policy = asking(server)
    with pytest.raises(NoPolicyServer, match=text):
        network.run(policy.check_recipient(a_recipient()))
    assert network.open_connections == 0
    assert issubclass(NoPolicyServer, LookupFailed)


def test_a_server_that_hangs_is_left_alone():
    network, policy = asking(Server(HANG, "REJECT late", "DUNNO"))
    waiting = Deferred.fromCoroutine(policy.check_recipient(a_recipient()))
    network.pump()
    waiting.addErrback(lambda problem: problem.trap(CancelledError))
    waiting.cancel()
    network.pump()
    assert network.open_connections == 0, "a late answer must not be taken for that to the next question"
    assert verdict(network.run(policy.check_recipient(a_recipient()))) == "554 5.7.1 late"


def test_connections_are_kept_for_a_while():
    server = Server()
    network, policy = asking(server, max_idle=10.0)
    for _ in range(3):
        network.run(policy.check_recipient(a_recipient()))
    assert network.dialled == [WHERE]
    network.clock.advance(11)
    network.pump()
    assert server.open == 0
    network.run(policy.check_recipient(a_recipient()))
    assert len(network.dialled) == 2
    policy.close()
    network.pump()
    assert server.open == 0


def test_a_kept_connection_that_has_died_is_replaced():
    network, policy = asking(Server("DUNNO", DROP, "REJECT"))
    network.run(policy.check_recipient(a_recipient()))
    assert verdict(network.run(policy.check_recipient(a_recipient()))) == "554 5.7.1 access denied"
    assert len(network.dialled) == 2


def test_no_more_connections_than_allowed():
    server = Server(HANG, "DUNNO")
    network, policy = asking(server, connections=1, max_idle=0.0)
    first = Deferred.fromCoroutine(policy.check_recipient(a_recipient()))
    second = Deferred.fromCoroutine(policy.check_recipient(a_recipient()))
    network.pump()
    assert (len(network.dialled), second.called) == (1, False)
    first.addErrback(lambda problem: problem.trap(CancelledError))
    first.cancel()
    network.pump()
    assert second.called
    assert len(network.dialled) == 2
    assert server.open == 0


WHEN = ["connect", "mail", "rcpt", "data", "end-of-message"]


def test_what_the_server_is_told():
    server = Server()
    network, policy = asking(server, ask=WHEN, context="mx")
    client = a_client(ip="192.0.2.9", helo="helo.example", login="ann", tls=True, session="S1")
    network.run(policy.check_client(client))
    network.run(policy.check_sender(a_sender("a@example.com", size=7, client=client)))
    network.run(policy.check_recipient(a_recipient("b@example.org", sender="a@example.com", client=client)))
    both = ["b@example.org", "c@example.org"]
    network.run(policy.check_content(a_message(b"x\r\n", sender="a@example.com", recipients=both, client=client)))
    asked = server.requests
    keys = ("protocol_state", "sender", "recipient", "recipient_count", "size", "instance")
    assert [tuple(one[key] for key in keys) for one in asked] == [
        ("CONNECT", "", "", "0", "0", "S1.0"),
        ("MAIL", "a@example.com", "", "0", "7", "S1.1"),
        ("RCPT", "a@example.com", "b@example.org", "0", "0", "S1.1"),
        ("DATA", "a@example.com", "", "2", "0", "S1.1"),
        ("END-OF-MESSAGE", "a@example.com", "", "2", "3", "S1.1"),
    ]
    for one in asked:
        assert one["request"] == "smtpd_access_policy"
        assert (one["client_address"], one["client_name"], one["reverse_client_name"]) == ("192.0.2.9", "client.example", "client.example")
        assert (one["helo_name"], one["sasl_username"], one["policy_context"]) == ("helo.example", "ann", "mx")
        assert (one["encryption_protocol"], one["protocol_name"]) == ("TLSv1.3", "ESMTP")


def test_the_only_recipient_is_told_with_the_message():
    server = Server()
    network, policy = asking(server, ask=["end-of-message"])
    network.run(policy.check_content(a_message(recipients=["b@example.org"])))
    assert [(one["protocol_state"], one["recipient"]) for one in server.requests] == [("END-OF-MESSAGE", "b@example.org")]


def test_after_a_refusal_at_data_nothing_more_is_asked():
    server = Server("PREPEND A: 1", "PREPEND B: 2", "REJECT", "OK")
    network, policy = asking(server, ask=["data", "end-of-message"])
    both = network.run(policy.check_content(a_message()))
    assert [(one.name, one.value) for one in both.headers] == [("A", "1"), ("B", "2")]
    assert verdict(network.run(policy.check_content(a_message()))) == "554 5.7.1 access denied"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("ip", "options", "names"),
    [
        ("192.0.2.8", {}, ("unknown", "liar.example")),
        ("192.0.2.7", {}, ("unknown", "unknown")),
        ("192.0.2.6", {}, ("unknown", "unknown")),
        ("192.0.2.9", {"look_up_names": False}, ("unknown", "unknown")),
    ],
)
def test_names_of_the_client(ip, options, names):
    server = Server()
    network, policy = asking(server, **options)
    network.run(policy.check_recipient(a_recipient(ip=ip)))
    assert (server.requests[0]["client_name"], server.requests[0]["reverse_client_name"]) == names


@pytest.mark.parametrize("when", WHEN)
def test_it_is_asked_only_when_it_should(when):
    server = Server()
    network, policy = asking(server, ask=[when])
    for answer in (
        policy.check_client(a_client()),
        policy.check_sender(a_sender()),
        policy.check_recipient(a_recipient()),
        policy.check_content(a_message()),
    ):
        network.run(answer)
    assert [one["protocol_state"].lower() for one in server.requests] == [when]


@given(st.dictionaries(st.sampled_from(["a", "helo_name"]), st.text(max_size=40)))
def test_no_value_adds_an_attribute_or_ends_the_request(attributes):
    lines = encoded(attributes).decode("utf-8").split("\n")
    assert lines[-2:] == ["", ""] if attributes else lines == ["", ""]
    assert [line.partition("=")[0] for line in lines[:-2]] == list(attributes)


@given(st.text(max_size=60))
def test_any_answer_is_a_decision_or_a_fault(answer):
    try:
        decision = decided(answer, "", "no")
    except ValueError:
        return
    assert decision.verdict.value in ("proceed", "reject", "defer", "discard", "quarantine")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"address": "postgrey"}, 'address: "postgrey" is no address; write it like "unix:/run/policy" or "127.0.0.1:10023"'),
        ({"address": "unix:run"}, "is no address"),
        ({"address": "127.0.0.1:99999"}, "is no address"),
        ({"ask": []}, "ask is empty"),
        ({"text": "für niemand"}, '"für niemand": the text must be plain ASCII'),
        ({"connections": 0}, "connections must be at least 1"),
    ],
)
def test_bad_settings(options, text):
    network = Network({})
    with pytest.raises(ValueError, match=text):
        Delegated(**{"address": WHERE, **options}, dialer=network, resolver=DNS, clock=network.clock)


def test_talk():
    network, policy = asking(Server("PREPEND X-Policy: seen", "DEFER_IF_PERMIT Greylisted"))
    server = MemoryServer(policies=[policy], permits=[Permit(to=frozenset({"example.org"}), name="ours")])
    talk = server.connect(ip="192.0.2.9")
    talk.say(b"EHLO c.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n")
    network.pump()
    assert talk.heard().endswith("\r\n250 2.1.0 sender ok\r\n250 2.1.5 recipient ok\r\n")
    talk.say("RCPT TO:<c@example.org>")
    network.pump()
    assert talk.heard() == "450 4.7.1 Greylisted\r\n"
    talk.say(b"DATA\r\n")
    assert talk.say(b"Subject: x\r\n\r\nx\r\n.\r\n") == "250 2.0.0 queued as 1\r\n"
    assert server.parcels[0].content.added.startswith(b"X-Policy: seen\r\nReceived: ")
