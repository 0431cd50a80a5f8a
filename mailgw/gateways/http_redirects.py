"""Where an answer may send us: never from the outside into our own network."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urljoin, urlsplit

from attrs import frozen

from mailgw.gateways.naming import addresses_of
from mailgw.interfaces import IResolver, LookupFailed

__all__ = ["BadRedirect", "Target", "followed", "is_public"]

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291 §2.5.5.1


class BadRedirect(Exception):
    """A redirect that is not followed; the text says why."""


@frozen
class Target:
    """Where a request goes. Raises ValueError for what is no URL of HTTP."""

    url: str
    address: str = ""  # the IP address to connect to; empty: whatever the name means on this machine

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must begin with https:// or http:// and a host")
        if not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            raise ValueError("must be ASCII without spaces: write other characters as %XX, and host names as xn--")
        if parts.username is not None or parts.password is not None:
            raise ValueError('must not hold a password: say authorization = { file = "..." }')
        _ = parts.port  # raises ValueError

    @property
    def host(self) -> str:
        """The host, without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_encrypted(self) -> bool:
        """Whether it is HTTPS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454 §4)."""
        parts = urlsplit(self.url)
        return parts.scheme, self.host, parts.port or (443 if self.is_encrypted else 80)


async def followed(location: str, now: Target, first: Target, resolver: IResolver, allow_private: bool) -> Target:
    """The target of a redirect. Raises BadRedirect.

    ``first`` is what the administrator wrote: that may lie anywhere. Any other host must have public addresses only, and the
    request goes to the very address that was looked at: a name could mean another one the next time.
    """
    try:
        target = Target(urljoin(now.url, location))
    except ValueError:
        raise BadRedirect("redirected to what is no URL") from None
    if now.is_encrypted and not target.is_encrypted:
        raise BadRedirect("redirected from https to http")
    if target.origin == first.origin or allow_private:
        return target
    try:
        addresses = [target.host] if _literal(target.host) else await addresses_of(resolver, target.host)
    except LookupFailed as problem:
        raise BadRedirect(f"redirected to {target.host}, which cannot be looked up now: {problem}") from None
    if not addresses:
        raise BadRedirect(f"redirected to {target.host}, which has no address")
    if not all(is_public(ip_address(address)) for address in addresses):
        raise BadRedirect(f"redirected to {target.host}, a private address")
    return Target(target.url, addresses[0])


def _literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether an address belongs to the internet at large, and so does the IPv4 address that may be hidden in it."""
    if isinstance(ip, IPv6Address):
        hidden = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if hidden is None and (ip in _NAT64 or ip in _COMPATIBLE):
            hidden = IPv4Address(int(ip) & 0xFFFFFFFF)
        if hidden is not None:
            return is_public(hidden)
    return ip.is_global and not ip.is_multicast
