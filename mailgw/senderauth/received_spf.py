"""The Received-SPF field (RFC 7208 §9.1)."""

import re

from mailgw.senderauth.spf import IP, SpfAnswer

__all__ = ["received_spf"]

_DOT_ATOM = re.compile(r"[!#$%&'*+\-/=?^_`{|}~0-9A-Za-z]+(?:\.[!#$%&'*+\-/=?^_`{|}~0-9A-Za-z]+)*\Z")
_IN_WORDS = {
    "pass": "designates {ip} as permitted sender",
    "fail": "does not designate {ip} as permitted sender",
    "softfail": "does probably not designate {ip} as permitted sender",
    "neutral": "neither permits nor denies {ip}",
    "none": "does not designate permitted senders",
    "temperror": "could not be asked",
    "permerror": "has no valid record",
}
_MOST = 200  # characters of one value


def received_spf(answer: SpfAnswer, ip: IP, sender: str, helo: str, receiver: str, identity: str) -> str:
    """The body of the field, folded, in ASCII. ``identity`` is "mailfrom" or "helo"; ``sender`` is empty for the null reverse-path."""
    words = _IN_WORDS[answer.result].format(ip=ip)
    comment = re.sub(r"[^ -'*-\[\]-~]", "?", f"{receiver}: domain {answer.domain} {words}")
    pairs = [("receiver", receiver), ("client-ip", str(ip)), ("envelope-from", sender), ("helo", helo), ("identity", identity)]
    pairs += [("mechanism", answer.mechanism), ("problem", answer.problem if "error" in answer.result else "")]
    said = ";\r\n\t".join([f"{name}={_value(value)}" for name, value in pairs if value or name == "envelope-from"])
    return f"{answer.result} ({comment[: 3 * _MOST]})\r\n\t{said}"


def _value(text: str) -> str:
    if len(text) <= _MOST and _DOT_ATOM.match(text):
        return text
    plain = "".join(c if " " <= c <= "~" else "?" for c in text[:_MOST])
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
