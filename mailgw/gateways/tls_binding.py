"""What binds a login to the TLS connection it is made on."""

from typing import Any

from OpenSSL import SSL

from mailgw.smtp.scram_client import ChannelBinding

__all__ = ["binding_of"]

_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 §2
_OCTETS = 32


def binding_of(transport: Any) -> ChannelBinding | None:
    """The channel binding of a Twisted TLS transport whose handshake is complete; None where there is none to be had.

    ``tls-exporter`` for TLS 1.3 and ``tls-unique`` before it (RFC 9266 §3): in TLS 1.2 the first of the two Finished messages is the
    client's, as sessions are not resumed (RFC 5929 §3.1).
    """
    connection = transport.getHandle()
    if not isinstance(connection, SSL.Connection):
        return None
    if connection.get_protocol_version_name() == "TLSv1.3":
        return ChannelBinding("tls-exporter", connection.export_keying_material(_LABEL, _OCTETS, None))
    finished = connection.get_finished()
    return ChannelBinding("tls-unique", finished) if finished else None
