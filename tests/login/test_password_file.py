"""Password files: who is let in, what is offered, what happens when the file changes."""

import hmac
import os
import stat

import pytest
from attrs import frozen
from twisted.cred.credentials import IUsernameHashedPassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.components import find
from mailgw.credentials import AccountsUnavailable, IAccounts, IScramProof, ScramVerifier
from mailgw.login import hashing
from mailgw.login.password_file import PasswordFile
from mailgw.login.password_lines import read_accounts
from mailgw.login.schemes import make, read_stored
from mailgw.testing import at
from mailgw.testing.stores import Pump

NOON = "2026-01-05T10:00+00:00"
NOW = at(NOON).now().timestamp()
FAST = "$2y$05$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq"  # bcrypt of "geheim", 2 ms
ANNA_1 = "{SCRAM-SHA-1}4096,35Q5M0Bt3lt7GoCKNIS38w==,KtG3PqbQk5zQTShqRySXGWrYUjw=,1u/g3ALN9k2oJ4EUvfIT2X8YSWI="
ANNA_256 = (
    "{SCRAM-SHA-256}4096,w/WjsvSh4z6ezoNDVu0Y5A==,0YnWXemBAweKNkwHRxnhDcOE8si4uQ6ocWrMSFOJkbQ=,"
    "AvTUgdSs/FnXcDgEODJ+/8Ok9FeYBIHAnxTAFCwmU3c="
)
FILE = f"""\
# staff
anna:{FAST}
Ben@Example.org:{{BLF-CRYPT}}{FAST}:1000:1000::/home/ben::userdb_quota_rule=*:storage=1G

jörg:{FAST}
locked:!{FAST}
away:{FAST}:::::: nologin
scram:{ANNA_256}
"""


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "users", FILE)


@pytest.fixture
def clock():
    return at(NOON)


@pytest.fixture
def pump():
    return Pump()


@pytest.fixture
def logged():
    events = []
    globalLogPublisher.addObserver(events.append)
    yield lambda: [event["log_format"].format(**event) for event in events if event["log_namespace"].startswith("mailgw.login")]
    globalLogPublisher.removeObserver(events.append)


@pytest.fixture
def opened(pump, clock):
    """How to open a file; what was opened is closed in the end."""
    files = []

    def open_file(path, **settings):
        files.append(PasswordFile(path, threads=pump, steady=Clock(), clock=clock, **settings))
        return files[-1]

    yield open_file
    for file in files:
        file.close()


def write(path, text, changed=NOW - 60, mode=0o600):
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    os.utime(path, (changed, changed))
    return path


def login(pump, file, name, password):
    """As whom they log in; None for nobody."""
    try:
        return pump.run(file.requestAvatarId(UsernamePassword(name, password)))
    except UnauthorizedLogin:
        return None


@pytest.mark.parametrize(
    ("name", "password", "login_as"),
    [
        ("anna", "geheim", "anna"),
        (b"anna", b"geheim", "anna"),
        ("ANNA", "geheim", "anna"),
        ("anna", "Geheim", None),
        ("anna", "", None),
        ("anna", FAST, None),
        ("anna", "x" * 5000, None),
        ("anna", b"\xff\0", None),
        ("ben@example.ORG", "geheim", "Ben@Example.org"),
        ("ben", "geheim", None),
        ("JÖRG", "geheim", "jörg"),
        ("jo\u0308rg", "geheim", "jörg"),
        (b"j\xf6rg", "geheim", None),
        ("locked", "geheim", None),
        ("away", "geheim", None),
        ("scram", "geheim", "scram"),
        ("scram", "geheiM", None),
        ("nobody", "geheim", None),
        ("", "geheim", None),
        ("# staff", "geheim", None),
        ("an\0na", "geheim", None),
        ("anna:x", "geheim", None),
    ],
)
def test_passwords(opened, pump, path, name, password, login_as):
    assert login(pump, opened(path), name, password) == login_as


def test_case_may_count(opened, pump, tmp_path):
    file = opened(write(tmp_path / "users", f"anna:{FAST}\nAnna:{{BLF-CRYPT}}{FAST}\n"), case_sensitive=True)
    assert [login(pump, file, name, "geheim") for name in ("anna", "Anna", "ANNA")] == ["anna", "Anna", None]


def test_the_contract(opened, path):
    assert find("password-file", IAccounts) is PasswordFile
    assert verifyObject(IAccounts, opened(path))


@pytest.mark.parametrize(
    ("lines", "settings", "also"),
    [
        pytest.param([f"a:{FAST}"], {}, set(), id="hashes"),
        pytest.param([], {}, set(), id="nobody"),
        pytest.param([f"a:{ANNA_256}", f"b:{ANNA_256}", "c:!"], {}, {"SCRAM-SHA-256"}, id="all scram-sha-256, or locked"),
        pytest.param([f"a:{ANNA_1}"], {}, {"SCRAM-SHA-1"}, id="all scram-sha-1"),
        pytest.param([f"a:{ANNA_1}", f"b:{ANNA_256}"], {}, set(), id="one of each"),
        pytest.param([f"a:{ANNA_256}", f"b:{FAST}"], {}, set(), id="scram and bcrypt"),
        pytest.param(["a:{PLAIN}x"], {"allow_plaintext": True}, set(), id="clear, not wanted"),
        pytest.param(["a:{PLAIN}x", "b:{PLAIN}y"], {"allow_plaintext": True, "cram_md5": True}, {"CRAM-MD5"}, id="all clear"),
        pytest.param(["a:{PLAIN}x", f"b:{FAST}"], {"allow_plaintext": True, "cram_md5": True}, set(), id="not all clear"),
    ],
)
def test_mechanisms(opened, tmp_path, lines, settings, also):
    file = opened(write(tmp_path / "users", "\n".join(lines)), **settings)
    assert file.mechanisms() == {"PLAIN", "LOGIN"} | also


# ── SCRAM and CRAM-MD5 ──


@implementer(IScramProof)
class Proof:
    """A client that knows the password, as far as one can without a network: it looks whether the verifier is its own."""

    def __init__(self, username, hash_name="SHA-256", password=b"geheim"):
        self.username, self.hash_name, self.password = username, hash_name, password
        self.asked = []

    async def prove(self, verifier):
        assert isinstance(verifier, ScramVerifier)
        assert verifier.hash_name == self.hash_name
        self.asked.append(verifier)
        return verifier in [read_stored(text).verifier for text in (ANNA_1, ANNA_256)] and self.password == b"geheim"


def prove(pump, file, proof):
    try:
        return pump.run(file.requestAvatarId(proof))
    except UnauthorizedLogin:
        return None


@pytest.mark.parametrize(
    ("name", "hash_name", "password", "login_as"),
    [
        ("scram", "SHA-256", b"geheim", "scram"),
        ("SCRAM", "SHA-256", b"geheim", "scram"),
        ("scram", "SHA-256", b"wrong", None),
        ("scram", "SHA-1", b"geheim", None),
        ("anna", "SHA-256", b"geheim", None),
        ("locked", "SHA-256", b"geheim", None),
        ("nobody", "SHA-256", b"geheim", None),
    ],
)
def test_scram(opened, pump, path, name, hash_name, password, login_as):
    proof = Proof(name, hash_name, password)
    assert prove(pump, opened(path), proof) == login_as
    assert len(proof.asked) == 1


def test_a_made_up_verifier_cannot_be_told_from_a_real_one(opened, pump, tmp_path):
    file = opened(write(tmp_path / "users", f"scram:{ANNA_256}\nother:{ANNA_256}\n"))
    real = read_stored(ANNA_256).verifier
    asked = []
    for name in ("nobody", "NOBODY", "somebody", "nobody"):
        proof = Proof(name)
        prove(pump, file, proof)
        asked += proof.asked
    one, again, other, last = asked
    assert one.made_up
    assert not real.made_up
    assert one == again == last
    assert one.salt != other.salt
    assert (one.iterations, len(one.salt), len(one.stored_key)) == (real.iterations, len(real.salt), len(real.stored_key))
    # Another process that reads the same file has the same.
    proof = Proof("nobody")
    prove(pump, opened(file.path), proof)
    assert proof.asked == [one]


@implementer(IUsernameHashedPassword)
@frozen
class Digest:
    username: str
    digest: bytes

    def checkPassword(self, password):  # noqa: N802
        return hmac.digest(password, b"challenge", "md5") == self.digest


@pytest.mark.parametrize(
    ("name", "password", "cram_md5", "login_as"),
    [
        ("anna", b"geheim", True, "anna"),
        ("anna", b"wrong", True, None),
        ("anna", b"geheim", False, None),
        ("nobody", b"geheim", True, None),
        ("nobody", b"nobody's", True, None),
        ("hashed", b"nobody's", True, None),
    ],
)
def test_cram_md5(opened, pump, tmp_path, name, password, cram_md5, login_as):
    path = write(tmp_path / "users", f"anna:{{PLAIN}}geheim\nhashed:{FAST}\n")
    file = opened(path, allow_plaintext=True, cram_md5=cram_md5)
    assert prove(pump, file, Digest(name, hmac.digest(password, b"challenge", "md5"))) == login_as


def test_cram_md5_needs_passwords_in_clear(opened, path):
    with pytest.raises(ValueError, match="cram_md5 needs allow_plaintext"):
        opened(path, cram_md5=True)


# ── What is wrong with a file ──


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("anna:secret\n", r":1: anna: is no hash"),
        (f"\n# x\nanna:{FAST}\nben:{{MD5}}secret\n", r":4: ben: scheme MD5 is too weak; .*mailgw account passwd"),
        ("anna:{PLAIN}secret", ":1: anna: holds a password in clear, and allow_plaintext is not set"),
        (f"anna:{FAST}\nANNA:{FAST}\n", r":2: ANNA is in line 1 already"),
        ("anna\n", ":1: is no account: a line is USER:HASH"),
        (f":{FAST}\n", ":1: the user's name is empty"),
        (f"a\x07b:{FAST}\n", ":1: the user's name .*not allowed"),
        (f"anna:{FAST}:::::: allow_nets=10.0.0.0/8\n", ":1: anna: mailgw does not obey allow_nets"),
        ("anna::::::: nopassword=y\n", ":1: anna: mailgw does not obey nopassword"),
        ("a:s\nb:s\nc:s\nd:s\ne:s\n", ":1: a: .*:2: b: .*:3: c: .*; and 2 more$"),
    ],
)
def test_a_file_that_cannot_be_used(opened, tmp_path, text, why):
    path = write(tmp_path / "users", text)
    with pytest.raises(ValueError, match=f"^{path}{why}") as caught:
        opened(path)
    assert "secret" not in str(caught.value)
    assert FAST not in str(caught.value)


def test_octets_that_are_no_text(opened, tmp_path):
    path = tmp_path / "users"
    path.write_bytes(f"anna:{FAST}\n".encode() + b"j\xf6rg:x\n")
    with pytest.raises(ValueError, match=f"^{path}:2: is not UTF-8"):
        opened(path)


def test_a_file_that_is_not_there(opened, tmp_path):
    with pytest.raises(ValueError, match="nowhere: No such file"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, False), (0o600, False)])
def test_everybody_may_read_it(opened, tmp_path, logged, mode, warned):
    path = write(tmp_path / "users", FILE, mode=mode)
    opened(path)
    assert [text for text in logged() if "can be read by everybody" in text] == (
        [f"{path} can be read by everybody on this machine: chmod o-r {path}"] if warned else []
    )
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_windows_line_ends(opened, pump, tmp_path):
    path = tmp_path / "users"
    path.write_bytes(f"anna:{FAST}\r\n\r\nben:{FAST}\r\n".encode())
    assert login(pump, opened(path), "ben", "geheim") == "ben"


# ── The file changes ──


def test_a_change_is_seen_at_the_next_login(opened, pump, path, clock, logged):
    file = opened(path)
    assert login(pump, file, "anna", "geheim") == "anna"
    write(path, f"carol:{ANNA_256}\n", changed=NOW - 5)
    clock.advance(2)
    assert login(pump, file, "anna", "geheim") is None
    assert login(pump, file, "carol", "geheim") == "carol"
    assert file.mechanisms() == {"PLAIN", "LOGIN", "SCRAM-SHA-256"}
    assert [text for text in logged() if "again" in text] == [f"{path} was read again: 1 accounts"]


def test_a_change_is_seen_by_who_asks_for_mechanisms(opened, pump, path, clock):
    file = opened(path)
    write(path, f"carol:{ANNA_256}\n", changed=NOW - 5)
    clock.advance(2)
    assert file.mechanisms() == {"PLAIN", "LOGIN"}
    pump.run(file._reading.run(lambda: None))
    assert file.mechanisms() == {"PLAIN", "LOGIN", "SCRAM-SHA-256"}


def test_a_change_is_seen_by_all_who_log_in_at_once(opened, pump, path, clock):
    file = opened(path)
    clock.advance(2)
    write(path, "anna:!\n", changed=NOW - 5)
    answers = pump.run_all(file.requestAvatarId(UsernamePassword("anna", "geheim")) for _ in range(20))
    assert [type(answer) for answer in answers] == [UnauthorizedLogin] * 20


def test_a_file_that_is_just_being_written_is_left_alone(opened, pump, path, clock):
    file = opened(path)
    clock.advance(2)
    write(path, f"carol:{FAST}\n", changed=NOW + 2)
    assert login(pump, file, "anna", "geheim") == "anna"
    clock.advance(2)
    assert login(pump, file, "carol", "geheim") == "carol"


@pytest.mark.parametrize("how", ["broken", "gone"])
def test_a_file_that_breaks_leaves_the_last_good_one_in_force(opened, pump, path, clock, logged, how):
    file = opened(path)
    if how == "broken":
        write(path, "anna:secret\n", changed=NOW - 5)
    else:
        path.unlink()
    for _ in range(3):
        clock.advance(2)
        assert login(pump, file, "anna", "geheim") == "anna"
    [complaint] = [text for text in logged() if "cannot be read again" in text]
    assert complaint.startswith("the accounts cannot be read again, the 6 of before stay in force: ")
    assert ("is no hash" if how == "broken" else "No such file") in complaint
    assert "secret" not in complaint
    write(path, f"carol:{FAST}\n", changed=NOW - 4)
    clock.advance(2)
    assert login(pump, file, "carol", "geheim") == "carol"


# ── Hashing ──


@pytest.mark.parametrize("scheme", ["argon2id", "bcrypt", "scram-sha-256"])
def test_an_unknown_user_costs_what_a_wrong_password_costs(opened, pump, tmp_path, monkeypatch, scheme):
    text = make(scheme, "geheim")
    file = opened(write(tmp_path / "users", f"anna:{text}\nlocked:!\n"))
    hashed = []
    whole = hashing.StoredPassword.is_right
    monkeypatch.setattr(hashing.StoredPassword, "is_right", lambda self, password: hashed.append(self.text) or whole(self, password))
    for name in ("anna", "nobody", "locked", "", "a\0b"):
        assert login(pump, file, name, "wrong") is None
    assert hashed == [text] * 5


def test_what_most_accounts_cost_is_the_decoy_s_cost(path):
    ten = make("bcrypt", "x")
    text = f"a:{ten}\nb:{FAST}\nc:{FAST}\nd:{ANNA_1}\ne:!\nf:!\ng:!\n"
    decoy = read_accounts(path, text.encode()).decoys.password
    assert (decoy.scheme, decoy.cost) == ("bcrypt", "05")
    assert read_accounts(path, b"").decoys.password.scheme == "argon2id"


def test_the_decoy_s_own_password_opens_nothing(opened, pump, path):
    assert login(pump, opened(path), "nobody", "geheim") is None
    assert login(pump, opened(path), "locked", "geheim") is None


def test_too_many_at_once_is_an_outage(opened, pump, path):
    file = opened(path)
    limit = hashing._WAITING + 2
    answers = pump.run_all(file.requestAvatarId(UsernamePassword("anna", "geheim")) for _ in range(limit + 5))
    assert answers[:limit] == ["anna"] * limit
    assert [type(answer) for answer in answers[limit:]] == [AccountsUnavailable] * 5
    assert login(pump, file, "anna", "geheim") == "anna"


def test_after_the_end_nobody_is_let_in(opened, pump, path):
    file = opened(path)
    file.close()
    with pytest.raises(AccountsUnavailable):
        login(pump, file, "anna", "geheim")


@pytest.fixture
def counted(monkeypatch):
    """The passwords that were really hashed."""
    hashed = []
    whole = hashing.StoredPassword.is_right

    def is_right(self, password):
        hashed.append(password)
        return whole(self, password)

    monkeypatch.setattr(hashing.StoredPassword, "is_right", is_right)
    return hashed


def test_a_success_is_remembered_for_a_while(opened, pump, path, clock, counted):
    file = opened(path, cache=300.0)
    for _ in range(3):
        assert login(pump, file, "anna", "geheim") == "anna"
    assert counted == [b"geheim"]
    for _ in range(2):
        assert login(pump, file, "anna", "wrong") is None
        assert login(pump, file, "nobody", "geheim") is None
        assert login(pump, file, "locked", "geheim") is None
    assert counted[1:] == [b"wrong", b"geheim", b"geheim"] * 2
    file.steady.advance(301)
    counted.clear()
    assert login(pump, file, "anna", "geheim") == "anna"
    assert counted == [b"geheim"]
    assert "geheim" not in repr(file._checks._remembered)
    write(path, FILE + "# changed\n", changed=NOW - 5)
    clock.advance(2)
    counted.clear()
    assert login(pump, file, "anna", "geheim") == "anna"
    assert counted == [b"geheim"]


def test_without_a_cache_nothing_is_remembered(opened, pump, path, counted):
    file = opened(path)
    for _ in range(3):
        assert login(pump, file, "anna", "geheim") == "anna"
    assert len(counted) == 3


def test_what_is_remembered_is_bounded(pump, monkeypatch):
    monkeypatch.setattr(hashing, "_MOST_REMEMBERED", 3)
    checks = hashing.PasswordChecks(pump, Clock(), remember=60.0)
    for number in range(6):
        stored = read_stored(f"{{PLAIN}}{number}", allow_plaintext=True)
        assert pump.run(checks.is_right(stored, str(number).encode()))
    assert len(checks._remembered) == 3
    checks.close()
