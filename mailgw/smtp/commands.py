"""MAIL and RCPT with their paths and parameters, parsed once (RFC 5321 §4.1.1.2-3 and the extensions named below)."""

import re
from collections.abc import Callable
from typing import Any

from attrs import frozen

from mailgw.smtp.events import Mail, Rcpt
from mailgw.values.address import NULL, Address, BadAddress, parse_domain
from mailgw.values.delivery import Recipient
from mailgw.values.reply import Reply

__all__ = ["BadCommand", "Offered", "decode_xtext", "parse_mail", "parse_rcpt"]


class BadCommand(Exception):
    """A command that gets ``reply``."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@frozen
class Offered:
    """Which parameters the server offers, so that others are refused with 555 (RFC 5321 §4.1.1.11)."""

    esmtp: bool
    requiretls: bool = False
    auth: bool = False


_SYNTAX = "5.5.4"
# Perhaps a blank before the path (not in the RFC, but widely sent). A quoted local-part may hold ">" or blanks.
_PATH = re.compile(rb"""(?x) [ ]? < ( [^"<>]*+ (?: "[^"\\]*+(?:\\.[^"\\]*+)*+" [^"<>]*+ )*+ ) > (?: [ ]+ (.*) )? \Z""")
_SOURCE_ROUTE = re.compile(r"@([^,:]+)(?:,@([^,:]+))*:")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([!-<>-~\u0080-\U0010ffff]+))?\Z")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*\Z")
_XTEXT_ESCAPE = re.compile(r"\+([0-9A-F]{2})")
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+\Z")  # RFC 5322 §3.2.3
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})


def parse_mail(argument: bytes, offered: Offered) -> Mail:
    """Read what follows ``MAIL ``. Raises BadCommand."""
    path, words = _path(argument, b"FROM:", "MAIL FROM:<address>")
    if not words:
        return Mail(_sender(path, False))
    values: dict[str, Any] = {}
    for name, value in _parameters(words, offered):
        setter = _MAIL_PARAMETERS.get(name)
        if setter is None:
            raise BadCommand(Reply(555, _SYNTAX, f"MAIL parameter {name} is not offered"))
        setter(values, value, offered)
    # The path is read last: whether it may leave ASCII depends on the parameters.
    return Mail(_sender(path, values.get("smtputf8", False)), **values)


def parse_rcpt(argument: bytes, offered: Offered, smtputf8: bool) -> Rcpt:
    """Read what follows ``RCPT ``. Raises BadCommand."""
    path, words = _path(argument, b"TO:", "RCPT TO:<address>")
    notify: frozenset[str] = frozenset()
    orcpt = ""
    for name, value in _parameters(words, offered) if words else ():
        if name == "NOTIFY":
            notify = _notify(value)
        elif name == "ORCPT":
            orcpt = _orcpt(value, smtputf8)
        else:
            raise BadCommand(Reply(555, _SYNTAX, f"RCPT parameter {name} is not offered"))
    if path.lower() == "postmaster":
        return Rcpt(Recipient(Address("postmaster", ""), notify, orcpt))
    address = _address(path, smtputf8, code=553, enhanced="5.1.3")
    return Rcpt(Recipient(address, notify, orcpt))


def _path(argument: bytes, keyword: bytes, usage: str) -> tuple[str, str]:
    if argument[: len(keyword)].upper() != keyword:
        raise BadCommand(Reply(501, _SYNTAX, f"syntax: {usage}"))
    match = _PATH.match(argument, len(keyword))
    if match is None:
        raise BadCommand(Reply(501, _SYNTAX, f"syntax: {usage}"))
    try:
        return match[1].decode(), (match[2] or b"").decode()
    except UnicodeDecodeError:
        raise BadCommand(Reply(501, _SYNTAX, "not valid UTF-8")) from None


def _sender(path: str, smtputf8: bool) -> Address:
    return _address(path, smtputf8, code=553, enhanced="5.1.7") if path else NULL


def _address(path: str, smtputf8: bool, code: int, enhanced: str) -> Address:
    if not smtputf8 and not path.isascii():
        raise BadCommand(Reply(553, "5.6.7", "non-ASCII addresses need SMTPUTF8"))  # RFC 6531 §3.5
    try:
        if path.startswith("@"):
            # A source route is accepted, checked and ignored: never relayed on (RFC 5321 §4.1.1.3, appendix C).
            route = _SOURCE_ROUTE.match(path)
            if route is None:
                raise BadAddress("source route is malformed")
            for hop in route[0][:-1].split(","):
                parse_domain(hop[1:])
            path = path[route.end() :]
        return Address.parse(path)
    except BadAddress as problem:
        raise BadCommand(Reply(code, enhanced, str(problem))) from None


def _parameters(words: str, offered: Offered) -> list[tuple[str, str]]:
    if not offered.esmtp:
        raise BadCommand(Reply(555, _SYNTAX, "parameters need EHLO"))
    found: dict[str, str] = {}
    for word in words.split(" "):
        if not word:
            continue
        match = _PARAMETER.match(word)
        if match is None:
            raise BadCommand(Reply(501, _SYNTAX, "malformed parameter"))
        name = match[1].upper()
        if name in found:
            raise BadCommand(Reply(501, _SYNTAX, f"parameter {name} is given twice"))
        found[name] = match[2] or ""
    return list(found.items())


def _no_value(name: str, value: str) -> None:
    if value:
        raise BadCommand(Reply(501, _SYNTAX, f"{name} takes no value"))


def _size(values: dict[str, Any], value: str, offered: Offered) -> None:
    # RFC 1870 §4: up to 20 digits.
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise BadCommand(Reply(501, _SYNTAX, "SIZE takes a number of octets"))
    values["size"] = int(value)


def _body(values: dict[str, Any], value: str, offered: Offered) -> None:
    body = value.upper()
    if body not in ("7BIT", "8BITMIME", "BINARYMIME"):
        raise BadCommand(Reply(501, _SYNTAX, "BODY is 7BIT, 8BITMIME or BINARYMIME"))
    values["body"] = body


def _smtputf8(values: dict[str, Any], value: str, offered: Offered) -> None:
    _no_value("SMTPUTF8", value)
    values["smtputf8"] = True


def _requiretls(values: dict[str, Any], value: str, offered: Offered) -> None:
    _no_value("REQUIRETLS", value)
    if not offered.requiretls:
        raise BadCommand(Reply(530, "5.7.30", "REQUIRETLS needs TLS on this connection"))  # RFC 8689 §4.1
    values["requiretls"] = True


def _ret(values: dict[str, Any], value: str, offered: Offered) -> None:
    ret = value.upper()
    if ret not in ("FULL", "HDRS"):
        raise BadCommand(Reply(501, _SYNTAX, "RET is FULL or HDRS"))
    values["ret"] = ret


def _envid(values: dict[str, Any], value: str, offered: Offered) -> None:
    if not value or len(value) > 100:  # RFC 3461 §4.4
        raise BadCommand(Reply(501, _SYNTAX, "ENVID is 1 to 100 characters of xtext"))
    values["envid"] = decode_xtext(value)


def _auth(values: dict[str, Any], value: str, offered: Offered) -> None:
    # RFC 4954 §5: taken, checked for syntax, and not trusted: as if it were "<>".
    if not offered.auth:
        raise BadCommand(Reply(555, _SYNTAX, "MAIL parameter AUTH is not offered"))
    if not value:
        raise BadCommand(Reply(501, _SYNTAX, "AUTH is a mailbox in xtext, or <>"))
    decode_xtext(value)


_MAIL_PARAMETERS: dict[str, Callable[[dict[str, Any], str, Offered], None]] = {
    "SIZE": _size,
    "BODY": _body,
    "SMTPUTF8": _smtputf8,
    "REQUIRETLS": _requiretls,
    "RET": _ret,
    "ENVID": _envid,
    "AUTH": _auth,
}


def _notify(value: str) -> frozenset[str]:
    words = frozenset(value.upper().split(","))
    if words != {"NEVER"} and not words <= _NOTIFY:
        raise BadCommand(Reply(501, _SYNTAX, "NOTIFY is NEVER, or some of SUCCESS,FAILURE,DELAY"))
    return words


def _orcpt(value: str, smtputf8: bool) -> str:
    kind, semicolon, address = value.partition(";")
    if not (semicolon and _ATOM.match(kind) and address and len(value) <= 500):  # RFC 3461 §4.2
        raise BadCommand(Reply(501, _SYNTAX, "ORCPT is a type, a semicolon and an address in xtext"))
    if smtputf8 and kind.lower() == "utf-8":
        if not value.isprintable():
            raise BadCommand(Reply(501, _SYNTAX, "ORCPT hides a control character"))
        return f"{kind};{address}"  # RFC 6533 §3: utf-8-addr-xtext, kept as it is
    return f"{kind};{decode_xtext(address)}"


def decode_xtext(text: str) -> str:
    """Undo the xtext encoding of RFC 3461 §4. Raises BadCommand for what is no xtext or would forge a header line."""
    if not _XTEXT.match(text):
        raise BadCommand(Reply(501, _SYNTAX, "not valid xtext"))
    decoded = _XTEXT_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    if not (decoded.isascii() and decoded.isprintable()):  # RFC 3461 §4.2, §4.4: it goes into fields that are ASCII
        raise BadCommand(Reply(501, _SYNTAX, "xtext hides a control character, or one beyond ASCII"))
    return decoded
