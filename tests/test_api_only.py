"""Our own policies are written with what every plugin author has: `mailgw.api`."""

import ast
from pathlib import Path

import pytest

import mailgw
from mailgw import api

POLICIES = sorted((Path(mailgw.__file__).parent / "policies").glob("[!_]*.py"))


def foreign(source):
    """The names of mailgw that a module imports and `mailgw.api` does not offer; its siblings in policies/ aside."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mailgw.") and not node.module.startswith("mailgw.policies"):
            yield from (f"{node.module}.{name.name}" for name in node.names if name.name not in api.__all__)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "mailgw")


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_a_policy_imports_what_the_api_offers(path):
    assert sorted(foreign(path.read_text())) == []


def test_what_is_not_in_the_api_is_found():
    lines = [
        "import mailgw.tls",
        "from mailgw.journal import Fault",
        "from mailgw.values.decision import reject",
        "from mailgw.policies.action import act",
    ]
    source = "\n".join(lines)
    assert sorted(foreign(source)) == ["mailgw.journal.Fault", "mailgw.tls"]


def test_the_api_has_what_it_offers():
    assert all(hasattr(api, name) for name in api.__all__)
