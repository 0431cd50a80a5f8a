"""TLS towards those who know our accounts: always verified."""

from pathlib import Path
from typing import Any

import attrs
from OpenSSL import crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import Certificate, TLSVersion, optionsForClientTLS, trustRootFromCertificates

__all__ = ["tls_with", "trusted"]


def tls_with(name: str, trust: Path | None) -> IOpenSSLClientConnectionCreator:
    """TLS with a server whose certificate must be valid for ``name``, a host name or an IP address.

    ``trust``: a PEM file of authorities; None: those that the system trusts. Raises OSError and ValueError.
    """
    roots = trustRootFromCertificates(_authorities(trust)) if trust else None  # type: ignore[no-untyped-call]
    return optionsForClientTLS(name, roots, extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2})


def trusted(_: Any, attribute: "attrs.Attribute[Any]", trust: Path | None) -> None:
    """A validator for ``trust``: what is missing or empty at the start is a mistake, not an outage. Raises ValueError."""
    try:
        if trust is not None and not _authorities(trust):
            raise ValueError(f"{attribute.name}: {trust} holds no certificate")
    except OSError as problem:
        raise ValueError(f"{attribute.name}: {trust}: {problem.strerror}") from None


def _authorities(trust: Path) -> list[Certificate]:
    end = b"-----END CERTIFICATE-----"
    try:
        return [Certificate.loadPEM(block + end) for block in trust.read_bytes().split(end)[:-1]]
    except crypto.Error:
        raise ValueError(f"{trust} holds a certificate that cannot be read") from None
