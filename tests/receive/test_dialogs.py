"""Every dialog, played in turns, byte by byte and in one segment: the same transcript, the same mail."""

from base64 import b64decode
from ipaddress import ip_network
from pathlib import Path

import pytest

from mailgw.policies.relay import Permit
from mailgw.smtp.server import ServerSettings
from mailgw.testing.accounts import Users
from mailgw.testing.dialogs import Dialog, play
from mailgw.testing.server import MemoryServer

FOLDER = Path(__file__).parent.parent / "dialogs"
# Of RFC 7677 §3, so that its example can be a dialog.
NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
USERS = Users(
    {"user": "pencil", "anna@example.org": "tanstaaf"},
    {"vF9dft4qmTc2Nvb3": "anna@example.org"},
    salt=b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="),
)
DIALOGS = {path.stem: Dialog.parse(path.read_text()) for path in sorted(FOLDER.glob("*.smtp"))}


def server_for(dialog: Dialog) -> MemoryServer:
    settings = ServerSettings(hostname="mx.example.org", **{"starttls": True, **dialog.settings})
    permits = [Permit(to=frozenset({"example.org"}), name="ours")]
    clients = (ip_network("192.0.2.0/24"),)
    return MemoryServer(
        permits=permits,
        settings=settings,
        proxy=clients if dialog.proxy else (),
        xclient=clients if dialog.xclient else (),
        accounts=[USERS] if dialog.accounts else (),
        nonce=NONCE,
    )


@pytest.mark.parametrize(("name", "way"), [(name, way) for name, dialog in DIALOGS.items() for way in dialog.ways])
def test_dialog(name, way):
    play(DIALOGS[name], server_for(DIALOGS[name]), way)


@pytest.mark.parametrize("name", [name for name, dialog in DIALOGS.items() if not dialog.lockstep])
def test_the_transcript_is_the_same_however_the_octets_come(name):
    dialog = DIALOGS[name]
    transcripts = {play(dialog, server_for(dialog), way) for way in dialog.ways}
    assert len(transcripts) == 1


def test_a_dialog_that_goes_otherwise_is_noticed():
    dialog = Dialog.parse("S: 220 ...\nC: NOOP\nS: 250 2.0.0 something else\n")
    with pytest.raises(AssertionError, match=r"expected .250 2\.0\.0 something else"):
        play(dialog, server_for(dialog))


@pytest.mark.parametrize("text", ["S: 220 ...\nC: NOOP\n", "S: 220 ...\n= a@b.example -> c@d.example\n", "S: 220 ...\nX\n"])
def test_a_dialog_that_wants_more_or_less_than_happens_is_noticed(text):
    dialog = Dialog.parse(text)
    with pytest.raises(AssertionError):
        play(dialog, server_for(dialog))
