"""Files in Maildirs."""

import errno
import os
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred

from mailgw.gateways import maildir as module
from mailgw.gateways.maildir import Maildir
from mailgw.patience import CutOff
from mailgw.testing.clock import at
from mailgw.testing.facts import a_shipment
from mailgw.testing.network import SameThread
from mailgw.testing.running import run
from mailgw.testing.server import Identity
from mailgw.values.content import Content
from mailgw.values.delivery import Fate, Handed, Outcome


def a_maildir(path: object) -> Maildir:
    return Maildir(str(path), clock=at("2026-01-05T10:00+00:00"), identity=Identity("mx.example.org"), threads=SameThread())


def deliver(path: object, *to: Any, **about: Any) -> list[Outcome]:
    return list(run(a_maildir(path).deliver(a_shipment(*to, **about))).values())


def test_a_message_arrives(tmp_path: Path) -> None:
    content = Content.of(b"Subject: x\r\n\r\n.\r\nline\r\n", b"Received: by us\r\n")
    (outcome,) = deliver(tmp_path / "box", "Anna@example.org", sender="s@example.com", content=content)
    assert (outcome.fate, outcome.handed) == (Fate.DELIVERED, Handed.MAILBOX)
    (file,) = (tmp_path / "box" / "new").iterdir()
    assert file.read_bytes() == (b"Return-Path: <s@example.com>\nDelivered-To: Anna@example.org\nReceived: by us\nSubject: x\n\n.\nline\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.name.startswith("1767607200.M0P")
    assert file.name.endswith(".mx.example.org")
    assert list((tmp_path / "box" / "tmp").iterdir()) == []
    assert (tmp_path / "box" / "cur").is_dir()


def test_null_reverse_path(tmp_path: Path) -> None:
    deliver(tmp_path, sender="<>")
    (file,) = (tmp_path / "new").iterdir()
    assert file.read_bytes().startswith(b"Return-Path: <>\n")


def test_one_box_for_each(tmp_path: Path) -> None:
    deliver(tmp_path / "{domain}" / "{local_part}", "Anna@example.org", "ben@example.net", "{domain}@example.org")
    assert sorted(str(f.relative_to(tmp_path).parent) for f in tmp_path.rglob("new/*")) == [
        "example.net/ben/new",
        "example.org/anna/new",
        "example.org/{domain}/new",
    ]


def test_many_in_one_box_have_names_of_their_own(tmp_path: Path) -> None:
    for _ in range(3):
        deliver(tmp_path, *(f"u{n}@example.org" for n in range(5)))
    assert len(list((tmp_path / "new").iterdir())) == 15


def test_a_cancelled_delivery_says_who_was_served_before_and_serves_nobody_after(tmp_path: Path) -> None:
    is_writing, may_write = Event(), Event()
    names = iter(["anna", "ben", "carl"])

    class Slow:
        """A disk that takes its time for ben: the clock is asked once for each file."""

        def now(self) -> Any:
            if next(names) == "ben":
                is_writing.set()
                assert may_write.wait(60)
            return at("2026-01-05T10:00+00:00").now()

    class Aside(SameThread):
        def callInThread(self, callable: Any, *args: Any, **kwargs: Any) -> None:  # noqa: A002, N802
            self.thread = Thread(target=callable, args=args, kwargs=kwargs)
            self.thread.start()

    threads = Aside()
    gateway = evolve(a_maildir(tmp_path / "{local_part}"), clock=Slow(), threads=threads)
    attempt = Deferred.fromCoroutine(gateway.deliver(a_shipment("anna@example.org", "ben@example.org", "carl@example.org")))
    assert is_writing.wait(60)
    attempt.cancel()
    with pytest.raises(CutOff) as cut:
        run(attempt)
    may_write.set()
    threads.thread.join()
    assert {str(address): outcome.fate for address, outcome in cut.value.outcomes.items()} == {"anna@example.org": Fate.DELIVERED}
    assert sorted(box.name for box in tmp_path.iterdir()) == ["anna", "ben"]


@pytest.mark.parametrize("local_part", ['"../x"', '".."', "a/b", '".hidden"', "/x"])
def test_addresses_that_lead_elsewhere(tmp_path: Path, local_part: str) -> None:
    (outcome,) = deliver(tmp_path / "{local_part}", f"{local_part}@example.org")
    assert (outcome.fate, outcome.reply.code, outcome.reply.enhanced) == (Fate.NEVER, 550, "5.1.1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "enhanced"), [(errno.ENOSPC, "4.3.1"), (errno.EDQUOT, "4.2.2"), (errno.EIO, "4.3.0"), (errno.EACCES, "4.3.0")]
)
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, enhanced: str) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "_write_all", fail)
    (outcome,) = deliver(tmp_path)
    assert (outcome.fate, outcome.reply.enhanced) == (Fate.LATER, enhanced)
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


@pytest.mark.parametrize("there", ["tmp", "new", "cur"])
def test_half_a_box_is_made_whole(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir()
    (outcome,) = deliver(tmp_path)
    assert outcome.fate is Fate.DELIVERED
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_file_where_the_box_should_be(tmp_path: Path) -> None:
    (tmp_path / "box").write_text("")
    (outcome,) = deliver(tmp_path / "box")
    assert outcome.fate is Fate.LATER


def test_it_is_on_the_disk_before_it_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(tmp_path)
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append("sync " + Path(os.readlink(f"/proc/self/fd/{fd}")).parent.name), fsync(fd)))
    monkeypatch.setattr(os, "rename", lambda a, b: (steps.append("rename"), rename(a, b)))
    deliver(tmp_path)
    assert steps == ["sync tmp", "rename", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("path", ["/var/mail/{user}", "{}"])
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        a_maildir(path)
