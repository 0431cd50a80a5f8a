"""How tables of senders and recipients are written, and looked up: whole addresses, ``example.org``, ``.example.org`` for all below it."""

from collections.abc import Iterator

from mailgw.values.address import Address, BadAddress, parse_domain

__all__ = ["domains_of", "helo_key", "keys_of", "parse_key"]


def parse_key(text: str) -> str:
    """The key as it is looked up; ``<>`` is the null reverse-path. Raises BadAddress."""
    if text == "<>":
        return text
    if "@" in text:
        return Address.parse(text).folded
    return f".{parse_domain(text[1:])}" if text.startswith(".") else parse_domain(text)


def keys_of(address: Address) -> Iterator[str]:
    """Under which keys an address may be found, the most specific first."""
    yield address.folded if address.domain else "<>"
    yield from domains_of(address.domain)


def helo_key(helo: str) -> str:
    """A HELO name as keys are spelled: neither a dot at its end nor U-labels hide it. What is no name is only put in lower case."""
    name = helo.removesuffix(".")
    try:
        return parse_domain(name)
    except BadAddress:
        return name.lower()


def domains_of(domain: str) -> Iterator[str]:
    """Under which keys a domain may be found: itself, then ``.example.org`` and ``.org``."""
    if domain:
        yield domain
    dot = domain.find(".")
    while dot >= 0:
        yield domain[dot:]
        dot = domain.find(".", dot + 1)
