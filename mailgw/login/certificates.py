"""Accounts for clients that show a TLS certificate (EXTERNAL, RFC 4422 appendix A)."""

import re
from typing import Any

from attrs import field, frozen
from twisted.cred.error import UnauthorizedLogin
from zope.interface import implementer

from mailgw.credentials import IAccounts, IClientCertificate

__all__ = ["Certificates"]

_FINGERPRINT = re.compile(r"[0-9a-f]{64}\Z")


def _tidy(fingerprints: dict[str, str]) -> dict[str, str]:
    """As OpenSSL prints them, with colons and in upper case, or as we log them."""
    tidy = {written.replace(":", "").lower(): login for written, login in fingerprints.items()}
    for one in tidy:
        if not _FINGERPRINT.match(one):
            raise ValueError(f'"{one}" is no SHA-256 fingerprint: it has 64 hexadecimal digits')
    return tidy


def _folded(names: dict[str, str]) -> dict[str, str]:
    return {name.lower(): login for name, login in names.items()}


@implementer(IAccounts)
@frozen
class Certificates:
    """``type = "certificates"``: a login for each certificate, known by its fingerprint or by a name in it.

    ``fingerprints`` are SHA-256, as ``openssl x509 -fingerprint -sha256`` shows them. ``names`` are alternative names, addresses or
    hosts, of certificates that [tls.NAME] ``client_ca`` has signed; ``any_address`` takes every address in these as its own login.
    """

    fingerprints: dict[str, str] = field(factory=dict, converter=_tidy)
    names: dict[str, str] = field(factory=dict, converter=_folded)
    any_address: bool = False
    credentialInterfaces: Any = field(init=False, repr=False, eq=False, default=(IClientCertificate,))  # noqa: N815 - twisted.cred's name

    def __attrs_post_init__(self) -> None:
        if not (self.fingerprints or self.names or self.any_address):
            raise ValueError("names no certificate: nobody could log in")

    def mechanisms(self) -> frozenset[str]:
        """EXTERNAL alone."""
        return frozenset({"EXTERNAL"})

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """The login of the certificate: the one that the client asks for, or the only one. Raises UnauthorizedLogin."""
        logins = {self.names[name.lower()] for name in credentials.names if name.lower() in self.names}
        if self.any_address:
            logins |= {name.lower() for name in credentials.names if "@" in name}
        if credentials.fingerprint in self.fingerprints:
            logins.add(self.fingerprints[credentials.fingerprint])
        wanted = credentials.username
        if wanted in logins:
            return str(wanted)
        if not wanted and len(logins) == 1:
            return logins.pop()
        raise UnauthorizedLogin()
