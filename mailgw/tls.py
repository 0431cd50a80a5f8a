"""Our certificates: read when they are needed, read again when their files change, so that no renewal needs a restart.

Where a listener has several, the name that the client asks for picks one.
"""

import re
from collections.abc import Sequence, Set
from datetime import timedelta
from pathlib import Path
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.interfaces import IOpenSSLContextFactory, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.values.facts import TlsFacts
from mailgw.values.secret import Secret

__all__ = ["EXPIRES_SOON", "ServerTls", "certificate_of", "facts_of", "is_covered", "names_of"]

EXPIRES_SOON = timedelta(days=14)  # from then on it is said

_LOOK_EVERY = 1.0  # seconds; a renewed certificate is in use that soon

_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

_log = Logger(namespace="mailgw.tls")


@implementer(IOpenSSLContextFactory)
class ServerTls:
    """One [tls.NAME]: gives OpenSSL contexts for the server's side, TLS 1.2 and up (RFC 8996)."""

    def __init__(
        self,
        certificate: Path,
        key: Secret,
        clock: IReactorTime,
        ask_clients: bool = False,
        client_ca: Path | None = None,
        others: "Sequence[ServerTls]" = (),
    ) -> None:
        """Read the files (PEM; the certificate first, then its chain). Raises OSError and ValueError.

        ``ask_clients``: for a certificate of their own, which they need not have; ``client_ca``: who signs those whose names count.
        ``others``: what clients get that ask for a name of theirs (server_name, RFC 6066 §3); the first that has the name itself, else
        the first with a wildcard for it. This one is for all who ask for no name, or for one that nobody has.
        """
        self.path = certificate
        self._key = key
        self._ask_clients = ask_clients
        self._client_ca = client_ca
        self.several = (self, *others)
        """All that clients can get."""
        self._clock = clock
        self._looked = clock.seconds()
        self._state = self._look()
        self._context, self._names, self._until = self._read()

    def until(self) -> float:
        """When what is in use expires, as POSIX seconds: the first certificate of its chain that does. Files that changed are read."""
        self.getContext()
        return self._until

    def getContext(self) -> SSL.Context:  # noqa: N802
        """The context for the next handshake. Where new files cannot be used, the last good ones stay in use."""
        now = self._clock.seconds()
        if not self._looked <= now < self._looked + _LOOK_EVERY:
            self._looked = now
            state = self._look()
            if state != self._state:
                self._state = state
                try:
                    self._context, self._names, self._until = self._read()
                    _log.info("certificate {path} read again", path=self.path)
                except (OSError, ValueError) as problem:
                    _log.error("certificate {path} cannot be used, the old one stays: {problem}", path=self.path, problem=problem)
        return self._context

    def _look(self) -> tuple[tuple[int, int], ...]:
        states = []
        for path in (self.path, self._key.path, self._client_ca):
            try:
                status = path.stat() if path is not None else None
            except OSError:
                status = None
            states.append((status.st_mtime_ns, status.st_ino) if status else (0, 0))
        return tuple(states)

    def _choose(self, connection: SSL.Connection) -> None:
        # Called in the handshake, before anything depends on a certificate. The client may be told nothing about a name that we do not
        # have: many ask for one that is not ours, and do not look at the certificate.
        contexts = [one.getContext() for one in self.several]
        name = _server_name_of(connection)
        place = _place_of(name, [one._names for one in self.several]) if name else 0
        if place:
            connection.set_context(contexts[place])
            # What OpenSSL has taken over from the first context, and does not change with it.
            connection.set_verify(contexts[place].get_verify_mode(), _note_verified)

    def _read(self) -> tuple[SSL.Context, frozenset[str], float]:
        try:
            return self._load()
        except (ValueError, TypeError, SSL.Error) as problem:
            if isinstance(problem, _BadClientCa):
                raise
            why = "does not fit its key" if isinstance(problem, SSL.Error) else f"or its key {self._key} cannot be read: no usable PEM"
            raise ValueError(f"{self.path} {why}") from problem

    def _load(self) -> tuple[SSL.Context, frozenset[str], float]:
        certificates = x509.load_pem_x509_certificates(self.path.read_bytes())
        chain = [X509.from_cryptography(one) for one in certificates]
        key = PKey.from_cryptography_key(load_pem_private_key(self._key.read(), None))  # type: ignore[arg-type]
        options = CertificateOptions(
            privateKey=key, certificate=chain[0], extraCertChain=chain[1:], raiseMinimumTo=TLSVersion.TLSv1_2
        )
        context = options.getContext()
        context.check_privatekey()
        if self._client_ca is not None:
            _trust(context, self._client_ca)
        if self._ask_clients or self._client_ca is not None:
            context.set_verify(SSL.VERIFY_PEER, _note_verified)
        if len(self.several) > 1:
            context.set_tlsext_servername_callback(self._choose)
        return context, names_of(certificates[0]), min(one.not_valid_after_utc for one in certificates).timestamp()


class _BadClientCa(ValueError):
    pass


def names_of(certificate: x509.Certificate) -> frozenset[str]:
    """The host names in a certificate, wildcards included, in lower case: its dNSNames and nothing else (RFC 9525 §2)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except (x509.ExtensionNotFound, ValueError):  # ValueError: its extensions are malformed
        return frozenset()
    return frozenset(name.lower() for name in names)


def is_covered(host: str, names: Set[str]) -> bool:
    """Whether certificates with these names are good for a host, which is in lower case."""
    return host in names or _wildcard(host) in names


def facts_of(connection: SSL.Connection) -> TlsFacts:
    """What policies are told about a connection whose handshake is over, on the server's side."""
    cipher = connection.get_cipher_name() or ""
    return TlsFacts(version=connection.get_protocol_version_name(), cipher=cipher, server_name=_server_name_of(connection))


def _server_name_of(connection: SSL.Connection) -> str:
    # Whatever a host cannot be called is as good as none; it ends up in logs.
    name = (connection.get_servername() or b"").decode("ascii", "replace").lower()
    return name if _HOST.fullmatch(name) else ""


def _place_of(host: str, several: Sequence[Set[str]]) -> int:
    for spelling in (host, _wildcard(host)):
        for place, names in enumerate(several):
            if spelling in names:
                return place
    return 0


def _wildcard(host: str) -> str:
    return f"*.{host.partition('.')[2]}"  # RFC 9525 §6.3: a whole left-most label


def _trust(context: SSL.Context, path: Path) -> None:
    try:
        authorities = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        raise _BadClientCa(f"{path} cannot be read: no certificates in PEM form") from None
    trusted = context.get_cert_store()
    assert trusted is not None
    for one in authorities:
        trusted.add_cert(X509.from_cryptography(one))
        context.add_client_ca(X509.from_cryptography(one))


_VERIFIED: "WeakKeyDictionary[SSL.Connection, bool]" = WeakKeyDictionary()


def _note_verified(connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int) -> bool:  # noqa: ARG001
    # Called for each certificate of the client's chain, and again for each fault. A certificate that nobody we trust has signed
    # still shows a key, whose fingerprint an account may know: the handshake goes on.
    _VERIFIED[connection] = _VERIFIED.get(connection, True) and bool(ok)
    return True


def certificate_of(connection: SSL.Connection) -> tuple[str, tuple[str, ...]] | None:
    """What the client has shown: SHA-256 of its certificate in lower case hexadecimal, and its names; None: nothing.

    Names are the rfc822Name and dNSName alternative names; none where no authority that we trust for this has signed it.
    """
    shown = connection.get_peer_certificate()
    if shown is None:
        return None
    certificate = shown.to_cryptography()
    fingerprint = certificate.fingerprint(SHA256()).hex()
    if not _VERIFIED.get(connection, False):
        return fingerprint, ()
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return fingerprint, (*names.get_values_for_type(x509.RFC822Name), *names.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):  # ValueError: its extensions are malformed
        return fingerprint, ()
