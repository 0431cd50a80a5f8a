"""Posts to web services on the loopback interface."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import trustme
from houses import Loop
from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from mailgw.gateways.dialing import Dialer
from mailgw.gateways.http import Http
from mailgw.patience import CutOff
from mailgw.testing import a_shipment, an_envelope, zone
from mailgw.testing.contracts import GatewayContract
from mailgw.testing.network import SameThread
from mailgw.testing.server import Identity
from mailgw.values.content import Content
from mailgw.values.delivery import Fate, Handed, Outcome, Shipment
from mailgw.values.secret import Secret

NAMES = {
    "inside.example": {"A": ["127.0.0.1"]},
    "half.example": {"A": ["192.0.32.10", "10.0.0.1"]},
    "outside.example": {"A": ["192.0.32.10"]},
    "hidden.example": {"AAAA": ["::ffff:127.0.0.1"]},
    "empty.example": {"MX": [(10, "x.example")]},
}


class Posts(Resource):
    """A web service that keeps what is posted; ``answers`` are ``(status, header fields, body)``, the last one repeats."""

    isLeaf = True  # noqa: N815

    def __init__(self, *answers: Any) -> None:
        super().__init__()
        self.answers = list(answers) or [(204, {}, b"")]
        self.posts: list[Any] = []
        self.connections: set[Any] = set()

    def render_POST(self, request: Any) -> Any:  # noqa: N802
        self.posts.append((request.requestHeaders, request.content.read(), request.uri))
        self.connections.add(request.getClientAddress().port)
        status, fields, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if body is None:
            return NOT_DONE_YET
        request.setResponseCode(status)
        for name, value in fields.items():
            request.setHeader(name, value)
        return body


class Raw(Protocol):
    """A server that is none: says something after so many octets, and hangs up."""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.factory.received += data
        if len(self.factory.received) >= self.factory.after and self.factory.says is not None:
            self.transport.write(self.factory.says)
            self.transport.loseConnection()


class RawFactory(Factory):
    protocol = Raw
    noisy = False

    def __init__(self, says: bytes | None, after: int = 1) -> None:
        self.says, self.after, self.received = says, after, b""


def site(resource: Resource) -> Site:
    made = Site(resource, timeout=None)
    made.noisy = False
    made.log = lambda *_: None
    return made


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def a_gateway(loop: Loop, url: str, **settings: Any) -> Http:
    gateway = Http(
        url,
        **settings,
        dialer=Dialer(loop.reactor),
        resolver=zone(NAMES),
        identity=Identity("us.example.com"),
        clock=loop.reactor,
        threads=SameThread(),
    )
    loop.gateways.append(gateway)
    return gateway


def post(loop: Loop, posts: Posts, shipment: Shipment | None = None, **settings: Any) -> Outcome:
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(site(posts))}/in?x=1", **settings)
    outcomes = list(loop.run(gateway.deliver(shipment or a_shipment())).values())
    assert len(set(outcomes)) == 1
    return outcomes[0]


class TestRaw(GatewayContract):
    settings: Any = {}  # noqa: RUF012

    @pytest.fixture
    def gateway(self, loop: Loop) -> Any:
        self.loop = loop
        return a_gateway(loop, f"http://127.0.0.1:{loop.listen(site(Posts()))}/", **self.settings)

    def run(self, awaitable: Any) -> Any:
        return self.loop.run(awaitable)


class TestJson(TestRaw):
    settings = {"format": "json", "max_recipients": 7}  # noqa: RUF012


del GatewayContract


# ── What is posted ──


def test_raw(loop: Loop) -> None:
    posts = Posts()
    content = Content.of(b"Subject: x\r\n\r\n.\r\nbody\r\n", b"Received: by us\r\n")
    shipment = a_shipment("b+c%@example.org", "\u00fc@example.org", '"a,b"@example.org', content=content, sender='"a b"@example.com')
    outcome = post(loop, posts, shipment)
    assert (outcome.fate, outcome.handed, outcome.peer) == (Fate.DELIVERED, Handed.RELAY, "")
    assert str(outcome.reply) == "250 2.0.0 HTTP 204"
    [(headers, body, uri)] = posts.posts
    assert body == b"Received: by us\r\nSubject: x\r\n\r\n.\r\nbody\r\n"
    assert uri == b"/in?x=1"
    fields = {name.decode(): [value.decode() for value in values] for name, values in headers.getAllRawHeaders()}
    assert fields["Content-Type"] == ["message/rfc822"]
    assert fields["X-Mailgw-Sender"] == ["%22a%20b%22@example.com"]
    assert [unquote(one) for one in fields["X-Mailgw-Recipients"][0].split(", ")] == [str(one.address) for one in shipment.recipients]
    assert (fields["X-Mailgw-Message"], fields["X-Mailgw-Session"]) == (["1"], ["test"])
    assert "Authorization" not in fields
    assert not [name for name in fields if "signature" in name.lower()]


def test_json(loop: Loop) -> None:
    posts = Posts()
    binary = bytes(range(256)) * 1000
    envelope = an_envelope("<>", login="anna", tags=["b", "a"], body="BINARYMIME", smtputf8=True)
    post(loop, posts, a_shipment("\u00fc@example.org", content=binary, envelope=envelope), format="json", final=True)
    [(headers, body, _)] = posts.posts
    assert headers.getRawHeaders("Content-Type") == ["application/json"]
    told = json.loads(body)
    assert base64.b64decode(told.pop("content"), validate=True) == binary
    assert told == {
        "message": 1,
        "session": "test",
        "sender": "",
        "recipients": ["\u00fc@example.org"],
        "arrived": envelope.arrived,
        "client_ip": "192.0.2.99",
        "helo": "client.example.com",
        "login": "anna",
        "tags": ["a", "b"],
    }


@pytest.mark.parametrize("size", [0, 1, 2, 3, 65535, 65536, 65537, 200_000])
def test_base64_over_any_size_of_a_file(loop: Loop, tmp_path: Path, size: int) -> None:
    posts, file = Posts(), tmp_path / "message"
    file.write_bytes(bytes(index % 251 for index in range(size)))
    post(loop, posts, a_shipment(content=Content(file, size, b"X: y\r\n")), format="json")
    assert base64.b64decode(json.loads(posts.posts[0][1])["content"], validate=True) == b"X: y\r\n" + file.read_bytes()


def test_a_big_message_is_streamed(loop: Loop, tmp_path: Path) -> None:
    posts, file = Posts(), tmp_path / "message"
    file.write_bytes(b"0123456789abcde\n" * 500_000)
    shipment = a_shipment(content=Content(file, 8_000_000))
    assert post(loop, posts, shipment).fate is Fate.DELIVERED
    assert hashlib.sha256(posts.posts[0][1]).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_a_file_that_became_shorter_is_not_a_message(loop: Loop, tmp_path: Path) -> None:
    posts, file = Posts(), tmp_path / "message"
    file.write_bytes(b"short")
    outcome = post(loop, posts, a_shipment(content=Content(file, 100)))
    assert (outcome.fate, outcome.reply.enhanced) == (Fate.LATER, "4.3.0")
    assert not posts.posts


def test_an_internationalized_message_is_called_so(loop: Loop) -> None:
    posts = Posts()
    post(loop, posts, a_shipment(envelope=an_envelope(smtputf8=True)))
    assert posts.posts[0][0].getRawHeaders("Content-Type") == ["message/global"]


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("kind", ["raw", "json"])
def test_the_signature_covers_time_envelope_and_body(loop: Loop, tmp_path: Path, kind: Any, in_file: bool) -> None:
    (tmp_path / "key").write_text("secret\n")
    (tmp_path / "message").write_bytes(b"Subject: x\r\n\r\n")
    content = Content(tmp_path / "message", 14) if in_file else b"Subject: x\r\n\r\n"
    posts = Posts()
    shipment = a_shipment("a@example.org", "b@example.org", content=content)
    post(loop, posts, shipment, format=kind, signature_key=Secret(path=tmp_path / "key"))
    [(headers, body, _)] = posts.posts
    fields = [headers.getRawHeaders(f"X-Mailgw-{name}")[0] for name in ("Timestamp", "Sender", "Recipients")]
    assert abs(int(fields[0]) - loop.reactor.seconds()) < 20
    expected = hmac.new(b"secret", "".join(f"{one}\n" for one in fields).encode() + body, hashlib.sha256).hexdigest()
    assert headers.getRawHeaders("X-Mailgw-Signature") == [f"sha256={expected}"]


@pytest.mark.parametrize("name", ["authorization", "signature_key"])
def test_a_secret_that_cannot_be_read_is_later(loop: Loop, tmp_path: Path, name: str) -> None:
    posts = Posts()
    outcome = post(loop, posts, **{name: Secret(path=tmp_path / "gone")})
    assert (outcome.fate, str(outcome.reply)) == (Fate.LATER, "451 4.3.0 message or key cannot be read: No such file or directory")
    assert not posts.posts


def test_the_idempotency_key_stays_the_same_and_is_nobody_else_s(loop: Loop) -> None:
    posts = Posts((503, {}, b""))
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(site(posts))}/")
    shipments = [
        a_shipment("a@example.org"),
        a_shipment("a@example.org"),
        a_shipment("b@example.org"),
        a_shipment("a@example.org", message=2),
        a_shipment("a@example.org", envelope=an_envelope(arrived=1.0)),
    ]
    for shipment in shipments:
        loop.run(gateway.deliver(shipment))
    keys = [headers.getRawHeaders("Idempotency-Key")[0] for headers, _, _ in posts.posts]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    assert all(key == f'"{key[1:-1]}"' and len(key) == 66 for key in keys)


def test_many_recipients_are_several_requests(loop: Loop) -> None:
    posts = Posts((200, {}, b""), (410, {}, b"gone"), (503, {}, b"no more"))
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(site(posts))}/", max_recipients=2)
    outcomes = loop.run(gateway.deliver(a_shipment(*(f"u{n}@example.org" for n in range(9)))))
    assert [outcome.reply.code for outcome in outcomes.values()] == [250] * 2 + [550] * 2 + [451] * 5
    assert len(posts.posts) == 3  # the service as a whole is out of order: nothing more is asked


def test_connections_are_kept(loop: Loop) -> None:
    posts = Posts((200, {}, b"ok"))
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(site(posts))}/")
    for number in range(5):
        loop.run(gateway.deliver(a_shipment(message=number)))
    assert (len(posts.posts), len(posts.connections)) == (5, 1)


# ── What the answer means ──


@pytest.mark.parametrize(
    ("status", "fate", "enhanced", "unreachable"),
    [
        (200, Fate.DELIVERED, "2.0.0", False),
        (202, Fate.DELIVERED, "2.0.0", False),
        (204, Fate.DELIVERED, "2.0.0", False),
        (301, Fate.LATER, "4.3.5", False),
        (304, Fate.LATER, "4.3.5", False),
        (400, Fate.NEVER, "5.6.0", False),
        (401, Fate.LATER, "4.7.8", False),
        (403, Fate.LATER, "4.7.0", False),
        (404, Fate.LATER, "4.3.5", False),
        (408, Fate.LATER, "4.3.0", False),
        (409, Fate.LATER, "4.3.0", False),
        (410, Fate.NEVER, "5.1.6", False),
        (413, Fate.NEVER, "5.3.4", False),
        (418, Fate.NEVER, "5.0.0", False),
        (425, Fate.LATER, "4.3.0", False),
        (429, Fate.LATER, "4.7.0", True),
        (451, Fate.NEVER, "5.7.1", False),
        (500, Fate.LATER, "4.3.0", False),
        (501, Fate.LATER, "4.3.0", False),
        (503, Fate.LATER, "4.3.0", True),
        (507, Fate.LATER, "4.3.1", False),
    ],
)
def test_statuses(loop: Loop, status: int, fate: Fate, enhanced: str, unreachable: bool) -> None:
    body = b"" if status in (204, 304) else b"\n  why\x07 \xff\nmore\n"
    outcome = post(loop, Posts((status, {}, body)))
    assert (outcome.fate, outcome.reply.enhanced, outcome.unreachable) == (fate, enhanced, unreachable)
    assert outcome.reply.text == f"HTTP {status}" + (": why? \ufffd" if body else "")


def test_what_is_transient_can_be_said(loop: Loop) -> None:
    assert post(loop, Posts((404, {}, b"")), transient=[408]).fate is Fate.NEVER
    assert post(loop, Posts((418, {}, b"")), transient=[418]).fate is Fate.LATER


def test_retry_after(loop: Loop) -> None:
    assert post(loop, Posts((503, {"Retry-After": "120"}, b""))).retry_after == 120.0
    assert post(loop, Posts((429, {"Retry-After": "soon"}, b""))).retry_after is None
    wait = post(loop, Posts((503, {"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, b""))).retry_after
    assert wait is not None
    assert wait > 1e9


def test_final_is_final(loop: Loop) -> None:
    assert post(loop, Posts(), final=True).handed is Handed.MAILBOX


def test_a_long_answer_is_not_read_to_its_end(loop: Loop) -> None:
    posts = Posts((400, {}, b"x" * 5_000_000))
    outcome = post(loop, posts)
    assert (outcome.fate, len(outcome.reply.text)) == (Fate.NEVER, len("HTTP 400: ") + 200)


def test_a_plain_way_is_not_for_mail_that_requires_tls(loop: Loop) -> None:
    posts = Posts()
    assert str(post(loop, posts, a_shipment(envelope=an_envelope(requiretls=True))).reply).startswith("550 5.7.30 ")
    assert not posts.posts


# ── Trouble on the way ──


def to(loop: Loop, factory: Any, shipment: Shipment | None = None, **settings: Any) -> Outcome:
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(factory)}/", **settings)
    (outcome,) = loop.run(gateway.deliver(shipment or a_shipment("a@example.org"))).values()
    return outcome


def test_nobody_is_there(loop: Loop) -> None:
    gateway = a_gateway(loop, "http://127.0.0.1:1/")
    (outcome,) = loop.run(gateway.deliver(a_shipment())).values()
    assert (outcome.fate, outcome.unreachable, outcome.reply.enhanced) == (Fate.LATER, True, "4.4.1")
    assert "127.0.0.1 cannot be reached: " in outcome.reply.text


@pytest.mark.parametrize(
    ("says", "text"),
    [
        pytest.param(b"", "the connection to 127.0.0.1 was lost", id="hangs up"),
        pytest.param(b"HTTP/1.1 200", "127.0.0.1 gave an answer that is not HTTP", id="hangs up in the first line"),
        pytest.param(b"220 mx.example ESMTP\r\n", "127.0.0.1 gave an answer that is not HTTP", id="another language"),
    ],
)
def test_no_answer_after_the_message_is_unknown(loop: Loop, says: bytes, text: str) -> None:
    outcome = to(loop, RawFactory(says))
    assert (outcome.fate, outcome.reply.code, outcome.reply.text) == (Fate.UNKNOWN, 451, text)


def test_an_answer_with_too_big_a_head_is_given_up(loop: Loop) -> None:
    outcome = to(loop, RawFactory(b"HTTP/1.1 200 OK\r\n" + (b"X-A: " + b"a" * 8000 + b"\r\n") * 200 + b"Content-Length: 0\r\n\r\n"))
    assert (outcome.fate, outcome.reply.code) == (Fate.UNKNOWN, 451)


def test_an_answer_that_breaks_off_in_its_body_is_an_answer(loop: Loop) -> None:
    assert to(loop, RawFactory(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")).reply.text == "HTTP 200: ok"
    assert to(loop, RawFactory(b"HTTP/1.1 410 Gone\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")).fate is Fate.NEVER


@pytest.mark.parametrize("status", [200, 308])
def test_header_fields_of_any_octets(loop: Loop, status: int) -> None:
    fields = b"Location: \xff\xfe\r\nRetry-After: \xff\r\n \x00\r\nX: \xff\r\n"
    outcome = to(loop, RawFactory(b"HTTP/1.1 %d \xff\r\nContent-Length: 0\r\n%s\r\n" % (status, fields)))
    assert outcome.fate is (Fate.DELIVERED if status == 200 else Fate.LATER)


def test_a_connection_that_is_lost_in_the_message(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_bytes(bytes(16_000_000))
    outcome = to(loop, RawFactory(b"", after=100_000), a_shipment(content=Content(file, 16_000_000)))
    assert (outcome.fate, outcome.unreachable, outcome.reply.enhanced) == (Fate.LATER, True, "4.4.2")


def test_a_silent_server(loop: Loop) -> None:
    outcome = to(loop, RawFactory(None), timeout=0.5)
    assert (outcome.fate, outcome.reply.text) == (Fate.UNKNOWN, "127.0.0.1 did not answer within 0.5 seconds")


def test_a_server_that_does_not_read(loop: Loop, tmp_path: Path) -> None:
    class Deaf(Protocol):
        def connectionMade(self) -> None:  # noqa: N802
            self.transport.pauseProducing()
            loop.reactor.callLater(0.5, self.transport.abortConnection)

    file = tmp_path / "message"
    file.write_bytes(bytes(32_000_000))
    factory = Factory.forProtocol(Deaf)
    factory.noisy = False
    outcome = to(loop, factory, a_shipment(content=Content(file, 32_000_000)), timeout=0.2)
    assert (outcome.fate, outcome.reply.text) == (Fate.LATER, "127.0.0.1 did not answer within 0.2 seconds")


def test_an_answer_that_never_ends_is_one_all_the_same(loop: Loop) -> None:
    class Endless(Protocol):
        def dataReceived(self, _: bytes) -> None:  # noqa: N802
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf\n")

    factory = Factory.forProtocol(Endless)
    factory.noisy = False
    assert to(loop, factory, timeout=0.5).reply.text == "HTTP 200: half"


def test_a_kept_connection_that_dies_is_replaced_once(loop: Loop) -> None:
    class Second(Protocol):
        """Answers the first request of a connection and hangs up at the second."""

        requests = 0

        def dataReceived(self, data: bytes) -> None:  # noqa: N802
            self.requests += data.count(b"POST ")
            seen.append(self)
            if self.requests == 1:
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                self.transport.abortConnection()

    seen: list[Second] = []
    factory = Factory.forProtocol(Second)
    factory.noisy = False
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(factory)}/")
    fates = [next(iter(loop.run(gateway.deliver(a_shipment(message=n))).values())).fate for n in range(3)]
    assert fates == [Fate.DELIVERED] * 3
    assert len(set(seen)) == 3


@pytest.mark.parametrize("kept", [False, True])
def test_a_cancelled_request_is_not_made_again(loop: Loop, kept: bool) -> None:
    posts = Posts((200, {}, b""), (200, {}, None)) if kept else Posts((200, {}, None))
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(site(posts))}/")
    if kept:
        loop.run(gateway.deliver(a_shipment()))
    attempt = Deferred.fromCoroutine(gateway.deliver(a_shipment()))
    loop.until(lambda: len(posts.posts) == 1 + kept)
    attempt.cancel()
    with pytest.raises(CancelledError):
        loop.run(attempt)
    for _ in range(20):
        loop.reactor.iterate(0.001)
    assert len(posts.posts) == 1 + kept


def test_a_cancelled_attempt_says_who_was_served_before(loop: Loop) -> None:
    posts = Posts((200, {}, b""), (200, {}, None))
    gateway = a_gateway(loop, f"http://127.0.0.1:{loop.listen(site(posts))}/", max_recipients=1)
    attempt = Deferred.fromCoroutine(gateway.deliver(a_shipment("a@example.org", "b@example.org", "c@example.org")))
    loop.until(lambda: len(posts.posts) == 2)
    attempt.cancel()
    with pytest.raises(CutOff) as cut:
        loop.run(attempt)
    assert [str(address) for address in cut.value.outcomes] == ["a@example.org"]
    assert len(posts.posts) == 2


# ── TLS ──


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    def __init__(self, authority: trustme.CA, *names: str) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        authority.issue_cert(*names).configure_cert(self.context)

    def serverConnectionForTLS(self, _: Any) -> SSL.Connection:  # noqa: N802
        return SSL.Connection(self.context, None)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.mark.parametrize(
    ("name", "trusted", "text"),
    [
        pytest.param("127.0.0.1", True, "HTTP 204", id="all is well"),
        pytest.param("other.example", True, "TLS with 127.0.0.1 failed: its certificate is for another name", id="another name"),
        pytest.param("127.0.0.1", False, "TLS with 127.0.0.1 failed: certificate verify failed", id="nobody we trust"),
    ],
)
def test_tls(loop: Loop, authority: trustme.CA, trust: Path, name: str, trusted: bool, text: str) -> None:
    posts = Posts()
    factory = TLSMemoryBIOFactory(ServerTls(authority, name), False, site(posts), loop.reactor)  # type: ignore[arg-type]
    gateway = a_gateway(loop, f"https://127.0.0.1:{loop.listen(factory)}/", trust=trust if trusted else None)
    (outcome,) = loop.run(gateway.deliver(a_shipment(envelope=an_envelope(requiretls=True)))).values()
    assert outcome.reply.text == text
    assert outcome.fate is (Fate.DELIVERED if text == "HTTP 204" else Fate.LATER)
    assert outcome.unreachable is bool(outcome.fate is Fate.LATER)
    assert len(posts.posts) == (outcome.fate is Fate.DELIVERED)


def test_no_tls_where_there_should_be_some(loop: Loop, trust: Path) -> None:
    gateway = a_gateway(loop, f"https://127.0.0.1:{loop.listen(RawFactory(b'HTTP/1.1 200 OK'))}/", trust=trust)
    (outcome,) = loop.run(gateway.deliver(a_shipment())).values()
    assert (outcome.fate, outcome.unreachable) == (Fate.LATER, True)
    assert outcome.reply.text.startswith("TLS with 127.0.0.1 failed: ")


def test_authorities_that_cannot_be_read(loop: Loop, tmp_path: Path) -> None:
    gateway = a_gateway(loop, "https://127.0.0.1:1/", trust=tmp_path / "gone.pem")
    (outcome,) = loop.run(gateway.deliver(a_shipment())).values()
    assert (outcome.fate, outcome.reply.text) == (Fate.LATER, "127.0.0.1 cannot be reached: No such file or directory")


# ── Redirects ──


def redirected(loop: Loop, location: str, status: int = 308, **settings: Any) -> tuple[Outcome, Posts]:
    posts = Posts((status, {"Location": location}, b""), (200, {}, b"there"))
    return post(loop, posts, **settings), posts


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_at_home_is_followed_with_the_message(loop: Loop, tmp_path: Path, status: int) -> None:
    (tmp_path / "token").write_text("Bearer abc\n")
    outcome, posts = redirected(loop, "/else", status, authorization=Secret(path=tmp_path / "token"))
    assert outcome.reply.text == "HTTP 200: there"
    assert [uri for _, _, uri in posts.posts] == [b"/in?x=1", b"/else"]
    assert posts.posts[0][1] == posts.posts[1][1]
    assert [headers.getRawHeaders("Authorization") for headers, _, _ in posts.posts] == [["Bearer abc"]] * 2


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_message_is_not_followed(loop: Loop, status: int) -> None:
    outcome, posts = redirected(loop, "/else", status)
    assert (outcome.fate, outcome.reply.text, len(posts.posts)) == (Fate.LATER, f"HTTP {status}", 1)


@pytest.mark.parametrize(
    ("location", "text"),
    [
        ("http://127.0.0.1:1/", "redirected to 127.0.0.1, a private address"),
        ("http://10.1.2.3/", "redirected to 10.1.2.3, a private address"),
        ("http://169.254.169.254/latest", "redirected to 169.254.169.254, a private address"),
        ("http://[::1]/", "redirected to ::1, a private address"),
        ("http://[fe80::1]/", "redirected to fe80::1, a private address"),
        ("http://[::ffff:10.0.0.1]/", "redirected to ::ffff:10.0.0.1, a private address"),
        ("http://[64:ff9b::7f00:1]/", "redirected to 64:ff9b::7f00:1, a private address"),
        ("http://[2002:7f00:1::]/", "redirected to 2002:7f00:1::, a private address"),
        ("http://0.0.0.0/", "redirected to 0.0.0.0, a private address"),
        ("http://inside.example/", "redirected to inside.example, a private address"),
        ("http://half.example/", "redirected to half.example, a private address"),
        ("http://hidden.example/", "redirected to hidden.example, a private address"),
        ("http://empty.example/", "redirected to empty.example, which has no address"),
        ("http://2130706433/", "redirected to 2130706433, which has no address"),
        ("http://localhost/", "redirected to localhost, which has no address"),
        ("ftp://outside.example/", "redirected to what is no URL"),
        ("http://user:word@outside.example/", "redirected to what is no URL"),
        ("http://outside.example:x/", "redirected to what is no URL"),
    ],
)
def test_redirects_into_our_own_network_are_not_followed(loop: Loop, location: str, text: str) -> None:
    outcome, posts = redirected(loop, location)
    assert (outcome.fate, outcome.reply.text, len(posts.posts)) == (Fate.LATER, text, 1)


def test_a_redirect_elsewhere_goes_to_the_address_that_was_looked_at_without_our_password(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("Bearer abc")
    there = Posts((200, {}, b"there"))
    port = loop.listen(site(there))
    dialled: list[str] = []

    class Outside(Dialer):
        async def dial(self, where: str, factory: Any, timeout: float) -> Any:
            dialled.append(where)
            return await super().dial(where.replace("192.0.32.10:8080", f"127.0.0.1:{port}"), factory, timeout)

    here = Posts((307, {"Location": "http://outside.example:8080/mail"}, b""))
    url = f"http://127.0.0.1:{loop.listen(site(here))}/"
    gateway = a_gateway(loop, url, authorization=Secret(path=tmp_path / "token"))
    object.__setattr__(gateway._client._doors, "_dialer", Outside(loop.reactor))
    for number in range(2):
        (outcome,) = loop.run(gateway.deliver(a_shipment(message=number))).values()
        assert outcome.reply.text == "HTTP 200: there"
    assert dialled[1:] == ["192.0.32.10:8080"] * 2
    [(headers, body, uri), _] = there.posts
    assert (body, uri, headers.getRawHeaders("Host")) == (here.posts[0][1], b"/mail", ["outside.example:8080"])
    assert not headers.hasHeader("Authorization")
    assert here.posts[0][0].hasHeader("Authorization")


def test_private_addresses_are_allowed_where_the_administrator_says_so(loop: Loop) -> None:
    there = Posts((200, {}, b"there"))
    port = loop.listen(site(there))
    outcome, _ = redirected(loop, f"http://127.0.0.1:{port}/", allow_private=True)
    assert outcome.reply.text == "HTTP 200: there"


def test_a_redirect_in_a_circle_ends(loop: Loop) -> None:
    posts = Posts((308, {"Location": "/in"}, b""))
    outcome = post(loop, posts)
    assert (outcome.fate, outcome.reply.text, len(posts.posts)) == (Fate.LATER, "redirected more than 3 times", 4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"url": "example.org"}, "url must begin with https:// or http:// and a host"),
        ({"url": "https:///x"}, "url must begin with"),
        ({"url": "https://u:p@example.org/"}, "url must not hold a password"),
        ({"url": "https://example.org/\u00fc"}, "url must be ASCII"),
        ({"url": "https://example.org/ x"}, "url must be ASCII"),
        ({"url": "https://example.org:99999/"}, "url Port out of range"),
        ({"max_recipients": 0}, "max_recipients must be at least 1"),
        ({"transient": [500]}, "transient: 500 is none of 400 to 499"),
    ],
    ids=str,
)
def test_settings_that_are_refused(settings: dict[str, Any], text: str) -> None:
    loop = Loop()
    with pytest.raises(ValueError, match=text):
        a_gateway(loop, settings.pop("url", "https://example.org/"), **settings)
