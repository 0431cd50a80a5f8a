"""Delivery status notifications, built as pure values (RFC 3461, RFC 3462/6522, RFC 3464, RFC 6533)."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from quopri import encodestring
from random import Random
from typing import Literal

from attrs import frozen

from mailgw.values.address import NULL, Address
from mailgw.values.content import Content
from mailgw.values.delivery import Envelope, Recipient
from mailgw.values.reply import Reply

__all__ = ["Action", "Dsn", "Report", "compose", "wanted"]

Action = Literal["failed", "delayed", "delivered", "relayed", "expanded"]  # RFC 3464 §2.3.3

RETURNED_IN_FULL = 64 * 1024  # octets: without RET, a bigger original comes back as its header section only
RETURNED_AT_MOST = 1024 * 1024  # octets: with RET=FULL; held in memory while the DSN is made
_MAX_FIELD = 900  # octets of a field's value; a line may have 998 (RFC 5322 §2.1.1)
_MAX_LINE = 998

_CLASS = {"failed": "5", "delayed": "4", "delivered": "2", "relayed": "2", "expanded": "2"}
_DOMAIN = re.compile(r"[A-Za-z0-9.\-]+\Z|\[[0-9A-Fa-f:.IPv]+\]\Z")
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
_SUBJECTS: dict[Action, str] = {
    "failed": "Undelivered mail",
    "delayed": "Delayed mail (still being tried)",
    "delivered": "Delivered mail",
    "relayed": "Delivered mail",
    "expanded": "Delivered mail",
}
_EXPLANATIONS: dict[Action, str] = {
    "failed": "could not be delivered. It will not be tried again.",
    "delayed": "could not be delivered yet. This is a warning only: you need not send it again.",
    "delivered": "was delivered.",
    "relayed": "was passed on to a server that will not confirm its delivery.",
    "expanded": "was delivered to a list of recipients.",
}


@frozen(kw_only=True)
class Report:
    """What a DSN says about one recipient."""

    recipient: Recipient
    action: Action
    reply: Reply  # the last word about it
    peer: str = ""  # who said so; empty: we ourselves
    attempted: float = 0.0  # POSIX seconds of the last attempt; 0: there was none
    retry_until: float | None = None  # POSIX seconds, for "delayed"
    expired: bool = False  # given up because of its age

    @property
    def status(self) -> str:
        """The enhanced status, of the action's class (RFC 3464 §2.3.4); 4.4.7 is "delivery time expired" (RFC 3463 §3.5)."""
        if self.expired:
            return "4.4.7"
        return _CLASS[self.action] + (self.reply.enhanced[1:] or ".0.0")


@frozen
class Dsn:
    """A notification, ready to be queued."""

    envelope: Envelope
    content: Content
    recipient: Recipient


def wanted(sender: Address, recipient: Recipient, action: Action) -> bool:
    """Whether the sender is to be told (RFC 3461 §4.1, §5.2; RFC 5321 §6.1: never about mail from the null reverse-path)."""
    notify = recipient.notify
    if not sender or "NEVER" in notify:
        return False
    if action == "failed":
        return not notify or "FAILURE" in notify
    if action == "delayed":
        return not notify or "DELAY" in notify
    return "SUCCESS" in notify


def compose(
    envelope: Envelope, content: Content, reports: Sequence[Report], *, hostname: str, postmaster: Address, now: float, randomness: Random
) -> Dsn:
    """Make one DSN for the sender of ``envelope`` about all ``reports``, which share the kind of their action.

    ``content`` is the original message, read only as far as it is returned. ``now`` is POSIX seconds. Raises ValueError for the
    null reverse-path and for no reports.
    """
    if not envelope.sender or not reports:
        raise ValueError("a DSN needs somebody to tell and something to say")
    action = reports[0].action
    said = [str(r.recipient.address) + r.recipient.orcpt + r.reply.text for r in reports]
    # RFC 6533 §3-4: the UTF-8 forms are for those whose mail was internationalized.
    international = envelope.smtputf8 and not (envelope.envid + "".join(said)).isascii()
    returned = _returned(envelope, content, action)
    parts = [_explanation(reports, hostname, postmaster, international), _status(envelope, reports, hostname, international)]
    if returned:
        parts.append(returned)
    boundary = _boundary(parts, randomness)
    is_ascii = all(part.isascii() for part in parts)
    head = "".join(
        (
            f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>\r\n",
            f"To: <{envelope.sender}>\r\n",
            f"Subject: {_SUBJECTS[action]}\r\n",
            f"Date: {_date(now)}\r\n",
            f"Message-ID: <{_word(randomness)}@{hostname}>\r\n",
            "Auto-Submitted: auto-replied\r\n",  # RFC 3834 §5
            "MIME-Version: 1.0\r\n",
            f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"\r\n',
            "\r\n" if is_ascii else "Content-Transfer-Encoding: 8bit\r\n\r\n",  # RFC 2045 §6.4: as its parts
        )
    ).encode()
    delimiter = f"--{boundary}\r\n".encode()
    body = b"".join(delimiter + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
    return Dsn(
        Envelope(
            sender=NULL,
            arrived=now,
            body="7BIT" if is_ascii else "8BITMIME",
            smtputf8=not head.isascii(),
            requiretls=envelope.requiretls,
            session=envelope.session,
        ),
        Content.of(head + body),
        Recipient(envelope.sender, frozenset(("NEVER",))),
    )


def _explanation(reports: Sequence[Report], hostname: str, postmaster: Address, international: bool) -> bytes:
    """The first part, for a human."""
    lines = [f"This is the mail system at {hostname}."]
    for action, explanation in _EXPLANATIONS.items():
        concerned = [report for report in reports if report.action == action]
        if not concerned:
            continue
        lines += ["", f"Your message {explanation}"]
        for report in concerned:
            lines += ["", _tidy(f"  <{report.recipient.address}>", international)]
            if report.expired:
                lines.append("    It was tried for as long as this server tries. The last answer was:")
            if action in ("failed", "delayed"):
                said = f"{report.peer} said: {report.reply}" if report.peer else str(report.reply)
                lines.append(_tidy(f"    {said}", international))
            if report.retry_until is not None:
                lines.append(f"    It will be tried until {_date(report.retry_until)}.")
    lines += ["", f"If you need help, write to <{postmaster}>.", ""]
    text = "\r\n".join(lines)
    charset, encoding = ("us-ascii", "7bit") if text.isascii() else ("utf-8", "8bit")
    head = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return (head + text).encode("utf-8", "replace")


def _status(envelope: Envelope, reports: Sequence[Report], hostname: str, international: bool) -> bytes:
    """The second part, for a program (RFC 3464 §2)."""
    fields = [
        # RFC 6533 §4
        f"Content-Type: message/{'global-' if international else ''}delivery-status",
        f"Content-Transfer-Encoding: {'8bit' if international else '7bit'}",
        "",
        f"Reporting-MTA: dns; {hostname}",
    ]
    if envelope.envid:
        fields.append(f"Original-Envelope-Id: {envelope.envid}")
    fields.append(f"Arrival-Date: {_date(envelope.arrived)}")
    for report in reports:
        address = report.recipient.address
        kind = "utf-8" if address.needs_smtputf8 else "rfc822"
        fields.append("")
        if report.recipient.orcpt:
            # It repeats ORCPT as it was given: type;address (RFC 3461 §6.3).
            fields.append("Original-Recipient: " + report.recipient.orcpt)
        fields.append(f"Final-Recipient: {kind};{address}")
        fields.append(f"Action: {report.action}")
        fields.append(f"Status: {report.status}")
        if report.peer:
            fields.append(f"Remote-MTA: {'dns' if _DOMAIN.match(report.peer) else 'x-mailgw'}; {report.peer}")
        # "smtp" means that these words came over SMTP (RFC 3464 §2.3.6); our own are of our own type.
        fields.append(f"Diagnostic-Code: {'smtp' if report.peer else 'x-mailgw'}; {report.reply}")
        if report.attempted:
            fields.append(f"Last-Attempt-Date: {_date(report.attempted)}")
        if report.retry_until is not None:
            fields.append(f"Will-Retry-Until: {_date(report.retry_until)}")
    return ("\r\n".join(_tidy(line, international) for line in fields) + "\r\n").encode("utf-8", "replace")


def _returned(envelope: Envelope, content: Content, action: Action) -> bytes:
    """The third part: the original, or its header section (RFC 3461 §4.3), or nothing if it cannot be read any more."""
    try:
        if _in_full(envelope, content, action):
            original = content.read()
            if _is_text(original):
                return _whole(original, envelope.smtputf8)
        header = _header_section(content.header())
    except OSError:  # the file is gone or the disk is broken: the sender must hear of the failure all the same
        return b""
    if header.isascii():
        return b"Content-Type: text/rfc822-headers\r\n\r\n" + header
    if envelope.smtputf8:
        return b"Content-Type: message/global-headers\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + header
    # RFC 6522 §4: header fields that are not 7-bit may be encoded with quoted-printable.
    encoded = encodestring(header.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
    return b"Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + encoded


def _in_full(envelope: Envelope, content: Content, action: Action) -> bool:
    # RFC 3461 §4.3: RET concerns failed deliveries; RFC 8689 §5: a REQUIRETLS message is not to be returned whole.
    if action != "failed" or envelope.ret == "HDRS" or envelope.requiretls:
        return False
    return content.size <= (RETURNED_AT_MOST if envelope.ret == "FULL" else RETURNED_IN_FULL)


def _whole(original: bytes, smtputf8: bool) -> bytes:
    if original.isascii():
        return b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\n" + original
    head = original.partition(b"\r\n\r\n")[0]
    kind = b"global" if smtputf8 and not head.isascii() else b"rfc822"
    return b"Content-Type: message/" + kind + b"\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + original


def _is_text(original: bytes) -> bool:
    """Whether it can travel by DATA and inside of a multipart: no NUL, no bare CR or LF, no line of more than 998 octets."""
    ends = original.count(b"\r\n")
    if b"\0" in original or original.count(b"\r") != ends or original.count(b"\n") != ends:
        return False
    return max(map(len, original.split(b"\r\n"))) <= _MAX_LINE


def _header_section(header: bytes) -> bytes:
    """As much of it as is header fields; a message without an empty line must not leak its body. Broken octets become ``?``."""
    lines: list[bytes] = []
    for line in header.split(b"\r\n"):
        if not (_FIELD.match(line) or (lines and line[:1] in (b" ", b"\t"))):
            break
        lines.append(line[:_MAX_LINE].replace(b"\r", b"?").replace(b"\n", b"?").replace(b"\0", b"?"))
    return b"".join(line + b"\r\n" for line in lines)


def _tidy(line: str, international: bool) -> str:
    """One line that is safe to write: what peers and senders said must not forge a field (RFC 5322 §2.2)."""
    if line.isascii() and line.isprintable() and len(line) <= _MAX_FIELD:
        return line
    if international:
        line = "".join(c if c.isprintable() else "?" for c in line)
        return line.encode("utf-8", "replace")[:_MAX_FIELD].decode("utf-8", "ignore")
    # RFC 6533 §3: utf-8-addr-xtext, which is also readable wherever else it stands.
    line = "".join(c if " " <= c <= "~" else f"\\x{{{ord(c):X}}}" if c.isprintable() else "?" for c in line)
    return line[:_MAX_FIELD]


def _boundary(parts: Sequence[bytes], randomness: Random) -> str:
    while True:
        boundary = _word(randomness)
        if not any(boundary.encode() in part for part in parts):
            return boundary


def _word(randomness: Random) -> str:
    return f"{randomness.getrandbits(96):024x}"


def _date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC))
