from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.values.address import NULL, Address, BadAddress, parse_domain

LONGEST_LABEL = "a" * 63


def domain_of(length: int) -> str:
    labels = [LONGEST_LABEL] * (length // 64) + ["b" * (length % 64)]
    return ".".join(label for label in labels if label)


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        pytest.param("anna@example.org", "anna", "example.org", id="plain"),
        pytest.param("Anna.B@EXAMPLE.Org", "Anna.B", "example.org", id="domain in lower case, local-part as it is"),
        pytest.param("a!#$%&'*+-/=?^_`{|}~z@example.org", "a!#$%&'*+-/=?^_`{|}~z", "example.org", id="every atext"),
        pytest.param("1@1.example", "1", "1.example", id="digits"),
        pytest.param('"anna"@example.org', "anna", "example.org", id="needless quotes"),
        pytest.param('"an na"@example.org', "an na", "example.org", id="quoted space"),
        pytest.param('"an@na"@example.org', "an@na", "example.org", id="quoted at"),
        pytest.param(r'"a\"b"@example.org', 'a"b', "example.org", id="quoted-pair quote"),
        pytest.param(r'"a\\b"@example.org', "a\\b", "example.org", id="quoted-pair backslash"),
        pytest.param(r'"\a\n\n\a"@example.org', "anna", "example.org", id="needless quoted-pairs"),
        pytest.param('".."@example.org', "..", "example.org", id="quoted dots"),
        pytest.param("anna@[192.0.2.1]", "anna", "[192.0.2.1]", id="IPv4 literal"),
        pytest.param("anna@[ipv6:2001:DB8::0:1]", "anna", "[IPv6:2001:db8::1]", id="IPv6 literal"),
        pytest.param("anna@bücher.example", "anna", "xn--bcher-kva.example", id="U-label"),
        pytest.param("anna@XN--Bcher-KVA.example", "anna", "xn--bcher-kva.example", id="A-label"),
        pytest.param("jörg@example.org", "jörg", "example.org", id="UTF-8 local-part"),
        pytest.param('"jö rg"@example.org', "jö rg", "example.org", id="quoted UTF-8"),
        pytest.param("anna@localhost", "anna", "localhost", id="one label"),
        pytest.param(f"{'a' * 64}@example.org", "a" * 64, "example.org", id="longest local-part"),
        pytest.param(f"a@{domain_of(252)}", "a", domain_of(252), id="longest address"),
        pytest.param(f"a@{LONGEST_LABEL}.example", "a", f"{LONGEST_LABEL}.example", id="longest label"),
    ],
)
def test_reads(text, local_part, domain):
    address = Address.parse(text)
    assert (address.local_part, address.domain) == (local_part, domain)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "no domain", id="empty"),
        pytest.param("anna", "no domain", id="no at"),
        pytest.param("anna@", "domain is missing", id="no domain"),
        pytest.param("@example.org", "local-part is missing", id="no local-part"),
        pytest.param('""@example.org', "local-part is missing", id="empty quoted local-part"),
        pytest.param("a@b@example.org", "must be quoted", id="two at"),
        pytest.param(".a@example.org", "must be quoted", id="leading dot"),
        pytest.param("a.@example.org", "must be quoted", id="trailing dot"),
        pytest.param("a..b@example.org", "must be quoted", id="two dots"),
        pytest.param("a b@example.org", "must be quoted", id="space"),
        pytest.param("a\tb@example.org", "must be quoted", id="tab"),
        pytest.param("a<b@example.org", "must be quoted", id="bracket"),
        pytest.param("a\0b@example.org", "must be quoted", id="NUL"),
        pytest.param('"a@example.org', "malformed", id="unclosed quote"),
        pytest.param('"a"b"@example.org', "malformed", id="bare quote inside"),
        pytest.param('"a\\"@example.org', "malformed", id="trailing backslash"),
        pytest.param('"a\r\nb"@example.org', "malformed", id="quoted line end"),
        pytest.param('"a"@example.org\n', "not a valid host name", id="trailing newline"),
        pytest.param("a@example.org\n", "not a valid host name", id="trailing newline after a plain one"),
        pytest.param("a@example.org.", "not a valid host name", id="trailing dot of a domain"),
        pytest.param("a@.example.org", "not a valid host name", id="leading dot of a domain"),
        pytest.param("a@exa_mple.org", "not a valid host name", id="underscore"),
        pytest.param("a@-example.org", "not a valid host name", id="leading hyphen"),
        pytest.param("a@example-.org", "not a valid host name", id="trailing hyphen"),
        pytest.param("a@exa mple.org", "not a valid host name", id="space in a domain"),
        pytest.param(f"a@{LONGEST_LABEL}a.example", "not a valid host name", id="label of 64"),
        pytest.param(f"a@{domain_of(253)}", "longer than 254", id="address of 255"),
        pytest.param(f"a@{'bücher.' * 17}{'a' * 15}", "longer than 254", id="address of 255 octets when its domain is in A-labels"),
        pytest.param(f"a@{domain_of(260)}", "longer than 255", id="domain of 259"),
        pytest.param(f"{'a' * 65}@example.org", "longer than 64", id="local-part of 65"),
        pytest.param(f"{'ä' * 33}@example.org", "longer than 64", id="local-part of 66 octets in 33 characters"),
        pytest.param("a@[192.0.2]", "address literal", id="short IPv4"),
        pytest.param("a@[192.0.2.256]", "address literal", id="IPv4 out of range"),
        pytest.param("a@[192.0.2.1", "address literal", id="unclosed literal"),
        pytest.param("a@[2001:db8::1]", "address literal", id="IPv6 without its tag"),
        pytest.param("a@[IPv6:192.0.2.1]", "address literal", id="IPv4 with the tag"),
        pytest.param("a@[IPv6:fe80::1%eth0]", "address literal", id="scope"),
        pytest.param("a@[IPv6:fe80::1%eth0> x]", "address literal", id="scope with odd characters"),
        pytest.param("\ud800@example.org", "must be quoted", id="surrogate"),
        pytest.param('"\ud800"@example.org', "malformed", id="quoted surrogate"),
        pytest.param("a@\ud800.example", "internationalized", id="surrogate in a domain"),
        pytest.param("a@[]", "address literal", id="empty literal"),
        pytest.param("a@ex\u2028ample.org", "internationalized", id="line separator in a domain"),
        pytest.param(f"a@{'ü' * 256}", "longer than 255", id="internationalized name of 256 characters"),
        pytest.param("a\x85b@example.org", "cannot be printed", id="control character beyond ASCII"),
        pytest.param("a\u2028b@example.org", "cannot be printed", id="line separator"),
        pytest.param('"a\u202eb"@example.org', "cannot be printed", id="quoted, the direction of writing turned"),
        pytest.param("a@xn--\u00fc.example", "internationalized", id="nonsense A-label"),
    ],
)
def test_refuses(text, why):
    with pytest.raises(BadAddress, match=why):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "routed"),
    [
        ("anna@example.org", False),
        ("anna+tag@example.org", False),
        ("anna%example.com@example.org", True),
        ("example.com!anna@example.org", True),
        ('"anna@example.com"@example.org', True),
        ('"@a,@b:anna"@example.org', True),
        (r'"an\%na"@example.org', True),
        ("anna\uff05example.com@example.org", True),
        ("anna\uff20example.com@example.org", True),
        ("jörg@example.org", False),
    ],
)
def test_knows_a_route_of_the_sender(text, routed):
    assert Address.parse(text).is_routed is routed


def test_null_reverse_path():
    assert not NULL
    assert str(NULL) == ""
    assert Address.parse("a@example.org")


def test_domainless_postmaster():
    assert str(Address("postmaster", "")) == "postmaster"


def test_folded_is_a_key_for_tables():
    assert Address.parse('"An Na"@Example.ORG').folded == "an na@example.org"


@pytest.mark.parametrize(
    ("text", "ip"),
    [
        ("a@[192.0.2.1]", IPv4Address("192.0.2.1")),
        ("a@[IPv6:2001:db8::1]", IPv6Address("2001:db8::1")),
        ("a@example.org", None),
    ],
)
def test_ip_literal(text, ip):
    assert Address.parse(text).ip_literal == ip


def test_only_the_local_part_needs_smtputf8():
    assert not Address.parse("anna@bücher.example").needs_smtputf8
    assert Address.parse("jörg@example.org").needs_smtputf8


@pytest.mark.parametrize("text", ["Example.ORG", "bücher.example", "BÜCHER.example", "[IPv6:2001:DB8::0:1]", "[192.0.2.1]"])
def test_one_spelling_is_a_fixed_point(text):
    once = parse_domain(text)
    assert parse_domain(once) == once


PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x2FF, exclude_categories=["Cc", "Cf", "Cn", "Zs"], include_characters=" ")
QUOTABLE = st.text(PRINTABLE, min_size=1)
DOMAINS = st.sampled_from(["example.org", "[192.0.2.1]", "[IPv6:2001:db8::1]", "xn--bcher-kva.example", "localhost"])


@given(QUOTABLE.filter(lambda text: len(text.encode()) <= 64), DOMAINS)
def test_whatever_a_local_part_holds_survives_being_written_and_read(local_part, domain):
    address = Address(local_part, domain)
    assert Address.parse(str(address)) == address


@given(st.text(max_size=80) | st.text('a"\\@.<> \r\n[]:%!', max_size=20).map(lambda text: f"{text}@example.org"))
def test_any_text_is_an_address_or_a_bad_one(text):
    try:
        address = Address.parse(text)
    except BadAddress:
        return
    assert Address.parse(str(address)) == address
    assert not set("\r\n\0") & set(str(address))
    assert address.domain == parse_domain(address.domain)
