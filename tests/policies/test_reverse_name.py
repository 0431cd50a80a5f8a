"""Names of a client's address."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.interfaces import LookupFailed
from mailgw.policies.reverse_name import is_assigned, registered_domain, reverse_name
from mailgw.testing import run, zone

ZONE = {
    "1.2.0.192.in-addr.arpa": {"PTR": ["other.example.", "Right.example.", "third.example."]},
    "other.example": {"A": ["198.51.100.1"]},
    "right.example": {"A": ["198.51.100.2", "192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "third.example": LookupFailed,
    "2.2.0.192.in-addr.arpa": {"PTR": ["other.example."]},
    ip_address("2001:db8::1").reverse_pointer: {"PTR": ["right.example."]},
    "3.2.0.192.in-addr.arpa": {"PTR": ["third.example."]},
    "4.2.0.192.in-addr.arpa": {"PTR": [f"{number}.example." for number in range(20)]},
}
FOUND = {
    "the first that leads back": ("192.0.2.1", 10, ("other.example", "Right.example", "third.example"), "Right.example"),
    "beyond the first ones": ("192.0.2.1", 1, ("other.example",), ""),
    "none leads back": ("192.0.2.2", 10, ("other.example",), ""),
    "IPv6": ("2001:db8::1", 10, ("right.example",), "right.example"),
    "no name": ("192.0.2.9", 10, (), ""),
    "many names": ("192.0.2.4", 2, ("0.example", "1.example"), ""),
}


@pytest.mark.parametrize(("ip", "most", "names", "confirmed"), FOUND.values(), ids=FOUND)
def test_names(ip, most, names, confirmed):
    assert run(reverse_name(zone(ZONE), ip_address(ip), most)) == (names, confirmed)


def test_the_order_of_the_answer_means_nothing():
    names = ["b.example", "a.example"]
    addresses = {name: {"A": ["192.0.2.1"]} for name in names}
    for said in (names, names[::-1]):
        dns = zone({"1.2.0.192.in-addr.arpa": {"PTR": said}, **addresses})
        assert run(reverse_name(dns, ip_address("192.0.2.1"))) == (("a.example", "b.example"), "a.example")


def test_without_an_answer_nothing_is_known():
    with pytest.raises(LookupFailed):
        run(reverse_name(zone(ZONE), ip_address("192.0.2.3")))


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("mail.example.co.uk", "example.co.uk"),
        ("Mail.Google.com", "google.com"),
        ("a.b.example.org", "example.org"),
        ("example.org", "example.org"),
        ("co.uk", ""),
        ("localhost", ""),
        ("", ""),
        ("customer.github.io", "customer.github.io"),  # the private part of the list
    ],
)
def test_registered_domains(name, domain):
    assert registered_domain(name) == domain


@given(st.text(max_size=60))
def test_no_name_is_too_odd(name):
    assert name.lower().endswith(registered_domain(name))
    is_assigned(name, ip_address("192.0.2.1"))


@pytest.mark.parametrize(
    ("name", "ip", "is_one"),
    [
        ("192-0-2-7.dsl.example.net", "192.0.2.7", True),
        ("7.2.0.192.dsl.example.net", "192.0.2.7", True),
        ("ip-007-002-000-192.example.net", "192.0.2.7", True),
        ("xc0000207.example.net", "192.0.2.7", True),
        ("a2-7.out.example.net", "192.0.2.7", False),
        ("10-0.example.net", "10.0.0.10", False),  # each number as often as the address has it
        ("mail1.example.net", "192.0.2.7", False),
        ("2001-0db8-0000-0000-0001-0002-0003-0004.example.net", "2001:db8::1:2:3:4", True),
        ("mail.example.net", "2001:db8::1:2:3:4", False),
    ],
)
def test_names_that_are_the_address(name, ip, is_one):
    assert is_assigned(name, ip_address(ip)) is is_one
