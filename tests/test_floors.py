"""The law of the house: a module imports only from floors below its own, and rooms on floor 3 never import each other."""

import ast
from collections import Counter
from pathlib import Path

import pytest

import mailgw

HOUSE = Path(mailgw.__file__).parent
LONGEST = 400  # lines, without a reason in the docstring

FLOORS = (
    {"values"},
    {"interfaces", "credentials", "given", "journal", "problems"},
    {"smtp", "senderauth", "routing", "tls", "settings", "notify", "patience", "endings", "timekeeping", "descriptors"},
    {"receive", "policies", "queue", "routes", "gateways", "storage", "login", "fetching", "dns", "observe", "watchdog", "expiry"},
    {"components", "config", "plugin_code"},
    {"assemble", "staff", "safekeeping"},
    {
        "tap", "service", "starting", "doors", "desk", "listening", "part", "reloading", "sharing", "house",
        "demo", "workers", "admin", "console", "api", "testing", "uvloop_reactor",
    },
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
NO_TWISTED = {"values", "smtp", "senderauth"}
MAY_HAVE_THE_REACTOR = {"mailgw.tap", "mailgw.workers"}
# Who may import whom although both live on one floor.
NEIGHBOURS = {
    ("journal", "interfaces"),
    ("staff", "assemble"),
    ("tap", "service"),
    ("tap", "house"),
    ("tap", "demo"),
    ("tap", "listening"),
    ("tap", "part"),
    ("tap", "workers"),
    ("reloading", "admin"),
    ("reloading", "listening"),
    ("tap", "reloading"),
    ("service", "admin"),
    ("service", "desk"),
    ("service", "doors"),
    ("service", "starting"),
    ("starting", "admin"),
    ("desk", "admin"),
    ("desk", "doors"),
    ("desk", "listening"),
    ("desk", "part"),
    ("desk", "reloading"),
    ("doors", "listening"),
    ("doors", "part"),
    ("doors", "reloading"),
    ("doors", "sharing"),
    ("service", "reloading"),
    ("service", "listening"),
    ("service", "part"),
    ("listening", "sharing"),
    ("workers", "admin"),
    ("workers", "listening"),
    ("workers", "part"),
    ("workers", "sharing"),
    ("workers", "starting"),
    ("workers", "reloading"),
    ("workers", "service"),
}


def module_name(path):
    parts = ("mailgw", *path.relative_to(HOUSE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(tree, module, is_package):
    """All absolute module names that a module's tree imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)


def faults(source, module, is_package=False):
    """What is wrong with a module of the house, as texts."""
    tree = ast.parse(source)
    here = room_of(module)
    found = set()
    if here and here not in FLOOR:
        found.add(f"{module}: {here} has no floor; add it to the table")
    for name in imports(tree, module, is_package):
        there = room_of(name)
        if name.split(".")[0] == "twisted" and here in NO_TWISTED:
            found.add(f"{module}: imports {name}; {here}/ does not know Twisted")
        if (name + ".").startswith("twisted.internet.reactor.") and module not in MAY_HAVE_THE_REACTOR:
            found.add(f"{module}: imports the reactor; take what you need of it as an argument")
        if name.split(".")[0] != "mailgw" or there not in FLOOR or here not in FLOOR or there == here:
            continue
        if there == "testing":
            found.add(f"{module}: imports {name}; mailgw.testing is for tests")
        elif FLOOR[there] > FLOOR[here]:
            found.add(f"{module}: imports {name} from floor {FLOOR[there]}, above its own")
        elif FLOOR[there] == FLOOR[here] == 3:
            found.add(f"{module}: imports {name}; rooms on floor 3 meet in assemble")
        elif FLOOR[there] == FLOOR[here] and (here, there) not in NEIGHBOURS:
            found.add(f"{module}: imports {name} from its own floor")
    if is_package and not all(is_plain(node) for node in tree.body):
        found.add(f"{module}: has code in __init__.py")
    if len(source.splitlines()) > LONGEST and "one file because" not in " ".join((ast.get_docstring(tree) or "").lower().split()):
        found.add(f'{module}: is longer than {LONGEST} lines; split it, or say in its docstring "One file because ..."')
    return found


def is_plain(node):
    """Whether a statement may stand in an __init__.py: the docstring, imports, __all__."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)] == ["__all__"]
    return isinstance(node, (ast.Import, ast.ImportFrom))


MODULES = sorted(HOUSE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(HOUSE)) for path in MODULES])
def test_the_house_stands(path):
    assert not faults(path.read_text(), module_name(path), path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        pytest.param("mailgw.values.x", "from mailgw.journal import Journal", "above its own", id="upwards"),
        pytest.param("mailgw.values.x", "import mailgw.journal", "above its own", id="upwards, plain import"),
        pytest.param("mailgw.values.x", "from mailgw import journal", "above its own", id="upwards, from the package"),
        pytest.param("mailgw.values.x", "from .. import journal", "above its own", id="upwards, relative"),
        pytest.param("mailgw.values.x", "from ..journal import Journal", "above its own", id="upwards, relative module"),
        pytest.param("mailgw.values.x", "def f():\n    from mailgw.journal import Journal", "above its own", id="hidden in a function"),
        pytest.param("mailgw.queue.x", "from mailgw.storage.y import Z", "meet in assemble", id="room to room"),
        pytest.param("mailgw.queue.x", "from mailgw import storage", "meet in assemble", id="room to room, from the package"),
        pytest.param("mailgw.given", "import mailgw.journal", "its own floor", id="same floor"),
        pytest.param("mailgw.admin.x", "import mailgw.testing", "is for tests", id="testing kit"),
        pytest.param("mailgw.values.x", "import twisted", "does not know Twisted", id="twisted in values"),
        pytest.param("mailgw.smtp.x", "from twisted.internet import defer", "does not know Twisted", id="twisted in smtp"),
        pytest.param("mailgw.queue.x", "from twisted.internet import reactor", "imports the reactor", id="reactor"),
        pytest.param("mailgw.queue.x", "def f():\n    import twisted.internet.reactor as r", "imports the reactor", id="hidden reactor"),
        pytest.param("mailgw.cellar.x", "", "has no floor", id="unknown room"),
        pytest.param("mailgw.queue.x", "\n" * 401, "longer than", id="long"),
    ],
)
def test_a_violation_is_found(module, source, fault):
    [found] = {text.split(": ", 1)[1].split("; ")[0] if fault not in text else fault for text in faults(source, module)}
    assert found == fault


@pytest.mark.parametrize(
    "source", ['"""Doc."""\nx = 1', "def f(): pass", "if True:\n    import a", "print()", "__all__, x = [], 1"]
)
def test_code_in_a_package_is_found(source):
    assert faults(source, "mailgw.queue", is_package=True) == {"mailgw.queue: has code in __init__.py"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mailgw.queue.x", "from mailgw.values.address import Address\nfrom mailgw.queue.y import Z\nfrom . import y"),
        ("mailgw.queue.x", "from twisted.internet import defer, reactorish"),
        ("mailgw.tap", "from twisted.internet import reactor\nfrom mailgw.assemble import x"),
        ("mailgw.queue.x", f'"""A table.\n\nOne file\nbecause it is a table.\n"""{chr(10) * 500}'),
    ],
)
def test_the_innocent_are_left_alone(module, source):
    assert not faults(source, module)


def test_relative_imports_in_a_package_are_understood():
    assert faults("from ..storage import y", "mailgw.queue", is_package=True) == {
        "mailgw.queue: imports mailgw.storage; rooms on floor 3 meet in assemble",
        "mailgw.queue: imports mailgw.storage.y; rooms on floor 3 meet in assemble",
    }


def test_the_whole_house_was_looked_at():
    assert {"mailgw", "mailgw.api", "mailgw.values.address", "mailgw.interfaces"} <= {module_name(path) for path in MODULES}


def test_no_two_files_of_tests_share_a_name():
    # Folders of tests are no packages: pytest refuses to collect the second.
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, number in names.items() if number > 1] == []
