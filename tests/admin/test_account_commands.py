"""``mailgw account``: password files are changed as a whole or not at all, and no secret is shown."""

import json
import os
import pty
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailgw.admin import password_writing
from mailgw.admin.cli import main
from mailgw.admin.password_writing import changing
from mailgw.login.password_lines import read_accounts

FAST = "$2y$05$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq"  # bcrypt of "geheim"
SCRAM = (
    "{SCRAM-SHA-256}4096,w/WjsvSh4z6ezoNDVu0Y5A==,0YnWXemBAweKNkwHRxnhDcOE8si4uQ6ocWrMSFOJkbQ=,"
    "AvTUgdSs/FnXcDgEODJ+/8Ok9FeYBIHAnxTAFCwmU3c="
)
FILE = f"""\
# staff
anna:{FAST}

Ben:{{BLF-CRYPT}}{FAST}:1000:1000::/home/ben:: userdb_x=y
locked:!{FAST}
  # the end
"""
CONFIGURATION = """\
[accounts.staff]
type = "password-file"
path = "users"
[accounts.careful]
type = "password-file"
path = "careful"
case_sensitive = true
allow_plaintext = true
[accounts.customers]
type = "sql"
database = "sqlite:/var/lib/users.db"
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with a configuration and a password file; the one that is current."""
    (tmp_path / "mailgw.toml").write_text(CONFIGURATION)
    (tmp_path / "users").write_text(FILE)
    (tmp_path / "users").chmod(0o640)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAILGW_CONFIG", "mailgw.toml")
    return tmp_path


def say(*words, said=""):
    result = CliRunner().invoke(main, ["account", *words], input=said)
    assert not isinstance(result.exception, Exception), result.exception
    for secret in ("geheim", "neu und lang", "$2y$", "$argon2", "4096,", "SCRAM-SHA-256}"):
        assert secret not in result.output
    return result


def verified(user, password, where="staff"):
    return say("verify", where, user, "--stdin", said=password + "\n").exit_code == 0


def test_add(place):
    result = say("add", "staff", "Carol@Example.org", "--stdin", "--scheme", "bcrypt", said="neu und lang\nmore\n")
    assert (result.exit_code, result.stdout) == (0, f"Carol@Example.org was added to {place / 'users'}\n")
    text = (place / "users").read_text()
    assert text.startswith(FILE)
    assert text.removeprefix(FILE).startswith("Carol@Example.org:$2b$12$")
    assert verified("carol@example.org", "neu und lang")
    assert not verified("carol@example.org", "more")
    assert verified("anna", "geheim")


def test_passwd(place):
    assert say("passwd", "staff", "BEN", "--stdin", "--scheme", "argon2id", said="neu und lang\n").exit_code == 0
    assert verified("ben", "neu und lang")
    assert not verified("ben", "geheim")
    before, after = FILE.split("\n"), (place / "users").read_text().split("\n")
    assert [*after[:3], *after[4:]] == [*before[:3], *before[4:]]
    assert after[3].startswith("Ben:{ARGON2ID}$argon2id$")
    assert after[3].endswith(":1000:1000::/home/ben:: userdb_x=y")


def test_passwd_opens_a_locked_account():
    assert not verified("locked", "geheim")
    assert say("passwd", "staff", "locked", "--stdin", "--scheme", "bcrypt", said="neu und lang").exit_code == 0
    assert verified("locked", "neu und lang")


def test_remove(place):
    result = say("remove", "staff", "anna")
    assert (result.exit_code, result.stdout) == (0, f"anna was removed from {place / 'users'}\n")
    assert (place / "users").read_text() == FILE.replace(f"anna:{FAST}\n", "")


def test_list(place):
    with (place / "users").open("a") as file:
        file.write(f"scram:{SCRAM}\nodd:secret\nweak:{{MD5}}secret\nclear:{{PLAIN}}secret\n")
    result = say("list", "staff")
    assert [line.split(None, 3) for line in result.stdout.splitlines()] == [
        ["USER", "KEPT", "AS", "LINE  PROBLEM"],
        ["anna", "bcrypt", "2", "-"],
        ["Ben", "bcrypt", "4", "-"],
        ["locked", "locked", "5", "-"],
        ["scram", "scram-sha-256", "7", "-"],
        ["odd", "-", "8", "is no hash of a scheme that can be used (a password in clear must be labelled {PLAIN})"],
        ["weak", "-", "9", "scheme MD5 is too weak; make a new hash, for example with: mailgw account passwd"],
        ["clear", "-", "10", "holds a password in clear, and allow_plaintext is not set"],
    ]
    assert "secret" not in result.output


def test_json():
    assert json.loads(say("add", "staff", "carol", "--stdin", "--scheme", "bcrypt", "--json", said="neu und lang").stdout) == {
        "user": "carol",
        "scheme": "bcrypt",
    }
    assert [(one["user"], one["scheme"], one["line"]) for one in json.loads(say("list", "staff", "--json").stdout)["accounts"]] == [
        ("anna", "bcrypt", 2),
        ("Ben", "bcrypt", 4),
        ("locked", "locked", 5),
        ("carol", "bcrypt", 7),
    ]
    said = say("verify", "staff", "CAROL", "--stdin", "--json", said="neu und lang")
    assert json.loads(said.stdout) == {"user": "carol", "verified": True}
    generated = json.loads(say("passwd", "staff", "carol", "--generate", "--json").stdout)
    assert verified("carol", generated["password"])
    assert json.loads(say("remove", "staff", "zoe", "--json").stdout)["error"]["kind"] == "not-found"


@pytest.mark.parametrize("words", ["add staff carol --generate", "passwd staff ben --generate", "remove staff anna"])
def test_who_changes_a_file_that_is_not_taken_up_hears_of_it(place, words):
    assert "keeps" not in say(*words.split()).stderr
    (place / "users").write_text("no account\n" + FILE)
    problem = f"{place / 'users'}:1: is no account: a line is USER:HASH; until that is mended, a running gateway keeps the accounts it has"
    assert f"mailgw: {problem}\n" in say(*words.replace("carol", "dora").split()).stderr


def test_a_generated_password_is_printed_once_and_alone(place):
    first, second = (say("add", "staff", user, "--generate", "--scheme", "bcrypt") for user in ("carol", "dora"))
    assert first.stdout != second.stdout
    password = first.stdout.strip()
    assert len(password) == 23
    assert first.stderr == f"mailgw: carol was added to {place / 'users'}\n"
    assert verified("carol", password)
    assert password not in (place / "users").read_text()


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ([], "$2b$"),  # as most
        (["--scram"], "{SCRAM-SHA-256}100000,"),
        (["--scheme", "scram-sha-1"], "{SCRAM-SHA-1}100000,"),
        (["--scheme", "sha512-crypt"], "$6$"),
        (["--scheme", "argon2id"], "{ARGON2ID}"),
    ],
)
def test_schemes(place, options, label):
    assert say("add", "staff", "carol", "--stdin", *options, said="neu und lang").exit_code == 0
    assert (place / "users").read_text().splitlines()[-1].startswith(f"carol:{label}")
    assert verified("carol", "neu und lang")


@pytest.mark.parametrize(
    ("text", "user", "label"),
    [
        ("", "carol", "{ARGON2ID}"),
        (f"anna:{SCRAM}\nben:!\ncarl:!\n", "carol", "{SCRAM-SHA-256}"),
        ("anna:{SSHA}yPQ7/azbL/Jkan/bsW8jhWTRCMXQMPGD\n", "carol", "{ARGON2ID}"),
        ("anna:{PLAIN}x\n", "carol", "{ARGON2ID}"),
        (f"anna:{SCRAM}\nben:{FAST}\ncarl:{FAST}\n", "anna", "{SCRAM-SHA-256}"),
        ("anna:{SSHA}yPQ7/azbL/Jkan/bsW8jhWTRCMXQMPGD\n", "anna", "{ARGON2ID}"),
    ],
    ids=["nobody there", "as most", "not like what is old", "not in clear", "as it was", "better than it was"],
)
def test_the_scheme_that_is_not_said(place, text, user, label):
    (place / "users").write_text(text)
    assert say("passwd" if user == "anna" else "add", "staff", user, "--stdin", said="neu und lang").exit_code == 0
    [line] = [line for line in (place / "users").read_text().splitlines() if line.startswith(user)]
    assert line.startswith(f"{user}:{label}")


def test_scram_is_for_all_or_for_nobody(place):
    (place / "users").write_text(f"anna:{SCRAM}\n")
    assert say("add", "staff", "ben", "--generate").stderr == f"mailgw: ben was added to {place / 'users'}\n"
    result = say("add", "staff", "carol", "--stdin", "--scheme", "bcrypt", said="neu und lang")
    assert result.stderr == "mailgw: SCRAM-SHA-256 is offered only while all accounts are kept so, and from now on they are not\n"


@pytest.mark.parametrize(
    ("words", "said", "status", "text"),
    [
        (["add", "staff", "anna", "--stdin"], "x", 2, "anna is in {place}/users already"),
        (["add", "staff", "ANNA", "--stdin"], "x", 2, "ANNA is in {place}/users already"),
        (["passwd", "staff", "ana", "--stdin"], "x", 1, 'there is no ana in {place}/users; did you mean "anna"?'),
        (["remove", "staff", "zoe"], "", 1, "there is no zoe in {place}/users"),
        (["add", "staff", "a:b", "--stdin"], "x", 2, "a user's name has 1 to 255 octets"),
        (["add", "staff", "#x", "--stdin"], "x", 2, "a user's name has 1 to 255 octets"),
        (["add", "staff", "", "--stdin"], "x", 2, "a user's name has 1 to 255 octets"),
        (["add", "staff", " x", "--stdin"], "x", 2, "a user's name has 1 to 255 octets"),
        (["add", "staff", "x" * 256, "--stdin"], "x", 2, "a user's name has 1 to 255 octets"),
        (["add", "staff", "a\nb", "--stdin"], "x", 2, "control characters are not allowed"),
        (["add", "staff", "carol", "--stdin"], "", 2, "the password is empty"),
        (["add", "staff", "carol", "--stdin"], "\n", 2, "the password is empty"),
        (["add", "staff", "carol", "--stdin"], "a\x07", 2, "control characters are not allowed"),
        (["add", "staff", "carol", "--stdin"], "x" * 1025, 2, "the password is longer than 1024 octets"),
        (["add", "staff", "carol", "--stdin"], b"\xff\n", 2, "the password is not UTF-8"),
        (["add", "staff", "carol", "--stdin", "--scheme", "bcrypt"], "x" * 73, 2, "bcrypt takes at most 72 octets"),
        (["add", "staff", "carol", "--stdin", "--scheme", "plain"], "x", 2, "[accounts.staff] does not say allow_plaintext = true"),
        (["add", "staff", "carol"], "x\nx\n", 2, "standard input is no terminal to ask for a password: say --stdin"),
        (["verify", "staff", "anna"], "geheim\n", 2, "standard input is no terminal to ask for a password: say --stdin"),
        (["verify", "staff", "anna", "--stdin"], "wrong", 1, "there is no such user with this password"),
        (["verify", "staff", "zoe", "--stdin"], "geheim", 1, "there is no such user with this password"),
        (["verify", "staff", "locked", "--stdin"], "geheim", 1, "locked is locked"),
        (["list", "stuff"], "", 2, 'there is no [accounts.stuff] in mailgw.toml; did you mean "staff"?; if a file is meant, write ./stuff'),
        (["list", "customers"], "", 2, '[accounts.customers] in mailgw.toml is no "password-file" with a path'),
        (["list", "./nowhere"], "", 3, "nowhere: No such file or directory"),
        (["passwd", "./nowhere", "anna", "--stdin"], "x", 3, "nowhere: No such file or directory"),
        (["remove", "./nowhere", "anna"], "", 1, "there is no anna in nowhere"),
        (["add", "/nowhere/users", "anna", "--stdin"], "x", 3, "/nowhere: No such file or directory"),
    ],
)
def test_refused(place, words, said, status, text):
    result = say(*words, said=said)
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith(f"mailgw: {text.format(place=place)}"), result.stderr
    assert (place / "users").read_text() == FILE
    assert sorted(path.name for path in place.iterdir()) == ["mailgw.toml", "users"]


def test_stdin_and_generate():
    assert say("add", "staff", "carol", "--stdin", "--generate", said="x").exit_code == 2


def test_a_password_cannot_be_an_argument():
    assert CliRunner().invoke(main, ["account", "add", "staff", "carol", "geheim"]).exit_code == 2
    takes = {option for command in main.commands["account"].commands.values() for one in command.params for option in one.opts}
    assert takes == {"where", "user", "--stdin", "--generate", "--scheme", "--scram", "--json"}


# ── Which file ──


def test_a_file_by_its_path(place):
    result = say("add", "./other", "carol", "--generate")
    assert result.exit_code == 0
    assert verified("carol", result.stdout.strip(), "./other")
    assert verified("carol", result.stdout.strip(), "other")  # as it is there now
    assert stat.S_IMODE((place / "other").stat().st_mode) == 0o640
    assert (place / "other").stat().st_gid == place.stat().st_gid


def test_what_the_configuration_says_holds(place):
    for user in ("anna", "Anna"):
        assert say("add", "careful", user, "--stdin", "--scheme", "plain", said=f"secret:of:{user}").exit_code == 0
    assert verified("Anna", "secret:of:Anna", "careful")
    assert not verified("anna", "secret:of:Anna", "careful")
    text = (place / "careful").read_bytes()
    assert read_accounts(place / "careful", text, allow_plaintext=True, case_sensitive=True).schemes == {"plain"}


def test_without_a_configuration(place, monkeypatch):
    monkeypatch.delenv("MAILGW_CONFIG")
    (place / "mailgw.toml").unlink()
    if not Path("/etc/mailgw/mailgw.toml").exists():
        result = say("list", "staff")
        assert result.stderr == "mailgw: there is no configuration to find staff in; if a file is meant, write ./staff\n"
    assert say("list", "users").exit_code == 0


def test_a_configuration_that_is_none(place):
    (place / "mailgw.toml").write_text("=")
    assert say("list", "staff").exit_code == 2
    assert say("list", "./users").exit_code == 0


# ── How it is written ──


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_the_mode_stays(place, mode):
    (place / "users").chmod(mode)
    say("remove", "staff", "anna")
    assert stat.S_IMODE((place / "users").stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_stays(place):
    os.chown(place / "users", 65534, 65533)
    say("remove", "staff", "anna")
    found = (place / "users").stat()
    assert (found.st_uid, found.st_gid) == (65534, 65533)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_who_is_not_the_owner_changes_nothing(place):
    place.chmod(0o777)
    (place / "users").chmod(0o644)
    program = """
import os, sys
from pathlib import Path
from mailgw.admin.password_writing import CannotWrite, changing
os.setgroups([]); os.setgid(65533); os.setuid(65534)
try:
    with changing(Path("users")) as page:
        page.add("x", "y")
except CannotWrite as problem:
    print(problem)
"""
    for folder in [place, *place.parents]:
        folder.chmod(folder.stat().st_mode | 0o011) if folder.is_relative_to("/tmp/") else None
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=place)
    assert said.stdout == f"{place / 'users'} belongs to user 0, group 0: only they and root can replace it\n", said.stderr
    assert sorted(path.name for path in place.iterdir()) == ["mailgw.toml", "users"]
    assert (place / "users").read_text() == FILE


def test_a_link_stays_a_link(place):
    (place / "users").rename(place / "real")
    (place / "users").symlink_to("real")
    say("remove", "staff", "anna")
    assert (place / "users").is_symlink()
    assert "anna" not in (place / "real").read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"anna:{FAST}\r\nben:{FAST}\r\n", "anna:new\r\nben:HASH\r\nzoe:x\n"),
        (f"ben:{FAST}\n\n#\nanna:{FAST}", "ben:HASH\n\n#\nanna:new\nzoe:x\n"),
        ("anna\n", "anna:new\nzoe:x\n"),
    ],
    ids=["CRLF", "no line end", "no hash"],
)
def test_lines(place, before, after):
    (place / "users").write_bytes(before.encode())
    with changing(place / "users") as page:
        page.replace(page.find("anna"), "new")
        page.add("zoe", "x")
    assert (place / "users").read_bytes() == after.replace("HASH", FAST).encode()


def test_a_user_who_is_there_twice_is_left_alone(place):
    (place / "users").write_text(f"anna:{FAST}\nANNA:{FAST}\n")
    result = say("remove", "staff", "anna")
    assert (result.exit_code, result.stderr) == (3, "mailgw: anna is there twice, in lines 1 and 2\n")


def test_octets_that_are_no_text_are_left_alone(place):
    (place / "users").write_bytes(b"anna:x\nj\xf6rg:x\n")
    result = say("remove", "staff", "anna")
    assert (result.exit_code, result.stderr) == (3, f"mailgw: {place / 'users'}:2: is not UTF-8\n")


def test_trouble_in_the_middle_leaves_the_old_file(place, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device", "users")

    monkeypatch.setattr(password_writing.os, "fsync", full)
    result = say("remove", "staff", "anna")
    assert (result.exit_code, result.stderr) == (3, "mailgw: users: No space left on device\n")
    assert (place / "users").read_text() == FILE
    assert sorted(path.name for path in place.iterdir()) == ["mailgw.toml", "users"]


def test_two_writers_and_a_reader(place):
    """Nothing is lost, and nobody ever sees half a file."""
    program = """
import sys
from pathlib import Path
from mailgw.admin.password_writing import changing
for number in range(40):
    with changing(Path("users")) as page:
        page.add(f"{sys.argv[1]}{number}", sys.argv[2])
"""
    command = [sys.executable, "-c", program]
    seen, over = [], threading.Event()

    def look():
        while not over.is_set():
            seen.append(len(read_accounts(place / "users", (place / "users").read_bytes()).by_key))

    reader = threading.Thread(target=look)
    reader.start()
    writers = [subprocess.Popen([*command, name, FAST], cwd=place) for name in ("x", "y")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    over.set()
    reader.join()
    assert len(read_accounts(place / "users", (place / "users").read_bytes()).by_key) == 83
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


def test_a_writer_who_does_not_end(place, monkeypatch):
    monkeypatch.setattr(password_writing, "_PATIENCE", 0.1)
    with changing(place / "users"):
        result = say("remove", "staff", "anna")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"mailgw: somebody else has been writing in {place} for 0.1 seconds")


def test_who_fails_while_changing_changes_nothing(place):
    with suppress(KeyError), changing(place / "users") as page:
        page.text = ""
        raise KeyError
    assert (place / "users").read_text() == FILE


# ── At a terminal ──


def at_a_terminal(place, words, answers):
    """Run the command at a terminal of its own; give its exit status and what stood on the screen."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(place)
        os.execv(sys.executable, [sys.executable, "-c", "from mailgw.admin.cli import main; main()", "account", *words])
    screen = b""
    for asked, answer in answers:
        while not screen.endswith(asked):
            screen += os.read(terminal, 1024)
        os.write(terminal, answer)
    try:
        while chunk := os.read(terminal, 1024):
            screen += chunk
    except OSError:  # the child has ended
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), screen.decode()


def test_the_prompt_asks_twice_and_shows_nothing(place):
    two = [(b"Password: ", b"neu und lang\n"), (b"Again: ", b"neu und lung\n")]
    again = [(b"Password: ", b"neu und lang\n"), (b"Again: ", b"neu und lang\n")]
    status, screen = at_a_terminal(place, ["passwd", "staff", "anna"], [*two, *again])
    assert status == 0
    assert "neu" not in screen
    assert "do not match" in screen
    assert verified("anna", "neu und lang")
    assert at_a_terminal(place, ["verify", "staff", "anna"], [(b"Password: ", b"neu und lang\n")])[0] == 0
    assert at_a_terminal(place, ["verify", "staff", "anna"], [(b"Password: ", b"geheim\n")])[0] == 1
