"""Twisted's checkers, made of strings."""

import pytest
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from zope.interface.verify import verifyObject

from mailgw.components import find
from mailgw.credentials import AccountsUnavailable, IAccounts
from mailgw.login.strcred import Strcred
from mailgw.testing import run


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "passwords"
    path.write_text("anna:geheim\njörg:geheim\n", encoding="utf-8")
    return path


def login(accounts, name, password):
    try:
        return run(accounts.requestAvatarId(UsernamePassword(name, password)))
    except UnauthorizedLogin:
        return None


@pytest.mark.parametrize(
    ("name", "password", "login_as"),
    [("anna", "geheim", "anna"), ("jörg", "geheim", "jörg"), ("anna", "wrong", None), ("nobody", "geheim", None), ("anna", "", None)],
)
def test_a_file(path, name, password, login_as):
    assert login(Strcred(f"file:{path}"), name, password) == login_as


def test_the_contract(path):
    assert find("strcred", IAccounts) is Strcred
    accounts = Strcred(f"file:{path}")
    assert verifyObject(IAccounts, accounts)
    assert accounts.mechanisms() == {"PLAIN", "LOGIN"}


def test_a_file_that_goes_away_is_an_outage(path):
    accounts = Strcred(f"file:{path}")
    path.unlink()
    with pytest.raises(AccountsUnavailable, match="passwords cannot be read"):
        login(accounts, "anna", "geheim")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("fiel:/etc/users", 'there is no "fiel:"; did you mean "file"'),
        ("xyz", 'there is no "xyz:"; there are file, unix'),
        ("memory:anna:secret", '"memory:" would keep passwords in the configuration'),
        ("file", 'of this "file:" no checker can be made'),
        ("anonymous", 'of this "anonymous:" no checker can be made'),
        ("file:/nowhere/users", "/nowhere/users cannot be read"),
    ],
)
def test_bad_values(value, why):
    with pytest.raises(ValueError, match=why) as caught:
        Strcred(value)
    assert "secret" not in str(caught.value)
