"""What a field's annotation takes, and what it says to the rest."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import pytest
from attrs import frozen

from mailgw.given import given
from mailgw.interfaces import IClock
from mailgw.problems import Report
from mailgw.settings import DERIVED, Context, convert, make, settings_of, type_name
from mailgw.values.address import Address, parse_domain
from mailgw.values.quantities import Duration, Rate, Size
from mailgw.values.secret import Secret


@frozen
class Login:
    user: str
    password: Secret


OFFICE = (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/32"))
CONTEXT = Context(folder=Path("/etc"), networks={"office": OFFICE})
NETWORKS = tuple[IPv4Network | IPv6Network, ...]


def converted(value: Any, kind: Any) -> Any:
    report = Report()
    result = convert(value, kind, ("policy", "p", "key"), CONTEXT, report)
    return result if result is not attrs.NOTHING else [problem.text.removeprefix("[policy.p] ") for problem in report.problems]


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (True, bool, True),
        (5, int, 5),
        (5, float, 5.0),
        (2.5, float, 2.5),
        ("x", str, "x"),
        ("5m", Duration, 300.0),
        ("5m", Duration | None, 300.0),
        ("never", Duration | None, None),
        ("25 MiB", Size, 26214400),
        ("unlimited", Size | None, None),
        ("never", str | None, "never"),
        ("5 per hour", Rate, Rate(5, 3600)),
        ("a/b", Path, Path("/etc/a/b")),
        ("/a/b", Path, Path("/a/b")),
        ("User@Example.org", Address, Address("User", "example.org")),
        ("EXAMPLE.org", Annotated[str, parse_domain], "example.org"),
        ("192.0.2.1", IPv4Address, IPv4Address("192.0.2.1")),
        (["192.0.2.0/24", "2001:db8::/32"], NETWORKS, OFFICE),
        ("::ffff:192.0.2.0/120", NETWORKS, (IPv4Network("192.0.2.0/24"),)),  # this is how clients arrive
        (["@office"], list[IPv4Network | IPv6Network], list(OFFICE)),
        ("@office", NETWORKS, OFFICE),
        ("pass", Literal["pass", "defer"], "pass"),
        (["a", "b"], list[str], ["a", "b"]),
        ("a", list[str], ["a"]),
        (["a", "a"], frozenset[str], frozenset({"a"})),
        ([1, "x"], tuple[int, str], (1, "x")),
        ({"a": "5m"}, dict[str, Duration], {"a": 300.0}),
        ("host", str | list[str], "host"),
        (["host"], str | list[str], ["host"]),
        ({"user": "u", "password": {"file": "p"}}, Login, Login("u", Secret(path=Path("/etc/p")))),
    ],
    ids=str,
)
def test_taken(value: Any, kind: Any, expected: Any) -> None:
    result = converted(value, kind)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, bool, ["key: 1 is not true or false"]),
        (True, int, ["key: true is not a whole number"]),
        ("5", int, ['key: "5" is not a whole number']),
        (2.0, int, ["key: 2.0 is not a whole number"]),
        (True, float, ["key: true is not a number"]),
        (5, str, ["key: 5 is not a string"]),
        ("never", Duration, ['key: "never" is no duration; write it like "30s", "5m", "1h 30m" or "5d"']),
        (30, Duration, ['key: "30" is no duration; write it like "30s", "5m", "1h 30m" or "5d"']),
        ("x@", Address, ['key: "x@": domain is missing']),
        (["@offic"], NETWORKS, ['key, item 1: "@offic" is not in [networks]; did you mean "office"?']),
        (["2001:db8::1/32"], NETWORKS, ["key, item 1: 2001:db8::1/32 has host bits set"]),
        (["10.0.0.0/8", "1.2.3.4/8"], NETWORKS, ["key, item 2: 1.2.3.4/8 has host bits set"]),
        ("pas", Literal["pass", "defer"], ['key: "pas" is not "pass" or "defer"; did you mean "pass"?']),
        (1, Literal[True], ["key: 1 is not true"]),
        ([1, "a", 2], list[str], ["key, item 1: 1 is not a string", "key, item 3: 2 is not a string"]),
        ([1], tuple[int, str], ["key: needs 2 items, not 1"]),
        ({"a": "x"}, dict[str, Duration], ['key, a: "x" is no duration; write it like "30s", "5m", "1h 30m" or "5d"']),
        ([5], str | list[str], ["key, item 1: 5 is not a string"]),
        ({"user": "u", "pasword": "p"}, Login, ['key: has no key "pasword"; did you mean "password"?', 'key: needs "password"']),
        ("x", complex, ["key: a field of type complex cannot be a setting"]),
    ],
    ids=str,
)
def test_not_taken(value: Any, kind: Any, expected: list[str]) -> None:
    assert converted(value, kind) == expected


@frozen
class Thing:
    size: int
    _hidden: str = "x"
    clock: IClock = given(IClock)
    worked_out: str = attrs.field(default="", metadata=DERIVED)


def test_only_settings_are_settings() -> None:
    assert list(settings_of(Thing)) == ["size", "hidden"]


def test_what_a_class_refuses_is_a_problem_of_its_table() -> None:
    @frozen
    class Even:
        number: int

        def __attrs_post_init__(self) -> None:
            if self.number % 2:
                raise ValueError("number must be even")

    report = Report(lambda place: ("x.toml", len(place)))
    assert make(Even, {"number": 3}, ("server",), CONTEXT, report) is None
    assert [str(problem) for problem in report.problems] == ["x.toml:1: [server] number must be even"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Duration, "duration"),
        (Size | None, "size"),
        (Literal["a", "b"], '"a" or "b"'),
        (list[str], "list of str"),
        (NETWORKS, "list of IPv4Network or IPv6Network"),
        (dict[str, Duration], "table of duration"),
        (Path, "Path"),
    ],
    ids=str,
)
def test_names_of_types(kind: Any, name: str) -> None:
    assert type_name(kind) == name
