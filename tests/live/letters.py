"""Letters that are known by their name, and can be told whole from damaged wherever they turn up; and the books about them."""

import re
import threading
from collections import defaultdict

_NAME = re.compile(rb"^Message-ID: <([\w.-]+\.(\d+))@load\.example>\r?$", re.MULTILINE)
_HEADER = b"From: load@load.example\r\nTo: undisclosed\r\nSubject: letter\r\nMessage-ID: <%s@load.example>\r\n\r\n"


def letter(name, size):
    """A letter of about ``size`` octets, and its full name, which begins with ``name``. Some lines begin with a dot."""
    name = f"{name}.{size}"
    return name, _HEADER % name.encode() + _body(name, size)


def _body(name, size):
    lines = f"this is line after line of {name}\r\n.and this one begins with a dot\r\n..\r\n".encode()
    return lines * (size // len(lines)) + f"the end of {name}\r\n".encode()


def recognised(content):
    """The name of a letter that has arrived, with fields on top and with either line end, and whether it is whole; None for no letter."""
    found = _NAME.search(content, 0, 20_000)
    if found is None:
        return None
    name = found[1].decode()
    body = content[content.index(b"\n", found.end() - 1) :].replace(b"\r\n", b"\n")
    return name, body == b"\n\n" + _body(name, int(found[2])).replace(b"\r\n", b"\n")


class Books:
    """What was said about each recipient of a letter, and what has arrived for whom. Each recipient gets one letter in his life."""

    def __init__(self):
        self.acknowledged = set()  # their letters got a 250
        self.doubtful = set()  # all was sent, no answer came
        self.partial = set()  # the end was never sent
        self.refused = set()  # heard 4yz or 5yz
        self.arrivals = defaultdict(list)  # POSIX seconds
        self.bounced = defaultdict(list)
        self.damaged = set()
        self._lock = threading.Lock()

    def said(self, kind, recipients):
        """``kind`` names one of the sets."""
        with self._lock:
            getattr(self, kind).update(recipients)

    def arrived(self, recipient, when, whole):
        with self._lock:
            self.arrivals[recipient].append(when)
            if not whole:
                self.damaged.add(recipient)

    def came_back(self, recipient, when):
        with self._lock:
            self.bounced[recipient].append(when)

    def owed(self):
        """Who was promised a letter and has neither got it nor been told to be without."""
        with self._lock:
            return {one for one in self.acknowledged if one not in self.arrivals and one not in self.bounced}

    def never_sent(self):
        """Who has got a letter whose end was never sent, or that was refused."""
        with self._lock:
            return {one for one in self.partial | self.refused if one in self.arrivals}

    def duplicates(self):
        """Who has got it more than once: ``{recipient: [when, ...]}``."""
        with self._lock:
            return {one: sorted(times) for one, times in self.arrivals.items() if len(times) > 1}
