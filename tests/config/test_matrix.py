"""Who may send where, found by asking the real rules."""

from pathlib import Path

import pytest

from mailgw.admin.still_house import still_house
from mailgw.assemble import build_parts
from mailgw.config.matrix import Cell, relay_matrix
from mailgw.config.reading import read_text

HEAD = """\
[server]
hostname = "mx.example.org"
state = "/tmp/state"
[tls.default]
certificate = "c.pem"
key = { file = "k.pem" }
[domains]
ours = ["example.org"]
[networks]
office = ["192.0.2.0/24"]
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
[listen.sub]
kind = "submission"
endpoint = "tls:465"
[gateway.bin]
type = "discard"
[[route]]
otherwise = true
gateway = "bin"
"""
RECIPIENTS = ("@ours", "elsewhere", "percent hack at example.org", "bang path at example.org", "quoted @ at example.org")


@pytest.fixture(autouse=True)
def _parts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def matrix(permits: str) -> tuple[tuple[Cell, ...], list[str]]:
    configuration = read_text(HEAD + permits, "test.toml", Path("/tmp"))
    parts = build_parts(configuration, still_house())
    return relay_matrix(configuration, parts.rules), [str(problem) for problem in parts.warnings]


def permit(*lines: str) -> str:
    return "\n".join(["[[permit]]", *lines, ""])


OURS = permit('on = "mx"', 'to = "@ours"')
OFFICE = permit('on = "mx"', 'from_network = "@office"')
LOGIN = permit('on = "sub"', "authenticated = true")


def test_the_whole_matrix() -> None:
    cells, warnings = matrix(OURS + OFFICE + LOGIN)
    assert warnings == []
    assert {(cell.listener, cell.client, cell.recipient) for cell in cells} == {
        (listener, client, recipient)
        for listener in ("mx", "sub")
        for client in ("stranger", "network @office", "authenticated")
        for recipient in RECIPIENTS
    }
    assert {(cell.listener, cell.client, cell.recipient, cell.by, cell.where) for cell in cells if cell.answer == "permitted"} == {
        ("mx", "stranger", "@ours", 'permit to "@ours"', "test.toml:22"),
        ("mx", "network @office", "@ours", 'permit to "@ours"', "test.toml:22"),
        ("mx", "authenticated", "@ours", 'permit to "@ours"', "test.toml:22"),
        *{("mx", "network @office", recipient, 'permit from "@office"', "test.toml:25") for recipient in RECIPIENTS[1:]},
        *{("sub", "authenticated", recipient, "permit authenticated", "test.toml:28") for recipient in RECIPIENTS},
    }
    assert {cell.answer for cell in cells} == {"permitted", "no"}


def test_what_is_asked_about() -> None:
    cells, _ = matrix(OURS + permit('on = "mx"', 'to = [".example.com"]', 'from_network = "198.51.100.0/25"'))
    assert {cell.recipient: cell.example for cell in cells} == {
        "@ours": "user@example.org",
        ".example.com": "user@sub.example.com",
        "elsewhere": "user@elsewhere.example",
        "percent hack at sub.example.com": "user%elsewhere.example@sub.example.com",
        "bang path at sub.example.com": "elsewhere.example!user@sub.example.com",
        "quoted @ at sub.example.com": '"user@elsewhere.example"@sub.example.com',
    }
    assert "network 198.51.100.0/25" in {cell.client for cell in cells}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [("Raises", "no"), ("Leaves", "no"), ("Waits", "unknown")],
)
def test_a_rule_that_fails_or_cannot_know_does_not_permit(kind: str, answer: str) -> None:
    cells, _ = matrix(permit('on = "mx"', f'type = "tests.config.parts:{kind}"'))
    assert {cell.answer for cell in cells if cell.listener == "mx"} == {answer}


def test_a_rule_that_raises_does_not_hide_the_next_one() -> None:
    cells, _ = matrix(permit('on = "mx"', 'type = "tests.config.parts:Raises"') + OURS)
    assert [cell.answer for cell in cells if (cell.listener, cell.client, cell.recipient) == ("mx", "stranger", "@ours")] == ["permitted"]


@pytest.mark.parametrize(
    ("network", "warnings"),
    [
        ("10.0.0.0/8", []),
        ("17.0.0.0/8", ["17.0.0.0/8 is very wide: everybody in it can send anywhere"]),
        ('16.0.0.0/9", "16.128.0.0/9', ["16.0.0.0/8 is very wide: everybody in it can send anywhere"]),
        ("17.0.0.0/9", []),
        ("2a00:4000::/24", []),
        ("2400::/16", ["2400::/16 is very wide: everybody in it can send anywhere"]),
        ("fc00::/7", []),
    ],
)
def test_wide_networks(network: str, warnings: list[str]) -> None:
    _, found = matrix(permit('on = "mx"', f'from_network = ["{network}"]'))
    assert [text.partition("from_network: ")[2] for text in found] == warnings


def test_a_plugin_that_trusts_the_domain_alone_is_worth_a_warning() -> None:
    _, found = matrix(permit('on = "mx"', 'type = "tests.config.parts:AnybodyAtOurs"') + OURS)
    assert found == [
        "test.toml:22: warning: [[permit]] lets strangers send to user%elsewhere.example@example.org on mx "
        "(percent hack at example.org): a server behind us may relay it"
    ]
