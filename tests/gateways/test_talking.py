"""What goes onto the wire stays in order, however much of it the socket takes at once."""

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.abstract import FileDescriptor
from twisted.internet.task import Clock

from mailgw.gateways.talking import Talk
from mailgw.smtp.client import ClientSession
from mailgw.smtp.framing import Nature
from mailgw.testing.facts import a_shipment
from mailgw.values.content import CHUNK, Content
from mailgw.values.delivery import Fate


class Socket(FileDescriptor):
    """Takes ``room`` octets at once and keeps the rest for later, as a full socket does."""

    connected = 1

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent = b""
        self.later: list[bytes] = []

    def writeSomeData(self, data: bytes) -> int:  # noqa: N802
        taken = data[: self.room]
        self.room -= len(taken)
        self.sent += taken
        return len(taken)

    def write(self, data: bytes) -> None:
        self.later.append(data)

    def loseConnection(self, *_: Any) -> None:  # noqa: N802
        pass

    abortConnection = loseConnection  # noqa: N815


@pytest.mark.parametrize("room", [0, 1, 30, 90, 120, 100_000])
def test_what_waits_is_not_overtaken(room: int) -> None:
    def wire(room: int) -> bytes:
        talk = Talk(ClientSession("us.example"), Clock(), None, 30.0, lambda _: None)
        socket = Socket(room)
        talk.makeConnection(socket)  # type: ignore[arg-type]
        talk.dataReceived(b"220 hi\r\n")
        talk.dataReceived(b"250-mx\r\n250 PIPELINING\r\n")
        for reset in (b"", b"250 reset\r\n"):
            socket.room = max(socket.room, 10)  # some room comes back, while there is still something waiting
            talk.hand_over(a_shipment(), Nature())
            # The server refuses the content before all of it can have arrived.
            talk.dataReceived(reset + b"250 ok\r\n250 ok\r\n354 go\r\n")
            talk.dataReceived(b"554 5.7.1 no\r\n")
        return socket.sent + b"".join(socket.later)

    assert wire(room) == wire(10**9)


@pytest.mark.parametrize("last", ["554 5.7.1 no", "421 4.3.2 bye", "250 what"])
def test_a_server_that_takes_its_354_back_in_the_same_breath_is_answered_for(last: str) -> None:
    """Else the recipients would stay leased until the time for the whole attempt is up."""
    talk = Talk(ClientSession("us.example"), Clock(), None, 30.0, lambda _: None)
    talk.makeConnection(Socket(100_000))  # type: ignore[arg-type]
    talk.dataReceived(b"220 hi\r\n")
    talk.dataReceived(b"250-mx\r\n250 PIPELINING\r\n")
    finished = talk.hand_over(a_shipment(), Nature())
    talk.dataReceived(f"250 ok\r\n250 ok\r\n354 go\r\n{last}\r\n".encode())
    assert finished.called
    (outcome,) = finished.result.outcomes.values()
    assert outcome.fate is (Fate.NEVER if last.startswith("554") else Fate.LATER)


@pytest.mark.parametrize("last", ["552 5.3.4 too big", "421 4.3.2 bye", "250 what"])
def test_behind_the_last_word_of_a_server_no_content_follows(tmp_path: Path, last: str) -> None:
    """It would be no content any more: nobody doubles its dots, and what comes behind one may be taken for commands."""
    file = tmp_path / "content"
    file.write_bytes(b"Subject: x\r\n\r\n" + b".\r\n" * CHUNK)
    talk = Talk(ClientSession("us.example"), Clock(), None, 30.0, lambda _: None)
    socket = Socket(100_000)
    talk.makeConnection(socket)  # type: ignore[arg-type]
    talk.dataReceived(b"220 hi\r\n")
    talk.dataReceived(b"250-mx\r\n250 PIPELINING\r\n")
    finished = talk.hand_over(evolve(a_shipment(), content=Content(file, file.stat().st_size)), Nature())
    talk.dataReceived(b"250 ok\r\n250 ok\r\n354 go\r\n")
    carrier: Any = socket.producer
    carrier.resumeProducing()
    before = list(socket.later)
    talk.dataReceived(f"{last}\r\n".encode())
    assert finished.called
    assert socket.producer is None
    carrier.resumeProducing()
    assert before
    assert socket.later == before
