"""Deliver into Maildirs: safely, with no locks, by the rules of https://cr.yp.to/proto/maildir.html."""

import errno
import os
import re
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorThreads
from zope.interface import implementer

from mailgw.gateways.line_ends import as_unix
from mailgw.gateways.threads import in_thread
from mailgw.given import given
from mailgw.interfaces import IClock, IGateway, IIdentity
from mailgw.patience import CutOff
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Outcome, Shipment, delivered, later, never
from mailgw.values.reply import Reply

__all__ = ["BadName", "Maildir"]

_PLACEHOLDER = re.compile(r"\{(\w*)\}")
_MAX_NAME = 255  # octets: what file systems take
_FULL = {errno.ENOSPC: "4.3.1", errno.EDQUOT: "4.2.2"}
_counter = count()


class BadName(Exception):
    """A recipient's address makes no file name that we would touch."""


def _known_placeholders(_: Any, attribute: "attrs.Attribute[Any]", value: Path) -> None:
    unknown = set(_PLACEHOLDER.findall(str(value))) - {"local_part", "domain"}
    if unknown:
        raise ValueError(f"{attribute.name} knows {{local_part}} and {{domain}}, but not {', '.join(sorted(unknown))}")


@implementer(IGateway)
@frozen
class Maildir:
    """``type = "maildir"``: final delivery into ``path``, which may contain ``{local_part}`` and ``{domain}``, both in lower case.

    Directories that are missing are made. Lines end with LF, as is the custom there. "Delivered" means: on the disk.
    """

    path: Path = field(converter=Path, validator=_known_placeholders)
    clock: IClock = given(IClock)
    identity: IIdentity = given(IIdentity)
    threads: IReactorThreads = given(IReactorThreads)

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        outcomes: dict[Address, Outcome] = {}
        is_cut_off = False

        def store() -> None:
            for recipient in shipment.recipients:
                if is_cut_off:
                    break
                outcomes[recipient.address] = self._store(shipment, recipient.address)

        try:
            await in_thread(self.threads, store)
        except CancelledError:
            is_cut_off = True  # the thread, which cannot be cancelled, stops after the one that it is writing
            raise CutOff(dict(outcomes)) from None
        return outcomes

    def _store(self, shipment: Shipment, recipient: Address) -> Outcome:
        try:
            maildir = self.folder_of(recipient)
        except BadName:
            return never(Reply(550, "5.1.1", "no such mailbox"))
        top = f"Return-Path: <{shipment.sender}>\nDelivered-To: {recipient}\n".encode()
        try:
            self._write(maildir, self._name(), top, shipment.content)
        except OSError as problem:
            if problem.errno in _FULL:
                return later(Reply(452, _FULL[problem.errno], "no room left for the mailbox"))
            return later(Reply(451, "4.3.0", f"mailbox cannot be written: {problem.strerror}"))
        return delivered(Reply(250, "2.0.0", "delivered to the Maildir"))

    def folder_of(self, recipient: Address) -> Path:
        """Whether there is one or not. Raises BadName for an address that can have none."""
        values = {"local_part": recipient.local_part.lower(), "domain": recipient.domain.lower()}
        return Path(_PLACEHOLDER.sub(lambda match: _file_name(values[match[1]]), str(self.path)))

    def _name(self) -> str:
        now = self.clock.now().timestamp()
        # "/" and ":" have a meaning in a Maildir.
        host = self.identity.hostname.replace("/", "\\057").replace(":", "\\072")
        return f"{int(now)}.M{int(now % 1 * 1_000_000)}P{os.getpid()}Q{next(_counter)}R{os.urandom(4).hex()}.{host}"

    def _write(self, maildir: Path, name: str, top: bytes, content: Content) -> None:
        temporary = maildir / "tmp" / name
        try:
            file = _create(temporary)
        except FileNotFoundError:
            _make(maildir)
            file = _create(temporary)
        try:
            with open(file, "wb", buffering=0) as out:
                for piece in chain((top,), as_unix(content.chunks())):
                    _write_all(out.fileno(), piece)
                os.fsync(out.fileno())
            # rename, not link: the name is ours alone, and some file systems know no links.
            try:
                os.rename(temporary, maildir / "new" / name)
            except FileNotFoundError:  # there was a tmp, but no new
                _make(maildir)
                os.rename(temporary, maildir / "new" / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_directory(maildir / "new")


def _file_name(text: str) -> str:
    """Refuse what could lead out of its directory or hide in it."""
    if not text or text.startswith(".") or "/" in text or not text.isprintable() or len(text.encode()) > _MAX_NAME:
        raise BadName
    return text


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _write_all(file: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(file, rest) :]


def _make(maildir: Path) -> None:
    missing = [parent for parent in (maildir, *maildir.parents) if not parent.exists()]
    for folder in ("tmp", "new", "cur"):
        (maildir / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    # A directory is only as durable as its entry in the one above it.
    for directory in (maildir, *(parent.parent for parent in missing)):
        _fsync_directory(directory)


def _fsync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
