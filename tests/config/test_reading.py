"""What a configuration that is right means."""

import os
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from mailgw.config.model import Configuration
from mailgw.config.reading import read, read_text
from mailgw.problems import BadConfiguration
from mailgw.queue.retry import Schedule
from mailgw.values.address import Address
from mailgw.values.secret import Secret

EXAMPLE = Path(__file__).parents[2] / "etc" / "mailgw.toml"

SMALL = """\
[server]
hostname = "MX.Bücher.example"
state = "state"
[domains]
ours = ["example.org", ".Example.NET"]
[networks]
office = ["192.0.2.0/24", "2001:db8::/32"]
all = ["@office", "10.0.0.0/8"]
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
max_recipients = 100
[[permit]]
on = "mx"
to = ["@ours", "example.com"]
from_network = ["@office", "198.51.100.7/32"]
[[route]]
otherwise = true
gateway = "out"
[gateway.out]
type = "discard"
"""


def small(more: str = "", old: str = "", new: str = "") -> Configuration:
    assert old in SMALL
    return read_text(SMALL.replace(old, new) + more, "small.toml", Path("/etc/mailgw"))


def test_the_example_is_read() -> None:
    configuration = read(EXAMPLE)
    assert configuration.server.hostname == "mx.example.org"
    assert configuration.server.postmaster == Address("postmaster", "example.org")
    assert list(configuration.listen) == ["mx", "submission", "submissions"]
    assert configuration.listen["mx"].max_message_size == 50 * 2**20
    assert configuration.listen["submissions"].kind == "submission"
    assert configuration.listen["submissions"].endpoint == ("tls:465",)
    assert configuration.listen["submissions"].tls == ("default",)
    assert [rule.name for rule in configuration.permit] == ['permit to "@ours"', "permit authenticated", 'permit from "@office"']
    assert [rule.name for rule in configuration.route] == ['to "@ours"', "otherwise"]
    assert configuration.route[0].recipients == {"example.org", "example.net"}
    assert configuration.gateway["internet"].schedule == Schedule((300.0, 900.0, 3600.0, 14400.0), 14400.0, 432000.0)
    assert configuration.admin.socket == Path("/run/mailgw/admin.sock")
    assert configuration.where(("gateway", "internet")) == f"{EXAMPLE}:{EXAMPLE.read_text().splitlines().index('[gateway.internet]') + 1}"


def test_names_are_in_their_one_spelling() -> None:
    configuration = small()
    assert configuration.server.hostname == "mx.xn--bcher-kva.example"
    assert configuration.server.postmaster == Address("postmaster", "mx.xn--bcher-kva.example")
    assert configuration.permit[0].domains == {"example.org", ".example.net", "example.com"}


def test_relative_paths_begin_at_the_file() -> None:
    configuration = small()
    assert configuration.server.state == Path("/etc/mailgw/state")
    assert configuration.admin.socket == Path("/etc/mailgw/state/admin.sock")


def test_a_set_may_name_one_above_it() -> None:
    assert small().networks["all"] == (*small().networks["office"], IPv4Network("10.0.0.0/8"))


def test_sets_are_opened() -> None:
    assert small().permit[0].from_network == (
        IPv4Network("192.0.2.0/24"),
        IPv6Network("2001:db8::/32"),
        IPv4Network("198.51.100.7/32"),
    )


@pytest.mark.parametrize(
    ("kind", "endpoint", "tls", "expected"),
    [
        pytest.param("relay", "tcp:25", False, ("never", ()), id="relay without a certificate"),
        pytest.param("relay", "tcp:25", True, ("offer", ("default",)), id="relay"),
        pytest.param("submission", "tcp:587", True, ("require", ("default",)), id="submission"),
        pytest.param("submission", "tls:465", True, ("require", ("default",)), id="submission with TLS from the first byte"),
    ],
)
def test_tls_by_default(kind: str, endpoint: str, tls: bool, expected: tuple[str, tuple[str, ...]]) -> None:
    more = '[tls.default]\ncertificate = "c.pem"\nkey = { file = "k.pem" }\n' if tls else ""
    listener = small(more, 'kind = "relay"\nendpoint = "tcp:25"', f'kind = "{kind}"\nendpoint = "{endpoint}"').listen["mx"]
    assert (listener.starttls, listener.tls) == expected


def test_like_inherits_what_is_not_said() -> None:
    more = '[listen.second]\nlike = "mx"\nendpoint = "tcp:26"\n[listen.third]\nlike = "second"\nendpoint = "tcp:27"\n'
    listeners = small(more).listen
    assert (listeners["second"].endpoint, listeners["second"].max_recipients) == (("tcp:26",), 100)
    assert (listeners["third"].endpoint, listeners["third"].max_recipients) == (("tcp:27",), 100)


def test_nothing_is_listened_at_twice() -> None:
    more = '[listen.second]\nkind = "relay"\nendpoint = ["tcp:0", "tcp:0", "tcp:26"]\n[listen.third]\nlike = "second"\n'
    with pytest.raises(BadConfiguration) as caught:
        small(f'{more}[listen.fourth]\nkind = "relay"\nendpoint = "tcp:25"\n[admin]\nmetrics = "tcp:26"\n')
    assert str(caught.value).splitlines() == [
        'small.toml:25: [listen.third] endpoint: "tcp:26" is that of [listen.second] already',
        'small.toml:29: [listen.fourth] endpoint: "tcp:25" is that of [listen.mx] already',
        'small.toml:31: [admin] metrics: "tcp:26" is that of [listen.second] already',
    ]


def test_who_stands_in_front() -> None:
    more = '[listen.second]\nlike = "mx"\nendpoint = "tcp:26"\nproxy = []\n'
    listeners = small(more, "max_recipients = 100", 'proxy = ["127.0.0.0/8", "@office"]\nxclient = "::1"').listen
    assert listeners["mx"].proxy == (IPv4Network("127.0.0.0/8"), IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/32"))
    assert (listeners["second"].proxy, listeners["second"].xclient) == ((), (IPv6Network("::1"),))
    assert (small().listen["mx"].proxy, small().listen["mx"].xclient) == ((), ())


def test_an_inherited_fault_is_told_once() -> None:
    with pytest.raises(BadConfiguration) as caught:
        small('[listen.second]\nlike = "mx"\n', "max_recipients = 100", "max_recipients = -1\npolicies = [1]")
    assert str(caught.value).splitlines() == [
        "small.toml:12: [listen.mx] max_recipients: must be more than nothing",
        "small.toml:13: [listen.mx] policies, item 1: 1 is not a string",
    ]


def test_never_is_never() -> None:
    assert small('warn_after = "never"\n').gateway["out"].schedule.warn_after is None


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        pytest.param('{ file = "k.pem" }', Secret(path=Path("/etc/mailgw/k.pem")), id="file"),
        pytest.param('{ env = "MAILGW_TEST" }', Secret(variable="MAILGW_TEST"), id="env"),
        pytest.param('{ credential = "tls" }', Secret(path=Path("/run/secrets/tls")), id="credential"),
    ],
)
def test_secrets(key: str, expected: Secret, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/secrets")
    monkeypatch.setenv("MAILGW_TEST", "hunter2")
    tls = small(f'[tls.default]\ncertificate = "c.pem"\nkey = {key}\n').tls["default"]
    assert tls.key == expected
    assert "hunter2" not in repr(tls)


@pytest.mark.parametrize(
    "key", ['"hunter2"', '["hunter2"]', '{ value = "hunter2" }', '{ file = ["hunter2"] }', '{ file = "a", env = "hunter2" }'], ids=str
)
def test_no_error_repeats_a_secret(key: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        small(f'[tls.default]\ncertificate = "c.pem"\nkey = {key}\n')
    assert "hunter2" not in str(caught.value)
    assert "[tls.default] key: write a secret as" in str(caught.value)


def test_a_secret_is_read_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret(path=tmp_path / "key")
    with pytest.raises(OSError, match="key"):
        secret.read()
    (tmp_path / "key").write_bytes(b"one\r\n")
    assert secret.read() == b"one"
    monkeypatch.setenv("MAILGW_TEST", "two")
    assert Secret(variable="MAILGW_TEST").read() == b"two"
    monkeypatch.delenv("MAILGW_TEST")
    with pytest.raises(OSError, match="MAILGW_TEST is not set"):
        Secret(variable="MAILGW_TEST").read()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration) as caught:
        read(tmp_path / "none.toml")
    assert str(caught.value) == f"{tmp_path}/none.toml: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "table",
    [
        pytest.param('on = "mx"\nto = "x y"', id="domain"),
        pytest.param('on = "mx"\nto = "@nobody"', id="set"),
        pytest.param('on = "mx"\nto = "example.org"\nfrom_netwrk = "10.0.0.0/8"', id="misspelt key"),
        pytest.param('on = "mx"\nto = "example.org"\nauthenticated = "yes"', id="value"),
    ],
)
def test_half_a_permit_rule_permits_nothing(table: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        small(f"[[permit]]\n{table}\n")
    assert len(caught.value.rest.permit) == 1  # only the rule of SMALL is left


@pytest.mark.parametrize(("said", "processes"), [("", 1), ("workers = 1", 1), ("workers = 64", 64)])
def test_workers(said: str, processes: int) -> None:
    assert small(old="[domains]", new=f"{said}\n[domains]").server.processes == processes


def test_as_many_workers_as_cpus() -> None:
    assert small(old="[domains]", new='workers = "auto"\n[domains]').server.processes == min(64, len(os.sched_getaffinity(0)))


def test_metrics() -> None:
    assert small().admin.metrics == ""
    assert small('[admin]\nmetrics = "tcp:9115:interface=127.0.0.1"\n').admin.metrics == "tcp:9115:interface=127.0.0.1"


def test_an_address_is_no_host_name() -> None:
    with pytest.raises(BadConfiguration) as caught:
        small(old="MX.Bücher.example", new="192.0.2.1")
    assert [str(problem) for problem in caught.value.problems] == [
        'small.toml:2: [server] hostname: "192.0.2.1": an address is no host name'
    ]
