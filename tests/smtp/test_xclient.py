"""XCLIENT as it is read: what was encoded comes back, and no octets make the reader stumble."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.smtp.commands import BadCommand
from mailgw.smtp.events import XClient
from mailgw.smtp.xclient import ATTRIBUTES, parse_xclient

PRINTABLE = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=60).filter(
    lambda text: text.isprintable() and text.upper() not in ("[UNAVAILABLE]", "[TEMPUNAVAIL]")
)


def xtext(text):
    return b"".join(bytes([octet]) if 33 <= octet <= 126 and octet not in b"+=" else b"+%02X" % octet for octet in text.encode())


@given(PRINTABLE, PRINTABLE)
def test_what_was_encoded_comes_back(login, helo):
    assert parse_xclient(b"LOGIN=" + xtext(login) + b" HELO=" + xtext(helo)) == XClient(login=login, helo=helo)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address(ip, port):
    prefix = "IPV6:" if ip.version == 6 else ""
    mapped = getattr(ip, "ipv4_mapped", None)
    assert parse_xclient(f"ADDR={prefix}{ip} PORT={port}".encode()) == XClient(ip=mapped or ip, port=port)


WORDS = st.tuples(st.sampled_from(ATTRIBUTES), st.binary(max_size=20)).map(lambda word: word[0].encode() + b"=" + word[1])


@given(st.one_of(st.binary(), st.lists(WORDS).map(b" ".join)))
def test_anything_else_is_refused_in_good_order(argument):
    try:
        event = parse_xclient(argument)
    except BadCommand as refused:
        event, reply = XClient(), refused.reply
    else:
        reply = None
    assert reply is None or str(reply).startswith("501 5.5.4 ")
    texts = [text for text in (event.login, event.helo) if text]
    assert all(text.isprintable() and " " not in text and len(text) <= 255 for text in texts)


@pytest.mark.parametrize(
    ("argument", "event"),
    [
        (b"addr=203.0.113.7", XClient(ip=IPv4Address("203.0.113.7"))),
        (b"  NAME=x   PROTO=smtp ", XClient(esmtp=False)),
        (b"ADDR=[unavailable] PORT=[TEMPUNAVAIL]", XClient(ip=IPv4Address("0.0.0.0"), port=0)),
        (b"LOGIN=[UNAVAILABLE] HELO=[UNAVAILABLE] PROTO=[UNAVAILABLE]", XClient(login="")),
        (b"LOGIN=" + b"x" * 255, XClient(login="x" * 255)),
    ],
)
def test_it_is_read(argument, event):
    assert parse_xclient(argument) == event


def test_a_value_that_is_too_long():
    with pytest.raises(BadCommand):
        parse_xclient(b"LOGIN=" + b"x" * 256)
