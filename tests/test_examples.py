"""The three doors for plugins, each proved by an example outside of the house, in a process of its own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
EXAMPLES = REPOSITORY / "examples"

BUILD = """\
import sys
from pathlib import Path
from mailgw.admin.still_house import still_house
from mailgw.api import IClock
from mailgw.assemble import load
from mailgw.journal import Held
from mailgw.testing import MemoryServer, at

def serve(moment="2026-01-05T10:00+00:00"):
    _, _, parts = load(Path(sys.argv[1]), lambda _: {**still_house(), IClock: at(moment)})
    rules = parts.rules["mx"]
    policies = {asked.component for asked in rules.client + rules.sender + rules.recipient + rules.content}
    return MemoryServer(policies=list(policies), permits=[asked.component for asked in rules.relay], routing=parts.routing)

def send(server, to, text="", ip="192.0.2.99"):
    talk = server.connect(ip)
    for line in ["EHLO client.example", "MAIL FROM:<sender@example.com>", f"RCPT TO:<{to}>"]:
        answer = talk.say(line)
    if answer.startswith("250") and text:
        talk.say("DATA")
        answer = talk.say(text.replace("\\n", "\\r\\n").encode() + b"\\r\\n.\\r\\n")
    return answer[:9].strip()
"""


def process(script, *arguments, path, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(REPOSITORY)]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-W", "error", *script, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def ask(script, configuration, path, cwd):
    done = process(["-c", BUILD + script], configuration, path=path, cwd=cwd)
    assert not done.stderr
    return done.stdout


def installed(project, folder):
    """What an installer would write for a project of one module: the module, and its metadata with the entry points."""
    about = tomllib.loads((project / "pyproject.toml").read_text())
    name, version = about["project"]["name"], about["project"]["version"]
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in points.items())
        for group, points in about["project"]["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    for module in about["tool"]["setuptools"]["py-modules"]:
        (folder / f"{module}.py").write_text((project / f"{module}.py").read_text())
    return folder


def test_an_entry_point(tmp_path):
    script = """
for moment in ("2026-01-05T10:00+00:00", "2026-01-05T17:00+00:00"):
    for ip in ("10.1.2.3", "192.0.2.99"):
        print(moment[11:16], ip, send(serve(moment), "anybody@example.com", ip=ip))
"""
    assert ask(script, EXAMPLES / "office_hours/mailgw.toml", installed(EXAMPLES / "office_hours", tmp_path), tmp_path).splitlines() == [
        "10:00 10.1.2.3 250 2.1.5",
        "10:00 192.0.2.99 550 5.7.1",
        "17:00 10.1.2.3 550 5.7.1",
        "17:00 192.0.2.99 550 5.7.1",
    ]


def test_a_drop_in(tmp_path):
    script = r"""
for name in ("a.txt", "a.exe"):
    server = serve()
    print(send(server, "anna@example.org", f'Subject: x\nContent-Disposition: attachment; filename="{name}"\n\nMZ\n'))
    print([(event.by, event.why) for event in server.notes.of(Held)])
"""
    lines = ask(script, EXAMPLES / "dropin/mailgw.toml", EXAMPLES / "dropin", tmp_path).splitlines()
    assert lines == ["250 2.0.0", "[]", "250 2.0.0", "[('Attachments', 'attachment a.exe')]"]


def test_a_class_named_in_the_configuration(tmp_path):
    script = r"""
server = serve()
for to in ("anna@example.org", "zoe@example.org", "1@example.org"):
    send(server, to, "Subject: x\n\nx\n")
print([parcel.destination.gateway for parcel in server.parcels])
"""
    assert ask(script, EXAMPLES / "by_initial.toml", EXAMPLES, tmp_path) == "['north', 'south', 'nowhere']\n"


@pytest.mark.parametrize(
    ("example", "module", "says"),
    [
        ("office_hours/mailgw.toml", "office_hours.py", 'component "office-hours" (entry point of mailgw-office-hours) cannot be imported'),
        ("dropin/mailgw.toml", "twisted/plugins/mailgw_attachments.py", "drop-in twisted.plugins.mailgw_attachments cannot be imported"),
        ("by_initial.toml", "by_initial.py", 'component "by_initial:ByInitial" (named by its class) cannot be imported'),
    ],
    ids=["entry point", "drop-in", "class"],
)
def test_a_plugin_that_cannot_be_imported_stops_the_start(tmp_path, example, module, says):
    if example.startswith("office"):
        installed(EXAMPLES / "office_hours", tmp_path)
    (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / module).write_text("import something_that_is_not_there\n")
    done = process(["-c", BUILD + "serve()"], EXAMPLES / example, path=tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "BadConfiguration" in done.stderr
    assert says in done.stderr
    assert "No module named 'something_that_is_not_there'" in done.stderr


def test_the_examples_have_tests_of_their_own(tmp_path):
    path = os.pathsep.join(str(EXAMPLES / folder) for folder in ("office_hours", "dropin/twisted/plugins", "."))
    done = process(["-m", "pytest", "-p", "no:cacheprovider"], EXAMPLES, path=path, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "14 passed" in done.stdout
