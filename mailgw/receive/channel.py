"""What a TLS connection can prove about itself and its client."""

from typing import Any

from mailgw.smtp.sasl import Certificate, Channel
from mailgw.tls import certificate_of

__all__ = ["IN_CLEAR", "channel_of"]

IN_CLEAR = Channel()
_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266 §4
_LENGTH = 32  # octets


def channel_of(connection: Any) -> Channel:
    """Look at a pyOpenSSL connection whose handshake is over, on the server's side.

    Each version of TLS has one type of channel binding here: tls-exporter needs TLS 1.3 (in 1.2 it would have to be known that the
    extended master secret is in use, RFC 9266 §4.2), and tls-unique is not defined there (RFC 5929 §3).
    """
    if connection.get_protocol_version_name() == "TLSv1.3":
        bindings = {"tls-exporter": connection.export_keying_material(_LABEL, _LENGTH, b"")}
    else:
        # The first Finished message is the client's, as sessions are never resumed (see `mailgw.tls`).
        finished = connection.get_peer_finished()
        bindings = {"tls-unique": finished} if finished else {}
    shown = certificate_of(connection)
    return Channel(bindings, Certificate(*shown) if shown else None)
