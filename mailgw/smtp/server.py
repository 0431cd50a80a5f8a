"""The server's side of SMTP, without a socket: bytes in, one event at a time out, replies out (RFC 5321).

`ServerEngine.next_event` gives an event that somebody must decide about, and then the engine waits: what the client
pipelined behind it stays in the buffer until `answer` was called. What needs no decision (bad syntax, bad order, NOOP,
HELP, VRFY) the engine answers itself. Replies pile up until `take_output`, so that those to pipelined commands leave in
one write (RFC 2920 §3.2).

===============  =================================================================================================
the engine is    and takes
===============  =================================================================================================
new              EHLO, HELO, XCLIENT; nothing else that matters (503)
greeted          MAIL, STARTTLS, AUTH, and what is always taken: RSET NOOP HELP VRFY EXPN XCLIENT QUIT EHLO HELO
in transaction   RCPT after MAIL; DATA and BDAT after an accepted RCPT; not MAIL, STARTTLS, AUTH, XCLIENT (503)
in data          octets up to CRLF "." CRLF, or as many as BDAT said
in an AUTH       one line: a response in base64 or ``*``
===============  =================================================================================================

One file because the order of commands is one table, best read in one piece.
"""

from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable

from mailgw.smtp import answers
from mailgw.smtp.answers import ServerSettings
from mailgw.smtp.commands import BadCommand, Offered, parse_mail, parse_rcpt
from mailgw.smtp.data import TOO_BIG, Chunk, DataReader, TextCheck
from mailgw.smtp.events import Auth, AuthEnd, AuthResponse, Closing, Data, Event, Expand, Hello, Mail, Piece, Quit, Rcpt, Reset, StartTls
from mailgw.smtp.lines import BadLine, LineBuffer, LongLine
from mailgw.smtp.mechanisms import MECHANISMS
from mailgw.smtp.xclient import parse_xclient
from mailgw.values.reply import Reply

__all__ = ["ServerEngine", "ServerSettings"]

MAX_COMMAND = 2048  # RFC 5321 §4.5.3.1.4 says 512; SMTPUTF8, DSN and AUTH parameters add to it
MAX_AUTH = 12288  # RFC 4954 §4
_AT_ONCE = 64 * 1024  # octets of BDAT handed on in one piece
_MAX_SKIPPED = 1024 * 1024  # octets of a line that is too long: after that its end is not waited for


class ServerEngine:
    """One session's language. Feed it with `receive`, take events, `answer` each, send what `take_output` gives."""

    def __init__(self, settings: ServerSettings, tls: bool = False, trusted: bool = False) -> None:
        """Make one; ``tls``: TLS began with the connection (RFC 8314); ``trusted``: the client may say XCLIENT."""
        self.tls = tls
        self.authenticated = False
        self._settings = settings
        self._trusted = trusted
        self._introduced = False  # XCLIENT was said
        self._lines = LineBuffer(settings.fix_line_ends)
        self._out: list[bytes] = []
        self.lines = 0  # that were complete so far
        self._errors = 0
        self._idle_commands = 0
        self._closing = False
        self._forget_hello()

    def _forget_hello(self) -> None:
        self._hello = False
        self._esmtp = False
        self._offered = Offered(esmtp=False)
        self._mechanisms: tuple[str, ...] = ()
        self._pending: Event | None = None  # given out, not answered
        self._forget_transaction()
        self._in_auth = False

    def _forget_transaction(self) -> None:
        self._mail: Mail | None = None
        self._accepted = 0  # recipients
        self._check: TextCheck | None = None
        self._reader: DataReader | None = None  # inside DATA
        self._chunking = False  # a BDAT was seen
        self._chunk: Chunk | None = None  # inside BDAT
        self._carried = b""  # a CR at the end of a piece of a BDAT text

    # ── The outside ──

    def receive(self, data: bytes) -> None:
        """Take what has arrived."""
        self._lines.feed(data)

    @property
    def buffered(self) -> int:
        """Octets that have arrived and are not looked at yet."""
        return len(self._lines)

    @property
    def in_content(self) -> bool:
        """Whether the next octets are content, not commands."""
        return self._reader is not None or self._chunk is not None

    @property
    def in_transaction(self) -> bool:
        """Whether a MAIL command stands."""
        return self._mail is not None

    def take_output(self) -> bytes:
        """What is to be sent now."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return out[0] if len(out) == 1 else b"".join(out)

    def greet(self, reply: Reply) -> None:
        """Say the greeting, or refuse the session with a 4yz or 5yz."""
        self._out.append(self._at_the_end(reply).wire)

    def next_event(self) -> Event | None:
        """The next event, or None until more arrives."""
        while not self._closing:
            if self._errors >= self._settings.max_errors:
                return self.close(answers.TOO_MANY_ERRORS)
            if self._idle_commands > self._settings.max_commands:
                return self.close(answers.TOO_MANY_COMMANDS)
            if self._chunk is not None:
                if self._chunk.left and not self._lines:
                    return None
                event = self._read_chunk(self._chunk)
            elif not self._lines:
                return None
            elif self._reader is not None:
                event = self._read_data(self._reader)
            else:
                try:
                    line = self._lines.next_line(MAX_AUTH if self._in_auth or self._mechanisms else MAX_COMMAND)
                    if line is None:
                        if self._lines.skipped > _MAX_SKIPPED:
                            return self.close(answers.ENDLESS_LINE)
                        return None
                    self.lines += 1
                    event = self._command(line)
                except BadLine as problem:
                    reply = Reply(500, "5.5.2", str(problem))
                    if not self._in_auth:
                        self._say(reply)
                        continue
                    event = AuthEnd(answers.LONG_RESPONSE if isinstance(problem, LongLine) else reply)
                except BadCommand as problem:
                    self._say(problem.reply)
                    continue
            if event is not None:
                self._pending = event
                return event
        return None

    def answer(self, reply: Reply) -> None:
        """Answer the event that was given last. For `Data` say `go_ahead`, for an unfinished `Piece` nothing."""
        event, self._pending = self._pending, None
        positive = reply.code < 400
        if isinstance(event, Mail):
            if positive:
                self._mail = event
        elif isinstance(event, Rcpt):
            if positive:
                self._accepted += 1
        elif isinstance(event, Piece):
            self._forget_transaction()
            self._idle_commands = 0
        elif isinstance(event, Data):
            if event.chunking:
                # The octets of the chunk come all the same (RFC 3030 §2).
                assert self._chunk is not None
                self._chunk.refusal = reply
                self._mail = None
                return
            self._forget_transaction()
        elif isinstance(event, Hello):
            self._forget_transaction()
            self._hello = positive
            self._esmtp = positive and event.esmtp
            self._offered = Offered(self._esmtp, requiretls=self.tls, auth=bool(self._mechanisms))
            if positive:
                reply = answers.hello(self._settings, event.esmtp, self.tls, self._mechanisms, self._trusted, self._introduced)
        elif isinstance(event, Reset):
            self._forget_transaction()
        elif isinstance(event, (Auth, AuthResponse, AuthEnd)):
            self._in_auth = False
            self.authenticated = positive
        self._say(reply)

    def go_ahead(self) -> None:
        """Let the content of a `Data` event come."""
        event, self._pending = self._pending, None
        assert isinstance(event, Data)
        assert self._mail is not None
        settings = self._settings
        binary = self._mail.body == "BINARYMIME"
        self._check = TextCheck(settings.max_message_size, settings.max_text_line, settings.fix_line_ends, binary)
        if not event.chunking:
            self._reader = DataReader()
            self._out.append(answers.GO_AHEAD.wire)

    def offer(self, mechanisms: tuple[str, ...]) -> None:
        """The SASL mechanisms that can be used on the connection as it is, in upper case; before `Hello` is answered."""
        self._mechanisms = mechanisms

    def challenge(self, challenge: bytes) -> None:
        """Send a SASL challenge; the next event is an `AuthResponse`, `AuthEnd` or `Closing` (RFC 4954 §4)."""
        self._pending, self._in_auth = None, True
        self._out.append(b"334 " + b64encode(challenge) + b"\r\n")

    def tls_started(self) -> None:
        """The connection is encrypted from here: forget what was said, throw away what came in clear (RFC 3207 §4.2, §5)."""
        self._lines.take_all()
        self.tls, self.authenticated = True, False
        self._forget_hello()

    def start_over(self, authenticated: bool) -> None:
        """XCLIENT was believed: the session is about to be greeted again, and ``authenticated`` as it says."""
        self.authenticated, self._introduced = authenticated, True
        self._forget_hello()

    def close(self, reply: Reply) -> Closing:
        """Say ``reply``, a 421 or 521, and take nothing more."""
        self._out.append(self._at_the_end(reply).wire)
        self._closing = True
        return Closing(reply)

    def _at_the_end(self, reply: Reply) -> Reply:
        # Of a session that is refused or closed, the one 4yz is 421 (RFC 5321 §3.8).
        return Reply(421, f"4{reply.enhanced[1:]}", reply.text) if self._settings.soft_bounce and reply.is_permanent else reply

    def _say(self, reply: Reply) -> None:
        if reply.code >= 400:
            # A deferral is no mistake of the client: with a greylist or many recipients it hears many of them.
            if reply.is_permanent:
                self._errors += 1
            else:
                self._idle_commands += 1
            if self._settings.soft_bounce:
                reply = reply.softened()
        self._out.append(reply.wire)

    # ── Commands ──

    def _command(self, line: bytes) -> Event | None:
        if self._in_auth:
            return _auth_response(line)
        verb, _, argument = line.rstrip(b" \t").partition(b" ")  # RFC 5321 §4.1.1: blanks at the end are tolerated
        verb = verb.upper()
        if len(line) > MAX_COMMAND - 2 and verb != b"AUTH":
            raise LongLine("line is too long")
        handler = _HANDLERS.get(verb)
        if handler is None:
            if verb in _WEB:
                # A browser made to talk to us (cross-protocol request): nothing behind this line is SMTP.
                return self.close(answers.NOT_SMTP)
            self._say(answers.UNKNOWN)
            return None
        if self._settings.require_tls and not self.tls and handler not in _BEFORE_TLS:
            self._say(answers.NEED_TLS)
            return None
        return handler(self, argument)

    def _ehlo(self, argument: bytes) -> Event | None:
        return self._greeting(argument, True)

    def _helo(self, argument: bytes) -> Event | None:
        return self._greeting(argument, False)

    def _greeting(self, argument: bytes, esmtp: bool) -> Event | None:
        self._idle_commands += 1
        name = argument.strip().decode("utf-8", "replace")
        if not name or " " in name or not name.isprintable() or len(name.encode()) > 255:
            self._say(Reply(501, "5.5.4", f"syntax: {'EHLO' if esmtp else 'HELO'} hostname"))
            return None
        return Hello(name, esmtp)

    def _mail_command(self, argument: bytes) -> Event | None:
        if not self._hello:
            self._say(answers.HELLO_FIRST)
        elif self._mail is not None:
            self._say(answers.IN_TRANSACTION)
        elif self._settings.require_auth and not self.authenticated:
            self._say(answers.NEED_AUTH)
        else:
            mail = parse_mail(argument, self._offered)
            if mail.size is None or mail.size <= self._settings.max_message_size:
                return mail
            self._say(TOO_BIG)  # RFC 1870 §6.1
        return None

    def _rcpt_command(self, argument: bytes) -> Event | None:
        if self._mail is None:
            self._say(answers.NEED_MAIL)
        elif self._chunking:
            self._say(answers.IN_TRANSACTION)
        else:
            return parse_rcpt(argument, self._offered, self._mail.smtputf8)
        return None

    def _data_command(self, argument: bytes) -> Event | None:
        if argument:
            self._say(answers.NO_ARGUMENT)
        elif self._mail is None:
            self._say(answers.NEED_MAIL)
        elif not self._accepted:
            self._say(answers.NEED_RCPT)
        elif self._chunking:
            self._say(answers.MIXED)
        elif self._mail.body == "BINARYMIME":
            self._say(answers.NO_BINARY)  # RFC 3030 §3
        else:
            return Data(chunking=False)
        return None

    def _bdat_command(self, argument: bytes) -> Event | None:
        size, _, last = argument.partition(b" ")
        if not (size.isdigit() and len(size) <= 18) or last.upper() not in (b"", b"LAST"):
            # Where the chunk would end nobody knows: what follows must not be taken for commands.
            return self.close(Reply(521, "5.5.4", "syntax: BDAT size [LAST]"))
        self._chunk = Chunk(int(size), bool(last))
        self._idle_commands += not self._chunk.left
        if self._mail is None:
            self._chunk.refusal = answers.NEED_TLS if self._settings.require_tls and not self.tls else answers.NEED_MAIL
        elif not self._accepted:
            self._chunk.refusal = answers.NEED_RCPT
        elif not self._chunking:
            self._chunking = True
            return Data(chunking=True)
        return None

    def _rset(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        if argument:
            self._say(answers.NO_ARGUMENT)
            return None
        return Reset()

    def _noop(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        self._say(answers.OK)
        return None

    def _help(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        self._say(answers.commands(self._settings, self.tls, self._mechanisms))
        return None

    def _vrfy(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        self._say(answers.VRFY if argument else Reply(501, "5.5.4", "syntax: VRFY address"))
        return None

    def _expn(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        if not self._settings.expands:
            self._say(answers.NOT_OFFERED)
        elif not argument.strip():
            self._say(Reply(501, "5.5.4", "syntax: EXPN name"))
        else:
            return Expand(argument.strip().decode("utf-8", "replace"))
        return None

    def _quit(self, argument: bytes) -> Event | None:
        if argument:
            self._say(answers.NO_ARGUMENT)
            return None
        return Quit()

    def _starttls(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        if not self._settings.starttls:
            self._say(answers.NOT_OFFERED)
        elif argument:
            self._say(answers.NO_ARGUMENT)
        elif self.tls:
            self._say(Reply(503, "5.5.1", "TLS is on already"))
        elif self._introduced:
            # RFC 3207 §4.2 wants it forgotten, but the proxy must not be taken for its client.
            self._say(answers.TLS_FIRST)
        elif not self._esmtp:
            self._say(answers.HELLO_FIRST)
        elif self._mail is not None:
            self._say(answers.IN_TRANSACTION)
        else:
            return StartTls()
        return None

    def _xclient(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        if not self._trusted:
            self._say(answers.NOT_TRUSTED)
        elif self._mail is not None:
            self._say(answers.IN_TRANSACTION)
        else:
            return parse_xclient(argument)
        return None

    def _auth(self, argument: bytes) -> Event | None:
        self._idle_commands += 1
        name, _, response = argument.partition(b" ")
        mechanism = name.decode("ascii", "replace").upper()  # RFC 4422 §3.1, and all clients that say it otherwise
        if not self._settings.authenticates:
            self._say(answers.NOT_OFFERED)
        elif not self._esmtp:
            self._say(answers.HELLO_FIRST)
        elif self._mail is not None:
            self._say(answers.IN_TRANSACTION)
        elif self.authenticated:
            self._say(answers.AUTH_DONE)
        elif not name:
            self._say(answers.AUTH_SYNTAX)
        elif mechanism not in self._mechanisms:
            self._say(answers.NO_MECHANISM if self.tls else answers.AUTH_NEEDS_TLS)
        elif response and mechanism in MECHANISMS and MECHANISMS[mechanism].speaks_first:
            self._say(answers.NO_INITIAL)
        else:
            return Auth(mechanism, None if not response else b"" if response == b"=" else _base64(response))
        return None

    # ── Content ──

    def _read_data(self, reader: DataReader) -> Event | None:
        block, rest = reader.feed(self._lines.take_all())
        check = self._check
        assert check is not None
        kept = check.take(block) if block else b""
        if rest is None:
            return Piece(kept, False) if kept else None
        if rest:
            self._lines.feed(rest)
        self._reader = None
        return Piece(kept, True, check.problem, check.is_ascii)

    def _read_chunk(self, chunk: Chunk) -> Event | None:
        data = self._lines.take(min(chunk.left, _AT_ONCE))
        chunk.left -= len(data)
        ended = chunk.left == 0
        if ended:
            self._chunk = None
        if chunk.refusal is not None:
            if ended:
                self._say(chunk.refusal)
                if self._mail is None:
                    self._forget_transaction()
            return None
        check = self._check
        assert check is not None
        block, self._carried = self._carried + data, b""
        complete = ended and chunk.last
        if block.endswith(b"\r") and not complete:
            block, self._carried = block[:-1], b"\r"
        kept = check.take(block) if block else b""
        if complete or (ended and check.problem is not None):
            return Piece(kept, True, check.problem, check.is_ascii)
        if ended:
            self._out.append(answers.CHUNK_RECEIVED.wire)
        return Piece(kept, False) if kept else None


def _auth_response(line: bytes) -> Event:
    if line == b"*":
        return AuthEnd(answers.AUTH_CANCELLED)
    try:
        return AuthResponse(_base64(line))
    except BadCommand as problem:
        return AuthEnd(problem.reply)


def _base64(text: bytes) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (NotBase64, ValueError):
        raise BadCommand(answers.NO_BASE64) from None


_Handler = Callable[[ServerEngine, bytes], Event | None]
_HANDLERS: dict[bytes, _Handler] = {
    b"EHLO": ServerEngine._ehlo,
    b"HELO": ServerEngine._helo,
    b"MAIL": ServerEngine._mail_command,
    b"RCPT": ServerEngine._rcpt_command,
    b"DATA": ServerEngine._data_command,
    b"BDAT": ServerEngine._bdat_command,
    b"RSET": ServerEngine._rset,
    b"NOOP": ServerEngine._noop,
    b"HELP": ServerEngine._help,
    b"VRFY": ServerEngine._vrfy,
    b"EXPN": ServerEngine._expn,
    b"QUIT": ServerEngine._quit,
    b"STARTTLS": ServerEngine._starttls,
    b"AUTH": ServerEngine._auth,
    b"XCLIENT": ServerEngine._xclient,
}
# BDAT is refused, too, but with its chunk, which must not be taken for commands.
_BEFORE_TLS = frozenset(_HANDLERS[verb] for verb in (b"EHLO", b"HELO", b"STARTTLS", b"NOOP", b"RSET", b"HELP", b"QUIT", b"BDAT"))
_WEB = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH"})
