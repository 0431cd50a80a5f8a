"""Mail addresses, parsed once, at the border (RFC 5321 §4.1.2, RFC 6531 §3.3, RFC 5891)."""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from unicodedata import normalize

import idna
from attrs import field, frozen

__all__ = ["NULL", "Address", "BadAddress", "parse_domain"]

# RFC 5321 §4.5.3.1: octets, counted in UTF-8 (RFC 6531 §3.4).
MAX_LOCAL_PART = 64
MAX_DOMAIN = 255
MAX_MAILBOX = 254  # a path is 256 octets with its brackets

_BEYOND_ASCII = r"\u0080-\ud7ff\ue000-\U0010ffff"  # all but surrogates, which UTF-8 has not
_ATEXT = rf"[A-Za-z0-9!#$%&'*+\-/=?^_`{{|}}~{_BEYOND_ASCII}]"
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*\Z")
# qtextSMTP and quoted-pairSMTP (RFC 5321 §4.1.2), with UTF8-non-ascii (RFC 6531 §3.3).
_QUOTED_STRING = re.compile(rf'"((?:[ !#-\[\]-~{_BEYOND_ASCII}]|\\[ -~])*)"\Z')
_QUOTED_PAIR = re.compile(r"\\([ -~])")
_LABEL = r"[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?"
_LDH_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
# The common case in one match: an unquoted ASCII local-part at a plain host name.
_PLAIN = re.compile(r"([A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+(?:\.[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+)*)@([A-Za-z0-9\-.]+)\Z")


class BadAddress(ValueError):
    """The text is no mailbox. The message says why, in words fit for the peer."""


@lru_cache(maxsize=4096)
def parse_domain(text: str) -> str:
    """Give the one spelling of a domain that DNS and comparison use: lower-case A-labels, or a tidy address literal.

    >>> parse_domain("Bücher.Example"), parse_domain("[IPv6:2001:DB8::0:1]")
    ('xn--bcher-kva.example', '[IPv6:2001:db8::1]')

    Raises BadAddress for anything that is neither a domain (RFC 5321 §4.1.2, RFC 5890) nor an address literal (§4.1.3).
    """
    if text.startswith("["):
        return _parse_literal(text)
    if len(text) > MAX_DOMAIN:  # before it costs anything: internationalized names take long
        raise BadAddress("domain is longer than 255 octets")
    domain = text.lower()
    if not domain.isascii():
        try:
            domain = idna.encode(text, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as problem:
            raise BadAddress("domain is not a valid internationalized name") from problem
    if len(domain) > MAX_DOMAIN:
        raise BadAddress("domain is longer than 255 octets")
    if not _LDH_DOMAIN.match(domain):
        raise BadAddress("domain is not a valid host name")
    return domain


def _parse_literal(text: str) -> str:
    inside = text[1:-1]
    try:
        if not text.endswith("]"):
            raise ValueError
        if inside[:5].lower() == "ipv6:" and "%" not in inside:  # a scope means nothing to others, and may hold any character
            return f"[IPv6:{IPv6Address(inside[5:])}]"
        return f"[{IPv4Address(inside)}]"
    except ValueError:
        raise BadAddress("address literal is not a valid IPv4 or IPv6 address") from None


@frozen(repr=False)
class Address:
    """A mailbox: an unquoted local-part and a domain in its one spelling (see `parse_domain`).

    ``Address("", "")`` is the null reverse-path, here called `NULL`; it is false. ``Address("postmaster", "")`` is the
    domainless ``<postmaster>`` of RFC 5321 §4.5.1. Local-parts are compared as they are (RFC 5321 §2.4); use `folded`
    where a table of our own users is asked.
    """

    local_part: str
    domain: str
    # Worked out once: an address is written half a dozen times for each message.
    _text: str = field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        local_part = self.local_part
        if local_part and not _DOT_STRING.match(local_part):
            escaped = local_part.replace("\\", "\\\\").replace('"', '\\"')
            local_part = f'"{escaped}"'
        object.__setattr__(self, "_text", f"{local_part}@{self.domain}" if self.domain else local_part)

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``local-part@domain`` without angle brackets. Raises BadAddress."""
        return _parse(text)

    @property
    def folded(self) -> str:
        """The address as a key for tables: everything in lower case."""
        return f"{self.local_part}@{self.domain}".lower()

    @property
    def needs_smtputf8(self) -> bool:
        """Whether only an SMTPUTF8 transaction can carry it (RFC 6531); the domain has an ASCII form, the local-part has none."""
        return not self.local_part.isascii()

    @property
    def is_routed(self) -> bool:
        """Whether the local-part carries a route of the sender's: percent hack, bang path or a quoted ``@``; in full width, too."""
        local_part = self.local_part
        if not local_part.isascii():
            local_part = normalize("NFKC", local_part)  # as a next hop may do
        return "%" in local_part or "!" in local_part or "@" in local_part

    @property
    def ip_literal(self) -> IPv4Address | IPv6Address | None:
        """The address behind an address literal, or None for a name."""
        if not self.domain.startswith("["):
            return None
        inside = self.domain[1:-1]
        return IPv6Address(inside[5:]) if inside.startswith("IPv6:") else IPv4Address(inside)

    def __bool__(self) -> bool:
        return bool(self.local_part)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<{self}>"


NULL = Address("", "")


# The same few addresses come again and again: a hit costs 0.1 µs, a parse 3 µs. 8,192 addresses are a few MB at most.
@lru_cache(maxsize=8192)
def _parse(text: str) -> Address:
    plain = _PLAIN.match(text)
    if plain:
        local_part, domain = plain.groups()
    else:
        local_part, domain = _split(text)
    if not local_part.isprintable():
        # Beyond ASCII there are control characters and line ends, too: no next hop can be told them, and no log should be.
        raise BadAddress("local-part has characters that cannot be printed")
    if len(local_part.encode()) > MAX_LOCAL_PART:
        raise BadAddress("local-part is longer than 64 octets")
    address = Address(local_part, parse_domain(domain))
    # As it was said and as we say it: A-labels are longer than U-labels.
    if len(text.encode()) > MAX_MAILBOX or (not plain and len(str(address).encode()) > MAX_MAILBOX):
        raise BadAddress("address is longer than 254 octets")
    return address


def _split(text: str) -> tuple[str, str]:
    quoted, at, domain = text.rpartition("@")
    if not at:
        raise BadAddress("address has no domain")
    if not domain:
        raise BadAddress("domain is missing")
    if not quoted:
        raise BadAddress("local-part is missing")
    if quoted.startswith('"'):
        match = _QUOTED_STRING.match(quoted)
        if not match:
            raise BadAddress("quoted local-part is malformed")
        local_part = _QUOTED_PAIR.sub(r"\1", match.group(1))
        if not local_part:
            raise BadAddress("local-part is missing")
        return local_part, domain
    if not _DOT_STRING.match(quoted):
        raise BadAddress("local-part has characters that must be quoted")
    return quoted, domain
