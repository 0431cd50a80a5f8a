"""Our certificates: read when they are needed, read again when their files change, so that no renewal needs a restart."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.interfaces import IOpenSSLContextFactory, IReactorTime
from twisted.internet.ssl import CertificateOptions, TLSVersion
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.values.secret import Secret

__all__ = ["ServerTls"]

_LOOK_EVERY = 1.0  # seconds; a renewed certificate is in use that soon

_log = Logger(namespace="mailgw.tls")


@implementer(IOpenSSLContextFactory)
class ServerTls:
    """One [tls.NAME]: gives OpenSSL contexts for the server's side, TLS 1.2 and up (RFC 8996)."""

    def __init__(self, certificate: Path, key: Secret, clock: IReactorTime) -> None:
        """Read both files (PEM; the certificate first, then its chain). Raises OSError and ValueError."""
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._looked = clock.seconds()
        self._state = self._look()
        self._context = self._read()

    def getContext(self) -> SSL.Context:  # noqa: N802
        """The context for the next handshake. Where new files cannot be used, the last good ones stay in use."""
        now = self._clock.seconds()
        if not self._looked <= now < self._looked + _LOOK_EVERY:
            self._looked = now
            state = self._look()
            if state != self._state:
                self._state = state
                try:
                    self._context = self._read()
                    _log.info("certificate {path} read again", path=self._certificate)
                except (OSError, ValueError) as problem:
                    _log.error("certificate {path} cannot be used, the old one stays: {problem}", path=self._certificate, problem=problem)
        return self._context

    def _look(self) -> tuple[tuple[int, int], ...]:
        states = []
        for path in (self._certificate, self._key.path):
            try:
                status = path.stat() if path is not None else None
            except OSError:
                status = None
            states.append((status.st_mtime_ns, status.st_ino) if status else (0, 0))
        return tuple(states)

    def _read(self) -> SSL.Context:
        try:
            return self._load()
        except (ValueError, TypeError, SSL.Error) as problem:
            why = "does not fit its key" if isinstance(problem, SSL.Error) else f"or its key {self._key} cannot be read: no usable PEM"
            raise ValueError(f"{self._certificate} {why}") from problem

    def _load(self) -> SSL.Context:
        chain = [X509.from_cryptography(one) for one in x509.load_pem_x509_certificates(self._certificate.read_bytes())]
        key = PKey.from_cryptography_key(load_pem_private_key(self._key.read(), None))  # type: ignore[arg-type]
        options = CertificateOptions(
            privateKey=key, certificate=chain[0], extraCertChain=chain[1:], raiseMinimumTo=TLSVersion.TLSv1_2
        )
        context = options.getContext()
        context.check_privatekey()
        return context
