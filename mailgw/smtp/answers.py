"""What the server engine says by itself, and the settings that decide what it offers."""

from collections.abc import Sequence
from functools import lru_cache

from attrs import frozen

from mailgw.smtp.xclient import ATTRIBUTES
from mailgw.values.reply import Reply

__all__ = ["ServerSettings", "commands", "hello"]


@frozen(kw_only=True)
class ServerSettings:
    """What a listener offers and tolerates."""

    hostname: str
    starttls: bool = False  # offered, while the connection is in clear
    require_tls: bool = False  # nothing but EHLO, STARTTLS, NOOP and QUIT before TLS (RFC 3207 §4)
    require_auth: bool = False  # no MAIL before AUTH (RFC 6409 §4.3)
    authenticates: bool = False  # there are accounts; which mechanisms are offered depends on the connection
    expands: bool = False  # EXPN is answered
    max_message_size: int = 52_428_800  # octets
    max_text_line: int = 65_536  # octets
    max_recipients: int = 1000  # said in LIMITS (RFC 9422); enforced by the conversation, which answers 452
    max_errors: int = 20  # replies of 5yz in a session
    max_commands: int = 1000  # commands that bring no message nearer, and replies of 4yz, since the last message
    fix_line_ends: bool = False
    soft_bounce: bool = False  # every 5yz is said as 4yz


@lru_cache(maxsize=256)  # all that a house of many listeners says; gain, measured: 4 µs for each connection
def hello(
    settings: ServerSettings, esmtp: bool, tls: bool, mechanisms: tuple[str, ...] = (), trusted: bool = False, introduced: bool = False
) -> Reply:
    """The answer to EHLO or HELO: only what is really honoured at this moment is offered.

    ``mechanisms``: those of SASL; ``trusted``: XCLIENT is; ``introduced``: it was said.
    """
    if not esmtp:
        return Reply(250, "", settings.hostname)
    words = [
        settings.hostname,
        "PIPELINING",
        f"SIZE {settings.max_message_size}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        "BINARYMIME",
        "DSN",
    ]
    if settings.starttls and not tls and not introduced:
        words.append("STARTTLS")
    if tls:
        words.append("REQUIRETLS")
    if mechanisms:
        words.append(f"AUTH {' '.join(mechanisms)}")
    if trusted:
        words.append(f"XCLIENT {' '.join(ATTRIBUTES)}")
    # Last, as simple clients look for "250-STARTTLS" and "250-AUTH".
    words.append(f"LIMITS RCPTMAX={settings.max_recipients}")
    return Reply(250, "", "\n".join(words))


def commands(settings: ServerSettings, tls: bool, mechanisms: Sequence[str]) -> Reply:
    """The answer to HELP: the commands that can be of use at this moment."""
    words = ["EHLO", "HELO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "VRFY", "HELP", "QUIT"]
    words += ["EXPN"] * settings.expands + ["STARTTLS"] * (settings.starttls and not tls) + ["AUTH"] * bool(mechanisms)
    return Reply(214, "2.0.0", " ".join(words))


OK = Reply(250, "2.0.0", "ok")
GO_AHEAD = Reply(354, "", "end data with <CR><LF>.<CR><LF>")
UNKNOWN = Reply(500, "5.5.2", "command not recognized")
NOT_OFFERED = Reply(502, "5.5.1", "command not offered")
NO_ARGUMENT = Reply(501, "5.5.4", "command takes no argument")
HELLO_FIRST = Reply(503, "5.5.1", "say EHLO first")
NEED_MAIL = Reply(503, "5.5.1", "say MAIL first")
NEED_RCPT = Reply(554, "5.5.1", "no valid recipients")
IN_TRANSACTION = Reply(503, "5.5.1", "not allowed inside a mail transaction")
MIXED = Reply(503, "5.5.1", "DATA and BDAT cannot be mixed in one transaction")
NO_BINARY = Reply(503, "5.5.1", "BODY=BINARYMIME needs BDAT")
NEED_TLS = Reply(530, "5.7.0", "say STARTTLS first")
NEED_AUTH = Reply(530, "5.7.0", "authentication required")
AUTH_NEEDS_TLS = Reply(538, "5.7.11", "authentication needs TLS")
NOT_TRUSTED = Reply(550, "5.7.0", "you may not speak for others")
TLS_FIRST = Reply(503, "5.5.1", "say STARTTLS before XCLIENT")
AUTH_SYNTAX = Reply(501, "5.5.4", "syntax: AUTH mechanism [initial-response]")
AUTH_DONE = Reply(503, "5.5.1", "authenticated already")
NO_MECHANISM = Reply(504, "5.5.4", "authentication mechanism not offered")
NO_INITIAL = Reply(501, "5.7.0", "mechanism takes no initial response")
LONG_RESPONSE = Reply(500, "5.5.6", "authentication exchange line is too long")
AUTH_CANCELLED = Reply(501, "5.7.0", "authentication cancelled")
NO_BASE64 = Reply(501, "5.5.2", "not valid base64")
CHUNK_RECEIVED = Reply(250, "2.0.0", "chunk received")
VRFY = Reply(252, "2.5.0", "not verified here; send mail and see")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "too many errors")
ENDLESS_LINE = Reply(421, "4.7.0", "line is far too long")
TOO_MANY_COMMANDS = Reply(421, "4.7.0", "too many commands without mail")
NOT_SMTP = Reply(421, "4.7.0", "this is not a web server")
