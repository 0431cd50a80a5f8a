"""One transaction, four next hops, each failing differently: every recipient gets its own outcome, exactly the failed one bounces."""

import email
import email.policy
import json
import signal
import smtplib

from processes import SmtpSink, gateway_in, mails, wait_until

REST = """
[[route]]
to = "boxes.example.org"
gateway = "boxes"
[[route]]
to = "lmtp.example.org"
gateway = "lmtp"
[[route]]
to = "away.example.org"
gateway = "away"
[[route]]
otherwise = true
gateway = "bounces"
[gateway.boxes]
type = "maildir"
path = "mail/{{local_part}}"
[gateway.bounces]
type = "maildir"
path = "bounces"
[gateway.lmtp]
type = "lmtp"
address = "{lmtp}"
[gateway.away]
type = "smarthost"
address = "{away}"
tls = "never"
retry = ["1s"]
"""
LISTEN = """
[[permit]]
on = "mx"
to = ".example.org"
"""
RECIPIENTS = [
    "one@boxes.example.org",
    "two@lmtp.example.org",
    "full@lmtp.example.org",
    "gone@lmtp.example.org",
    "three@away.example.org",
    "nobody@away.example.org",
]


def at_lmtp(command, argument):
    if command == "." and argument.startswith("full@"):
        return "452 4.2.2 mailbox is full"
    if command == "." and argument.startswith("gone@"):
        return "550 5.2.1 mailbox is closed"
    return None


def at_away(command, argument):
    return "550 5.1.1 no such user" if command == "RCPT" and "nobody@" in argument else None


def waiting(gateway):
    entries = json.loads(gateway.cli("queue", "list", "--json").stdout)["entries"]
    return [entry["recipient"] for entry in entries if entry["state"] == "waiting"]


def test_each_recipient_has_its_own_outcome(tmp_path):
    with SmtpSink(at_lmtp, lmtp=True) as lmtp, SmtpSink(at_away) as away:
        rest = REST.format(lmtp=lmtp.address, away=away.address)
        with gateway_in(tmp_path / "gateway", rest, listen=LISTEN) as gateway:
            with gateway.client() as client:
                client.sendmail("sender@example.com", RECIPIENTS, "Subject: to all\r\nMessage-ID: <1@example.com>\r\n\r\nhello\r\n")
            bounces = wait_until(lambda: len(mails(gateway.folder / "bounces")) >= 2 and mails(gateway.folder / "bounces"), "two bounces")
            [box] = wait_until(lambda: mails(gateway.folder / "mail" / "one"), "the Maildir's message")
            # Only the full mailbox is still waiting.
            wait_until(lambda: waiting(gateway) == ["full@lmtp.example.org"], "the end of all others")
            stats = gateway.cli("queue", "stats")
    assert b"Subject: to all" in box
    assert [recipients for _, recipients, _ in lmtp.messages] == [["two@lmtp.example.org"]]
    assert [recipients for _, recipients, _ in away.messages] == [["three@away.example.org"]]
    assert stats.returncode == 0
    told = {}
    for bounce in bounces:
        message = email.message_from_bytes(bounce, policy=email.policy.default)
        assert message["Return-Path"] == "<>"
        assert message["To"] == "sender@example.com"
        assert message.get_content_type() == "multipart/report"
        assert message.get_param("report-type") == "delivery-status"
        human, status, original = message.iter_parts()
        assert status.get_content_type() == "message/delivery-status"
        assert "1@example.com" in original.as_string()
        assert human.get_content_type() == "text/plain"
        for block in list(status.iter_parts())[1:]:
            assert block["Action"] == "failed"
            told[block["Final-Recipient"]] = (block["Status"], block["Diagnostic-Code"])
    assert told == {
        "rfc822;gone@lmtp.example.org": ("5.2.1", "smtp; 550 5.2.1 mailbox is closed"),
        "rfc822;nobody@away.example.org": ("5.1.1", "smtp; 550 5.1.1 no such user"),
    }


def test_the_dead_next_hop_does_not_hold_up_the_others(tmp_path):
    with SmtpSink() as away:
        rest = REST.format(lmtp="127.0.0.1:1", away=away.address)
        with gateway_in(tmp_path / "gateway", rest, listen=LISTEN) as gateway:
            with gateway.client() as client:
                client.sendmail("sender@example.com", RECIPIENTS, "Subject: x\r\n\r\nhello\r\n")
            wait_until(lambda: away.messages and mails(gateway.folder / "mail" / "one"), "delivery to the living")
            shown = gateway.cli("queue", "list", "--json", "--domain", "lmtp.example.org")
            entries = json.loads(shown.stdout)["entries"]
            assert {entry["recipient"] for entry in entries} == {one for one in RECIPIENTS if "@lmtp." in one}
            wait_until(lambda: json.loads(gateway.cli("queue", "list", "--json").stdout)["entries"][0]["attempts"] == 1, "an attempt")
            assert gateway.cli("queue", "drop", "--domain", "lmtp.example.org").returncode == 0
            assert gateway.cli("queue", "list").returncode in (0, 1)
        assert gateway.process.returncode in (0, -signal.SIGTERM)


def test_mail_waits_while_the_gateway_is_stopped(tmp_path):
    with SmtpSink(lambda command, argument: "451 4.3.0 not now" if command == "MAIL" else None) as away:
        gateway = gateway_in(tmp_path / "gateway", REST.format(lmtp="127.0.0.1:1", away=away.address), listen=LISTEN)
        with gateway, smtplib.SMTP("127.0.0.1", gateway.port) as client:
            client.sendmail("sender@example.com", ["three@away.example.org"], "Subject: x\r\n\r\nhello\r\n")
        assert gateway.process.returncode in (0, -signal.SIGTERM)
        offline = gateway.cli("queue", "list", "--json")
        assert json.loads(offline.stdout)["source"] == "store"
        assert [entry["recipient"] for entry in json.loads(offline.stdout)["entries"]] == ["three@away.example.org"]
        assert gateway.cli("queue", "retry", "--all").returncode == 3
        away.verdict = lambda command, argument: None
        with gateway:
            wait_until(lambda: away.messages, "the delivery after the start")
