"""A Maildir as POP3 sees it."""

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.fetching.mailbox import Mailbox, Message, Reader, open_mailbox


@pytest.fixture
def folder(tmp_path):
    for name in ("new", "cur", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "cur" / "20.a.host:2,S").write_bytes(b"second\n")
    (tmp_path / "new" / "100.b.host").write_bytes(b"third\r\nwith CRLF\r\n")
    (tmp_path / "new" / "3.c.host").write_bytes(b"first\n\n.\n")
    (tmp_path / "new" / ".hidden").write_bytes(b"x")
    (tmp_path / "tmp" / "1.d.host").write_bytes(b"not there yet")
    (tmp_path / "new" / "4.e.host").symlink_to("/etc/passwd")
    return tmp_path


def text_of(reader):
    with closing(reader):
        return reader.read()


def names(mailbox):
    return [message.path.name for message in mailbox.messages]


def test_messages_are_in_the_order_of_arrival(folder):
    mailbox = open_mailbox(folder)
    assert names(mailbox) == ["3.c.host", "20.a.host:2,S", "100.b.host"]
    assert mailbox.listMessages() == [12, 8, 18]  # every line end counts as two octets
    assert [text_of(mailbox.getMessage(index)) for index in range(3)] == [b"first\n\n.\n", b"second\n", b"third\nwith CRLF\n"]


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert open_mailbox(tmp_path / "nobody").messages == []


def test_identities_outlive_flags(folder):
    before = open_mailbox(folder)
    identities = [before.getUidl(index) for index in range(3)]
    assert len(set(identities)) == 3
    assert all(len(one) == 40 and one.isalnum() for one in identities)
    (folder / "cur" / "20.a.host:2,S").rename(folder / "cur" / "20.a.host:2,RS")
    (folder / "new" / "3.c.host").rename(folder / "cur" / "3.c.host:2,")
    after = open_mailbox(folder)
    assert [after.getUidl(index) for index in range(3)] == identities


def test_nothing_is_deleted_before_the_end(folder):
    mailbox = open_mailbox(folder)
    mailbox.deleteMessage(1)
    assert mailbox.listMessages() == [12, 0, 18]
    assert mailbox.listMessages(1) == 0
    mailbox.undeleteMessages()
    assert mailbox.listMessages() == [12, 8, 18]
    mailbox.deleteMessage(0)
    mailbox.deleteMessage(2)
    assert len(open_mailbox(folder).messages) == 3
    (folder / "new" / "100.b.host").unlink()  # by another program
    mailbox.sync()
    assert names(open_mailbox(folder)) == ["20.a.host:2,S"]


@pytest.mark.parametrize("index", [-1, 3, 10**9])
def test_numbers_that_are_not_there(folder, index):
    mailbox = open_mailbox(folder)
    for ask in (mailbox.listMessages, mailbox.getMessage, mailbox.getUidl, mailbox.deleteMessage):
        with pytest.raises(ValueError, match="no such message"):
            ask(index)


def test_what_is_marked_or_gone_cannot_be_read(folder):
    mailbox = open_mailbox(folder)
    mailbox.deleteMessage(0)
    with pytest.raises(ValueError, match="no such message"):
        mailbox.deleteMessage(0)
    (folder / "cur" / "20.a.host:2,S").unlink()
    with pytest.raises(ValueError, match="any more"):
        mailbox.getMessage(1)


@given(st.text(alphabet="ab\r\n.", max_size=30).map(str.encode), st.integers(1, 5))
def test_line_ends_are_lf_wherever_the_pieces_end(tmp_path_factory, original, size):
    path = tmp_path_factory.mktemp("reader") / "message"
    path.write_bytes(original)
    reader = Reader(path)
    pieces = []
    while piece := reader.read(size):
        pieces.append(piece)
    reader.close()
    assert b"".join(pieces) == original.replace(b"\r\n", b"\n")
    assert Mailbox([Message(Path("x"), 0)]).listMessages() == [0]
