"""What a check finds outside of the configuration file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from mailgw.admin.checking import Checked, check
from mailgw.admin.still_house import still_house

TEXT = """\
[server]
hostname = "mx.example.org"
state = "state"
[tls.default]
certificate = "cert.pem"
key = { file = "key.pem" }
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
[[permit]]
on = "mx"
to = "example.org"
[[route]]
otherwise = true
gateway = "bin"
[gateway.bin]
type = "discard"
"""
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def folder(tmp_path: Path, authority: trustme.CA) -> Path:
    certify(tmp_path, authority, "mx.example.org")
    return tmp_path


def certify(folder: Path, authority: trustme.CA, *names: str, until: datetime | None = None) -> None:
    issued = authority.issue_cert(*names, not_after=until) if until else authority.issue_cert(*names)
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())


def checked(folder: Path, more: str = "", old: str = "", new: str = "", now: datetime = NOW) -> tuple[Checked, list[str]]:
    assert old in TEXT
    path = folder / "mailgw.toml"
    path.write_text(TEXT.replace(old, new) + more)
    result = check(path, still_house, now)
    return result, [str(problem).replace(str(folder), "DIR") for problem in result.problems]


def test_nothing_to_say(folder: Path) -> None:
    result, problems = checked(folder)
    assert problems == []
    assert result.is_usable
    assert {cell.answer for cell in result.matrix} == {"permitted", "no"}


def test_a_wildcard_covers_us(folder: Path, authority: trustme.CA) -> None:
    certify(folder, authority, "*.example.org")
    assert checked(folder)[1] == []


def test_a_certificate_for_somebody_else(folder: Path, authority: trustme.CA) -> None:
    certify(folder, authority, "mx.example.net", "*.mx.example.org", "example.org")
    result, problems = checked(folder)
    assert problems == ["DIR/mailgw.toml:5: warning: [tls.default] certificate: does not cover our name, mx.example.org"]
    assert result.is_usable


@pytest.mark.parametrize(
    ("days", "words", "usable"), [(1, "expired on", False), (-3, "expires on", True), (-20, "", True)], ids=["over", "soon", "later"]
)
def test_expiry(folder: Path, authority: trustme.CA, days: int, words: str, usable: bool) -> None:
    until = NOW.replace(microsecond=0) + timedelta(days=400)
    certify(folder, authority, "mx.example.org", until=until)
    result, problems = checked(folder, now=until + timedelta(days=days))
    own = [problem for problem in problems if f"{until:%Y-%m-%d}" in problem]
    assert [words in problem for problem in own] == ([True] if words else [])
    assert result.is_usable is usable


def test_a_key_of_another_certificate(folder: Path, authority: trustme.CA) -> None:
    (folder / "key.pem").write_bytes(authority.issue_cert("other").private_key_pem.bytes())
    assert checked(folder)[1] == [
        "DIR/mailgw.toml:6: [tls.default] key: does not belong to the first certificate in DIR/cert.pem",
    ]


def test_files_that_are_no_pem(folder: Path) -> None:
    (folder / "cert.pem").write_text("hello")
    (folder / "key.pem").write_text("hunter2")
    assert checked(folder)[1] == [
        "DIR/mailgw.toml:5: [tls.default] certificate: DIR/cert.pem holds no certificate in PEM form",
        "DIR/mailgw.toml:6: [tls.default] key: DIR/key.pem holds no private key in PEM form",
    ]


def test_files_that_are_not_there(folder: Path) -> None:
    (folder / "cert.pem").unlink()
    (folder / "key.pem").unlink()
    result, problems = checked(folder)
    assert problems == [
        "DIR/mailgw.toml:5: [tls.default] certificate: DIR/cert.pem: No such file or directory",
        "DIR/mailgw.toml:6: [tls.default] key: DIR/key.pem: No such file or directory",
    ]
    assert not result.is_usable


def test_a_credential_outside_of_the_service_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    result, [problem] = checked(folder, old='{ file = "key.pem" }', new='{ credential = "key" }')
    assert problem.startswith("DIR/mailgw.toml:6: warning: [tls.default] key: /run/credentials/mailgw.service/key: ")
    assert result.is_usable
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert checked(folder, old='{ file = "key.pem" }', new='{ credential = "key" }')[1] == [
        "DIR/mailgw.toml:6: [tls.default] key: DIR/key: No such file or directory"
    ]


def test_a_state_that_is_a_file(folder: Path) -> None:
    (folder / "state").write_text("")
    assert checked(folder)[1] == [
        "DIR/mailgw.toml:3: [server] state: DIR/state is not a folder",
    ]


def test_a_state_that_cannot_be_looked_at(folder: Path) -> None:
    (folder / "state").symlink_to("x" * 300)  # also root cannot look there
    assert checked(folder)[1] == [
        "DIR/mailgw.toml:3: [server] state: DIR/state cannot be looked at, as this user: File name too long",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "DIR/aliases: No such file or directory"),
        (b"all: a@b@c\n", "DIR/aliases:1: local-part has characters that must be quoted"),
        (b"all: a\xff@example.org\n", "DIR/aliases: is not UTF-8"),
    ],
)
def test_aliases_that_cannot_be_read(folder: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (folder / "aliases").write_bytes(content)
    result, problems = checked(folder, old='kind = "relay"', new='kind = "relay"\naliases = "aliases"')
    assert problems == [f"DIR/mailgw.toml:9: [listen.mx] aliases: {problem}"]
    assert not result.is_usable


def test_what_nobody_uses(folder: Path) -> None:
    policy = '[policy.p]\ntype = "list"\npath = "/dev/null"\n'
    more = policy + '[gateway.g]\ntype = "discard"\n[listen.second]\nkind = "relay"\nendpoint = "tcp:26"\n'
    result, problems = checked(folder, more)
    assert problems == [
        "DIR/mailgw.toml:18: warning: [policy.p] is not used: no listener names it",
        "DIR/mailgw.toml:21: warning: [gateway.g] is not used: no route names it",
        "DIR/mailgw.toml:23: warning: [listen.second] takes no mail at all: no [[permit]] is on it",
    ]
    assert result.is_usable


def test_the_name_of_a_set_without_its_sign(folder: Path) -> None:
    result, problems = checked(folder, '[domains]\nours = ["example.net"]\n[[permit]]\non = "mx"\nto = "ours"\n')
    assert problems == ['DIR/mailgw.toml:22: warning: [[permit]] to: "ours" is a domain of that name; the set of [domains] is "@ours"']
    assert result.is_usable


def test_what_is_wrong_uses_what_it_names(folder: Path) -> None:
    policies = "".join(f'[policy.{name}]\ntype = "list"\npath = "/dev/null"\n' for name in ("one", "two"))
    listener = '[listen.second]\nkind = "relay"\nendpoint = "tcp:26"\n'
    assert checked(folder, f'{policies}{listener}policies = ["one", "twoo"]\n[[permit]]\non = ["mx", "second"]\nto = "@nobody"\n')[1] == [
        'DIR/mailgw.toml:27: [listen.second] policies, item 2: there is no [policy.twoo]; did you mean "two"?',
        'DIR/mailgw.toml:30: [[permit]] to: "@nobody" is not in [domains]',
    ]
    assert checked(folder, f'{listener}[[permit]]\non = "second"\nto = "@nobody"\n')[1] == [
        'DIR/mailgw.toml:23: [[permit]] to: "@nobody" is not in [domains]',
    ]


def test_a_gateway_is_used_where_another_one_names_it(folder: Path) -> None:
    more = '[gateway.g]\ntype = "discard"\n[gateway.both]\ntype = "copy"\ngateways = "g"\n'
    assert checked(folder, more)[1] == ["DIR/mailgw.toml:20: warning: [gateway.both] is not used: no route names it"]


def test_submission_without_accounts(folder: Path) -> None:
    _, problems = checked(folder, old='kind = "relay"', new='kind = "submission"')
    assert problems == [
        "DIR/mailgw.toml:7: warning: [listen.mx] takes no mail at all: it has no accounts, so nobody can log in",
        'DIR/mailgw.toml:10: warning: [[permit]] permits only who has logged in on "mx", as submission takes no other mail: '
        "say authenticated = true",
    ]


def test_submission_that_wants_no_login(folder: Path) -> None:
    permit = '[[permit]]\non = "users"\nto = "example.org"\nauthenticated = false\n'
    result, problems = checked(folder, f'[listen.users]\nkind = "submission"\nendpoint = "tcp:587"\n{permit}')
    assert [problem for problem in problems if "warning" not in problem] == [
        'DIR/mailgw.toml:24: [[permit]] authenticated: false is not possible on "users": a submission listener takes '
        "no mail from who has not logged in"
    ]
    assert not result.is_usable


@pytest.mark.parametrize(
    ("file", "said"), [("nowhere.pem", "No such file or directory"), ("key.pem", "holds no certificate in PEM form"), ("cert.pem", "")]
)
def test_who_signs_clients(folder: Path, file: str, said: str) -> None:
    result, problems = checked(folder, old='certificate = "cert.pem"', new=f'certificate = "cert.pem"\nclient_ca = "{file}"')
    assert result.is_usable == (not said)
    assert [problem for problem in problems if "client_ca" not in problem or said not in problem] == []
    assert len(problems) == bool(said)


def test_accounts_that_know_different_mechanisms(folder: Path) -> None:
    stored = "4096,c2l4dGVlbiBvY3RldHMuLg==,NE2pfr2xjWVXaA5MMUKmPmyFFyN+tIzSpMDd6wGzkMs=,S6/LHrFDqzbn8+Qh+mJIGbXLXUDfD9hyGF1ObOSNnaE="
    (folder / "users").write_text(f"anna:{{SCRAM-SHA-256}}{stored}\n")
    (folder / "users").chmod(0o600)
    (folder / "old").write_text("ben:secret\n")
    accounts = f"""
[accounts.staff]
type = "password-file"
path = "users"
[accounts.old]
type = "strcred"
value = "file:{folder}/old"
[accounts.laptops]
type = "certificates"
any_address = true
"""
    _, problems = checked(folder, accounts, old='endpoint = "tcp:25"', new='endpoint = "tcp:25"\naccounts = ["staff", "old", "laptops"]')
    assert [problem.partition("warning: ")[2] for problem in problems] == [
        '[listen.mx] accounts: SCRAM-SHA-256 is offered, as "staff" can serve it, but users of "old" cannot log in by it'
    ]


@pytest.mark.parametrize(
    ("endpoint", "warned"), [("tcp:25", True), ("tcp:25:interface=127.0.0.1", False), ("unix:/run/x", False), ("tls:25", False)]
)
def test_logins_in_clear(folder: Path, endpoint: str, warned: bool) -> None:
    accounts = '[accounts.a]\ntype = "certificates"\nany_address = true\n'
    new = f'endpoint = "{endpoint}"\naccounts = "a"\nallow_cleartext_auth = true'
    _, problems = checked(folder, accounts, old='endpoint = "tcp:25"', new=new)
    assert [problem.partition("warning: ")[2] for problem in problems] == (
        [
            "[listen.mx] allow_cleartext_auth: lets clients log in where others may listen; "
            "only mechanisms that show no password are offered to them there"
        ]
        if warned
        else []
    )


def test_errors_inside_and_outside_are_told_together(folder: Path) -> None:
    (folder / "key.pem").unlink()
    result, problems = checked(folder, "colour = 1\n[policy.x]\ntype = 'lst'\n", old='kind = "relay"', new='kind = "relay"\nmax_hops = "x"')
    assert [problem.partition(" ")[0] for problem in problems if "warning" not in problem] == [
        *("DIR/mailgw.toml:6:", "DIR/mailgw.toml:9:", "DIR/mailgw.toml:19:", "DIR/mailgw.toml:21:")
    ]
    assert result.matrix == ()
    assert not result.is_usable


@pytest.mark.parametrize("text", ["[server", "", "\xff"], ids=["no TOML", "empty", "no server"])
def test_a_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mailgw.toml"
    path.write_text(text)
    result = check(path, still_house)
    assert result.problems
    assert result.matrix == ()
    assert not result.is_usable


def test_nothing_is_said_of_a_server_that_is_not_known(folder: Path) -> None:
    _, problems = checked(folder, old='hostname = "mx.example.org"', new='hostname = "mx example"')
    assert problems == ['DIR/mailgw.toml:2: [server] hostname: "mx example": domain is not a valid host name']


BRAND = '[tls.brand]\ncertificate = "brand.pem"\nkey = { file = "brand.key" }\n'


def certify_brand(folder: Path, authority: trustme.CA, *names: str, until: datetime | None = None) -> None:
    other = folder / "other"
    other.mkdir()
    certify(other, authority, *names, until=until)
    (other / "cert.pem").rename(folder / "brand.pem")
    (other / "key.pem").rename(folder / "brand.key")


def both(folder: Path, old: str = 'endpoint = "tcp:25"', new: str = 'endpoint = "tcp:25"\ntls = ["default", "brand"]') -> list[str]:
    return checked(folder, BRAND, old, new)[1]


def test_a_certificate_for_another_name_of_ours(folder: Path, authority: trustme.CA) -> None:
    certify_brand(folder, authority, "mail.brand.example")
    assert both(folder) == []
    text = "warning: [tls.brand] certificate: does not cover our name, mx.example.org"
    assert both(folder, new='endpoint = "tcp:25"\ntls = ["brand", "default"]') == [f"DIR/mailgw.toml:20: {text}"]


@pytest.mark.parametrize("names", [("mx.example.org",), ("anna@example.org",)], ids=["the same names", "no host name"])
def test_a_certificate_that_is_never_picked(folder: Path, authority: trustme.CA, names: tuple[str]) -> None:
    certify_brand(folder, authority, *names)
    why = "it holds no host name" if "@" in names[0] else "those before it have all of its names"
    text = f"no client will ever be shown the certificate of [tls.brand]: {why}"
    assert both(folder) == [f"DIR/mailgw.toml:10: warning: [listen.mx] tls, item 2: {text}"]


def test_all_certificates_of_a_listener_are_looked_at(folder: Path, authority: trustme.CA) -> None:
    until = NOW.replace(microsecond=0) - timedelta(days=1)
    certify_brand(folder, authority, "mail.brand.example", until=until)
    [problem] = both(folder)
    assert problem.startswith("DIR/mailgw.toml:20: [tls.brand] certificate: the certificate of ")
    assert problem.endswith(f" expired on {until:%Y-%m-%d}")
    (folder / "brand.pem").unlink()
    assert both(folder) == ["DIR/mailgw.toml:20: [tls.brand] certificate: DIR/brand.pem: No such file or directory"]


def test_clients_whose_certificates_are_not_asked_for(folder: Path, authority: trustme.CA) -> None:
    certify_brand(folder, authority, "mail.brand.example")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    text = "clients that ask for a name of [tls.brand] are not asked for certificates as those of [tls.default] are"
    path = folder / "mailgw.toml"
    for brand, problems in (("", [f"DIR/mailgw.toml:11: warning: [listen.mx] tls, item 2: {text}"]), ('client_ca = "ca.pem"\n', [])):
        own = TEXT.replace('key = { file = "key.pem" }\n', 'key = { file = "key.pem" }\nclient_ca = "ca.pem"\n')
        own = own.replace('endpoint = "tcp:25"\n', 'endpoint = "tcp:25"\ntls = ["default", "brand"]\n')
        path.write_text(own + BRAND + brand)
        assert [str(problem).replace(str(folder), "DIR") for problem in check(path, still_house, NOW).problems] == problems
