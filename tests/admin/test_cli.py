"""The command: with a daemon that answers, and with a store's folder alone."""

import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import NOW, ONE, TWO, fill

from mailgw.admin import whereabouts
from mailgw.admin.cli import main, readable
from mailgw.admin.speaking import Speaker
from mailgw.admin.tables import Column, Printer, readable_age, readable_size, tame
from mailgw.interfaces import StoreUnavailable
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import Pump

CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
[domains]
ours = ["example.org"]
[listen.mx]
kind = "relay"
endpoint = "tcp:2525:interface=127.0.0.1"
[[permit]]
on = "mx"
to = "@ours"
[[route]]
to = "@ours"
gateway = "nowhere"
recipients = { type = "list", path = "recipients" }
[[route]]
otherwise = true
gateway = "nowhere"
[gateway.nowhere]
type = "discard"
[admin]
socket = "admin.sock"
"""


@pytest.fixture
def place(short_path):
    """A folder with a configuration; its daemon is down unless the test asks for one."""
    (short_path / "mailgw.toml").write_text(CONFIGURATION)
    (short_path / "recipients").write_text("dora@example.org\n")
    return short_path


@pytest.fixture
def queue(place):
    """The same, with a queue that a daemon left behind."""
    pump = Pump()
    store = SqliteStore.open(place / "state", pump)
    pump.run(fill(store))
    pump.run(store.close())
    return place


def say(place, *words, **environment):
    """Call ``mailgw`` with the place's configuration."""
    return CliRunner().invoke(main, ["--config", os.fspath(place / "mailgw.toml"), *words], obj=Speaker(now=NOW), env=environment or None)


def answered(result):
    assert result.stderr == "" or "reading" in result.stderr
    return json.loads(result.stdout)


def squeezed(text):
    """The lines of a table with its columns closed up."""
    return [re.sub(r" {2,}", " | ", line.strip()) for line in text.splitlines()]


LISTED = [
    "MESSAGE | AGE | SIZE | STATE | NEXT | TRIES | SENDER | RECIPIENT | GATEWAY | LAST WORD",
    "1 | 3h | 86 | waiting | 10m | 2 | ann@example.com | dora@example.org | mailboxes | 451 4.4.1 connection refused",
    "1 | 3h | 86 | waiting | due | 0 | ann@example.com | ed@example.org | mailboxes | -",
    r"2 | 1m | 52 | held | - | 0 | ben@example.com | fay@example.net | internet (example.net) | looks odd \x9b31m",
    "3 | 5s | 52 | waiting | now | 0 | <> | ann@example.com | internet (example.net) | -",
]
# A lease ends with its process.
LISTED_ALONE = [line.replace("| now |", "| due |") for line in LISTED]


def test_list(place, daemon):
    result = say(place, "queue", "list")
    assert (result.exit_code, result.stderr) == (0, "")
    assert squeezed(result.stdout) == LISTED


def test_list_without_a_daemon(queue):
    result = say(queue, "queue", "list")
    assert (result.exit_code, result.stderr) == (0, f"mailgw: mailgw is not running; reading {queue / 'state'} directly\n")
    assert squeezed(result.stdout) == LISTED_ALONE


@pytest.mark.parametrize("running", [True, False], ids=["daemon", "store"])
@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--sender", "ANN@example.com"], [1, 1]),
        (["--sender", "<>"], [3]),
        (["--recipient", "fay@example.net"], [2]),
        (["--domain", "example.org"], [1, 1]),
        (["--gateway", "internet"], [2, 3]),
        (["--state", "held"], [2]),
        (["--older-than", "2h"], [1, 1]),
        (["--older-than", "30s", "--gateway", "internet"], [2]),
        (["--limit", "1"], [1]),
        (["--domain", "example.com", "--state", "held"], []),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_list_selects(request, place, running, options, messages):
    request.getfixturevalue("daemon" if running else "queue")
    answer = answered(say(place, "queue", "list", "--json", *options))
    assert [entry["message"] for entry in answer["entries"]] == messages
    assert answer["source"] == ("daemon" if running else "store")
    assert answer["more"] is ("--limit" in options)


def test_list_says_that_there_is_more(place, daemon):
    result = say(place, "queue", "list", "--limit", "2")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "mailgw: there are more than 2; select, or say --limit (at most 10000)\n"


@pytest.mark.parametrize(("options", "text"), [([], "nothing in the queue"), (["--state", "held"], "nothing matches")])
def test_an_empty_listing_is_no_failure(place, options, text):
    store = SqliteStore.open(place / "state", pump := Pump())
    pump.run(store.close())
    result = say(place, "queue", "list", *options)
    assert (result.exit_code, result.stdout) == (0, f"{text}\n")


SHOWN = [
    "message: | 1",
    "sender: | ann@example.com",
    "arrived: | DATE, 3h ago",
    "size: | 86 octets",
    "session: | test",
    "",
    "RECIPIENT | STATE | NEXT | TRIES | GATEWAY | LAST WORD",
    "dora@example.org | waiting | 10m | 2 | mailboxes | 451 4.4.1 connection refused",
    "ed@example.org | waiting | due | 0 | mailboxes | -",
    "",
    "Received: from somewhere",
    "From: ann@example.com",
    r"Subject: One \x1b[31mred",
    "",
]


@pytest.mark.parametrize("running", ["daemon", "queue"])
def test_show(request, place, running):
    request.getfixturevalue(running)
    result = say(place, "queue", "show", "1")
    assert result.exit_code == 0
    assert re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", "DATE", "\n".join(squeezed(result.stdout))).split("\n") == SHOWN


@pytest.mark.parametrize(("running", "source"), [("daemon", "daemon"), ("queue", "store")])
def test_show_as_json(request, place, running, source):
    request.getfixturevalue(running)
    answer = answered(say(place, "queue", "show", "1", "--json"))
    assert answer["source"] == source
    assert [entry["recipient"] for entry in answer["recipients"]] == ["dora@example.org", "ed@example.org"]
    assert answer["header"].startswith("Received: from somewhere\nFrom:")


@pytest.mark.parametrize("running", ["daemon", "queue"])
@pytest.mark.parametrize(("message", "content"), [(1, ONE), (2, TWO)])
def test_content_is_written_as_it_is(request, place, running, message, content):
    request.getfixturevalue(running)
    assert say(place, "queue", "show", str(message), "--content").stdout_bytes == content.read()


@pytest.mark.parametrize(("running", "source"), [("daemon", "daemon"), ("queue", "store")])
def test_stats(request, place, running, source):
    request.getfixturevalue(running)
    assert squeezed(say(place, "queue", "stats").stdout) == [
        "GATEWAY | NEXT HOP | WAITING | HELD | DELIVERED | FAILED | DROPPED | OLDEST",
        "internet | example.net | 1 | 1 | 0 | 0 | 0 | 1m",
        "mailboxes | 2 | 0 | 0 | 0 | 0 | 3h",
        "total | 3 | 1 | 0 | 0 | 0 | 3h",
    ]
    answer = answered(say(place, "queue", "stats", "--json"))
    assert answer["source"] == source
    assert answer["total"]["waiting"] == 3


def test_stats_of_many_destinations(place, daemon):
    result = say(place, "queue", "stats", "--limit", "1")
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "mailgw: there are more than 1 destinations; raise --limit\n"


@pytest.mark.parametrize(
    ("words", "text", "number", "states"),
    [
        (["hold", "1"], "2 recipients held", 2, ["held", "held", "held", "waiting"]),
        (["hold", "--recipient", "ed@example.org", "--reason", "asked"], "1 recipient held", 1, ["waiting", "held", "held", "waiting"]),
        (["hold", "1", "--recipient", "ed@example.org"], "1 recipient held", 1, ["waiting", "held", "held", "waiting"]),
        (["hold", "--all"], "2 recipients held", 2, ["held", "held", "held", "waiting"]),
        (["release", "2"], "1 recipient released", 1, ["waiting"] * 4),
        (["retry", "--older-than", "1h"], "2 recipients made due", 2, ["waiting", "waiting", "held", "waiting"]),
        (["drop", "2"], "1 recipient dropped", 1, ["waiting"] * 3),
        (["drop", "1", "2"], "3 recipients dropped", 3, ["waiting"]),
        (["release", "1"], "0 recipients released", 0, ["waiting", "waiting", "held", "waiting"]),
        (["drop", "99"], "0 recipients dropped", 0, ["waiting", "waiting", "held", "waiting"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_orders(place, daemon, bench, words, text, number, states, as_json):
    result = say(place, "queue", *words, *(["--json"] if as_json else []))
    assert result.exit_code == (0 if number else 1)
    if as_json:
        assert answered(result) == {"recipients": number}
    else:
        assert result.stdout == f"{text}\n"
        assert ("being tried at this moment" in result.stderr) == (words == ["drop", "99"])
    assert list(bench.states().values()) == states


@pytest.mark.parametrize("words", [["drop"], ["drop", "--reason", "x"], ["drop", "1", "--all"], ["drop", "--all", "--state", "held"]])
def test_an_order_must_say_what_it_means(place, daemon, bench, words):
    result = say(place, "queue", *words)
    assert result.exit_code == 2
    assert "nothing is selected" in result.stderr or "--all means the whole queue" in result.stderr
    assert len(bench.states()) == 4


@pytest.mark.parametrize("words", [[], ["queue"], ["account"], ["bans"], ["policy"]], ids=lambda words: " ".join(words) or "all")
def test_lists_of_commands_are_read_whole(words):
    result = CliRunner().invoke(main, [*words, "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert "..." not in result.stdout.partition("Commands:")[2]


def _commands(command, *words):
    yield words
    for name, one in getattr(command, "commands", {}).items():
        yield from _commands(one, *words, name)


@pytest.mark.parametrize("words", list(_commands(main)), ids=lambda words: " ".join(words) or "all")
def test_help_is_for_people(words):
    result = CliRunner().invoke(main, [*words, "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert "\\" not in result.stdout
    assert "\b" not in result.stdout


def test_status_of_a_store():
    assert readable({"room": 3 * 2**20, "damage": ""}, NOW) == {"room": "3.0 MiB", "damage": "none"}
    assert readable({"room": -3 * 2**20, "damage": "torn"}, NOW) == {"room": "none, 3.0 MiB too little", "damage": "torn"}


def test_status(place, daemon):
    lines = squeezed(say(place, "status").stdout)
    assert lines[0].startswith("version: | ")
    assert lines[2:] == [
        "uptime: | 0s",
        "",
        "queue:",
        "waiting: | 3",
        "held: | 1",
        "oldest: | 3h ago",
        "",
        "listeners:",
        "NAME | ENDPOINT | SESSIONS",
        "mx | tcp:25 | 3",
        "",
        "dispatcher:",
        "lanes: | 1",
        "",
        "dispatcher backed off:",
        "GATEWAY | UNTIL",
        "internet | in 1m",
        "",
        "resolver:",
        "hits: | 7",
        "misses: | 3",
        "in flight: | 1",
        "kept: | 2",
        "",
        "resolver name servers:",
        "NAME | QUESTIONS | FAILED",
        "192.0.2.53:53 | 4 | 2",
        "",
        "faults:",
        r"spf \x1b]0;title\x07",
    ]
    assert answered(say(place, "status", "--json"))["queue"]["oldest"] == int(NOW - 3 * 3600)


WAY = [
    "address: | dora@example.org",
    'rule: | to "@ours" (WHERE)',
    "gateway: | GATEWAY",
    "next hop: | as the gateway says",
    "because: | to example.org",
    "recipient: | known",
    "",
    "LISTENER | MAY SEND | BY",
    "mx | yes | RULE",
]


def test_route(place, daemon):
    result = say(place, "route", "dora@example.org")
    assert (result.exit_code, result.stderr) == (0, "")
    said = "\n".join(WAY).replace("WHERE", "mailgw.toml:7").replace("GATEWAY", "mailboxes").replace("RULE", "to @ours")
    assert squeezed(result.stdout) == [*said.split("\n"), "submission | no | the client must log in first"]


def test_route_without_a_daemon(place):
    result = say(place, "route", "dora@example.org")
    file = place / "mailgw.toml"
    assert (result.exit_code, result.stderr) == (0, f"mailgw: mailgw is not running; reading {file} directly\n")
    said = "\n".join(WAY).replace("WHERE", f"{file}:12").replace("GATEWAY", "nowhere").replace("RULE", 'permit to "@ours"')
    assert squeezed(result.stdout) == said.split("\n")


@pytest.mark.parametrize(("running", "source"), [(True, "daemon"), (False, "configuration")])
@pytest.mark.parametrize(
    ("address", "known"), [("dora@example.org", "known"), ("zoe@example.org", "refused"), ("a@b.example", "unchecked")]
)
def test_route_as_json(request, place, running, source, address, known):
    if running:
        request.getfixturevalue("daemon")
    answer = answered(say(place, "--json", "route", address))
    assert (answer["source"], answer["recipient"]["state"]) == (source, known)


def test_route_takes_all_that_is_known_about_the_client(place, daemon):
    words = ["--from", "ann@example.com", "--login", "ann", "--ip", "2001:db8::1", "--tag", "a", "--tag", "b", "--json"]
    answer = answered(say(place, "route", "a@example.net", *words))
    assert [each["permitted"] for each in answer["permit"]] == [False, True]


def test_components(place):
    result = say(place, "components")
    names = {line.split()[0] for line in result.stdout.splitlines()}
    assert {"discard", "lmtp", "list", "maildir", "mx", "smarthost", "sql"} <= names
    listed = answered(say(place, "components", "--json"))["components"]
    assert {one["name"] for one in listed} | {"NAME"} == names


def test_one_component_with_its_settings(place):
    lines = squeezed(say(place, "components", "list").stdout)
    assert "class: | mailgw.policies.known_recipients:RecipientList" in lines
    assert "SETTING | TYPE | DEFAULT" in lines
    assert any(line.startswith("path | ") and line.endswith("(must be given)") for line in lines)
    [listed] = answered(say(place, "components", "list", "--json"))["components"]
    assert [setting["name"] for setting in listed["settings"]] == ["path", "subaddress"]


def test_check(place):
    result = say(place, "check")
    assert (result.exit_code, result.stderr) == (0, "")
    file = place / "mailgw.toml"
    assert squeezed(result.stdout)[:2] == [
        "LISTENER | CLIENT | MAY SEND TO | NOT TO",
        "mx | stranger | @ours | elsewhere, percent hack at example.org, bang path at example.org, quoted @ at example.org",
    ]
    assert result.stdout.endswith(f"{file}: ok\n")
    answer = answered(say(place, "check", "--json"))
    assert (answer["file"], answer["ok"], answer["problems"]) == (str(file), True, [])
    assert {"listener": "mx", "client": "stranger", "recipient": "elsewhere"}.items() <= answer["matrix"][1].items()


def test_check_of_a_file_that_is_named(place):
    other = place / "other.toml"
    other.write_text(CONFIGURATION.replace("otherwise = true", "otherwse = true").replace('"nowhere"', '"nowere"', 1))
    result = say(place, "check", os.fspath(other))
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert len(lines) >= 2
    assert all(re.match(rf"{re.escape(str(other))}:\d+: ", line) for line in lines)
    assert any('did you mean "otherwise"?' in line for line in lines)
    answer = json.loads(say(place, "check", "--json", os.fspath(other)).stdout)
    assert answer["ok"] is False
    assert len(answer["problems"]) == len(lines)
    assert "error" in {problem["severity"] for problem in answer["problems"]}


def test_warnings_alone_are_no_failure(place):
    with (place / "mailgw.toml").open("a") as file:
        file.write('[gateway.spare]\ntype = "discard"\n')
    result = say(place, "check")
    assert result.exit_code == 0
    assert "warning: [gateway.spare] is not used" in result.stderr
    assert result.stdout.endswith("ok\n")


# ── How it ends ──


@contextmanager
def nothing(place):
    yield


@contextmanager
def no_configuration(place):
    (place / "mailgw.toml").unlink()
    yield


@contextmanager
def broken_toml(place):
    (place / "mailgw.toml").write_text("[server\n")
    yield


@contextmanager
def no_state(place):
    (place / "mailgw.toml").write_text("")
    yield


@contextmanager
def impossible_state(place):
    text = (place / "mailgw.toml").read_text()
    (place / "mailgw.toml").write_text(text.replace('state = "state"', f'state = "{"x" * 300}"'))
    yield


@contextmanager
def not_a_socket(place):
    (place / "admin.sock").touch()
    yield


@pytest.mark.parametrize(
    ("setting", "words", "code", "kind", "text"),
    [
        (nothing, "queue hold 1", 3, "not-running", r"mailgw is not running \(no daemon listens at .*admin.sock\); this needs the running"),
        (nothing, "queue retry --all", 3, "not-running", "this needs the running daemon"),
        (nothing, "queue release 1", 3, "not-running", "this needs the running daemon"),
        (nothing, "queue drop 1", 3, "not-running", "this needs the running daemon"),
        (nothing, "status", 3, "not-running", "this needs the running daemon"),
        (nothing, "queue list", 3, "unavailable", "holds no queue"),
        (impossible_state, "queue list", 3, "unavailable", "File name too long"),
        (not_a_socket, "status", 3, "not-running", "this needs the running daemon"),
        (no_configuration, "queue list", 2, "configuration", "No such file or directory; with --socket PATH"),
        (no_configuration, "status", 2, "configuration", "No such file or directory"),
        (broken_toml, "queue list", 2, "configuration", "mailgw.toml: .*with --socket PATH"),
        (no_state, "queue list", 2, "configuration", r"says neither \[server\] state nor \[admin\] socket"),
        (nothing, "route nowhere", 2, "bad-request", '"nowhere" is no address: address has no domain'),
        (nothing, "components nonesuch", 1, "not-found", 'there is no component "nonesuch"'),
    ],
)
def test_failures(place, setting, words, code, kind, text):
    with setting(place):
        said = say(place, *words.split())
        assert (said.exit_code, said.stdout) == (code, "")
        assert re.search(text, said.stderr)
        said = say(place, *words.split(), "--json")
        assert said.exit_code == code
        error = json.loads(said.stdout)["error"]
        assert error["kind"] == kind
        assert re.search(text, error["text"])


@pytest.mark.parametrize("running", ["daemon", "queue"])
@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("queue show 99", 1, "there is no message 99 in the queue"),
        ("queue show 99 --content", 1, "there is no message 99 in the queue"),
        ("queue list --sender x@", 2, '"x@" is no address: domain is missing'),
        ("queue list --state lost", 2, "is not one of"),
        ("queue list --older-than soon", 2, '"soon" is no duration'),
        ("queue list --limit 100000", 2, "is not in the range"),
        ("queue list surplus", 2, "unexpected extra argument"),
        ("queue show", 2, "Missing argument"),
        ("queue show 0", 2, "is not in the range"),
        ("queue show 1 --content --json", 2, "cannot be combined"),
        ("queue fly", 2, "No such command"),
    ],
)
def test_mistakes(request, place, running, words, code, text):
    request.getfixturevalue(running)
    result = say(place, *words.split())
    assert result.exit_code == code
    assert text in result.stderr


def test_a_broken_configuration_does_not_keep_the_operator_from_a_running_daemon(place, daemon):
    with (place / "mailgw.toml").open("a") as file:
        file.write("[nonsense]\n")
    assert say(place, "queue", "list").exit_code == 0
    (place / "mailgw.toml").write_text("[server\n")
    assert say(place, "--socket", os.fspath(daemon), "queue", "list").exit_code == 0


def test_a_broken_configuration_has_no_routes(place):
    with (place / "mailgw.toml").open("a") as file:
        file.write("[nonsense]\n")
    result = say(place, "route", "a@example.org")
    assert result.exit_code == 2
    assert 'the configuration has no table "nonsense"' in result.stderr


def test_a_store_in_trouble(place, daemon, bench):
    bench.store.trouble = StoreUnavailable("the disk is gone")
    result = say(place, "queue", "list")
    assert (result.exit_code, result.stderr) == (3, "mailgw: the queue cannot be used now: the disk is gone\n")


def test_what_cannot_be_recovered_is_named(place, daemon, bench):
    result = say(place, "queue", "recover", "damaged-b")
    assert (result.exit_code, result.stdout) == (0, "2 messages queued again, 1 could not be read\n")
    assert result.stderr == "message 7 cannot be read: malformed \\x9b31m\n"
    assert bench.asked == ["damaged-b", "damaged-b"]
    bench.asked.clear()
    unreadable = [{"message": 7, "why": "malformed \x9b31m"}]
    assert answered(say(place, "--json", "queue", "recover", "damaged-b")) == {"recovered": 2, "unreadable": unreadable}


FAULTY = """\
from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import implementer
from mailgw.api import IRoute

@implementer(IRoute)
@frozen
class Faulty:
    how: str
    async def route(self, facts):
        if facts.recipient.domain == "example.org":
            if self.how == "hangs":
                await Deferred()
            raise {"raises": ValueError("odd"), "leaves": SystemExit(0), "interrupted": KeyboardInterrupt()}[self.how]
"""


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("raises", 3, "mailgw: a route failed: ValueError('odd')"),
        ("leaves", 3, "mailgw: a route failed: SystemExit(0)"),
        ("hangs", 3, "mailgw: only a running daemon can find that out"),
        ("interrupted", 1, "Aborted!"),
    ],
)
def test_a_route_that_fails_without_a_daemon(place, monkeypatch, how, status, said):
    (place / "faulty_route.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(os.fspath(place))
    table = f'[[route]]\ntype = "faulty_route:Faulty"\nhow = "{how}"\n'
    (place / "mailgw.toml").write_text(CONFIGURATION.replace("[[route]]\n", table + "[[route]]\n", 1))
    result = say(place, "route", "dora@example.org")
    sys.modules.pop("faulty_route")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (status, said)


def test_an_address_without_a_route_is_status_1(place, daemon, bench):
    object.__setattr__(bench.operations.signpost, "routing", type(bench.operations.signpost.routing)(()))
    result = say(place, "route", "dora@example.org")
    assert result.exit_code == 1
    assert "route: | none: mail for it is refused" in squeezed(result.stdout)


@pytest.mark.parametrize("words", ["--json queue list", "queue --json list", "queue list --json", "--json queue --json list --json"])
def test_json_may_be_said_anywhere(place, daemon, words):
    assert len(answered(say(place, *words.split()))["entries"]) == 4


@pytest.mark.parametrize("words", ["account", "bans", "policy", "queue"])
def test_each_group_takes_json(words):
    assert "--json" in CliRunner().invoke(main, [words, "--help"]).stdout


def test_nothing_that_came_from_the_network_can_command_a_terminal(place, daemon):
    for words in ("queue list", "queue show 1", "queue show 2", "status", "queue list --json", "queue show 1 --json", "status --json"):
        said = say(place, *words.split())
        assert said.exit_code == 0
        assert all(c.isprintable() or c == "\n" for c in said.stdout), words


def on_a_terminal(*words):
    """What the installed command shows on a terminal of 200 columns."""
    ours, theirs = os.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm", "COLUMNS": "200"}
    command = Path(sys.executable).with_name("mailgw")
    with subprocess.Popen([command, *words], stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        shown = b""
        with open(ours, "rb", buffering=0) as terminal, suppress(OSError):  # EIO: the other end is closed
            while chunk := terminal.read(65536):
                shown += chunk
    assert process.returncode == 0
    return shown.decode().replace("\r\n", "\n")


def test_content_on_a_terminal_is_harmless(queue):
    shown = on_a_terminal("--config", os.fspath(queue / "mailgw.toml"), "queue", "show", "1", "--content")
    assert shown.split("\n")[:5] == ["Received: from somewhere", "From: ann@example.com", r"Subject: One \x1b[31mred", "", "The first."]


def test_a_listing_on_a_terminal_has_colours_of_its_own_only(queue):
    shown = on_a_terminal("--config", os.fspath(queue / "mailgw.toml"), "queue", "list")
    assert "\x1b[33mheld" in shown
    assert r"looks odd \x9b31m" in shown
    assert "\x9b" not in shown


# ── The page about it ──

DOCS = Path(__file__).parents[2] / "docs"
COMMAND_LINE = (DOCS / "operating.md").read_text().partition("## The command line")[2].partition("\n## ")[0]
SAID = [re.split(r"#|&&", line)[0] for line in re.findall(r"^mailgw .*$", COMMAND_LINE, re.MULTILINE)]


@pytest.mark.parametrize("line", SAID)
def test_every_line_of_the_page_can_be_said(place, daemon, bench, line):
    words = [str(place / "mailgw.toml") if word.endswith("mailgw.toml") else word for word in shlex.split(line)[1:]]
    result = say(place, *words)
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_pages_show_every_command():
    commands = {f"mailgw {name} {below}".strip() for name, one in main.commands.items() for below in getattr(one, "commands", [""])}
    pages = "\n".join(page.read_text() for page in DOCS.glob("*.md"))
    assert {command for command in commands if not re.search(rf"\b{command}\b", pages)} == set()


# ── Where things are ──


@pytest.mark.parametrize(
    ("option", "variable", "system", "demo", "found"),
    [
        (True, True, True, True, "option.toml"),
        (False, True, True, True, "variable.toml"),
        (False, False, True, True, "system.toml"),
        (False, False, False, True, "demo/mailgw.toml"),
        (False, False, False, False, None),
    ],
)
def test_which_configuration(short_path, monkeypatch, option, variable, system, demo, found):
    monkeypatch.chdir(short_path)
    monkeypatch.setattr(whereabouts, "SYSTEM", Path("system.toml"))
    (short_path / "demo").mkdir()
    for said, name in ((system, "system.toml"), (demo, "demo/mailgw.toml")):
        if said:
            (short_path / name).touch()
    environment = {whereabouts.VARIABLE: "variable.toml"} if variable else {}
    config = Path("option.toml") if option else None
    if found is None:
        with pytest.raises(whereabouts.NoConfiguration, match="say --config FILE or set MAILGW_CONFIG"):
            whereabouts.find_configuration(config, environment)
    else:
        assert whereabouts.find_configuration(config, environment) == Path(found)


def test_the_socket_alone_reaches_a_daemon(place, daemon, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(whereabouts, "SYSTEM", place / "none")
    result = CliRunner().invoke(main, ["--socket", "admin.sock", "queue", "list", "--json"], env={"MAILGW_CONFIG": ""})
    assert len(answered(result)["entries"]) == 4


def test_without_daemon_and_configuration_there_is_nothing_to_read(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(whereabouts, "SYSTEM", place / "none")
    for words in (["queue", "list"], ["route", "a@example.org"]):
        result = CliRunner().invoke(main, ["--socket", "none.sock", *words], env={"MAILGW_CONFIG": ""})
        assert result.exit_code == 3
        assert result.stderr.startswith("mailgw: mailgw is not running (no daemon listens at none.sock), and ")


# ── How things look ──


@pytest.mark.parametrize(
    ("text", "tamed"),
    [
        ("Grüße, 世界", "Grüße, 世界"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        ("\x9b1m\x7f\x00", r"\x9b1m\x7f\x00"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\ud800", r"\ud800"),
        ("\u2028\U000e0001", r"\u2028\U000e0001"),
    ],
)
def test_tame(text, tamed):
    assert tame(text) == tamed


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"), (0, "0s"), (59.9, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (12_000, "3h 20m"),
        (86_400, "1d"), (86_400 + 3599, "1d"), (446_400, "5d 4h"),
    ],
)  # fmt: skip
def test_ages(seconds, text):
    assert readable_age(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0 KiB"),
        (10_240, "10 KiB"),
        (1_048_000, "1023 KiB"),
        (1_048_500, "1.0 MiB"),
        (26_214_400, "25 MiB"),
    ],
)
def test_sizes(octets, text):
    assert readable_size(octets) == text


LONG = "a-very-long-local-part-that-no-narrow-terminal-can-hold@a-very-long-domain.example.org"
COLUMNS = [Column("Number", right=True), Column("State"), Column("Address", folds=True)]


def test_a_table_in_a_pipe_is_neither_wrapped_nor_coloured():
    file = StringIO()
    Printer(file, terminal=False).table(COLUMNS, [(1, "held", LONG), (12, "[bold]", ":smile: \x1b[1m")])
    assert file.getvalue().splitlines() == [
        "NUMBER  STATE   ADDRESS",
        f"     1  held    {LONG}",
        r"    12  [bold]  :smile: \x1b[1m",
    ]


def test_a_table_on_a_terminal_loses_nothing(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = StringIO()
    Printer(file, terminal=True).table(COLUMNS, [(1, "held", LONG), (12, "[bold]", ":smile: \x1b[1m")])
    coloured = file.getvalue()
    assert "\x1b[33mheld" in coloured
    plain = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert max(map(len, plain.splitlines())) <= 40
    assert LONG in "".join(line[15:].strip() for line in plain.splitlines())
    assert "[bold]" in plain
    assert r":smile: \x1b[1m" in plain


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("mailgw")
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"mailgw, version \d+\.\d+\.\d+\n", said)


@pytest.mark.parametrize(
    "words", ["", "queue", "queue list", "queue show", "queue hold", "queue stats", "route", "components", "status", "check"]
)
def test_help(place, words):
    result = say(place, *words.split(), "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_help_names_the_exit_statuses_and_completion(place):
    said = say(place, "--help").stdout
    assert all(f"  {code}  " in said for code in range(4))
    assert "_MAILGW_COMPLETE=bash_source" in said
