"""kill -9 at random moments under load: every message that got a 250 arrives, and none in pieces."""

import random
import smtplib
import threading

from processes import PATIENCE, SmtpSink, gateway_in, mails, wait_until

REST = """
[[route]]
to = "@ours"
gateway = "mailboxes"
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "{type}"
{settings}
retry = ["1s"]
"""
KILLS = 5


def load(port, acknowledged, stop, name):
    """Send message after message, and remember each that was acknowledged."""
    number = 0
    while not stop.is_set():
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                while not stop.is_set():
                    number += 1
                    text = f"Message-ID: <{name}.{number}@load.example>\r\n\r\n" + f"line of {name}.{number}\r\n" * 20 + "end\r\n"
                    client.sendmail("load@example.com", ["you@example.org"], text)
                    acknowledged.append(f"<{name}.{number}@load.example>")
        except (OSError, smtplib.SMTPException):
            stop.wait(0.05)


def identified(content):
    lines = content.replace(b"\r\n", b"\n")
    message_id = lines.partition(b"Message-ID: ")[2].partition(b"\n")[0].decode()
    return message_id, lines.endswith(b"\nend\n")


def survive(gateway, arrived):
    """Kill under load, start again, and compare what was acknowledged with what has arrived."""
    acknowledged, stop = [], threading.Event()
    threads = [threading.Thread(target=load, args=(gateway.port, acknowledged, stop, f"t{n}")) for n in range(4)]
    dice = random.Random()
    with gateway:
        for thread in threads:
            thread.start()
        try:
            for _ in range(KILLS):
                before = len(acknowledged)
                wait_until(lambda before=before: len(acknowledged) > before + dice.randrange(1, 150), "some acknowledged mail")
                gateway.kill()
                gateway.process.stderr.close()
                gateway.start()
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
        wait_until(lambda: set(acknowledged) <= {identified(one)[0] for one in arrived()}, "the arrival of all that was acknowledged")
        assert all(whole for _, whole in map(identified, arrived()))
    assert len(acknowledged) > KILLS
    assert "Traceback" not in gateway.log.read_text()


def test_into_a_maildir(tmp_path):
    gateway = gateway_in(tmp_path / "gateway", REST.format(type="maildir", settings='path = "mail"'))
    survive(gateway, lambda: mails(gateway.folder / "mail"))


def test_to_a_slow_and_failing_next_hop(tmp_path):
    dice = random.Random()
    delay = threading.Event()

    def verdict(command, argument):
        if command == ".":
            delay.wait(dice.random() * 0.02)
            return dice.choice([None] * 8 + ["451 4.3.0 not now"])
        return None

    with SmtpSink(verdict) as sink:
        settings = f'address = "{sink.address}"\ntls = "never"'
        gateway = gateway_in(tmp_path / "gateway", REST.format(type="smarthost", settings=settings))
        survive(gateway, lambda: [content for _, _, content in list(sink.messages)])
