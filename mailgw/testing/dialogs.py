r"""Talks as text: what the client says, what the server answers, and what has arrived in the end.

=======================  ===========================================================================================
``C: EHLO client``    the client says a line; ``\r \n \0 \t \\ \xHH`` stand for octets
``C| half a li``      the client says this without a line end
``S: 250-...``        the server answers this line; ``...`` stands for anything
``= a@b -> c@d e@f``  a message was accepted: from, to
``| text``            and this is its content, as one string with the escapes above (without what we added)
``X``                 the server has ended the connection
``#``                 a comment
``#! lockstep``       play it only turn by turn (the client must not talk ahead here)
``#! set max_errors=3``  a field of `ServerSettings` for this dialog: a number, "true" or "false"
``#! proxy``             the client is a load balancer: it must begin with a PROXY header
``#! xclient``           the client is a proxy that may say XCLIENT
``#! tls``               TLS began with the connection
``#! accounts``          there are accounts, as the test has them
=======================  ===========================================================================================
"""

import re

from attrs import define, field

from mailgw.testing.server import MemoryServer, Talk
from mailgw.values.ledger import Put

__all__ = ["Dialog", "play"]

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))")
_ESCAPED = {b"r": b"\r", b"n": b"\n", b"0": b"\0", b"t": b"\t", b"\\": b"\\"}


def _unescape(text: str) -> bytes:
    def octet(match: "re.Match[bytes]") -> bytes:
        return bytes([int(match[1], 16)]) if match[1] else _ESCAPED[match[2]]

    return _ESCAPE.sub(octet, text.encode())


@define
class Dialog:
    """A dialog, parsed."""

    steps: list[tuple[bytes, list[str]]] = field(factory=list)  # what the client says at once, what it hears
    accepted: list[tuple[str, bytes | None]] = field(factory=list)  # "sender -> recipients", content
    ends: bool = False
    lockstep: bool = False
    proxy: bool = False
    xclient: bool = False
    tls: bool = False
    accounts: bool = False
    settings: dict[str, int | bool] = field(factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Dialog":
        """Read the text. Raises ValueError with the line number."""
        dialog = cls(steps=[(b"", [])])
        for number, line in enumerate(text.splitlines(), 1):
            said, heard = dialog.steps[-1]
            if not line.strip() or (line.startswith("#") and not line.startswith("#!")):
                continue
            if line.strip() in ("#! lockstep", "#! proxy", "#! xclient", "#! tls", "#! accounts"):
                setattr(dialog, line[3:].strip(), True)
            elif line.startswith("#! set "):
                name, _, value = line[7:].strip().partition("=")
                dialog.settings[name] = value == "true" if value in ("true", "false") else int(value)
            elif line[:2] in ("C:", "C|"):
                octets = _unescape(line[3:]) + (b"\r\n" if line[1] == ":" else b"")
                if heard or not said:
                    dialog.steps.append((octets, []))
                else:
                    dialog.steps[-1] = (said + octets, heard)
            elif line.startswith("S:"):
                heard.append(line[3:])
            elif line.startswith("= "):
                dialog.accepted.append((line[2:].strip(), None))
            elif line.startswith("| ") or line == "|":
                dialog.accepted[-1] = (dialog.accepted[-1][0], _unescape(line[2:]))
            elif line.strip() == "X":
                dialog.ends = True
            else:
                raise ValueError(f"line {number}: {line!r} is no part of a dialog")
        return dialog

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways in which it can be played with the same transcript."""
        return ("turns",) if self.lockstep else ("turns", "bytes", "segment")


def play(dialog: Dialog, server: MemoryServer, way: str = "turns", ip: str = "192.0.2.99") -> str:
    """Play a dialog and give the transcript of what the server said; AssertionError where it differs from what is written.

    ``way``: "turns" (each of the client's turns in one piece), "bytes" (each octet alone) or "segment" (all at once).
    """
    talk = server.connect(ip, tls=dialog.tls)
    if dialog.tls:
        talk.shake_hands()
    heard = [talk.heard()]
    expected = [line for _, lines in dialog.steps for line in lines]
    said = [octets for octets, _ in dialog.steps]
    if way == "segment":
        said = [b"".join(said)]
    say = _byte_by_byte if way == "bytes" else Talk.say
    for index, octets in enumerate(said):
        if octets:
            heard.append(say(talk, octets))
        if way != "segment":
            so_far = [line for _, lines in dialog.steps[: index + 1] for line in lines]
            _compare(so_far, "".join(heard))
    transcript = "".join(heard)
    _compare(expected, transcript)
    assert talk.is_over == dialog.ends, f"the connection is {'over' if talk.is_over else 'still open'}"
    accepted = [f"{put.parcels[0].envelope.sender or '<>'} -> {_recipients(put)}" if put.parcels else "held" for put in server.offered]
    assert accepted == [envelope for envelope, _ in dialog.accepted], f"accepted: {accepted}"
    for put, (_, content) in zip(server.offered, dialog.accepted, strict=True):
        original = put.parcels[0].content.original
        assert content is None or original == content, f"content: {original!r}"
    return transcript


def _recipients(put: Put) -> str:
    return " ".join(str(queued.recipient.address) for parcel in put.parcels for queued in parcel.queued)


def _byte_by_byte(talk: Talk, octets: bytes) -> str:
    return "".join([talk.say(octets[i : i + 1]) for i in range(len(octets))])


def _compare(expected: list[str], said: str) -> None:
    lines = said.split("\r\n")
    assert lines.pop() == "", f"the last line is not complete: {said!r}"
    for number, (want, got) in enumerate(zip(expected, lines, strict=False)):
        pattern = ".*".join(map(re.escape, want.split("...")))
        assert re.fullmatch(pattern, got), f"answer {number + 1}: expected {want!r}, heard {got!r}\n{said}"
    assert len(lines) == len(expected), f"expected {len(expected)} lines, heard {len(lines)}:\n{said}"


