"""Several workers that get another configuration while they run: all of them, or none."""

import os
import signal
import smtplib
import socket
import threading
from pathlib import Path

import pytest
from processes import PATIENCE, answers, mails, need, wait_until
from several import REST, Workers, load

from mailgw.admin.client import Refused
from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

LOCAL = "tcp:{}:interface=127.0.0.1"
POLICY = """
from attrs import frozen
from mailgw.api import *
from zope.interface import implementer

@implementer(ISenderPolicy)
@frozen
class Mood:
    word: str

    def check_sender(self, facts):
        return reject(self.word) if str(facts.sender).startswith("bad@") else proceed()
"""
# Loads everywhere but in the second worker.
TRAP = """
import sys
if "--worker" in sys.argv and sys.argv[sys.argv.index("--worker") + 1] == "2":
    raise RuntimeError("this machine has no second worker")
""" + POLICY


def told(both):
    """What a refused sender hears from some sessions that are there at the same time, so both workers are asked."""
    clients = [both.gateway.client() for _ in range(6)]
    heard = set()
    for client in clients:
        client.ehlo("c.example")
        heard.add(client.mail("bad@sender.example")[1].decode().removeprefix("5.7.1 ").partition(" [")[0])
    for client in clients:
        client.close()
    return heard


def refused(both):
    """What is said about a reload that is not done."""
    with pytest.raises(Refused) as caught:
        both.ask("reload")
    return str(caught.value)


def begun(port):
    """A session in a transaction."""
    client = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
    client.ehlo("c.example")
    client.mail("a@example.com")
    client.rcpt("b@example.org")
    return client


@pytest.fixture
def both(tmp_path, monkeypatch):
    """Two workers with a policy that says a word, and places for what a test changes."""
    (tmp_path / "moods.py").write_text(POLICY)
    (tmp_path / "traps.py").write_text(TRAP)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rest = f'{REST}\n[policy.mood]\ntype = "moods:Mood"\nword = "first"\n# more\n'
    with Workers(tmp_path / "gateway", rest, listen='policies = ["mood"]') as both:
        yield both
    assert "Traceback" not in both.log.read_text()


def change(both, *pairs):
    text = both.file.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    both.file.write_text(text)


def pids(both):
    return {number: card["pid"] for number, card in both.all_ready().items()}


def test_listeners_come_and_go_and_rules_change_under_load(both):
    acknowledged, troubles, stop, port = [], [], threading.Event(), free_port()
    more = f'[listen.more]\nkind = "relay"\nendpoint = "{LOCAL.format(port)}"\nstarttls = "never"\n# more'
    before = pids(both)
    threads = [threading.Thread(target=load, args=(both.port, acknowledged, stop, f"t{n}", troubles)) for n in range(3)]
    for thread in threads:
        thread.start()
    word = "first"
    try:
        for number in range(3):
            so_far = len(acknowledged)
            wait_until(lambda so_far=so_far: len(acknowledged) > so_far + 30 or troubles, "mail between two reloads")
            assert not answers(port)
            change(both, (f'word = "{word}"', f'word = "more {number}"'), ("# more", more), ('on = "mx"', 'on = ["mx", "more"]'))
            assert f"[listen.more] is new: relay at {LOCAL.format(port)}" in both.ask("reload")["changes"]
            assert told(both) == {f"more {number}"}
            staying, idle = [begun(port) for _ in range(4)], smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
            listeners = both.status()["listeners"]
            assert listeners["more"]["sessions"] == 5
            word = f"less {number}"
            change(both, (f'word = "more {number}"', f'word = "{word}"'), (more, "# more"), ('on = ["mx", "more"]', 'on = "mx"'))
            assert "[listen.more] is gone" in both.ask("reload")["changes"]
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
            assert told(both) == {word}
            assert idle.getreply()[0] == 421
            idle.close()
            for client in staying:
                assert client.data(f"Message-ID: <staying.{id(client)}.{number}@load.example>\r\n\r\nx\r\n")[0] == 250
                acknowledged.append(f"<staying.{id(client)}.{number}@load.example>")
                assert client.getreply()[0] == 421
                client.close()
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert troubles == []
    assert pids(both) == before
    wait_until(lambda: arrived(both) == sorted(acknowledged), "the arrival of each message, once")


def arrived(both):
    return sorted(mail.partition(b"Message-ID: ")[2].partition(b"\n")[0].strip().decode() for mail in mails(both.folder / "mail"))


def test_what_one_worker_cannot_do_is_done_by_none(both):
    before, port, taken = pids(both), free_port(), socket.create_server(("127.0.0.1", 0))
    good = both.file.read_text()
    more = f'[listen.more]\nkind = "relay"\nendpoint = ["{LOCAL.format(port)}"]\nstarttls = "never"\n'
    bad = {
        "the file": ((more + "[",), "is not TOML"),
        "a port": ((more.replace("]\nst", f', "{LOCAL.format(taken.getsockname()[1])}"]\nst'),), "Address already in use"),
        "one worker": ((more, '[policy.trap]\ntype = "traps:Mood"\nword = "x"\n'), "worker 2: "),
    }
    with taken:
        for name, (texts, said) in bad.items():
            both.file.write_text(good.replace('"first"', '"second"').replace("# more", "\n".join(texts)))
            problem = refused(both)
            assert said in problem, name
            assert told(both) == {"first"}, name
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)
    assert "this machine has no second worker" in problem
    # Who starts again now has what is in force, and not what the file says.
    os.kill(before["2"], signal.SIGKILL)
    wait_until(lambda: (both.workers() or {"2": {"restarts": 0}})["2"]["restarts"], "a new worker")
    assert told(both) == {"first"}
    both.file.write_text(good.replace('"first"', '"second"').replace("# more", more))
    both.ask("reload")
    assert told(both) == {"second"}
    wait_until(lambda: answers(port), "the new listener")
    with pytest.raises(Refused, match="reload at the socket of their parent"):
        both.ask_at("admin.sock.1", "reload")
    for worker in ("1", "2"):
        with pytest.raises(Refused, match="descriptors came"):
            both.ask_at(f"admin.sock.{worker}", "reload_prepare", sockets=[])


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5], ids=["at once", "soon", "later"])
def test_who_is_just_starting_is_told_as_soon_as_it_can_hear(both, delay):
    pid = pids(both)["2"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: both.status().get("workers", {}).get("2", {}).get("pid") not in (pid, None), "a new process")
    threading.Event().wait(delay)
    change(both, ('word = "first"', 'word = "second"'))
    try:
        both.ask("reload")
    except Refused as problem:
        # It became ready, and then was not quick enough: nothing has changed, and it is said.
        assert "worker 2" in str(problem)  # noqa: PT017
        both.all_ready()
        both.ask("reload")
    both.all_ready()
    wait_until(lambda: told(both) == {"second"}, "the reload of both")
    assert both.all_ready()["2"]["restarts"] == 1


def test_a_port_that_needs_rights_which_are_not_there(tmp_path):
    setpriv = need("setpriv")
    if os.getuid() == 0:
        before = (setpriv, "--bounding-set=-net_bind_service")  # as after twistd --uid
    elif int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 79:
        pytest.skip("no port needs rights here")
    else:
        before = ()
    several = Workers(tmp_path / "gateway", REST + "# more\n")
    several.gateway.before = before
    with several as both:
        processes = pids(both)
        change(both, ("# more", '[listen.more]\nkind = "relay"\nendpoint = "tcp:79:interface=127.0.0.1"\nstarttls = "never"\n'))
        said = refused(both)
        assert 'cannot listen on "tcp:79:interface=127.0.0.1"' in said
        assert "Permission denied; ports below 1024 can only be bound at a start that has the rights for it" in said
        change(both, ("tcp:79", f"tcp:{free_port()}"))
        both.ask("reload")
        assert pids(both) == processes
        assert both.send()
