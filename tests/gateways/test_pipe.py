"""Programs that get mail."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from houses import Loop
from twisted.internet.defer import CancelledError, Deferred

from mailgw.gateways import program as module
from mailgw.gateways.exit_status import outcome_of
from mailgw.gateways.pipe import Pipe
from mailgw.gateways.system_user import NotPermitted, SystemUser
from mailgw.patience import CutOff
from mailgw.testing import a_shipment
from mailgw.testing.contracts import GatewayContract
from mailgw.testing.network import SameThread
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Fate, Handed, Outcome, Shipment

ROOT = os.geteuid() == 0
US = "root" if ROOT else ""
as_root = pytest.mark.skipif(not ROOT, reason="only root can run programs as another user")


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def a_pipe(loop: Loop, *command: str, user: str = US, **settings: Any) -> Pipe:
    return Pipe(list(command), user=user, **settings, processes=loop.reactor, threads=SameThread(), clock=loop.reactor)


def sh(loop: Loop, script: str, *arguments: str, **settings: Any) -> Pipe:
    return a_pipe(loop, "sh", "-c", script, "sh", *arguments, **settings)


def deliver(loop: Loop, gateway: Pipe, shipment: Shipment | None = None) -> Outcome:
    (outcome,) = loop.run(gateway.deliver(shipment or a_shipment("anna@example.org"))).values()
    return outcome


class TestContract(GatewayContract):
    settings: Any = {"command": ["true", "{recipient}", "{sender}"]}  # noqa: RUF012

    @pytest.fixture
    def gateway(self, loop: Loop) -> Any:
        self.loop = loop
        settings = dict(self.settings)
        return a_pipe(loop, *settings.pop("command"), **settings)

    def run(self, awaitable: Any) -> Any:
        return self.loop.run(awaitable)


class TestContractForAll(TestContract):
    settings = {"command": ["cat", "-", "{recipients}"], "each": "message", "final": True}  # noqa: RUF012


del GatewayContract


# ── What a program gets ──


def test_the_message_with_the_line_ends_of_the_machine(loop: Loop, tmp_path: Path) -> None:
    content = Content.of(b"Subject: x\r\n\r\n.\r\nbody\r\n", b"Received: by us\r\n")
    outcome = deliver(loop, sh(loop, "cat > out; echo; echo '  done '; echo more", directory=tmp_path), a_shipment(content=content))
    assert (outcome.fate, outcome.handed, str(outcome.reply)) == (Fate.DELIVERED, Handed.RELAY, "250 2.0.0 taken by the program: done")
    assert (tmp_path / "out").read_bytes() == b"Received: by us\nSubject: x\n\n.\nbody\n"


def test_final_delivery_has_a_return_path(loop: Loop, tmp_path: Path) -> None:
    outcome = deliver(loop, sh(loop, "cat > out", directory=tmp_path, final=True), a_shipment(sender="<>", content=b"Subject: x\r\n"))
    assert outcome.handed is Handed.MAILBOX
    assert (tmp_path / "out").read_bytes() == b"Return-Path: <>\nSubject: x\n"


def test_a_big_message_and_a_program_that_takes_its_time(loop: Loop, tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_bytes(b"0123456789abcd\r\n" * 250_000)
    shipment = a_shipment(content=Content(file, 4_000_000))
    assert deliver(loop, sh(loop, "sleep 0.2; wc -c"), shipment).reply.text.endswith(": 3750000")


@pytest.mark.parametrize("script", ["true", "head -c 1 >/dev/null", "exec <&-; true"])
def test_a_program_need_not_read(loop: Loop, tmp_path: Path, script: str) -> None:
    file = tmp_path / "message"
    file.write_bytes(bytes(4_000_000))
    assert deliver(loop, sh(loop, script), a_shipment(content=Content(file, 4_000_000))).fate is Fate.DELIVERED


@pytest.mark.parametrize(
    "address",
    ['"a b"@example.org', '"$(touch x)`id`;|&"@example.org', '"*"@example.org', "{sender}@example.org", "\u00fc@example.org", "postmaster"],
)
def test_no_shell_sees_an_address(loop: Loop, tmp_path: Path, address: str) -> None:
    gateway = a_pipe(loop, "printf", "[%s]", "{recipient}", "{sender}", "$HOME", directory=tmp_path)
    shipment = a_shipment(address, sender="<>")
    assert deliver(loop, gateway, shipment).reply.text.endswith(f": [{shipment.recipients[0].address}][][$HOME]")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipient", "sender", "expected"),
    [
        ("-x@example.org", "a@example.com", "550 5.1.3"),
        ('"-x"@example.org', "a@example.com", "550 5.1.3"),
        (Address("a\0b", "example.org"), "a@example.com", "550 5.1.3"),
        (Address("a\nb", "example.org"), "a@example.com", "550 5.1.3"),
        ("a@example.org", "--all@example.com", "550 5.1.7"),
    ],
    ids=str,
)
def test_an_address_that_could_be_an_option_is_refused(loop: Loop, recipient: Any, sender: str, expected: str) -> None:
    outcome = deliver(loop, a_pipe(loop, "true", "{sender}", "{recipient}"), a_shipment(recipient, sender=sender))
    assert str(outcome.reply).startswith(expected)
    assert deliver(loop, a_pipe(loop, "true"), a_shipment(recipient, sender=sender)).fate is Fate.DELIVERED


def test_one_program_for_each_recipient_with_an_outcome_of_its_own(loop: Loop, tmp_path: Path) -> None:
    gateway = sh(loop, 'cat >> log; echo "$1" >> log; case $1 in bad*) exit 67;; busy*) exit 75;; esac', "{recipient}", directory=tmp_path)
    outcomes = loop.run(gateway.deliver(a_shipment("good@example.org", "bad@example.org", "busy@example.org", content=b"m\r\n")))
    assert [str(outcome.reply)[:9] for outcome in outcomes.values()] == ["250 2.0.0", "550 5.1.1", "451 4.3.0"]
    assert (tmp_path / "log").read_text() == "m\ngood@example.org\nm\nbad@example.org\nm\nbusy@example.org\n"


def test_recipients_for_whom_no_time_is_left_wait_and_the_others_are_not_forgotten(loop: Loop, tmp_path: Path) -> None:
    class Hurried:
        """A clock by which each run takes a quarter of an hour."""

        callLater = staticmethod(loop.reactor.callLater)  # noqa: N815

        def seconds(self) -> float:
            log = tmp_path / "log"
            return 900.0 * (len(log.read_text().splitlines()) if log.exists() else 0)

    gateway = evolve(sh(loop, 'echo "$1" >> log', "{recipient}", directory=tmp_path), clock=Hurried())
    outcomes = loop.run(gateway.deliver(a_shipment(*(f"u{n}@example.org" for n in range(6)))))
    assert [outcome.reply.code for outcome in outcomes.values()] == [250] * 4 + [451] * 2
    assert len((tmp_path / "log").read_text().splitlines()) == 4


def test_one_program_for_all_recipients(loop: Loop, tmp_path: Path) -> None:
    gateway = sh(loop, 'echo "$#:$*" >> log; exit 65', "{sender}", "{recipients}", "end", each="message", directory=tmp_path)
    outcomes = loop.run(gateway.deliver(a_shipment("a@example.org", "b@example.org", sender="s@example.com")))
    assert [str(outcome.reply) for outcome in outcomes.values()] == ["554 5.6.0 the program cannot use the message"] * 2
    assert (tmp_path / "log").read_text() == "4:s@example.com a@example.org b@example.org end\n"


def test_the_environment_is_small(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    deliver(loop, sh(loop, "env | sort > out", directory=tmp_path, environment={"SPOOL": "/a b", "LANG": "C"}))
    lines = dict(line.split("=", 1) for line in (tmp_path / "out").read_text().splitlines())
    ours = {name: value for name, value in lines.items() if name not in ("PWD", "OLDPWD", "SHLVL", "_")}  # the shell's own
    assert ours == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C", "SPOOL": "/a b", "HOME": os.path.expanduser("~")}


def test_nothing_of_ours_is_open(loop: Loop) -> None:
    with open("/etc/passwd") as file:
        os.set_inheritable(file.fileno(), True)
        assert deliver(loop, sh(loop, "echo $(ls /proc/self/fd | grep -v '^[012]$' | wc -l)")).reply.text[-2:] == " 1"  # of ls itself


@as_root
def test_as_another_user(loop: Loop) -> None:
    gateway = sh(loop, "echo $(id -un):$(id -gn):$(id -G | wc -w):$HOME; cat /dev/stdin >/dev/null", user="nobody", group="daemon")
    home = SystemUser.named("nobody", "").home
    outcome = deliver(loop, gateway)
    assert (outcome.fate, outcome.reply.text.split(": ", 1)[1].split(":")[:2]) == (Fate.DELIVERED, ["nobody", "daemon"])
    assert outcome.reply.text.endswith(home)
    assert os.geteuid() == 0


@as_root
def test_root_is_not_a_user_by_accident(loop: Loop) -> None:
    outcome = deliver(loop, a_pipe(loop, "true", user=""))
    assert (outcome.fate, outcome.unreachable) == (Fate.LATER, True)
    assert str(outcome.reply) == "451 4.3.5 mailgw runs as root, and no user is set for programs"


@pytest.mark.parametrize(
    ("ours", "user", "expected"),
    [
        ((1000, 1000), SystemUser(), (None, None)),
        ((1000, 1000), SystemUser(1000, 1000), (None, None)),
        ((1000, 1000), SystemUser(1001, 1000), NotPermitted),
        ((1000, 1000), SystemUser(1000, 1001), NotPermitted),
        ((0, 0), SystemUser(), NotPermitted),
        ((0, 0), SystemUser(gid=5), NotPermitted),
        ((0, 0), SystemUser(0, 0), (None, None)),
        ((0, 0), SystemUser(1000, 1001), (1000, 1001)),
    ],
    ids=str,
)
def test_who_may_run_programs_as_whom(monkeypatch: pytest.MonkeyPatch, ours: tuple[int, int], user: SystemUser, expected: Any) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: ours[0])
    monkeypatch.setattr(os, "getegid", lambda: ours[1])
    if expected is NotPermitted:
        with pytest.raises(NotPermitted):
            user.change()
    else:
        assert user.change() == expected


# ── What a program says ──


@pytest.mark.parametrize(
    ("status", "fate", "expected"),
    [
        (0, Fate.DELIVERED, "250 2.0.0"),
        (1, Fate.LATER, "451 4.3.0"),
        (63, Fate.LATER, "451 4.3.0"),
        (64, Fate.NEVER, "554 5.3.5"),
        (65, Fate.NEVER, "554 5.6.0"),
        (66, Fate.NEVER, "550 5.3.0"),
        (67, Fate.NEVER, "550 5.1.1"),
        (68, Fate.NEVER, "550 5.1.2"),
        (69, Fate.NEVER, "554 5.3.0"),
        (70, Fate.NEVER, "554 5.3.0"),
        (71, Fate.LATER, "451 4.3.0"),
        (72, Fate.NEVER, "554 5.3.5"),
        (73, Fate.NEVER, "550 5.2.0"),
        (74, Fate.LATER, "451 4.3.0"),
        (75, Fate.LATER, "451 4.3.0"),
        (76, Fate.NEVER, "554 5.5.0"),
        (77, Fate.NEVER, "550 5.7.0"),
        (78, Fate.NEVER, "554 5.3.5"),
        (79, Fate.LATER, "451 4.3.0"),
        (126, Fate.LATER, "451 4.3.5"),
        (127, Fate.LATER, "451 4.3.5"),
        (137, Fate.LATER, "451 4.3.0"),
        (255, Fate.LATER, "451 4.3.0"),
    ],
)
def test_exit_statuses(status: int, fate: Fate, expected: str) -> None:
    outcome = outcome_of(status, None, "said", Handed.MAILBOX)
    assert (outcome.fate, str(outcome.reply)[:9], outcome.reply.text[-6:]) == (fate, expected, ": said")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("echo out; exit 75", "the program ended with status 75: out"),
        ("echo broken >&2; exit 1", "the program ended with status 1: broken"),
        ("printf 'a\\033[31mb\\377\\n'; exit 1", "the program ended with status 1: a?[31mb\ufffd"),
        ("kill -9 $$", "the program was ended by SIGKILL"),
        ("kill -35 $$", "the program was ended by signal 35"),
        ("exit 1", "the program ended with status 1"),
    ],
)
def test_what_is_said_is_told(loop: Loop, script: str, text: str) -> None:
    outcome = deliver(loop, sh(loop, script))
    assert (outcome.fate, outcome.reply.text, outcome.unreachable) == (Fate.LATER, text, False)


def test_a_program_that_talks_without_end_is_heard_a_little(loop: Loop) -> None:
    outcome = deliver(loop, sh(loop, "head -c 3000000 /dev/zero | tr '\\0' x; exit 77"))
    assert (outcome.fate, len(outcome.reply.text)) == (Fate.NEVER, len("permission denied: ") + 200)


@pytest.mark.parametrize("command", ["/does/not/exist", "no-such-program", "/etc/passwd"])
def test_a_program_that_is_not_there(loop: Loop, command: str) -> None:
    outcome = deliver(loop, a_pipe(loop, command))
    assert (outcome.fate, outcome.unreachable) == (Fate.LATER, True)
    assert str(outcome.reply) == f"451 4.3.5 there is no program {command} that can be run"


def test_a_program_that_cannot_be_started(loop: Loop, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert deliver(loop, a_pipe(loop, str(script))).fate is Fate.LATER
    assert deliver(loop, a_pipe(loop, "true", directory=tmp_path / "gone")).fate is Fate.LATER


# ── Time ──


def test_a_program_that_is_too_slow_is_ended(loop: Loop, tmp_path: Path) -> None:
    outcome = deliver(loop, a_pipe(loop, "sleep", "60", timeout=0.1))
    assert (outcome.fate, str(outcome.reply)) == (Fate.LATER, "451 4.4.7 the program took longer than 0.1 seconds")


def test_a_program_that_does_not_listen_is_killed(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.1)
    script = 'trap "" TERM; echo $$; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 0.2; done'
    began = time.monotonic()
    assert deliver(loop, sh(loop, script, timeout=0.2)).reply.enhanced == "4.4.7"
    assert time.monotonic() - began < 4


def test_a_child_that_lives_on_does_not_hold_up_the_mail(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LAST_WORDS", 0.1)
    began = time.monotonic()
    assert deliver(loop, sh(loop, "sleep 5 & echo ok")).reply.text.endswith(": ok")
    assert time.monotonic() - began < 4


def test_a_cancelled_delivery_ends_the_program(loop: Loop, tmp_path: Path) -> None:
    gateway = sh(loop, "echo $$ > pid; exec sleep 60", directory=tmp_path)
    attempt = Deferred.fromCoroutine(gateway.deliver(a_shipment("a@example.org", "b@example.org")))
    loop.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    pid = int((tmp_path / "pid").read_text())
    attempt.cancel()
    with pytest.raises(CancelledError):
        loop.run(attempt)
    loop.until(lambda: not Path(f"/proc/{pid}").exists())
    assert int((tmp_path / "pid").read_text()) == pid


def test_a_cancelled_attempt_says_who_was_served_before(loop: Loop, tmp_path: Path) -> None:
    gateway = sh(loop, 'echo "$1" >> log; case $1 in b*) exec sleep 600;; esac', "{recipient}", directory=tmp_path)
    attempt = Deferred.fromCoroutine(gateway.deliver(a_shipment("a@example.org", "b@example.org", "c@example.org")))
    loop.until(lambda: (tmp_path / "log").exists() and "b@" in (tmp_path / "log").read_text())
    attempt.cancel()
    with pytest.raises(CutOff) as cut:
        loop.run(attempt)
    assert {str(address): outcome.fate for address, outcome in cut.value.outcomes.items()} == {"a@example.org": Fate.DELIVERED}
    assert (tmp_path / "log").read_text() == "a@example.org\nb@example.org\n"


# ── Settings ──


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"command": []}, "command is empty"),
        ({"command": ["x", "--to={recipient}"]}, "{recipient} must be an argument of its own"),
        ({"command": ["{sender}"]}, "{sender} must be an argument of its own"),
        ({"command": ["x", "{recipients}"]}, 'each = "recipient" write {recipient}, not {recipients}'),
        ({"command": ["x", "{recipient}"], "each": "message"}, 'each = "message" write {recipients}, not {recipient}'),
        ({"command": ["x"], "user": "no-such-user"}, 'there is no user "no-such-user" on this machine'),
        ({"command": ["x"], "group": "no-such-group"}, 'there is no group "no-such-group" on this machine'),
        ({"command": ["x"], "user": "4294967"}, 'there is no user "4294967"'),
    ],
    ids=str,
)
def test_settings_that_are_refused(loop: Loop, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        a_pipe(loop, *settings.pop("command"), **settings)
    assert text in str(caught.value)
