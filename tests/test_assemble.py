"""What a configuration becomes."""

from pathlib import Path
from typing import Any

import pytest

from mailgw.admin.still_house import still_house
from mailgw.assemble import Parts, build_parts, load
from mailgw.config.reading import read_text
from mailgw.problems import BadConfiguration
from mailgw.queue.retry import Schedule
from mailgw.testing import a_recipient, run
from mailgw.values.delivery import Destination

ROOT = Path(__file__).parents[1]

HEAD = """\
[server]
hostname = "mx.example.org"
state = "/tmp/state"
[tls.default]
certificate = "c.pem"
key = { file = "k.pem" }
[domains]
ours = ["example.org", ".example.net"]
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
[listen.submission]
kind = "submission"
endpoint = "tcp:587"
policies = ["two", "list", "stages"]
[policy.two]
type = "tests.config.parts:Refuses"
number = 2
timeout = "5s"
[policy.stages]
type = "tests.config.parts:TwoStages"
[policy.list]
type = "list"
path = "/dev/null"
[gateway.bin]
type = "discard"
retry = ["1m", "2m"]
warn_after = "never"
connections = 3
[gateway.internet]
type = "mx"
[gateway.boxes]
type = "discard"
"""
OPEN = "lets strangers send anywhere on mx (open relay): restrict it, or say open_relay = true if you mean it"
PERMIT = '[[permit]]\non = ["mx", "submission"]\nto = "@ours"\n'
OTHERWISE = '[[route]]\notherwise = true\ngateway = "internet"\n'


@pytest.fixture(autouse=True)
def _parts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def parts(routes: str = "", permit: str = PERMIT, folder: Path = ROOT) -> Parts:
    return build_parts(read_text(HEAD + permit + routes + OTHERWISE, "test.toml", folder), still_house())


def test_policies_are_asked_at_their_stages_in_order() -> None:
    rules = parts().rules["submission"]
    assert [one.name for one in rules.sender] == ["two"]
    assert [one.name for one in rules.recipient] == ["list"]
    assert [one.name for one in rules.client] == [one.name for one in rules.content] == ["stages"]
    assert rules.sender[0].timeout == 5.0
    assert rules.recipient[0].timeout == 30.0
    assert rules.sender[0].where == "test.toml:16"
    assert parts().rules["mx"].sender == ()


def test_gateways_with_their_patience() -> None:
    made = parts()
    assert made.schedules["bin"] == Schedule((60.0, 120.0), None, Schedule().give_up)
    assert made.schedules["internet"] == Schedule()
    assert made.connections == {"bin": 3, "internet": 20, "boxes": 20}
    assert made.routing.by_domain == {"internet"}


@pytest.mark.parametrize(
    ("routes", "facts", "expected"),
    [
        ('to = "@ours"', {"to": "a@example.org"}, Destination("boxes")),
        ('to = "@ours"', {"to": "a@sub.example.net"}, Destination("boxes")),
        ('to = "@ours"', {"to": "a@example.net"}, Destination("internet", "example.net")),
        ('to = "User@example.org"', {"to": "user@example.org"}, Destination("boxes")),
        ('sender = "<>"', {"sender": ""}, Destination("boxes")),
        ('sender = "example.com"', {"sender": "a@example.com"}, Destination("boxes")),
        ('tag = ["a", "b"]', {"tags": frozenset({"b"})}, Destination("boxes")),
        ('to = "@ours"\nsender = "<>"', {"to": "a@example.org", "sender": "b@example.com"}, Destination("internet", "example.org")),
        ('to = "@ours"\nsender = "<>"\nnext_hop = "x:24"', {"to": "a@example.org", "sender": ""}, Destination("boxes", "x:24")),
    ],
    ids=str,
)
def test_routes(routes: str, facts: dict[str, Any], expected: Destination) -> None:
    found = run(parts(f'[[route]]\n{routes}\ngateway = "boxes"\n').routing.find(a_recipient(**facts)))
    assert found is not None
    assert found.destination == expected


def test_a_table_says_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "table").write_text("a@example.org bin\nexample.org boxes:host\n")
    routing = parts('[[route]]\ntable = "table"\n', folder=tmp_path).routing
    assert [run(routing.find(a_recipient(to=to))).destination for to in ("a@example.org", "b@example.org", "b@example.com")] == [
        Destination("bin"),
        Destination("boxes", "host"),
        Destination("internet", "example.com"),
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "{path}: No such file or directory"),
        ("a@example.org", "{path}:1: expected 'pattern gateway' or 'pattern gateway:next-hop'"),
        ("a@example.org bn", '{path} names a gateway, but there is no [gateway.bn]; did you mean "bin"?'),
    ],
    ids=["no file", "no table", "no gateway"],
)
def test_broken_tables(tmp_path: Path, text: str | None, error: str) -> None:
    if text is not None:
        (tmp_path / "table").write_text(text)
    with pytest.raises(BadConfiguration) as caught:
        parts('[[route]]\ntable = "table"\n', folder=tmp_path)
    assert [problem.text for problem in caught.value.problems] == [f"[[route]] table: {error.format(path=tmp_path / 'table')}"]


def test_a_route_of_a_plugin_and_its_recipients() -> None:
    routing = parts(
        '[[route]]\ntype = "tests.config.parts:Archive"\nto_whom = "bin"\nrecipients = { type = "list", path = "/dev/null" }\n'
    ).routing
    found = run(routing.find(a_recipient(tags=frozenset({"archive"}))))
    assert found is not None
    assert found.destination == Destination("bin")
    assert found.rule.recipients is not None
    assert found.rule.name == "route tests.config.parts:Archive"
    assert found.rule.where == "test.toml:37"


def test_gateways_that_a_route_of_a_plugin_names_must_be_there() -> None:
    with pytest.raises(BadConfiguration) as caught:
        parts('[[route]]\ntype = "tests.config.parts:Archive"\nto_whom = "bun"\n')
    assert [problem.text for problem in caught.value.problems] == ['[[route]] to_whom: there is no [gateway.bun]; did you mean "bin"?']


@pytest.mark.parametrize(
    "permit",
    [
        pytest.param(PERMIT, id="to"),
        pytest.param('[[permit]]\non = ["mx", "submission"]\nfrom_network = "192.0.2.0/24"\n', id="network"),
        pytest.param('[[permit]]\non = "submission"\ntype = "tests.config.parts:Anybody"\n', id="plugin"),
    ],
)
def test_a_submission_listener_is_never_opened_to_strangers(permit: str) -> None:
    [asked] = parts(permit=permit).rules["submission"].relay

    def answer(login: str) -> str:
        decision = asked.component.may_relay(a_recipient(to="a@example.org", ip="192.0.2.1", login=login))
        return str((run(decision) if hasattr(decision, "__await__") else decision).verdict.value)

    assert answer("") == "proceed"
    assert answer("somebody") == "permit"


@pytest.mark.parametrize(
    ("permit", "error"),
    [
        pytest.param(
            '[[permit]]\non = "mx"\ntype = "tests.config.parts:Anybody"\n',
            f"test.toml:34: [[permit]] {OPEN}",
            id="plugin",
        ),
        pytest.param(
            '[[permit]]\non = "mx"\nto = "@ours"\n[[permit]]\non = ["submission", "mx"]\nfrom_network = ["0.0.0.0/0", "10.0.0.0/8"]\n',
            f"test.toml:39: [[permit]] {OPEN}",
            id="the whole world",
        ),
    ],
)
def test_an_open_relay_is_refused(permit: str, error: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        parts(permit=permit)
    assert str(caught.value) == error
    allowed = parts(permit=permit + "open_relay = true\n")
    [warning] = allowed.warnings
    assert warning.severity == "warning"
    assert warning.text.endswith("lets strangers send anywhere on mx: an open relay, as it says itself")


def test_reading_and_building_report_together(tmp_path: Path) -> None:
    path = tmp_path / "both.toml"
    path.write_text(HEAD.replace("number = 2", "number = 3").replace("[server]", "[server]\ncolour = 1") + PERMIT)
    with pytest.raises(BadConfiguration) as caught:
        load(path, still_house)
    assert [problem.text for problem in caught.value.problems] == [
        "the configuration has no [[route]]: say with otherwise = true at least where all mail goes",
        '[server] has no key "colour"',
        "[policy.two] number must be even",
    ]


def test_the_example_can_be_built() -> None:
    _, _, made = load(ROOT / "etc" / "mailgw.toml", still_house)
    assert made.gateways.keys() == {"mailboxes", "internet"}
    assert [rule.name for rule in made.routing.rules] == ['to "@ours"', "otherwise"]
    assert made.routing.rules[0].recipients is not None
    assert made.warnings == ()


COMBINED = """\
[gateway.copies]
type = "copy"
gateways = ["bin", "spread"]
[gateway.spread]
type = "balance"
gateways = ["internet", "boxes"]
[gateway.local]
type = "fail-over"
gateways = "boxes"
[[route]]
to = "example.com"
gateway = "copies"
[[route]]
to = "example.info"
gateway = "local"
"""


def test_a_gateway_that_names_one_by_domain_is_by_domain_itself() -> None:
    made = parts(COMBINED)
    assert made.routing.by_domain == {"internet", "spread", "copies"}
    assert made.members == {"bin", "spread", "internet", "boxes"}
    destinations = {}
    for domain in ("example.com", "example.info"):
        found = run(made.routing.find(a_recipient(f"a@{domain}")))
        assert found is not None
        destinations[domain] = found.destination
    assert destinations == {"example.com": Destination("copies", "example.com"), "example.info": Destination("local")}


def test_how_a_policy_is_asked_stands_in_its_table(tmp_path: Path) -> None:
    more = 'timeout = "2s"\non_error = "pass"\nmode = "observe"\nskip_networks = ["192.0.2.0/24"]\nskip_logins = "*"\n'
    path = tmp_path / "asked.toml"
    path.write_text(HEAD.replace('number = 2\ntimeout = "5s"\n', f"number = 2\n{more}") + PERMIT + OTHERWISE)
    _, _, parts = load(path, still_house)
    (asked,) = parts.rules["submission"].sender
    assert asked.timeout == 2.0
    assert (asked.on_error, asked.observed, asked.skip_logins) == ("pass", True, frozenset({"*"}))
    assert [str(network) for network in asked.skip_networks] == ["192.0.2.0/24"]
