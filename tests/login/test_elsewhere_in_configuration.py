"""Accounts elsewhere and logins at smarthosts as an administrator writes them: what is built, and each mistake with its line."""

from pathlib import Path

import pytest
import trustme

from mailgw.admin.checking import check
from mailgw.admin.still_house import still_house

CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
[tls.default]
certificate = "own.pem"
key = {{ file = "own.key" }}
[accounts.who]
{accounts}
[listen.submission]
kind = "submission"
endpoint = "tcp:587"
accounts = "who"
[[permit]]
on = "submission"
authenticated = true
[[route]]
otherwise = true
gateway = "out"
[gateway.out]
type = "smarthost"
{smarthost}
"""
DOVECOT = 'type = "dovecot"\naddress = "unix:/run/dovecot/auth-client"'
SMARTHOST = 'address = "smtp.example.org"'
OAUTH = 'login = "ann"\ntls = "require"\noauth = {{ token_url = "{}", client_id = "x"{} }}'
SECRET = ', client_secret = { file = "secret" }'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    issued = trustme.CA().issue_cert("mx.example.org")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "own.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "own.key"))
    return tmp_path


def errors(folder: Path, accounts: str = DOVECOT, smarthost: str = SMARTHOST) -> list[str]:
    path = folder / "mailgw.toml"
    path.write_text(CONFIGURATION.format(accounts=accounts, smarthost=smarthost))
    return [f"{problem.line}: {problem.text}" for problem in check(path, still_house).problems if problem.severity == "error"]


@pytest.mark.parametrize(
    ("accounts", "smarthost"),
    [
        (DOVECOT, SMARTHOST),
        ('type = "ldap"\nurl = "ldaps://ldap.example.org"\nbase = "dc=x"', SMARTHOST),
        ('type = "ldap"\nurl = "ldap://127.0.0.1"\nstarttls = false\nuser_dn = "uid={login},dc=x"', SMARTHOST),
        ('type = "http"\nurl = "https://id.example.org/"\nbearer = { file = "secret" }', SMARTHOST),
        ('type = "oauth"\nissuer = "x"\naudience = "mail"\nkeys_url = "https://id.example.org/keys"\nalgorithms = ["EdDSA"]', SMARTHOST),
        (
            'type = "oauth"\nintrospection = "https://id.example.org/"\nclient_id = "x"\nclient_secret = { file = "secret" }\ncache = "5m"',
            SMARTHOST,
        ),
        (DOVECOT, f'{SMARTHOST}\ntls = "require"\nlogin = "ann"\npassword = {{ file = "secret" }}'),
        (DOVECOT, 'address = "127.0.0.1:2525"\ntls = "never"\nlogin = "ann"\npassword = { file = "secret" }'),
        (DOVECOT, f"{SMARTHOST}\n{OAUTH.format('https://id.example.org/token', SECRET)}"),
        (DOVECOT, f'{SMARTHOST}\ntls = "implicit"\ncertificate = "own.pem"\nkey = {{ file = "own.key" }}'),
    ],
)
def test_good_ones(folder: Path, accounts: str, smarthost: str) -> None:
    assert errors(folder, accounts, smarthost) == []


@pytest.mark.parametrize(
    ("accounts", "error"),
    [
        ('type = "dovecott"', '8: [accounts.who] there is no component "dovecott"; did you mean "dovecot"?'),
        ('type = "dovecot"', '7: [accounts.who] needs "address"'),
        (
            'type = "dovecot"\naddress = "auth-client"',
            '7: [accounts.who] address: "auth-client" is none; write it like "unix:/run/dovecot/auth-client" or "127.0.0.1:12345"',
        ),
        ('type = "http"\nurl = "http://id.example.org/"', "7: [accounts.who] url must begin with https:// and a host: secrets go there"),
        (
            'type = "oauth"\nissuer = "x"\naudience = "y"\nkeys_url = "https://x/"\nalgorithms = ["HS256"]',
            '12: [accounts.who] algorithms, item 1: "HS256" is not "RS256"',
        ),
        (
            'type = "ldap"\nurl = "ldap://ldap.example.org"\nstarttls = false\nbase = "x"',
            "7: [accounts.who] starttls = false would send passwords in clear over the network",
        ),
    ],
)
def test_bad_accounts(folder: Path, accounts: str, error: str) -> None:
    [found] = errors(folder, accounts)
    assert found.startswith(error)


@pytest.mark.parametrize(
    ("smarthost", "error"),
    [
        ('tls = "offered"\nlogin = "ann"\npassword = { file = "x" }', 'a login needs tls = "require" or "implicit"'),
        ('login = "ann"\ntls = "require"', "login needs a password, oauth or a certificate"),
        ('login = "ann"\ntls = "require"\npassword = "hunter2"', 'password: write a secret as { file = "..." }'),
        ('certificate = "none.pem"\nkey = { file = "own.key" }\ntls = "require"', "none.pem: No such file or directory"),
        (OAUTH.format("http://id.example.org/token", SECRET), "oauth: token_url must begin with https://"),
        (OAUTH.format("https://id.example.org/token", ""), "oauth: oauth needs client_secret or refresh_token"),
        (OAUTH.format("https://id.example.org/token", ', scopes = "x"'), 'oauth: has no key "scopes"; did you mean "scope"?'),
    ],
)
def test_bad_smarthosts(folder: Path, smarthost: str, error: str) -> None:
    [found] = errors(folder, smarthost=f"{SMARTHOST}\n{smarthost}")
    assert "[gateway.out]" in found
    assert error in found
    assert "hunter2" not in found
