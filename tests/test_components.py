"""Three doors, and what is wrong behind them."""

import importlib
import sys
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyClass

import mailgw
import twisted.plugins
from mailgw.components import GROUP, POLICIES, BadComponent, build, catalogue, find
from mailgw.credentials import IAccounts
from mailgw.given import given_interface
from mailgw.interfaces import IGateway, IObserver, IRecipientPolicy, IRelayPolicy, IRoute, ISenderPolicy
from mailgw.policies.known_recipients import RecipientList
from mailgw.problems import Report
from mailgw.settings import Context, Part, settings_of

HERE = Path(__file__).parent
ROOT = HERE.parent

DROP_IN = '''
from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer
from mailgw.api import IComponentFactory, IRelayPolicy, proceed

@implementer(IRelayPolicy)
@frozen
class Dropped:
    """Dropped in."""
    size: int = 3
    def may_relay(self, facts):
        return proceed()

@implementer(IPlugin, IComponentFactory)
@frozen
class Factory:
    name: str
    component: type

one = Factory("dropped-in", Dropped)
'''


@pytest.fixture(autouse=True)
def _parts_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def drop_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts files into a twisted/plugins folder of their own; they are forgotten afterwards."""
    folder = tmp_path / "twisted" / "plugins"
    folder.mkdir(parents=True)
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__, str(folder)])
    names: list[str] = []

    def put(name: str, text: str) -> None:
        (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        names.append(name)

    yield put
    for name in names:
        sys.modules.pop(f"twisted.plugins.{name}", None)


def part(name: str, **settings: Any) -> Part:
    return Part(name, settings, ("policy", "p"))


def built(one: Part, *interfaces: Any, house: Any = None) -> tuple[Any, list[str]]:
    report = Report()
    component = build(one, interfaces or POLICIES, house or {}, Context(), report)
    return component, [problem.text for problem in report.problems]


# ── Our own ──


def declared() -> dict[str, str]:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options.entry_points"][GROUP].strip().splitlines()
    return dict(line.replace(" ", "").split("=") for line in lines)


def test_all_our_components_are_declared() -> None:
    """Whatever under policies/, gateways/ and login/ keeps a public contract has an entry point; [[permit]] itself is no ``type``."""
    found = set()
    for path in [path for room in ("policies", "gateways", "login") for path in (ROOT / "mailgw" / room).glob("*.py")]:
        name = f"mailgw.{path.parent.name}.{path.stem}"
        for thing in vars(importlib.import_module(name)).values():
            contracts = (*POLICIES, IGateway, IRelayPolicy, IObserver, IAccounts)
            if isinstance(thing, type) and thing.__module__ == name and any(one.implementedBy(thing) for one in contracts):
                found.add(f"{name}:{thing.__qualname__}")
    without_a_name = {"mailgw.policies.relay:Permit", "mailgw.login.checker:Checker"}
    assert found - without_a_name == set(declared().values())


def test_what_is_declared_is_installed() -> None:
    installed = {point.name: point.value for point in entry_points(group=GROUP) if point.dist and point.dist.name == "mailgw"}
    assert installed == declared()


@pytest.mark.parametrize("name", declared())
def test_our_components_keep_their_contracts(name: str) -> None:
    module, _, attribute = declared()[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    roles = [one for one in (*POLICIES, IRelayPolicy, IGateway, IAccounts) if one.implementedBy(found)]
    cls = find(name.removeprefix("accounts."), *roles)
    for contract in roles:
        verifyClass(contract, cls)
    common = {"retry", "warn_after", "give_up", "connections"} if IGateway in roles else set() if IAccounts in roles else {"timeout"}
    assert not settings_of(cls).keys() & (common | {"type"})


def test_the_catalogue() -> None:
    listings = {one.name: one for one in catalogue()}
    assert listings.keys() >= {name.removeprefix("accounts.") for name in declared()}
    one = listings["list"]
    assert one.module == "mailgw.policies.known_recipients:RecipientList"
    assert one.interfaces == ("IRecipientPolicy",)
    assert one.summary
    assert next((setting.name, setting.type, setting.default) for setting in one.settings) == ("path", "Path", None)
    assert all(not listing.problem for listing in listings.values())


# ── The doors ──


def test_an_entry_point() -> None:
    assert find("list", IRecipientPolicy) is RecipientList


def test_a_class_by_its_name() -> None:
    assert find("tests.config.parts:Broken", ISenderPolicy).__name__ == "Broken"


def test_a_drop_in(drop_ins: Any) -> None:
    drop_ins("mailgw_test_one", DROP_IN)
    assert find("dropped-in", IRelayPolicy).__name__ == "Dropped"
    assert [(one.name, one.door, one.summary) for one in catalogue() if "drop-in" in one.door] == [
        ("dropped-in", "drop-in twisted.plugins.mailgw_test_one", "Dropped in.")
    ]


def test_a_drop_in_may_have_the_name_of_an_entry_point_of_another_role(drop_ins: Any) -> None:
    drop_ins("mailgw_test_same", DROP_IN.replace('"dropped-in"', '"list"'))
    assert find("list", IRelayPolicy).__name__ == "Dropped"
    assert find("list", IRecipientPolicy) is RecipientList


def test_a_broken_drop_in_stops_the_search(drop_ins: Any) -> None:
    drop_ins("mailgw_test_broken", "import no_such_module_here")
    with pytest.raises(BadComponent) as caught:
        find("dropped-in", IRelayPolicy)
    assert str(caught.value) == (
        "drop-in twisted.plugins.mailgw_test_broken cannot be imported: ModuleNotFoundError: No module named 'no_such_module_here'"
    )
    assert "import no_such_module_here" in caught.value.detail
    assert [one.problem for one in catalogue() if one.problem] == [str(caught.value)]


def test_a_broken_entry_point_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "thirdparty-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nthird = no_such_module_here:Third\nlist = tests.config.parts:Refuses\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadComponent) as caught:
        find("third", ISenderPolicy)
    assert str(caught.value) == (
        'component "third" (entry point of thirdparty) cannot be imported: ModuleNotFoundError: '
        "No module named 'no_such_module_here'"
    )
    assert caught.value.detail.startswith("Traceback")
    # A name twice: the role decides, and where it does not, nobody guesses.
    assert find("list", ISenderPolicy).__name__ == "Refuses"
    with pytest.raises(BadComponent, match="the name of two components"):
        find("list", *POLICIES)


@pytest.mark.parametrize(
    ("name", "interfaces", "text"),
    [
        ("lst", (IRecipientPolicy,), 'there is no component "lst"; did you mean "list"?'),
        ("list", (IGateway,), 'component "list" is no gateway, but a policy'),
        ("mx", (IRoute,), 'component "mx" is no route, but a gateway'),
        ("tests.config.parts:NoAttrs", POLICIES, 'component "tests.config.parts:NoAttrs" (named by its class) is not an attrs class'),
        ("tests.config.parts:nothing", POLICIES, 'component "tests.config.parts:nothing" (named by its class) is not an attrs class'),
        (
            "tests.config.parts:Nobody",
            POLICIES,
            'component "tests.config.parts:Nobody" (named by its class) cannot be imported: '
            "AttributeError: module 'tests.config.parts' has no attribute 'Nobody'",
        ),
    ],
)
def test_not_found(name: str, interfaces: Any, text: str) -> None:
    with pytest.raises(BadComponent) as caught:
        find(name, *interfaces)
    assert str(caught.value) == text


# ── Building ──


def test_built_with_what_the_house_provides() -> None:
    memory = object()
    asked_for = given_interface(find("tests.config.parts:Broken", *POLICIES).__attrs_attrs__.memory)  # type: ignore[attr-defined]
    assert asked_for is not None
    component, problems = built(part("tests.config.parts:Broken", zones=["a"], limit=7), house={asked_for: memory})
    assert problems == []
    assert (component.zones, component.limit, component.memory) == (["a"], 7, memory)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        pytest.param(
            part("tests.config.parts:Broken", zons=["a"], limit="x"),
            [
                '[policy.p] has no key "zons"; did you mean "zones"?',
                '[policy.p] limit: "x" is not a whole number',
                '[policy.p] needs "zones"',
                '[policy.p] component "tests.config.parts:Broken" needs IOracle, which is not provided here',
            ],
            id="everything at once",
        ),
        pytest.param(part("tests.config.parts:Refuses", number=3), ["[policy.p] number must be even"], id="refused by its own validator"),
        pytest.param(
            part("tests.config.parts:Promises"),
            [
                '[policy.p] component "tests.config.parts:Promises" breaks its contract: The object Promises() has failed to implement '
                "interface mailgw.interfaces.ISenderPolicy: "
                "The mailgw.interfaces.ISenderPolicy.check_sender(facts) attribute was not provided."
            ],
            id="a promise not kept",
        ),
        pytest.param(
            Part("tests.config.parts:TimeoutOfItsOwn", {}, ("policy", "p"), frozenset({"type", "timeout"})),
            ['[policy.p] component "tests.config.parts:TimeoutOfItsOwn" has a setting "timeout", a key that mailgw itself reads here'],
            id="a setting that mailgw reads",
        ),
    ],
)
def test_not_built(one: Part, expected: list[str]) -> None:
    component, problems = built(one)
    assert component is None
    assert problems == expected


def test_the_traceback_of_a_constructor_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.config import parts

    def explode(self: Any, facts: Any = None) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(parts.Raises, "__init__", explode)
    report = Report()
    assert build(part("tests.config.parts:Raises"), (IRelayPolicy,), {}, Context(), report) is None
    [problem] = report.problems
    assert problem.text == '[policy.p] component "tests.config.parts:Raises" cannot be made: RuntimeError: no such thing'
    assert "in explode" in problem.detail
    assert mailgw.__name__ in problem.detail
