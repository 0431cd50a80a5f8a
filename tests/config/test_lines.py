"""Every key, table and item that tomllib finds has its line."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.config.lines import Lines
from mailgw.problems import Place

DOCUMENT = """\
# a comment with [brackets] and "quotes"
top = 1
dotted.key.deep = "x"   # dotted
dotted.key.other = 2

[server]   # header
hostname = "a # no comment [x]"
text = \"\"\"
[not.a.table]
key = "no" "" x\"\"\"\"\"
literal = '''
[[nor.this]]
it's'''''
numbers = [
  1,  # one ]
  2,
  [3,
   4], { a = 1, b = [5,
 6] },
]
inline = { to = "x", deep.er = { y = 'z' }, list = [1, 2] }
"quoted key" = 1
'lit.eral' = 2
"esc\\"aped\\u00e9" = 3
when = 1979-05-27T07:32:00Z
[ listen . mx ]
policies = ["a", "b"]
[[permit]]
on = "mx"
[permit.sub]
x = 1
[[permit]]
on = "sub"
[[permit.nested]]
y = 1
[[permit.nested]]
y = 2
[permit.nested.more]
z = 3
[a.b.c]
k = 1
[a]
k = 2"""

EXPECTED: dict[Place, int] = {
    ("top",): 2,
    ("dotted",): 3,
    ("dotted", "key", "other"): 4,
    ("server",): 6,
    ("server", "text"): 8,
    ("server", "literal"): 11,
    ("server", "numbers"): 14,
    ("server", "numbers", 1): 16,
    ("server", "numbers", 2): 17,
    ("server", "numbers", 2, 1): 18,
    ("server", "numbers", 3): 18,
    ("server", "numbers", 3, "b", 1): 19,
    ("server", "inline", "deep", "er", "y"): 21,
    ("server", "quoted key"): 22,
    ("server", "lit.eral"): 23,
    ("server", 'esc"apedé'): 24,
    ("listen", "mx"): 26,
    ("listen", "mx", "policies", 1): 27,
    ("permit",): 28,
    ("permit", 0): 28,
    ("permit", 0, "sub", "x"): 31,
    ("permit", 1): 32,
    ("permit", 1, "on"): 33,
    ("permit", 1, "nested", 1): 36,
    ("permit", 1, "nested", 1, "more", "z"): 39,
    ("a", "b"): 40,
    ("a",): 42,
    ("a", "k"): 43,
}


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(("place", "line"), EXPECTED.items(), ids=[".".join(map(str, place)) for place in EXPECTED])
def test_the_line_of_a_place(place: Place, line: int, ends: str) -> None:
    assert Lines(DOCUMENT.replace("\n", ends))[place] == line


def test_finds_exactly_what_tomllib_finds() -> None:
    lines = Lines(DOCUMENT)
    expected = set(places(tomllib.loads(DOCUMENT)))
    assert expected <= set(lines._found)
    assert set(lines._found) <= expected


def test_an_unknown_place_gets_the_line_of_what_is_around_it() -> None:
    lines = Lines(DOCUMENT)
    assert lines[("listen", "mx", "tls")] == 26
    assert lines[("nothing",)] == 1
    assert ("listen", "mx", "tls") not in lines


KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True), st.text(max_size=5))
SCALARS = st.one_of(st.integers(-9, 9), st.booleans(), st.text(max_size=12))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=3)), max_leaves=8)
TABLES = st.dictionaries(KEYS, VALUES, max_size=4)


class Writer:
    """Writes a document, remembering on which line each place began."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.out: list[str] = []
        self.expected: dict[Place, int] = {}

    @property
    def line(self) -> int:
        return "".join(self.out).count("\n") + 1

    def string(self, text: str, key: bool = False) -> str:
        plain = text.isprintable() and "'" not in text
        ways = ["basic", *(["literal"] if plain else []), *([] if key else ["long", *(["long literal"] if plain else [])])]
        way = self.draw(st.sampled_from(ways))
        escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text)
        return {"basic": f'"{escaped}"', "literal": f"'{text}'", "long": f'"""\n{escaped}\n"""', "long literal": f"'''\n{text}\n'''"}[way]

    def key(self, text: str) -> str:
        return text if text.isascii() and text and all(c.isalnum() or c in "_-" for c in text) else self.string(text, key=True)

    def gap(self) -> None:
        self.out.append(self.draw(st.sampled_from(["", " ", "\n", ' # ] } " [x]\n', "\n\n  "])))

    def value(self, value: Any, at: Place) -> None:
        if isinstance(value, bool):
            self.out.append(str(value).lower())
        elif isinstance(value, int):
            self.out.append(str(value))
        elif isinstance(value, str):
            self.out.append(self.string(value))
        elif isinstance(value, list):
            self.out.append("[")
            for index, item in enumerate(value):
                self.gap()
                self.expected[(*at, index)] = self.line
                self.value(item, (*at, index))
                self.gap()
                self.out.append(",")
            self.gap()
            self.out.append("]")
        else:
            self.out.append("{")
            for index, (key, item) in enumerate(value.items()):
                self.out.append(", " if index else " ")
                self.pair(key, item, at)
            self.out.append(" }")

    def pair(self, key: str, value: Any, at: Place) -> None:
        self.expected[(*at, key)] = self.line
        self.out.append(f"{self.key(key)} = ")
        self.value(value, (*at, key))

    def table(self, table: dict[str, Any], at: Place) -> None:
        for key, value in table.items():
            self.pair(key, value, at)
            self.out.append(self.draw(st.sampled_from(["\n", "  # [no]\n", "\n\n"])))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), top=TABLES, tables=st.lists(TABLES, max_size=3), several=st.lists(TABLES, max_size=3))
def test_any_document(data: st.DataObject, top: dict[str, Any], tables: list[dict[str, Any]], several: list[dict[str, Any]]) -> None:
    writer = Writer(data.draw)
    writer.table({f"t{key}": value for key, value in top.items()}, ())
    for index, table in enumerate(tables):
        writer.expected[("named", str(index))] = writer.line
        writer.expected.setdefault(("named",), writer.line)
        writer.out.append(f"[ named.{index} ]\n")
        writer.table(table, ("named", str(index)))
    for index, table in enumerate(several):
        writer.expected[("several", index)] = writer.line
        writer.expected.setdefault(("several",), writer.line)
        writer.out.append("[[several]] # x\n")
        writer.table(table, ("several", index))
    text = "".join(writer.out)
    assert set(places(tomllib.loads(text))) == set(writer.expected)
    assert Lines(text)._found == writer.expected
