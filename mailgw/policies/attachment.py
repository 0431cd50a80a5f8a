"""What a message has attached: names, types, programs, and what archives hold."""

import re
import unicodedata
from collections.abc import Awaitable, Iterator
from fnmatch import fnmatchcase

from attrs import field, frozen
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IContentPolicy
from mailgw.policies.action import Action, act, together
from mailgw.policies.inside import Bounds, executable_in, members_of
from mailgw.policies.mime_parts import MimePart, Unseen, parts_of
from mailgw.values.decision import Decision, Evidence
from mailgw.values.facts import ContentFacts
from mailgw.values.quantities import Size

__all__ = ["Attachment"]

# What Windows runs, or what makes it run something else, on a double click.
# fmt: off
_DANGEROUS = (
    "ade", "adp", "app", "application", "appref-ms", "bat", "chm", "cmd", "com", "cpl", "diagcab", "dll", "exe", "gadget", "hlp", "hta",
    "inf", "ins", "isp", "jar", "jnlp", "js", "jse", "lib", "lnk", "mde", "msc", "msi", "msp", "mst", "pif", "ps1", "psc1", "reg", "scf",
    "scr", "sct", "settingcontent-ms", "shb", "shs", "sys", "url", "vb", "vbe", "vbs", "vhd", "vhdx", "vxd", "wsc", "wsf", "wsh", "xll",
)
# fmt: on
_SMALL = 16 * 1024  # octets of a message that is looked at without a thread, if no archive can be in it
_ENCODED = re.compile(rb"base64|binary|quoted-printable|uu", re.IGNORECASE)
_SHOWN = 200  # characters of a name in replies and evidence
_MOST_FINDINGS = 20  # that are told


def _lower(texts: list[str]) -> list[str]:
    return [text.lower() for text in texts]


def _extensions(texts: list[str]) -> list[str]:
    if any("/" in text or "*" in text for text in texts):
        raise ValueError('an extension is written like "exe"; patterns belong into names')
    return [text.lower().lstrip(".") for text in texts]


@implementer(IContentPolicy)
@frozen
class Attachment:
    """``type = "attachment"``: looks at attached files, and into zip, tar, gzip, bzip2 and xz archives, one archive deep in another.

    Each finding has its action: reject, defer, quarantine, discard, tag (with ``tag``), pass. Of several the severest is taken. Names are
    looked at as mail programs show them (RFC 2047, RFC 2231), regardless of case, without what cannot be seen and without the dots
    at the end, which Windows drops. All but small texts are looked at in a thread.
    """

    extensions: list[str] = field(factory=lambda: list(_DANGEROUS), converter=_extensions)
    names: list[str] = field(factory=list, converter=_lower)
    """Patterns of whole names, like ``invoice*.zip``: ``*``, ``?`` and ``[abc]`` as in a shell."""
    types: list[str] = field(factory=lambda: ["application/x-msdownload", "application/x-dosexec"], converter=_lower)
    """Content types; patterns, too: ``video/*``."""
    programs: bool = True
    """Whether the first octets of a file count: a program is one, whatever its name."""
    action: Action = "reject"
    """What follows on all of the above."""
    encrypted: Action = "pass"
    """What follows on an archive with encrypted members; their names are looked at all the same."""
    unlisted: Action = "pass"
    """What follows on archives that cannot be looked into: 7z, RAR, CAB, TNEF (winmail.dat), and archives three deep."""
    broken: Action = "pass"
    """What follows on archives, or members of them, that cannot be read."""
    beyond: Action = "reject"
    """What follows on what is beyond the bounds below, or can be read in more than one way: it is not looked at to its end."""
    max_parts: int = 500
    max_members: int = 1000
    """Members of all archives of a message."""
    max_unpacked: Size = 50 * 1024 * 1024
    """What all archives of a message may unpack to."""
    tag: str = "attachment"
    threads: IReactorThreads = given(IReactorThreads)

    def check_content(self, facts: ContentFacts) -> Decision | Awaitable[Decision]:
        """Raises OSError."""
        original = facts.content.original
        if isinstance(original, bytes) and len(original) <= _SMALL and not _ENCODED.search(original):
            return self._look(facts)
        return deferToThreadPool(self.threads, self.threads.getThreadPool(), self._look, facts)

    def _look(self, facts: ContentFacts) -> Decision:
        bounds = Bounds(self.max_members, self.max_unpacked)
        found: list[Decision] = []
        try:
            for part in parts_of(facts.content, self.max_parts):
                for decision in self._about(part, bounds):
                    if len(found) < _MOST_FINDINGS or decision.reply is not None:
                        found.append(decision)
        except Unseen as problem:
            text = "the message cannot be looked into"
            evidence = (Evidence("message", str(problem), "its parts"),)
            remedy = "a simpler message"
            found.append(act(self.beyond, text, status="6.0", why=str(problem), tag=self.tag, evidence=evidence, remedy=remedy))
        return together(found)

    def _about(self, part: MimePart, bounds: Bounds) -> Iterator[Decision]:
        source = f"part {part.number}, {part.type}"
        if pattern := next((one for one in self.types if fnmatchcase(part.type, one)), ""):
            text = f"files of type {part.type} are not accepted here"
            yield self._refused(text, Evidence("content type", part.type, source), Evidence("types", pattern, _SETTINGS))
        shown = _clean(part.names[0]) if part.names else f"part {part.number}"
        for name in part.names:
            yield from self._named(name, source)
        yield from self._program(shown, part.data, source)
        for one in members_of(shown, part.data, bounds):
            if one.what == "file":
                yield from self._named(one.name, source)
                yield from self._program(one.name, one.head, source)
            else:
                yield self._closed(one.what, one.name, source)

    def _named(self, name: str, source: str) -> Iterator[Decision]:
        whole = _clean(name)
        # Of a member's way through archives and folders, its own name counts.
        own = whole.rpartition(": ")[2].replace("\\", "/").rpartition("/")[2].lower()
        _, dot, extension = own.rpartition(".")
        if dot and extension in self.extensions:
            text = f"files with names that end with .{extension} are not accepted here: {whole}"
            yield self._refused(text, Evidence("attachment", whole, source), Evidence("extensions", extension, _SETTINGS))
        elif pattern := next((one for one in self.names if fnmatchcase(own, one)), ""):
            text = f"files with such a name are not accepted here: {whole}"
            yield self._refused(text, Evidence("attachment", whole, source), Evidence("names", pattern, _SETTINGS))

    def _program(self, name: str, head: bytes, source: str) -> Iterator[Decision]:
        if self.programs and (kind := executable_in(head)):
            text = f"programs are not accepted here: {_clean(name)}"
            yield self._refused(text, Evidence("attachment", f"{_clean(name)}: {kind}", f"{source}, its first octets"))

    def _refused(self, text: str, *evidence: Evidence) -> Decision:
        return act(self.action, text[:_MOST_TEXT], status="7.1", tag=self.tag, evidence=evidence, remedy="the message without this file")

    def _closed(self, what: str, name: str, source: str) -> Decision:
        action, text = {
            "encrypted": (self.encrypted, "encrypted archives are not accepted here"),
            "unlisted": (self.unlisted, "archives that cannot be looked into are not accepted here"),
            "beyond": (self.beyond, "archives that unpack to so much are not accepted here"),
            "broken": (self.broken, "broken archives are not accepted here"),
        }[what]
        evidence = (Evidence("attachment", _clean(name), source), Evidence(what, action, _SETTINGS))
        shown = _clean(name)
        remedy = "a zip or tar archive without a password, or none"
        return act(action, f"{text}: {shown}"[:_MOST_TEXT], why=f"{what}: {shown}", tag=self.tag, evidence=evidence, remedy=remedy)


_SETTINGS = "the policy's settings"
_MOST_TEXT = 400  # characters of a reply


def _clean(name: str) -> str:
    """A name as it will be on the disk: without control and direction characters, and without dots and spaces at its end."""
    visible = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf"))
    return visible.rstrip(". ")[-_SHOWN:]
