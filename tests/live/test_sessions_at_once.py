"""Sessions that are counted, early talkers and refusals that wait, at a running gateway; also over a reload."""

import smtplib
import socket
import time

import pytest
from processes import PATIENCE, gateway_in, wait_until

pytestmark = pytest.mark.live

REST = """
[[route]]
otherwise = true
gateway = "nowhere"
[gateway.nowhere]
type = "discard"
[policy.crowd]
type = "concurrency"
limit = 1
tag = "one"
[policy.patience]
type = "greet-delay"
delay = "1s"
remember = "never"
[policy.slow]
type = "tarpit"
after = 0
step = "300ms"
"""


def greeting(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as client:
        return client.makefile().readline()


def enter(gateway):
    try:
        return smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE)
    except smtplib.SMTPConnectError:
        return None  # the one before has gone, but the gateway does not know yet


def test_one_at_a_time_also_after_a_reload(tmp_path):
    with gateway_in(tmp_path / "g", REST, listen='policies = ["crowd"]') as gateway:
        for tag, other in (("one", "two"), ("two", "three")):
            for _ in range(2):
                first = wait_until(lambda: enter(gateway), "an end of the session before")
                assert greeting(gateway).startswith("421 4.7.0 too many sessions at once from your address")
                first.quit()
            gateway.file.write_text(gateway.file.read_text().replace(f'tag = "{tag}"', f'tag = "{other}"'))
            assert len(gateway.ask("reload")["changes"]) == 1


def test_who_talks_early_and_who_is_refused(tmp_path):
    with gateway_in(tmp_path / "g", REST, listen='policies = ["patience", "slow"]') as gateway:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as client:
            client.sendall(b"EHLO c\r\nMAIL FROM:<a@sender.example>\r\nQUIT\r\n")
            lines = client.makefile().readlines()
        assert lines[0].startswith("220 ")
        assert lines[-2].startswith("550 5.5.1 you talk before you are greeted")
        with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE) as client:
            client.ehlo()
            assert client.mail("a@sender.example")[0] == 250
            began = time.monotonic()
            assert client.rcpt("b@elsewhere.example")[0] == 550
            assert time.monotonic() - began >= 0.3
            assert client.rcpt("b@example.org")[0] == 250
