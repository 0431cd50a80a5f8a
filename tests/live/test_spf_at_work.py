"""Real mail through the real gateway, from chosen addresses, with a name server of our own: what each result of SPF leads to."""

import json
from pathlib import Path

import pytest
from name_server import NameServer
from processes import gateway_in, mails, wait_until

pytestmark = pytest.mark.live

NAMES = {
    "good.example": {"TXT": ["v=spf1 ip4:203.0.113.7 include:more.example -all exp=why.good.example"]},
    "more.example": {"TXT": ["v=spf1 ip6:2001:db8::/32 -all"]},
    "why.good.example": {"TXT": ["%{i} is not one of ours"]},
    "soft.example": {"TXT": ["v=spf1 ~all"]},
    "bad.example": {"TXT": ["v=spf1 ipv4:203.0.113.7 -all"]},
    "silent.example": {},
    "down.example": None,
    "client.example": {"TXT": ["v=spf1 ip4:203.0.113.0/24 -all"]},
}
REST = """
[policy.spf]
type = "spf"
received_spf = true
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
"""
FORGED = (
    b"Authentication-Results: mx.example.org; spf=pass\r\n\tsmtp.mailfrom=bank.example\r\n"
    b"authentication-results: other.example; spf=pass smtp.mailfrom=bank.example\r\nSubject: x\r\n\r\n"
    b"Authentication-Results: mx.example.org; x\r\n"
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with NameServer(NAMES) as server, pytest.MonkeyPatch.context() as patch:
        # The entry points of the sources as they are now, whenever they were installed.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        one = gateway_in(
            tmp_path_factory.mktemp("spf") / "gateway",
            REST,
            server=f'resolvers = ["{server.address}"]\n',
            listen='policies = "spf"\nxclient = "127.0.0.1"',
        )
        with one as running:
            yield running


def send(gateway, ip, sender, helo="client.example", body=b"Subject: x\r\n\r\nx\r\n"):
    """The reply to the command that decided, and the message as it was delivered."""
    before = set(mails(gateway.folder / "mail"))
    with gateway.client() as client:
        client.ehlo("proxy.example")
        assert client.docmd("XCLIENT", f"ADDR={'IPV6:' + ip if ':' in ip else ip}")[0] == 220
        client.ehlo(helo)
        code, text = client.mail(sender)
        if code != 250:
            return f"{code} {text.decode()}", b""
        assert client.rcpt("b@example.org")[0] == 250
        code, text = client.data(body)
    [mail] = wait_until(lambda: set(mails(gateway.folder / "mail")) - before, "the delivery")
    return f"{code} {text.decode()}", mail


HELO_PASS = b"spf=pass smtp.helo=client.example;\r\n\t"
RESULTS = {
    "pass": ("203.0.113.7", "ann@good.example", "250 2.0.0 queued", b"pass"),
    "pass-by-include": ("2001:db8::7", "ben@good.example", "250 2.0.0 queued", b"pass"),
    "softfail": ("203.0.113.7", "ann@soft.example", "250 2.0.0 queued", b"softfail"),
    "permerror": ("203.0.113.7", "ann@bad.example", "250 2.0.0 queued", b"permerror"),
    "none": ("203.0.113.7", "ann@silent.example", "250 2.0.0 queued", b"none"),
    "fail": (
        "203.0.113.9",
        "ann@good.example",
        "550 5.7.23 SPF fail for good.example, which explains: 203.0.113.9 is not one of ours [ref ",
        b"",
    ),
    "temperror": ("203.0.113.7", "ann@down.example", "451 4.7.24 SPF of down.example cannot be checked now [ref ", b""),
}


@pytest.mark.parametrize(("ip", "sender", "reply", "result"), RESULTS.values(), ids=RESULTS)
def test_each_result(gateway, ip, sender, reply, result):
    said, mail = send(gateway, ip, sender)
    assert said.startswith(reply)
    if result:
        domain = sender.partition("@")[2].encode()
        helo = HELO_PASS if ":" not in ip else HELO_PASS.replace(b"pass", b"fail")
        mail = mail.replace(b"\r\n", b"\n")
        top = b"Authentication-Results: mx.example.org;\n\t" + helo.replace(b"\r\n", b"\n")
        top += b"spf=" + result + b" smtp.mailfrom=" + domain + b"\n"
        at = mail.index(b"Authentication-Results:")
        assert mail[at:].startswith(top)
        after = mail[at + len(top) :]
        assert after.startswith(b"Received-SPF: " + (b"fail" if ":" in ip else b"pass") + b" (mx.example.org: domain client.example ")
        assert b"\nReceived-SPF: " + result + b" (mx.example.org: domain " + domain in after.partition(b"\nReceived: ")[0]


def test_the_null_reverse_path_is_asked_about_by_its_helo_name(gateway):
    assert send(gateway, "203.0.113.9", "", "good.example")[0].startswith("550 5.7.23 SPF fail for good.example (HELO), which explains: ")
    assert send(gateway, "203.0.113.7", "", "good.example")[0].startswith("250 ")


def test_results_in_our_name_are_only_ours(gateway):
    _, mail = send(gateway, "203.0.113.7", "forger@good.example", body=FORGED)
    head, _, body = mail.replace(b"\r\n", b"\n").partition(b"\n\n")
    assert head.count(b"Authentication-Results: mx.example.org") == 1
    assert b"\nX-Foreign-Auth-Results: mx.example.org; spf=pass\n\tsmtp.mailfrom=bank.example\n" in head
    assert b"\nauthentication-results: other.example; spf=pass" in head
    assert body == b"Authentication-Results: mx.example.org; x\n"


def test_a_refusal_can_be_explained(gateway):
    said, _ = send(gateway, "203.0.113.9", "ann@good.example")
    reference = said.partition("[ref ")[2].rstrip("]")
    told = wait_until(lambda: gateway.cli("explain", reference).stdout, "the refusal in the records")
    record = "v=spf1 ip4:203.0.113.7 include:more.example -all"
    for words in (record, "TXT good.example", "good.example: -all", "203.0.113.9 in the SPF record", "mailgw.toml:"):
        assert words in told


def test_the_command_walks_the_same_way(gateway):
    done = gateway.cli("spf", "203.0.113.9", "ann@good.example")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "result:       fail\nclient:       203.0.113.9\nidentity:     MAIL FROM ann@good.example\n"
        "decided by:   -all in the record of good.example\n"
    )
    assert "explanation:  203.0.113.9 is not one of ours\n" in done.stdout
    assert (
        "\ngood.example\n  ip4:203.0.113.7: does not match: 203.0.113.9 is not in it\n  include:more.example: asks more.example\n"
        "    more.example\n      ip6:2001:db8::/32: does not match: 203.0.113.9 is not in it\n      -all: matches\n"
        "  include:more.example: does not match: more.example says fail\n  -all: matches\n"
    ) in done.stdout
    answer = json.loads(gateway.cli("spf", "203.0.113.7", "<>", "--helo", "client.example", "--json").stdout)
    assert (answer["result"], answer["identity"], answer["domain"]) == ("pass", "HELO", "client.example")
    assert answer["lookups"] == [{"name": "client.example", "kind": "TXT", "answer": "v=spf1 ip4:203.0.113.0/24 -all"}]
