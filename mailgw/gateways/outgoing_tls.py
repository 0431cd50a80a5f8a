"""TLS towards next hops: whether, and how far the server's certificate is trusted."""

from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import field, frozen
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL, crypto
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from zope.interface import implementer

from mailgw.values.secret import Secret

__all__ = ["VERIFIED", "ClientCertificate", "OutgoingTls", "TlsMode", "authorities_there"]

TlsMode = Literal["never", "offered", "require", "implicit"]
"""``never``: in clear. ``offered``: encrypted where STARTTLS is offered and works, without asking who the server is (RFC 7435);
else in clear. ``require``: STARTTLS, and a certificate that is valid for the server's name; else the mail waits.
``implicit``: the same with TLS from the first octet (RFC 8314), usually on port 465.
"""

VERIFIED: frozenset[TlsMode] = frozenset({"require", "implicit"})
"""Where the server's certificate is verified."""

_MOST_KEPT = 256  # server names; a context costs a millisecond and some 100 KB


@frozen
class ClientCertificate:
    """What we show a server that asks who we are; read again when the file changes."""

    certificate: Path  # PEM: ours first, then the chain
    key: Secret  # PEM

    def read(self) -> dict[str, Any]:
        """It and its key, as `CertificateOptions` takes them. Raises OSError, and ValueError for what is no certificate or does not fit."""
        try:
            own, *chain = load_pem_x509_certificates(self.certificate.read_bytes())
            key = load_pem_private_key(self.key.read(), None)
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.use_certificate(own)
            context.use_privatekey(key)  # type: ignore[arg-type]  # all kinds but those that TLS has no use for, which raise
            context.check_privatekey()
        except (SSL.Error, ValueError, TypeError):
            raise ValueError(f"{self.certificate} and {self.key} are no certificate with its key, in PEM") from None
        return {"certificate": own, "privateKey": key, "extraCertChain": chain}

    @property
    def age(self) -> float:
        """Changes when the certificate does. Raises OSError."""
        return self.certificate.stat().st_mtime


@frozen
class OutgoingTls:
    """How connections to next hops are protected. Never below TLS 1.2 (RFC 8996)."""

    trust: Path | None = None  # a PEM file with certificates of authorities; none: those that the system trusts
    shown: ClientCertificate | None = None  # to servers whose own certificate is verified
    _kept: dict[str, IOpenSSLClientConnectionCreator] = field(factory=dict, init=False, repr=False, eq=False)

    def verified(self, name: str) -> IOpenSSLClientConnectionCreator:
        """TLS with a server whose certificate must be valid for ``name``, a host name or an IP address.

        Raises OSError, and ValueError for a client certificate that cannot be used.
        """
        key = f"{name} {self.shown.age}" if self.shown else name
        creator = self._kept.get(key)
        if creator is None:
            options = self.shown.read() if self.shown else {}
            creator = optionsForClientTLS(
                name,
                trustRootFromCertificates(_certificates(self.trust)) if self.trust else None,  # type: ignore[no-untyped-call]
                extraCertificateOptions={"raiseMinimumTo": TLSVersion.TLSv1_2, **options},
            )
            self._keep(key, creator)
        return creator

    def encrypted(self, name: str) -> IOpenSSLClientConnectionCreator:
        """TLS with whoever answers."""
        key = f"anyone at {name}"
        creator = self._kept.get(key)
        if creator is None:
            creator = _Encrypted(name)
            self._keep(key, creator)
        return creator

    def _keep(self, key: str, creator: IOpenSSLClientConnectionCreator) -> None:
        if len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = creator


def authorities_there(_: Any, attribute: "attrs.Attribute[Any]", trust: Path | None) -> None:
    """A validator for ``trust``: what is missing or empty at the start is a mistake, not an outage. Raises ValueError."""
    try:
        if trust is not None and not _certificates(trust):
            raise ValueError(f"{attribute.name}: {trust} holds no certificate")
    except OSError as problem:
        raise ValueError(f"{attribute.name}: {trust}: {problem.strerror}") from None
    except crypto.Error:
        raise ValueError(f"{attribute.name}: {trust} holds a certificate that cannot be read") from None


def _certificates(path: Path) -> list[Certificate]:
    end = b"-----END CERTIFICATE-----"
    return [Certificate.loadPEM(block + end) for block in path.read_bytes().split(end)[:-1]]


_ANYONE = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2)


@implementer(IOpenSSLClientConnectionCreator)
@frozen
class _Encrypted:
    name: str

    def clientConnectionForTLS(self, _: Any) -> SSL.Connection:  # noqa: N802 - named by Twisted
        connection = SSL.Connection(_ANYONE.getContext(), None)
        if not (isIPAddress(self.name) or isIPv6Address(self.name)):
            connection.set_tlsext_host_name(self.name.encode("ascii"))  # RFC 6066 §3: names only
        return connection
