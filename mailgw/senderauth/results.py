"""The Authentication-Results field (RFC 8601): written from what policies found, read, and known again where a stranger wrote it."""

import re
from collections.abc import Iterator, Sequence

from attrs import frozen

from mailgw.values.decision import AuthResult

__all__ = ["BadResults", "ReadResults", "authentication_results", "is_named", "parse_results"]

_TOKEN = re.compile(r"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+\Z")  # RFC 2045 §5.1
# [[local-part] "@"] domain-name, but for "=", which is quoted: many readers end the name of a property at any "=" outside of quotes.
_ADDRESS = re.compile(r"(?:[!#$%&'*+\-/?^_`{|}~.0-9A-Za-z]*@)?[0-9A-Za-z.\-]+\Z")
_MOST = 200  # characters of one value

# What a field is made of: white space and comments aside (RFC 8601 §2.2, RFC 5322 §3.2).
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_WORD = re.compile(rf"({_QUOTED})|([;=])|([^\s;=\"(]+)", re.DOTALL)
_NO_HOST = re.compile(r"[^0-9a-z.\-_]")
_METHOD = re.compile(r"[a-z](?:[a-z0-9\-]*[a-z0-9])?(?:/[0-9]+)?\Z", re.IGNORECASE)


class BadResults(ValueError):
    """Not a valid Authentication-Results field; the message says why."""


@frozen
class ReadResults:
    """What such a field says."""

    authserv_id: str
    results: tuple[AuthResult, ...]  # a reason stands among the properties as ("reason", text)


def authentication_results(authserv_id: str, results: Sequence[AuthResult]) -> str:
    """The whole field with its CRLF (RFC 8601 §2.2), a line for each result: ``spf=pass smtp.mailfrom=example.com``.

    A property without a dot in its name is ``reason``, in words; the others are ``ptype.property``. In ASCII, whatever stands in them.
    """
    said = [f"{one.method}={one.result}{''.join([f' {name}={_value(value)}' for name, value in one.properties])}" for one in results]
    lines = ";\r\n\t".join(said) or "none"
    return f"Authentication-Results: {authserv_id};\r\n\t{lines}\r\n"


def _value(text: str) -> str:
    if len(text) <= _MOST and (_TOKEN.match(text) or _ADDRESS.match(text)):
        return text
    plain = "".join(c if " " <= c <= "~" else "?" for c in text[:_MOST])
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_results(value: str) -> ReadResults:
    """Read the body of such a field, folded or not. Raises BadResults.

    Versions of the field and of methods are read and dropped.
    """
    words = list(_words(value))
    groups: list[list[str]] = [[]]
    for word in words:
        if word == ";":
            groups.append([])
        else:
            groups[-1].append(word)
    if not groups[0] or groups[0][0] == "=":
        raise BadResults("it names no authserv-id")
    if len(groups[0]) > 2 or (len(groups[0]) == 2 and not groups[0][1].isdigit()):
        raise BadResults("what follows the authserv-id is no version")
    if groups[1:] == [["none"]]:
        return ReadResults(_plain(groups[0][0]), ())
    results = tuple(_result(group) for group in groups[1:] if group)
    if not results:
        raise BadResults("it has no results")
    return ReadResults(_plain(groups[0][0]), results)


def _result(words: list[str]) -> AuthResult:
    pairs: list[tuple[str, str]] = []
    rest = iter([*words, ""])
    name = next(rest)
    while name:
        sign, value, following = next(rest, ""), next(rest, ""), next(rest, "")
        if sign != "=" or value in ("=", ""):
            raise BadResults(f'"{name}" has no value')
        while following == "=":  # in a local-part without quotes: prvs=0123=user@example.org
            value += following + next(rest, "")
            following = next(rest, "")
        pairs.append((name, _plain(value)))
        name = following
    (method, result), *properties = pairs
    if not _METHOD.match(method):
        raise BadResults(f'"{method}" is no method')
    if any(name.lower() != "reason" and not all(name.partition(".")) for name, _ in properties):
        raise BadResults(f'a result of "{method}" has a property without its type')
    return AuthResult(method.partition("/")[0].lower(), result.lower(), tuple((name.lower(), said) for name, said in properties))


def _words(text: str) -> Iterator[str]:
    """Tokens, quoted strings and signs. Raises BadResults."""
    at, end = 0, len(text)
    while at < end:
        if text[at] == "(":
            at = _after_comment(text, at)
        elif text[at].isspace():
            at += 1
        else:
            match = _WORD.match(text, at)
            if match is None:
                raise BadResults("a quoted string has no end")
            yield match[0]
            at = match.end()


def _after_comment(text: str, at: int) -> int:
    depth = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == "(":
            depth += 1
        elif text[at] == ")":
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    raise BadResults("a comment has no end")


def _plain(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL) if word.startswith('"') else word


def is_named(authserv_id: str, value: str) -> bool:
    """Whether a field's body claims to be of that server, or may be read so: in doubt, yes (RFC 8601 §5)."""
    own = authserv_id.lower()
    try:
        first = next((word for word in _words(value) if word not in (";", "=")), "")
    except BadResults:
        return own in value.lower()
    # Readers differ in where the name ends: "mx.example.org/1", and what has a control character behind it, are ours to some.
    return own in [one.rstrip(".") for one in _NO_HOST.split(_plain(first).lower())]
