"""Going round to see what has arrived: Maildirs, bounces, the next hop's ledger, the log."""

import os
import re
import threading

from letters import recognised

_FOR = re.compile(rb"^Delivered-To: (\S+)$", re.MULTILINE)
_FINAL = re.compile(rb"^Final-Recipient: rfc822;\s*(\S+?)\r?$", re.MULTILINE)
_NOWHERE = re.compile(r" delivered message=\d+ recipient=(\S+) gateway=nowhere ")
_TROUBLE = re.compile(r"traceback|unhandled|critical|#error|#warn| fault | error\b", re.IGNORECASE)


class Round:
    """Calls the collectors again and again in a thread; a context manager that goes round a last time."""

    def __init__(self, *collectors, pause=0.5):
        self._collectors, self._pause = collectors, pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._walk)
        self.failed = None

    def _walk(self):
        try:
            while not self._over.wait(self._pause):
                for collect in self._collectors:
                    collect()
        except Exception as problem:
            self.failed = problem
            raise

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        for collect in self._collectors:
            collect()


def from_maildir(folder, books):
    """Empty the Maildir into the books. A file without Delivered-To is called after its recipient, as a program may do it."""

    def collect():
        for path, content, when in _emptied(folder):
            found = _FOR.search(content, 0, 2000)
            recipient = found[1].decode() if found else path.name
            name, whole = recognised(content) or ("?", False)
            books.arrived(recipient, when, whole and recipient.startswith(name))

    return collect


def from_bounces(folder, books):
    """Empty a Maildir of bounces into the books."""

    def collect():
        for _, content, when in _emptied(folder):
            for recipient in _FINAL.findall(content):
                books.came_back(recipient.decode(), when)

    return collect


def _emptied(folder):
    new = folder / "new"
    for path in list(new.iterdir()) if new.is_dir() else []:
        content, when = path.read_bytes(), path.stat().st_mtime
        path.unlink()
        yield path, content, when


def from_ledger(file, books):
    """Read on in the ledger of tests/live/next_hop.py."""
    lines = _Lines(file)

    def collect():
        for line in lines.read():
            when, recipient, name, state = line.split("\t")
            books.arrived(recipient, float(when), state == "whole" and recipient.startswith(name))

    return collect


class Log:
    """Reads on in the gateway's log: what went nowhere has arrived, and whatever looks like trouble is kept."""

    def __init__(self, file, books):
        self._lines, self._books = _Lines(file), books
        self.trouble = []
        self.lines = 0

    def __call__(self):
        for line in self._lines.read():
            self.lines += 1
            if found := _NOWHERE.search(line):
                self._books.arrived(found[1], 0.0, True)
            elif _TROUBLE.search(line):
                self.trouble.append(line)


class _Lines:
    """The whole lines that are added to a file, also when it has made way for a new one, as twistd's logs do."""

    def __init__(self, path):
        self._path, self._inode, self._at, self._rest = path, 0, 0, b""

    def read(self):
        if not self._path.exists():
            return []
        text = self._rest
        with self._path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if self._inode not in (0, inode):
                for old in self._path.parent.glob(f"{self._path.name}.*"):
                    if old.stat().st_ino == self._inode:
                        text += old.read_bytes()[self._at :]
                self._at = 0
            self._inode = inode
            file.seek(self._at)
            new = file.read()
            self._at += len(new)
        *lines, self._rest = (text + new).split(b"\n")
        return [line.decode(errors="replace") for line in lines]
