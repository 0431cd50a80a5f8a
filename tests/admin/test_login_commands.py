"""``mailgw bans`` and ``mailgw fetched``, as the operator says them and as the socket answers them."""

import json
import re
from ipaddress import ip_address

import pytest
from attrs import evolve
from click.testing import CliRunner

from mailgw.admin.cli import main
from mailgw.admin.reading import Refusal
from mailgw.admin.speaking import Speaker
from mailgw.interfaces import MemoryUnavailable
from mailgw.journal import Journal
from mailgw.login.throttle import LoginThrottle, Throttling
from mailgw.policies.recently_fetched import RecentlyFetched
from mailgw.testing import InProcessMemory, a_client, a_recipient, at, run
from mailgw.values.decision import Verdict

START = "2027-01-15T08:00:00+00:00"  # NOW of conftest.py


@pytest.fixture
def clock():
    return at(START)


@pytest.fixture
def memory(clock):
    return InProcessMemory(clock)


@pytest.fixture
def bench(bench, clock, memory):
    """A bench with logins: two networks are banned."""
    assert bench.clock.seconds() == clock.now().timestamp()
    throttle = LoginThrottle(Throttling(), memory, bench.clock, Journal((bench.notes,)))
    bench.operations = evolve(bench.operations, throttle=throttle, memory=memory, time_of_day=clock)
    for ip in ("203.0.113.66", "2001:db8::1"):
        for number in range(20):
            run(throttle.failed(a_client(ip=ip), f"user{number}\x1b[31m"))
    return bench


def say(daemon, *words):
    return CliRunner().invoke(main, ["--socket", str(daemon), *words], obj=Speaker(now=ip_now()))


def ip_now():
    return at(START).now().timestamp() + 600


def lines(result):
    return [re.sub(r" {2,}", " | ", line.strip()) for line in result.stdout.splitlines()]


def test_list(bench, daemon):
    result = say(daemon, "bans", "list")
    assert result.exit_code == 0
    assert lines(result) == [
        "NETWORK | SINCE | ENDS | FAILURES | LAST ACCOUNT",
        r"2001:db8::/64 | 10m ago | in 50m | 20 | user19\x1b[31m",
        r"203.0.113.66/32 | 10m ago | in 50m | 20 | user19\x1b[31m",
    ]
    assert [ban["network"] for ban in json.loads(say(daemon, "--json", "bans", "list").stdout)["bans"]] == [
        "2001:db8::/64",
        "203.0.113.66/32",
    ]


@pytest.mark.parametrize(
    ("words", "lifted"),
    [
        (["203.0.113.66"], ["203.0.113.66/32"]),
        (["203.0.113.0/24"], ["203.0.113.66/32"]),
        (["2001:db8::77"], ["2001:db8::/64"]),
        (["--all"], ["2001:db8::/64", "203.0.113.66/32"]),
        (["0.0.0.0/0"], ["203.0.113.66/32"]),
    ],
    ids=" ".join,
)
def test_lift(bench, daemon, words, lifted):
    result = say(daemon, "bans", "lift", *words)
    assert (result.exit_code, lines(result)) == (0, [f"{network} may log in again" for network in lifted])
    assert [ban.network for ban in run(bench.operations.throttle.bans())] == sorted({"2001:db8::/64", "203.0.113.66/32"} - set(lifted))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["203.0.113.67"], 1, "mailgw: no such network is banned"),
        (["next door"], 2, 'mailgw: "next door" is no IP address and no network'),
        ([], 2, "say a network, or --all"),
        (["192.0.2.1", "--all"], 2, "say a network, or --all"),
    ],
)
def test_lift_nothing(bench, daemon, words, status, said):
    result = say(daemon, "bans", "lift", *words)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert len(run(bench.operations.throttle.bans())) == 2


def test_nobody_is_banned(bench, daemon):
    say(daemon, "bans", "lift", "--all")
    assert lines(say(daemon, "bans", "list")) == ["nobody is banned"]
    result = say(daemon, "bans", "lift", "--all")
    assert (result.exit_code, result.stderr) == (1, "mailgw: nobody is banned\n")
    assert (say(daemon, "--json", "bans", "lift", "--all").exit_code) == 1


def test_status(bench, daemon):
    assert lines(say(daemon, "status"))[-4:] == [
        "logins:",
        "banned networks: | 2",
        "failures this hour: | 40",
        "failures the hour before: | 0",
    ]


def test_fetched(bench, daemon, memory, clock):
    result = say(daemon, "fetched", "::ffff:192.0.2.7", "--login", "anna")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    decision = run(RecentlyFetched(memory=memory, clock=clock).may_relay(a_recipient(ip="192.0.2.7")))
    assert (decision.verdict, decision.why) == (Verdict.PERMIT, "anna has fetched mail from there")
    assert json.loads(say(daemon, "--json", "fetched", "2001:DB8::0:7").stdout) == {"address": "2001:db8::7"}


@pytest.mark.parametrize("address", ["mail.example.org", "0.0.0.0", "192.0.2.0/24", "12", ""])
def test_fetched_from_nowhere(bench, daemon, address):
    result = say(daemon, "fetched", address)
    assert result.exit_code == 2
    assert f'"{address}" cannot have fetched mail' in result.stderr


def test_no_memory_at_this_moment(bench, daemon, memory):
    memory.trouble = MemoryUnavailable("the disk is gone")
    for words in (["bans", "list"], ["bans", "lift", "--all"], ["fetched", "192.0.2.1"]):
        result = say(daemon, *words)
        assert result.exit_code == 3
        assert "cannot be reached now: the disk is gone" in result.stderr
    assert lines(say(daemon, "status"))[-2:] == ["logins:", "unknown: | the disk is gone"]


def test_where_nobody_can_log_in(bench):
    operations = evolve(bench.operations, throttle=None, memory=None)
    assert run(operations.perform("bans_list", {})) == {"bans": []}
    assert run(operations.perform("bans_lift", {"everything": True})) == {"lifted": []}
    assert "logins" not in run(operations.perform("status", {}))
    with pytest.raises(Refusal, match="no memory here"):
        run(operations.perform("fetched", {"address": str(ip_address("192.0.2.1"))}))


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("bans_lift", {}),
        ("bans_lift", {"network": 5}),
        ("bans_lift", {"network": "192.0.2.1", "everything": True}),
        ("fetched", {"address": 3232235777}),
        ("fetched", {"address": "192.0.2.1", "login": None}),
        ("fetched", {}),
    ],
    ids=str,
)
def test_questions_that_make_no_sense(bench, operation, arguments):
    with pytest.raises(Refusal) as caught:
        run(bench.operations.perform(operation, arguments))
    assert caught.value.kind == "bad-request"


def test_without_a_daemon(tmp_path):
    result = say(tmp_path / "admin.sock", "bans", "list")
    assert result.exit_code == 3
    assert "this needs the running daemon" in result.stderr
