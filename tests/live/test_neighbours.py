"""Real neighbours: swaks and smtp-source bring mail, Postfix brings and takes it, Dovecot takes it over LMTP."""

import email
import email.policy
import hashlib
import json
import smtplib
import subprocess
from collections import Counter

import pytest
import trustme
from neighbours import Dovecot, Postfix
from processes import PATIENCE, gateway_in, mails, need, wait_until

OURS = "you@example.org"
THEIRS = "friend@away.example"
FROM_HERE = """
[[permit]]
on = "mx"
from_network = "127.0.0.0/8"
"""
REST = """
[[route]]
to = "@ours"
gateway = "mailboxes"
{recipients}
[[route]]
otherwise = true
gateway = "internet"
[gateway.mailboxes]
type = "lmtp"
address = "{lmtp}"
retry = ["1s"]
[gateway.internet]
type = "smarthost"
address = "{smarthost}"
tls = "{tls}"
{trust}
retry = ["1s"]
"""
BOXES = """
[[route]]
otherwise = true
gateway = "boxes"
[gateway.boxes]
type = "maildir"
path = "mail"
"""
MANY = 1000


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def postfix(authority, tmp_path_factory):
    pem = tmp_path_factory.mktemp("postfix") / "chain.pem"
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    with Postfix(f"smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {pem}") as server:
        yield server


@pytest.fixture(scope="module")
def dovecot():
    with Dovecot(OURS, "other@example.org") as server:
        yield server


@pytest.fixture
def trust(authority, tmp_path):
    pem = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(pem)
    return pem


def between(folder, dovecot, postfix, tls="never", trust=None, lmtp=None, recipients=""):
    """A gateway that gives ``@ours`` to Dovecot and everything else to Postfix."""
    rest = REST.format(
        lmtp=lmtp or dovecot.address,
        smarthost=postfix.address,
        tls=tls,
        trust=f'trust = "{trust}"' if trust else "",
        recipients=recipients,
    )
    return gateway_in(folder / "gateway", rest, listen=FROM_HERE)


def swaks(port, subject, *recipients):
    words = ["--server", f"127.0.0.1:{port}", "--helo", "swaks.example", "--from", "me@home.example", "--to", ",".join(recipients)]
    words += ["--header", f"Subject: {subject}", "--body", "hello\n.dot\n"]
    return subprocess.run([need("swaks"), *words], capture_output=True, text=True, timeout=PATIENCE)


def about(subject, mail_of):
    """The one message with this subject, once it is there."""
    found = wait_until(lambda: [mail for mail in mail_of() if f"\nSubject: {subject}\n".encode() in mail], f"the arrival of {subject}")
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("lmtp", ["tcp", "unix"])
@pytest.mark.parametrize("tls", ["require", "offered"])
def test_ours_to_dovecot_and_the_rest_to_postfix_over_starttls(tmp_path, dovecot, postfix, trust, tls, lmtp):
    subject = f"{tls} {lmtp}"
    lmtp = dovecot.address if lmtp == "tcp" else dovecot.socket
    with between(tmp_path, dovecot, postfix, tls, trust if tls == "require" else None, lmtp) as gateway:
        sent = swaks(gateway.port, subject, OURS, THEIRS)
        assert sent.returncode == 0, sent.stdout
        at_dovecot = about(subject, lambda: dovecot.mails(OURS))
        at_postfix = about(subject, postfix.mails)
    assert at_dovecot.startswith(b"Return-Path: <me@home.example>\nDelivered-To: you@example.org\n")
    assert b"\nReceived: from swaks.example" in at_dovecot
    assert b"\n\nhello\n.dot\n" in at_dovecot
    assert b"Delivered-To: friend@away.example\n" in at_postfix
    [hop] = [one for one in received(at_postfix) if "(Postfix)" in one]
    assert "from mx.example.org" in hop
    assert "with ESMTPS id" in hop
    assert b"\n\nhello\n.dot\n" in at_postfix


def received(mail):
    return [" ".join(value.split()) for value in email.message_from_bytes(mail).get_all("Received")]


def test_mail_waits_where_the_certificate_is_not_trusted(tmp_path, dovecot, postfix):
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    with between(tmp_path, dovecot, postfix, "require", stranger) as gateway:
        assert swaks(gateway.port, "untrusted", THEIRS).returncode == 0
        waiting = wait_until(lambda: [one for one in entries(gateway) if one["attempts"]], "an attempt")
    assert [one["state"] for one in waiting] == ["waiting"]
    assert "its certificate has expired, or nobody whom we trust has signed it" in json.dumps(waiting)
    assert not [mail for mail in postfix.mails() if b"Subject: untrusted" in mail]


def entries(gateway):
    return json.loads(gateway.cli("queue", "list", "--json").stdout)["entries"]


def test_a_recipient_whom_dovecot_does_not_know_is_refused_at_once(tmp_path, dovecot, postfix):
    ask = 'recipients = { type = "verify-recipient" }'
    with between(tmp_path, dovecot, postfix, recipients=ask) as gateway:
        with gateway.client() as client:
            client.ehlo("me.example")
            client.mail("me@home.example")
            code, text = client.rcpt("nobody@example.org")
            assert (code, text[:6]) == (550, b"5.1.1 ")
            assert client.rcpt(OURS)[0] == 250
        # The unknown one among known ones: the known get their mail.
        swaks(gateway.port, "one of two", "nobody@example.org", OURS)
        about("one of two", lambda: dovecot.mails(OURS))
        wait_until(lambda: entries(gateway) == [], "an empty queue")


def test_a_recipient_whom_dovecot_does_not_know_bounces_where_nobody_asked_before(tmp_path, dovecot, postfix):
    with between(tmp_path, dovecot, postfix) as gateway:
        with gateway.client() as client:
            client.sendmail("me@bounces.example", ["nobody@example.org", OURS], "Subject: bouncing\r\n\r\nx\r\n")
        [bounce] = wait_until(lambda: [mail for mail in postfix.mails() if b"Delivered-To: me@bounces.example\n" in mail], "the bounce")
        about("bouncing", lambda: dovecot.mails(OURS))
    assert bounce.startswith(b"Return-Path: <>\n")
    assert report(bounce) == [("failed", "nobody@example.org", "5.1.1")]


def report(mail):
    """What a DSN says about each recipient."""
    message = email.message_from_bytes(mail, policy=email.policy.default)
    assert (message.get_content_type(), message.get_param("report-type")) == ("multipart/report", "delivery-status")
    _, status, *_ = message.iter_parts()
    fields = [{key: " ".join(value.split()) for key, value in block.items()} for block in list(status.iter_parts())[1:]]
    return [(one["Action"], one["Final-Recipient"].partition(";")[2].strip(), one["Status"]) for one in fields]


# ── A thousand messages ──


def smtp_source(port):
    """A thousand messages of some 4 KB in ten sessions at a time, each to a recipient of its own."""
    words = ["-m", str(MANY), "-s", "10", "-l", "4000", "-N", "-f", "source@home.example", "-t", "you@example.org", f"127.0.0.1:{port}"]
    subprocess.run([need("smtp-source"), *words], check=True, timeout=3 * PATIENCE, capture_output=True)


def recipient_of(mail):
    return mail.partition(b"\nDelivered-To: ")[2].partition(b"\n")[0].decode()


def all_arrived(gateway):
    """Each of a thousand messages once, with the same body, and nothing is left to come."""
    folder = gateway.folder / "mail"
    wait_until(lambda: len(list((folder / "new").glob("*"))) >= MANY, "the arrival of all messages", 2 * PATIENCE)
    wait_until(lambda: entries(gateway) == [], "an empty queue")
    found = mails(folder)
    assert Counter(Counter(map(recipient_of, found)).values()) == {1: MANY}
    assert len({mail.partition(b"\nMessage-Id: ")[2].partition(b"\n")[0] for mail in found}) == MANY
    bodies = {hashlib.sha256(mail.partition(b"\n\n")[2]).digest() for mail in found}
    assert len(bodies) == 1
    assert len(found[0].partition(b"\n\n")[2]) >= 3500


def test_a_thousand_messages_from_smtp_source(tmp_path):
    with gateway_in(tmp_path / "gateway", BOXES) as gateway:
        smtp_source(gateway.port)
        all_arrived(gateway)
    assert "Traceback" not in gateway.log.read_text()


def test_a_thousand_messages_through_the_queue_of_postfix(tmp_path, authority, trust):
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(pem)
    certificate.private_key_pem.write_to_path(key)
    tls = f'[tls.default]\ncertificate = "{pem}"\nkey = {{ file = "{key}" }}\n'
    with gateway_in(tmp_path / "gateway", BOXES + tls) as gateway:
        settings = f"relayhost = [127.0.0.1]:{gateway.port}\nvirtual_mailbox_domains =\ndefault_transport = smtp\n"
        settings += "relay_domains = static:all\nrelay_transport = smtp\nsmtp_tls_security_level = encrypt\n"
        with Postfix(settings) as postfix:
            smtp_source(postfix.port)
            all_arrived(gateway)
            wait_until(lambda: postfix.log.count("status=sent") == MANY, "Postfix's last line")
            assert "status=deferred" not in postfix.log
            assert "status=bounced" not in postfix.log
        [hop] = [one for one in received(mails(gateway.folder / "mail")[0]) if "by mx.example.org" in one]
        assert "with ESMTPS" in hop
    assert "Traceback" not in gateway.log.read_text()


# ── Delivery status notifications across two systems (RFC 3461) ──


@pytest.fixture
def round_trip(tmp_path, dovecot):
    """A gateway that hands to a Postfix which sends mail for the sender's domain back to it; they end up in a Maildir."""
    with_home = """
[[permit]]
on = "mx"
to = "home.example"
[[route]]
to = "home.example"
gateway = "home"
[gateway.home]
type = "maildir"
path = "home"
"""
    postfix = Postfix()
    rest = REST.format(lmtp=dovecot.address, smarthost=postfix.address, tls="offered", trust="", recipients="")
    gateway = gateway_in(tmp_path / "gateway", with_home + rest, listen=FROM_HERE)
    here = f"smtp:[127.0.0.1]:{gateway.port}"
    postfix.settings = f"transport_maps = inline:{{home.example={here}, example.org={here}}}"
    with gateway, postfix:
        yield gateway, postfix


def with_dsn(port, recipient, notify):
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo("me.example")
        assert client.mail("me@home.example", ["RET=HDRS", "ENVID=QQ+2B314159"])[0] == 250
        assert client.rcpt(recipient, [f"NOTIFY={notify}", "ORCPT=rfc822;first+2Bplus@away.example"])[0] == 250
        assert client.data(f"Subject: to {recipient}\r\nMessage-ID: <{recipient}>\r\n\r\nsecret body\r\n")[0] == 250


def from_daemon(gateway):
    return [mail for mail in mails(gateway.folder / "home") if mail.startswith(b"Return-Path: <>\n")]


def test_postfix_tells_of_success_what_the_sender_asked_for_here(round_trip):
    gateway, postfix = round_trip
    with_dsn(gateway.port, THEIRS, "SUCCESS,DELAY")
    with_dsn(gateway.port, "silent@away.example", "NEVER")
    with_dsn(gateway.port, "failures@away.example", "FAILURE")
    [told] = wait_until(lambda: len(postfix.mails()) == 3 and from_daemon(gateway), "the report")
    assert report(told) == [("delivered", THEIRS, "2.0.0")]
    assert b"Reporting-MTA: dns; postfix.example\n" in told
    assert b"\nOriginal-Envelope-Id: QQ+314159\n" in told
    assert b"\nOriginal-Recipient: rfc822;first+plus@away.example\n" in told
    assert b"secret body" not in told
    # Nobody else had anything to tell: the queues are empty, and there is one report.
    wait_until(lambda: entries(gateway) == [], "an empty queue")
    assert len(from_daemon(gateway)) == 1


def test_what_was_asked_of_postfix_is_told_by_us(round_trip, dovecot):
    gateway, postfix = round_trip
    with_dsn(postfix.port, OURS, "SUCCESS")
    with_dsn(postfix.port, "nobody@example.org", "SUCCESS,FAILURE")
    with_dsn(postfix.port, "ghost@example.org", "NEVER")
    told = wait_until(lambda: len(from_daemon(gateway)) >= 2 and from_daemon(gateway), "two reports")
    wait_until(lambda: entries(gateway) == [], "an empty queue")
    about(f"to {OURS}", lambda: dovecot.mails(OURS))
    assert len(from_daemon(gateway)) == 2
    assert sorted(one for mail in told for one in report(mail)) == [("delivered", OURS, "2.0.0"), ("failed", "nobody@example.org", "5.1.1")]
    for mail in told:
        assert b"Reporting-MTA: dns; mx.example.org\n" in mail
        assert b"\nOriginal-Envelope-Id: QQ+314159\n" in mail
        assert b"\nOriginal-Recipient: rfc822;first+plus@away.example\n" in mail
        assert b"secret body" not in mail
