"""Address patterns, as ``to``, ``sender`` and tables write them; compared without case."""

from collections.abc import Iterable

from attrs import frozen

from mailgw.values.address import Address, BadAddress, parse_domain

__all__ = ["Patterns", "candidates", "tidy_pattern"]


def tidy_pattern(text: str) -> str:
    """Give the one spelling of a pattern. Raises ValueError with the reason.

    ``user@example.org`` is one address, ``example.org`` or ``@example.org`` a domain, ``.example.org`` all of its
    subdomains (not itself), ``<>`` the null reverse-path.

    >>> [tidy_pattern(text) for text in ("@Example.ORG", ".example.org", "User@bücher.example")]
    ['example.org', '.example.org', 'user@xn--bcher-kva.example']
    """
    if text == "<>":
        return text
    try:
        if text.startswith("."):
            return f".{parse_domain(text[1:])}"
        if text.rpartition("@")[0]:
            return Address.parse(text).folded
        return parse_domain(text.removeprefix("@"))
    except BadAddress as problem:
        raise ValueError(f"{text!r} is neither an address nor a domain: {problem}") from None


@frozen
class Patterns:
    """A set of tidy patterns; looking an address up costs one set look-up for each label of its domain."""

    known: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Patterns":
        """Patterns as written in the configuration. Raises ValueError for what is no pattern."""
        return cls(frozenset(map(tidy_pattern, texts)))

    def match(self, address: Address) -> str:
        """The pattern that knows the address, the most exact one, or the empty string."""
        for candidate in candidates(address):
            if candidate in self.known:
                return candidate
        return ""


def candidates(address: Address) -> Iterable[str]:
    """All patterns that an address matches, the most exact one first."""
    if not address:
        yield "<>"
        return
    domain = address.domain
    yield address.folded
    yield domain
    if domain.startswith("["):  # an address literal has no parent domains
        return
    dot = domain.find(".")
    while dot >= 0:
        yield domain[dot:]
        dot = domain.find(".", dot + 1)
