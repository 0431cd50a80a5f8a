"""TLS without a socket: both sides of a connection in memory, after a real handshake of OpenSSL."""

from contextlib import suppress
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory

__all__ = ["meet", "shake_hands"]


def shake_hands(
    tls: IOpenSSLContextFactory, name: bytes | None = None, version: int = SSL.TLS1_3_VERSION, certificate: Path | None = None
) -> tuple[SSL.Connection, SSL.Connection]:
    """The server's and the client's side. Raises OpenSSL.SSL.Error where they do not come together.

    ``name``: octets, what the client asks for (server_name); ``certificate``: a file with the one that it shows, and its key.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    if certificate is not None:
        context.use_certificate_chain_file(str(certificate))
        context.use_privatekey_file(str(certificate))
    server, client = SSL.Connection(tls.getContext()), SSL.Connection(context)
    if name is not None:
        client.set_tlsext_host_name(name)
    meet(server, client)
    return server, client


def meet(server: SSL.Connection, client: SSL.Connection) -> None:
    """Let two connections that know of no socket shake hands. Raises as `shake_hands` does."""
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(10):
        for here, there in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                here.do_handshake()
            with suppress(SSL.WantReadError):
                there.bio_write(here.bio_read(65536))
