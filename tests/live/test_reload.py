"""Reloads of a running gateway: under load, with broken files, with other code; by command and by signal."""

import signal
import smtplib
import socket
import threading

import pytest
from processes import PATIENCE, gateway_in, wait_until

from mailgw.admin.client import Refused
from mailgw.admin.speaking import CODES
from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

REST = """
[[route]]
to = "@ours"
gateway = "boxes"
[[route]]
otherwise = true
gateway = "boxes"
[gateway.boxes]
type = "maildir"
path = "boxes"
"""


def change(gateway, *pairs):
    text = gateway.file.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    gateway.file.write_text(text)


def command(gateway, *words):
    # The file may say another socket now, or not be TOML at all.
    told = gateway.cli("--socket", gateway.folder / "state" / "admin.sock", "reload", *words)
    return told.returncode, told.stdout + told.stderr


def reload(gateway):
    """As the command does it, without its start."""
    try:
        return 0, "\n".join(gateway.ask("reload")["changes"])
    except Refused as refused:
        return CODES[refused.kind], str(refused)


def send(gateway, recipient, port=None):
    with smtplib.SMTP("127.0.0.1", port or gateway.port, timeout=PATIENCE) as client:
        client.sendmail("a@sender.example", [recipient], "Subject: x\r\n\r\nx\r\n")


def refusal(gateway, recipient):
    with gateway.client() as client:
        client.ehlo()
        client.mail("a@sender.example")
        return client.rcpt(recipient)


def boxes(gateway, under="boxes"):
    return sum(1 for one in (gateway.folder / under).rglob("new/*"))


def test_new_rules_for_new_sessions_and_old_ones_for_those_that_began_before(tmp_path):
    with gateway_in(tmp_path / "g", REST) as gateway:
        old = gateway.client()
        old.ehlo()
        old.mail("a@sender.example")
        assert old.rcpt("ben@example.org")[0] == 250
        change(
            gateway,
            ('ours = ["example.org"]', 'ours = ["example.net"]'),
            ("max_commands = 100000", "max_commands = 100000\nmax_recipients = 5"),
        )
        before = gateway.file.read_text()
        status, said = command(gateway, "--dry-run")
        assert (status, "not applied" in said) == (0, True), said
        assert refusal(gateway, "ben@example.org")[0] == 250
        status, said = command(gateway)
        assert status == 0, said
        assert "[domains] ours +example.net, -example.org" in said
        assert "[listen.mx] max_recipients: 1000 -> 5" in said
        assert 'relaying: stranger on mx may now send to @ours example.net, by permit to "@ours"' in said
        assert "relaying: stranger on mx may no longer send to @ours example.org" in said
        assert refusal(gateway, "ben@example.org")[0] == 550
        assert refusal(gateway, "ben@example.net")[0] == 250
        # The old session: its rules, its message.
        assert old.rcpt("dora@example.org")[0] == 250
        assert old.data("Subject: old\r\n\r\nold")[0] == 250
        assert old.mail("a@sender.example")[0] == 250
        assert old.rcpt("ben@example.net")[0] == 550
        assert gateway.ask("status")["listeners"]["mx"]["sessions"] == 1
        old.quit()
        wait_until(lambda: boxes(gateway) == 2, "the delivery of the old session's message")
        assert gateway.file.read_text() == before
        assert command(gateway) == (0, "nothing changes: in force for new sessions and deliveries\n")
        assert gateway.stop() in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param('kind = "relay"', 'kind = "rely"', '[listen.mx] kind: "rely" is not "relay"', id="a wrong value"),
        pytest.param("[server]", "[server", "is not TOML", id="no TOML"),
        pytest.param('to = "@ours"\n\n', 'to = "@ours"\n[[permit]]\non = "mx"\nfrom_network = "0.0.0.0/0"\n', "open relay", id="opens it"),
        pytest.param('state = "state"', 'state = "elsewhere"', "needs a restart", id="another state folder"),
        pytest.param("endpoint = ", 'tls = "x"\nendpoint = ', "[tls.x]", id="no such certificate"),
    ],
)
def test_a_broken_file_changes_nothing_and_says_why(tmp_path, old, new, said):
    with gateway_in(tmp_path / "g", REST) as gateway:
        good = gateway.file.read_text()
        change(gateway, (old, new), ('ours = ["example.org"]', 'ours = ["example.net"]'))
        status, text = command(gateway)
        assert status == 2
        assert said in text
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "not reloaded, the configuration in use stays" in gateway.log.read_text(), "a word in the log")
        wait_until(lambda: said in gateway.log.read_text(), "all of its words")  # each line is one of the log
        send(gateway, "ben@example.org")
        wait_until(lambda: boxes(gateway) == 1, "the delivery by the old rules")
        gateway.file.write_text(good.replace('ours = ["example.org"]', 'ours = ["example.net"]'))
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: refusal(gateway, "ben@example.net")[0] == 250, "the reload by a signal")
        assert "reloaded: [domains] ours +example.net, -example.org" in gateway.log.read_text()


def test_listeners_come_and_go_and_those_that_cannot_be_bound_change_nothing(tmp_path):
    second, third = free_port(), free_port()
    with gateway_in(tmp_path / "g", REST) as gateway, socket.create_server(("127.0.0.1", third)):
        listener = '\n[listen.more]\nkind = "relay"\nendpoint = ["tcp:{}:interface=127.0.0.1", "tcp:{}:interface=127.0.0.1"]\n'
        with gateway.file.open("a") as file:
            file.write(listener.format(second, third))
        status, text = reload(gateway)
        assert status == 2
        assert f'cannot listen on "tcp:{third}' in text
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", second))
        change(gateway, (f', "tcp:{third}:interface=127.0.0.1"', ""), ('on = "mx"', 'on = ["mx", "more"]'))
        status, text = reload(gateway)
        assert status == 0, text
        assert "[listen.more] is new: relay at tcp:" in text
        send(gateway, "ben@example.org", second)
        staying = smtplib.SMTP("127.0.0.1", second, timeout=PATIENCE)
        idle = smtplib.SMTP("127.0.0.1", second, timeout=PATIENCE)
        staying.ehlo()
        staying.mail("a@sender.example")
        text = gateway.file.read_text()
        gateway.file.write_text(text[: text.index("\n[listen.more]")].replace('on = ["mx", "more"]', 'on = "mx"'))
        status, text = reload(gateway)
        assert status == 0, text
        assert "[listen.more] is gone" in text
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", second))
        assert idle.getreply()[0] == 421
        staying.rcpt("ben@example.org")
        assert staying.data("Subject: x\r\n\r\nx")[0] == 250  # running transactions end in order
        assert staying.getreply()[0] == 421
        staying.close()
        idle.close()
        # The port of one listener can become that of another.
        change(gateway, ("[listen.mx]", "[listen.front]"), ('on = "mx"', 'on = "front"'))
        assert reload(gateway)[0] == 0
        send(gateway, "ben@example.org")
        wait_until(lambda: boxes(gateway) == 3, "all deliveries")


def test_other_routes_and_gateways(tmp_path):
    with gateway_in(tmp_path / "g", REST) as gateway:
        old = gateway.client()
        old.ehlo()
        old.mail("a@sender.example")
        old.rcpt("ben@example.org")
        change(gateway, ("boxes", "archive"))
        status, text = reload(gateway)
        assert status == 0, text
        assert "[gateway.boxes] is gone" in text
        assert "[gateway.archive] is new: maildir" in text
        assert '[[route]] to "@ours": gateway: boxes -> archive' in text
        old.data("Subject: x\r\n\r\nx")  # was told of a gateway that is gone
        old.quit()
        send(gateway, "dora@example.org")
        wait_until(lambda: boxes(gateway, "archive") == 2, "the deliveries by the new gateway")
        wait_until(lambda: gateway.waiting() == 0, "an empty queue")


PLUGIN = """
from attrs import frozen
from mailgw.api import *
from zope.interface import implementer
from moods.words import WORD

@implementer(IRecipientPolicy)
@frozen
class Mood:
    def check_recipient(self, facts):
        return reject(WORD)
"""


def test_code_of_plugins_is_imported_anew_or_not_at_all(tmp_path, monkeypatch):
    package = tmp_path / "moods"
    package.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (package / "__init__.py").write_text("")
    (package / "words.py").write_text('WORD = "no"\n')
    (package / "policy.py").write_text(PLUGIN)
    rest = f'{REST}[policy.mood]\ntype = "moods.policy:Mood"\n'
    with gateway_in(tmp_path / "g", rest, listen='policies = ["mood"]') as gateway:
        assert refusal(gateway, "ben@example.org")[1].startswith(b"5.7.1 no")
        (package / "words.py").write_text('WORD = "not today"\n')
        assert refusal(gateway, "ben@example.org")[1].startswith(b"5.7.1 no [")
        status, text = reload(gateway)
        assert (status, "plugin moods.words has other code" in text) == (0, True), text
        assert refusal(gateway, "ben@example.org")[1].startswith(b"5.7.1 not today")
        (package / "words.py").write_text('WORD = "broken" +\n')
        status, text = reload(gateway)
        assert status == 2
        assert "SyntaxError" in text
        assert refusal(gateway, "ben@example.org")[1].startswith(b"5.7.1 not today")
        (package / "words.py").write_text('WORD = "well again"\n')
        assert reload(gateway)[0] == 0
        assert refusal(gateway, "ben@example.org")[1].startswith(b"5.7.1 well again")


@pytest.mark.parametrize("server", ["", "workers = 2"], ids=["one process", "two workers"])
def test_under_load_no_session_is_dropped_and_no_message_lost(tmp_path, server):
    with gateway_in(tmp_path / "g", REST, server=server) as gateway:
        sent, troubles, stop = [], [], threading.Event()

        def stream(number):
            try:
                count = 0
                while not stop.is_set():
                    with gateway.client() as client:
                        for _ in range(5):
                            client.sendmail("a@sender.example", [f"u{number}.{count}@example.org"], f"Subject: {count}\r\n\r\nx\r\n")
                            sent.append((number, count))
                            count += 1
            except Exception as problem:
                troubles.append(problem)

        threads = [threading.Thread(target=stream, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in range(6):
                wait_until(lambda number=number: len(sent) > 60 * (number + 1) or troubles, "mail between two reloads")
                change(gateway, *((("boxes", "archive"),) if number % 2 == 0 else (("archive", "boxes"),)))
                status, text = reload(gateway)
                assert status == 0, text
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert troubles == []
        wait_until(lambda: boxes(gateway) + boxes(gateway, "archive") >= len(sent), "all deliveries")
        assert boxes(gateway) + boxes(gateway, "archive") == len(sent)
        assert boxes(gateway, "archive") > 0
        assert not [line for line in gateway.log.read_text().splitlines() if "Traceback" in line]


def test_several_workers_reload_together_or_not_at_all(tmp_path):
    with gateway_in(tmp_path / "g", REST, server="workers = 2") as gateway:
        wait_until(lambda: all(one["state"] == "ready" for one in gateway.ask("status")["workers"].values()), "all workers")
        pids = [one["pid"] for one in gateway.ask("status")["workers"].values()]
        change(gateway, ('ours = ["example.org"]', 'ours = ["example.net"]'))
        status, text = reload(gateway)
        assert status == 0, text
        assert {refusal(gateway, "ben@example.net")[0] for _ in range(10)} == {250}
        assert {refusal(gateway, "ben@example.org")[0] for _ in range(10)} == {550}
        change(gateway, ('ours = ["example.net"]', 'ours = ["example.org"]'))
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: {refusal(gateway, "ben@example.org")[0] for _ in range(10)} == {250}, "the reload by a signal")
        assert [one["pid"] for one in gateway.ask("status")["workers"].values()] == pids
        send(gateway, "ben@example.org")
