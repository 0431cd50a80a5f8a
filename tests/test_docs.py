"""The documentation runs: every fenced block of README.md and docs/*.md is executed, read or compared.

===================  ==================================================================================================================
```` ```python ````   executed, all blocks of one file in one namespace; its ``test_*`` functions are called
```` ```toml ````     parsed; under ``<!-- complete: mailgw.toml -->`` it is read as a configuration and lies in the folder of the console
```` ```console ````  ``$ command`` lines are run, one folder for each file, and what they print is compared; ``...`` stands for anything
```` ``` ````         without a language: only shown
===================  ==================================================================================================================

``<!-- only shown: why -->`` above a block: not run. ``<!-- from ../examples/x.py -->``: it stands in that file, word for word.
A console command that shows no output must print none.
"""

import os
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest
from attrs import frozen

from mailgw import api
from mailgw.components import catalogue
from mailgw.config.reading import read

REPOSITORY = Path(__file__).parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SAFE = {"mailgw", "cat", "ls"}  # what a console block may run

_FENCE = re.compile(r"^( *)(`{3,})([^`\n]*)\n(.*?)^\1\2`* *$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (complete|only shown|from)(?::? ([^>]*?))? -->\n\Z")


@frozen
class Block:
    page: Path
    line: int  # of its first line
    language: str
    text: str
    mark: str = ""
    said: str = ""


def blocks_of(page, text):
    for match in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, match.start())
        indent = len(match[1])
        lines = "".join(line[indent:] if line[:indent].isspace() else line for line in match[4].splitlines(keepends=True))
        yield Block(page, text.count("\n", 0, match.start(4)) + 1, match[3].strip(), lines, *((mark[1], mark[2] or "") if mark else ()))


class Page:
    """One page, run from top to bottom."""

    def __init__(self, path, folder):
        self.path, self.folder = path, folder
        self.module = ModuleType(f"page_{path.stem}".replace("-", "_"))

    def run(self):
        sys.modules[self.module.__name__] = self.module  # where a class looks for the names in its annotations
        try:
            for block in blocks_of(self.path, self.path.read_text()):
                self.run_block(block)
        finally:
            del sys.modules[self.module.__name__]

    def run_block(self, block):
        where = f"{block.page.name}:{block.line}"
        if block.mark == "from":
            source = (self.path.parent / block.said).read_text()
            assert block.text in source, f"{where} does not stand in {block.said}"
        elif block.mark == "only shown":
            assert block.said, f"{where} does not say why it is only shown"
        elif block.language:
            assert block.language in KINDS, f"{where}: nobody runs {block.language}; mark it as only shown, and say why"
            KINDS[block.language](self, block, where)

    def run_python(self, block, where):
        before = dict(vars(self.module))
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        exec(code, vars(self.module))
        for name, value in list(vars(self.module).items()):
            if name.startswith("test_") and value is not before.get(name):
                value()

    def run_toml(self, block, where):
        tomllib.loads(block.text)
        if block.mark == "complete":
            assert block.said, f"{where} has no file name"
            configuration = self.folder / block.said
            configuration.write_text(block.text)
            read(configuration)

    def run_console(self, block, where):
        commands = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
        assert not commands[0].strip(), f"{where} does not begin with a command"
        for command in commands[1:]:
            line, _, expected = command.partition("\n")
            words = shlex.split(line, comments=True)
            assert words, f"{where} has an empty command"
            assert words[0] in SAFE, f"{where}: {words[0]} is not run here; mark the block as only shown, and say why"
            printed = self.shell(words)
            assert is_like(expected, printed), f"{where}: $ {line}\nexpected:\n{expected}\nprinted:\n{printed}"

    def shell(self, words):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        home = str(self.folder)
        environment = {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "TERM": "dumb", "COLUMNS": "120", "NO_COLOR": "1"}
        done = subprocess.run(
            words, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
        return done.stdout


KINDS = {"python": Page.run_python, "toml": Page.run_toml, "console": Page.run_console}


def is_like(expected, printed):
    """Whether the text is what was expected; ``...`` stands for anything, white space at the ends of lines for nothing."""
    tidy = ["\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (expected, printed)]
    return re.fullmatch(re.escape(tidy[0]).replace(r"\.\.\.", ".*"), tidy[1], re.DOTALL) is not None


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Page(page, tmp_path).run()


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target} is not there"


def test_the_table_of_contracts_is_that_of_the_code():
    rows = re.findall(r"^\| `(I\w+)` \| `(\w+)` \|", (REPOSITORY / "docs/plugins.md").read_text(), re.MULTILINE)
    assert {(name, method) for name, method in rows} == {
        (name, method)
        for name in api.__all__
        if name.endswith(("Policy", "Route", "Gateway", "Observer")) and name != "IDomainGateway" and name.startswith("I")
        for method in getattr(api, name).names()
    }


POLICIES = REPOSITORY / "docs/policies.md"
A_GATEWAY = """
[server]
hostname = "mx.example.org"
state = "state"
[listen.mx]
kind = "relay"
endpoint = "tcp:2525"
policies = {names}
[[permit]]
on = "mx"
to = "example.org"
[[route]]
otherwise = true
gateway = "away"
[gateway.away]
type = "discard"
[gateway.mailboxes]
type = "discard"
"""


@pytest.mark.parametrize(
    "block", [one for one in blocks_of(POLICIES, POLICIES.read_text()) if one.language == "toml"], ids=lambda one: f"line {one.line}"
)
def test_each_policy_of_the_page_can_be_configured(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "access").write_text("192.0.2.0/24 accept\n")
    with closing(sqlite3.connect(tmp_path / "access.db")) as connection:
        connection.execute("CREATE TABLE access (key TEXT PRIMARY KEY, action TEXT, text TEXT)")
    tables = tomllib.loads(block.text)
    only = block.text[block.text.index("[policy.") :] if "listen" in tables or "route" in tables else block.text
    (tmp_path / "mailgw.toml").write_text(A_GATEWAY.format(names=list(tables["policy"])) + only)
    configuration = read(tmp_path / "mailgw.toml")
    assert set(configuration.policy) == set(tables["policy"])


def test_the_page_has_all_policies():
    rows = re.findall(r"^\| (?:\[`([\w-]+)`\]\(#([\w-]+)\)|`([\w-]+)`) \|", POLICIES.read_text(), re.MULTILINE)
    assert all(name == section for name, section, _ in rows if name)
    names = [name or other for name, _, other in rows]
    assert names == sorted(names)
    ours = [entry.name for entry in entry_points(group="mailgw.components") if entry.value.startswith("mailgw.policies.")]
    assert names == sorted(name for name in ours if name not in ("list", "sql"))  # tables of recipients


def section_of(page, slug):
    """What stands below the heading that a link to it names so."""
    for heading, text in re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##+ |\Z)", page.read_text(), re.MULTILINE | re.DOTALL):
        if re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") == slug:
            return text
    raise AssertionError(f"{page.name} has no section {slug}")


OURS = [one for one in catalogue() if one.module.startswith("mailgw.policies.") and one.name not in ("list", "sql")]


@pytest.mark.parametrize("listing", OURS, ids=lambda one: one.name)
def test_the_page_has_all_settings_of_a_policy(listing):
    text = section_of(POLICIES, listing.name)
    for elsewhere in re.findall(r"\]\(logins\.md#([\w-]+)\)", text):
        text += section_of(POLICIES.parent / "logins.md", elsewhere)
    named = set(re.findall(r"^[ \t]*(?:# )?(\w+)[ ]*=|`(\w+)(?: = [^`]+)?`|[{,] (\w+) = ", text, re.MULTILINE))
    assert {setting.name for setting in listing.settings} <= {name for names in named for name in names}


def test_each_fault_is_tried_by_a_test_that_is_there():
    _, _, page = (REPOSITORY / "docs/operating.md").read_text().partition("## When something breaks\n")
    rows = [line.split(" | ") for line in page.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    named = [re.findall(r"`(?:tests/)?([\w/]+\.py::[\w:]+)`", row[-1]) for row in rows]
    assert [row[0] for row, tests in zip(rows, named, strict=True) if not tests] == []
    tests = sorted({f"tests/{test}" for of_row in named for test in of_row})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *tests]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# ── A page that is wrong is found ──


def run_page(text, folder):
    path = folder / "page.md"
    path.write_text(text)
    Page(path, folder).run()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("```python\nassert 1 == 2, 'found'\n```\n", "found", id="python that fails"),
        pytest.param("```python\ndef test_x():\n    raise AssertionError('found')\n```\n", "found", id="test that fails"),
        pytest.param("```python\nx = 1\n```\n\n```python\nassert x == 2, 'found'\n```\n", "found", id="second block"),
        pytest.param("1. list\n\n   ```python\n   raise AssertionError('found')\n   ```\n", "found", id="indented block"),
        pytest.param("```toml\nx = \n```\n", "Invalid value", id="toml that is none"),
        pytest.param('<!-- complete: a.toml -->\n```toml\n[sever]\nhostname = "x"\n```\n', "sever", id="bad configuration"),
        pytest.param("<!-- complete -->\n```toml\n```\n", "no file name", id="configuration without a name"),
        pytest.param("```console\n$ cat nowhere.txt\nfound\n```\n", "No such file", id="other output"),
        pytest.param("```console\n$ ls\n...\n$ ls\nodd\n```\n", "odd", id="second command"),
        pytest.param("```console\n$ rm -r x\n```\n", "rm is not run here", id="unsafe command"),
        pytest.param("```console\nls\n```\n", "begin with a command", id="no command"),
        pytest.param("```py\nx\n```\n", "nobody runs py", id="unknown language"),
        pytest.param("<!-- only shown -->\n```python\nx\n```\n", "does not say why", id="skipped without a reason"),
        pytest.param("<!-- from other.txt -->\n```\nx\n```\n", "other.txt", id="not in the file"),
    ],
)
def test_a_wrong_page_is_found(tmp_path, text, why):
    (tmp_path / "other.txt").write_text("y\n")
    with pytest.raises(Exception, match=why):
        run_page(text, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "```\nanything $ at all\n```\n",
        "<!-- only shown: needs a network -->\n```console\n$ swaks\n```\n",
        "```console\n$ ls\n...page.md...\n$ cat other.txt\none\n...\nthree   \n```\n",
        "````\n```python\n1 / 0\n```\n````\n",
        "<!-- from other.txt -->\n```python\ntwo\nthree\n```\n",
    ],
    ids=["no language", "only shown", "wildcards", "fence in a fence", "from a file"],
)
def test_a_right_page_is_left_alone(tmp_path, text):
    (tmp_path / "other.txt").write_text("one\ntwo\nthree\n")
    run_page(text, tmp_path)


def test_a_configuration_lies_where_the_console_is(tmp_path):
    configuration = (REPOSITORY / "examples/dropin/mailgw.toml").read_text()
    run_page(f"<!-- complete: a.toml -->\n```toml\n{configuration}```\n\n```console\n$ ls\na.toml\n...\n```\n", tmp_path)
    assert (tmp_path / "a.toml").read_text() == configuration
