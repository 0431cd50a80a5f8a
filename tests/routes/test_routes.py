import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.interfaces import IRoute
from mailgw.routes.all_of import AllOf
from mailgw.routes.by_domain import ByDomain
from mailgw.routes.by_sender import BySender
from mailgw.routes.by_table import BadTable, ByTable, parse_table
from mailgw.routes.by_tag import ByTag
from mailgw.routes.default import Default
from mailgw.routes.patterns import Patterns, candidates, tidy_pattern
from mailgw.testing.facts import a_recipient, an_address
from mailgw.testing.running import run
from mailgw.values.delivery import Route


@pytest.mark.parametrize(
    ("pattern", "address", "matches"),
    [
        ("example.org", "anna@example.org", True),
        ("example.org", "anna@EXAMPLE.org", True),
        ("Example.ORG", "anna@example.org", True),
        ("@example.org", "anna@example.org", True),
        ("example.org", "anna@sub.example.org", False),
        ("example.org", "anna@notexample.org", False),
        ("example.org", "anna@example.org.evil.example", False),
        (".example.org", "anna@sub.example.org", True),
        (".example.org", "anna@a.b.example.org", True),
        (".example.org", "anna@example.org", False),
        (".example.org", "anna@notexample.org", False),
        (".org", "anna@example.org", True),
        ("anna@example.org", "Anna@Example.org", True),
        ("ANNA@example.org", "anna@example.org", True),
        ("anna@example.org", "ben@example.org", False),
        ("bücher.example", "anna@xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "anna@bücher.example", True),
        ('"anna lee"@example.org', '"anna lee"@example.org', True),
        ("[192.0.2.1]", "anna@[192.0.2.1]", True),
        ("[IPv6:2001:DB8::1]", "anna@[IPv6:2001:db8:0::1]", True),
        (".1]", "anna@[192.0.2.1]", None),
        ("<>", "<>", True),
        ("<>", "anna@example.org", False),
        ("example.org", "<>", False),
        ("not a domain", "anna@example.org", None),
        ("anna@", "anna@example.org", None),
        ("@", "anna@example.org", None),
        ("", "anna@example.org", None),
    ],
)
def test_patterns(pattern, address, matches):
    if matches is None:
        with pytest.raises(ValueError, match="neither an address nor a domain"):
            Patterns.of([pattern])
    else:
        assert bool(Patterns.of([pattern]).match(an_address(address))) is matches


def test_the_most_exact_pattern_is_named():
    patterns = Patterns.of([".org", "sub.example.org", ".example.org", "anna@sub.example.org"])
    assert patterns.match(an_address("anna@sub.example.org")) == "anna@sub.example.org"
    assert patterns.match(an_address("ben@sub.example.org")) == "sub.example.org"
    assert patterns.match(an_address("ben@deep.sub.example.org")) == ".example.org"
    assert patterns.match(an_address("ben@elsewhere.org")) == ".org"


label = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)


@given(st.lists(label, min_size=1, max_size=5), st.integers(0, 5))
def test_every_parent_domain_matches_and_nothing_else(labels, cut):
    domain = ".".join(labels)
    found = list(candidates(an_address(f"x@{domain}")))
    assert found == [f"x@{domain}", domain] + ["." + ".".join(labels[i:]) for i in range(1, len(labels))]
    assert all(tidy_pattern(candidate) == candidate for candidate in found)


TO_ORG = ByDomain({"example.org"}, "mailboxes")
FROM_COM = BySender({"example.com"}, "outbound")


@pytest.mark.parametrize(
    ("route", "facts", "answer"),
    [
        (TO_ORG, a_recipient("anna@example.org"), Route("mailboxes", "", "to example.org")),
        (TO_ORG, a_recipient("anna@example.net"), None),
        (ByDomain({".example.org"}, "g", "10.0.0.1:24"), a_recipient("a@b.example.org"), Route("g", "10.0.0.1:24", "to .example.org")),
        (ByDomain({"a@example.org"}, "g"), a_recipient("A@example.org"), Route("g", "", "to a@example.org")),
        (FROM_COM, a_recipient(sender="ben@example.com"), Route("outbound", "", "from example.com")),
        (FROM_COM, a_recipient(sender=""), None),
        (BySender({"<>"}, "g"), a_recipient(sender=""), Route("g", "", "from <>")),
        (BySender({"<>"}, "g"), a_recipient(sender="ben@example.com"), None),
        (ByTag({"spam", "bulk"}, "slow"), a_recipient(tags={"bulk", "x"}), Route("slow", "", "tag bulk")),
        (ByTag({"spam"}, "slow"), a_recipient(tags={"bulk"}), None),
        (ByTag({"spam"}, "slow"), a_recipient(), None),
        (Default("internet"), a_recipient(), Route("internet", "", "otherwise")),
        (
            AllOf([TO_ORG, FROM_COM]),
            a_recipient("a@example.org", sender="b@example.com"),
            Route("mailboxes", "", "to example.org and from example.com"),
        ),
        (AllOf([TO_ORG, FROM_COM]), a_recipient("a@example.org", sender="b@example.net"), None),
        (AllOf([TO_ORG, FROM_COM]), a_recipient("a@example.net", sender="b@example.com"), None),
        (AllOf([TO_ORG]), a_recipient("a@example.org"), Route("mailboxes", "", "to example.org")),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, Route) else value.because,
)
def test_answers(route, facts, answer):
    assert IRoute.providedBy(route)
    assert run(route.route(facts)) == answer


def test_all_of_waits_for_a_route_that_has_to_think():
    class Slow:
        async def route(self, facts):
            return Route("slow", because="thinking")

    assert run(AllOf([TO_ORG, Slow()]).route(a_recipient("a@example.org"))).because == "to example.org and thinking"


def test_all_of_nothing_cannot_be_made():
    with pytest.raises(ValueError, match="at least one condition"):
        AllOf([])


TABLE = """
# who            where
anna@Example.org  mailboxes            # her own
@example.org      smarthost:10.0.0.1:25
.example.org      lmtp:[2001:db8::1]:24
example.net       internet
odd#name@example.org odd
"""


def test_a_table(tmp_path: Path):
    path = tmp_path / "routes"
    path.write_text(TABLE)
    table = ByTable(path)
    answers = {
        "anna@example.org": ("mailboxes", ""),
        "ANNA@example.org": ("mailboxes", ""),
        "ben@example.org": ("smarthost", "10.0.0.1:25"),
        "ben@sub.example.org": ("lmtp", "[2001:db8::1]:24"),
        "ben@example.net": ("internet", ""),
        "odd#name@example.org": ("odd", ""),
    }
    for address, answer in answers.items():
        route = table.route(a_recipient(address))
        assert (route.gateway, route.next_hop) == answer
    assert table.route(a_recipient("ben@example.com")) is None
    assert table.route(a_recipient("anna@example.org")).because == f"{path}:3 anna@Example.org"
    assert table.gateways() == {"mailboxes", "smarthost", "lmtp", "internet", "odd"}


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("example.org\n", ["t:1: expected 'pattern gateway' or 'pattern gateway:next-hop'"]),
        ("example.org a b\n", ["t:1: expected 'pattern gateway' or 'pattern gateway:next-hop'"]),
        ("example.org :hop\n", ["t:1: gateway is missing"]),
        ("\nEXAMPLE.org a\nexample.org b\n", ["t:3: 'example.org' is here twice"]),
        ("a_b a\n", ["t:1: 'a_b' is neither an address nor a domain: domain is not a valid host name"]),
        (
            "x\nexample.org ok\na@b@c y\n",
            [
                "t:1: expected 'pattern gateway' or 'pattern gateway:next-hop'",
                "t:3: 'a@b@c' is neither an address nor a domain: local-part has characters that must be quoted",
            ],
        ),
    ],
)
def test_broken_tables_tell_all_their_errors(text, errors):
    with pytest.raises(BadTable) as caught:
        parse_table(text, "t")
    assert str(caught.value).splitlines() == errors


def write(path: Path, text: str | bytes) -> None:
    """Replace a file in one step, as an editor does."""
    new = path.with_suffix(".new")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(new, path)


def test_a_table_is_read_again_and_a_broken_one_stops_its_mail(tmp_path: Path):
    path = tmp_path / "routes"
    write(path, "example.org one\n")
    table, facts = ByTable(path), a_recipient("anna@example.org")
    assert table.route(facts).gateway == "one"
    write(path, "example.org two\n")
    assert table.route(facts).gateway == "two"
    write(path, "example.org\n")
    for _ in range(2):
        with pytest.raises(BadTable, match=r"routes:1: expected"):
            table.route(facts)
    write(path, b"\xff\xfe")
    with pytest.raises(BadTable, match="not UTF-8"):
        table.route(facts)
    write(path, "example.org three\n")
    assert table.route(facts).gateway == "three"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        table.route(facts)


def test_a_missing_table_cannot_be_made(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        ByTable(tmp_path / "nowhere")


@given(st.text(max_size=200))
def test_no_text_breaks_the_table_reader(text):
    errors = ""
    try:
        routes = parse_table(text, "t")
    except BadTable as problem:
        errors, routes = str(problem), {}
    assert all(route.gateway for route in routes.values())
    assert not errors or all(re.match(r"t:\d+: ", line) for line in errors.split("\n"))
