"""What lies inside of an octet string that somebody sent: kinds of files, and the members of archives, within bounds."""

import bz2
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Any, Literal

from attrs import define, frozen

__all__ = ["Bounds", "Found", "executable_in", "members_of"]

_HEAD = 600  # octets by which a file is known; a tar archive says what it is at 257

_EXECUTABLES = (
    (b"\x7fELF", "ELF program"),
    (b"\xfe\xed\xfa\xce", "Mach-O program"),
    (b"\xfe\xed\xfa\xcf", "Mach-O program"),
    (b"\xce\xfa\xed\xfe", "Mach-O program"),
    (b"\xcf\xfa\xed\xfe", "Mach-O program"),
    (b"\xca\xfe\xba\xbe", "Java class or Mach-O program"),
    (b"L\x00\x00\x00\x01\x14\x02\x00", "Windows shortcut"),
)
_UNLISTED = ((b"7z\xbc\xaf'\x1c", "7z"), (b"Rar!\x1a\x07", "RAR"), (b"MSCF\x00\x00\x00\x00", "CAB"), (b"\x78\x9f\x3e\x22", "TNEF"))
_ENCRYPTED = 0x1  # the flag of a zip member


@frozen
class Found:
    """One thing that is worth an opinion: a file, or why there may be more that nobody has seen."""

    what: Literal["file", "encrypted", "unlisted", "beyond", "broken"]
    name: str
    head: bytes = b""  # its first octets, of a file


@define
class Bounds:
    """What may still be looked at: shared by all archives of a message. It shrinks."""

    members: int = 1000
    octets: int = 50 * 1024 * 1024  # unpacked

    def take(self, octets: int) -> None:
        """Raises TooMuch."""
        self.octets -= octets
        if self.octets < 0:
            raise _TooMuch("it unpacks to more than is looked at")

    def count(self) -> None:
        """One more member. Raises TooMuch."""
        self.members -= 1
        if self.members < 0:
            raise _TooMuch("it has more members than are looked at")


class _TooMuch(Exception):
    """The bounds are reached; the text says which."""


def executable_in(head: bytes) -> str:
    """What program these first octets are of; empty: none that is known."""
    # "MZ" may begin a text, but there is no NUL in one; RFC 2045 §2.7 allows none in 7bit and 8bit.
    if head[:2] == b"MZ" and b"\0" in head[:64]:
        return "Windows program"
    return next((name for magic, name in _EXECUTABLES if head.startswith(magic)), "")


def members_of(name: str, data: bytes, bounds: Bounds, depth: int = 2) -> Iterator[Found]:
    """What is inside, if it is an archive; archives in archives down to ``depth``. Nothing is written anywhere.

    Zip and tar, and what gzip, bzip2 and xz have compressed. What cannot be listed is told as such, never passed over.
    """
    kind = next((kind for magic, kind in _UNLISTED if data.startswith(magic)), "")
    if kind:
        yield Found("unlisted", f"{name}: {kind}")
        return
    readers = _readers(data)
    if readers and depth == 0:
        yield Found("unlisted", f"{name}: an archive in an archive in an archive")
        return
    for look in readers:
        try:
            yield from look(name, data, bounds, depth)
        except _TooMuch as problem:
            yield Found("beyond", f"{name}: {problem}")
        # What the readers of the standard library raise about broken archives is of many kinds, and none of them is ours.
        except Exception as problem:
            if look is readers[0]:
                yield Found("broken", f"{name}: {type(problem).__name__}")


def _readers(data: bytes) -> list[Any]:
    """Of the archive that it begins with, and of the one that it ends with: programs do not agree on which of them counts."""
    readers: list[Any] = []
    if data.startswith((b"PK\x03\x04", b"PK00PK\x03\x04")):
        return [_in_zip]
    if data.startswith(tuple(_DECOMPRESSORS)):
        readers.append(_in_compressed)
    elif _is_tar(data):
        readers.append(_in_tar)
    if _ZIP_END in data[-_ZIP_TAIL:]:
        readers.append(_in_zip)
    return readers


def _is_tar(data: bytes) -> bool:
    """Whether it begins with the header of a member: by its checksum, as old archives say nothing else (pax, "v7")."""
    if data[257:262] == b"ustar":
        return True
    try:
        return bool(tarfile.TarInfo.frombuf(data[:512], "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 22 + 65535  # octets: the end record with the longest comment
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of others, zipfile unpacks more than it is asked for


def _in_zip(name: str, data: bytes, bounds: Bounds, depth: int) -> Iterator[Found]:
    # Each entry of the directory costs memory before anything can be counted, so they are counted first.
    if data.count(b"PK\x01\x02") > bounds.members:
        raise _TooMuch("it has more members than are looked at")
    with zipfile.ZipFile(BytesIO(data)) as archive:
        for member in archive.infolist():
            bounds.count()
            inner = f"{name}: {member.filename}"
            if member.is_dir():
                continue
            if member.flag_bits & _ENCRYPTED:
                yield Found("file", inner)
                yield Found("encrypted", inner)
            elif member.compress_type not in _BOUNDED:
                yield Found("file", inner)
                yield Found("unlisted", f"{inner}: compressed in a way that is not known here")
            else:
                try:
                    with archive.open(member) as file:
                        yield from _member(inner, file, bounds, depth)
                except _TooMuch:
                    raise
                except Exception as problem:  # as in members_of; the other members are there all the same
                    yield Found("file", inner)
                    yield Found("broken", f"{inner}: {type(problem).__name__}")


def _in_tar(name: str, data: bytes, bounds: Bounds, depth: int) -> Iterator[Found]:
    with tarfile.open(fileobj=BytesIO(data), mode="r:") as archive:
        for member in archive:
            bounds.count()
            file = archive.extractfile(member) if member.isreg() else None
            if file is not None:
                yield from _member(f"{name}: {member.name}", file, bounds, depth)


def _member(name: str, file: IO[bytes], bounds: Bounds, depth: int) -> Iterator[Found]:
    head = file.read(_HEAD)
    bounds.take(len(head))
    yield Found("file", name, head)
    if _readers(head) or name.lower().endswith((".zip", ".jar")):
        rest = file.read(bounds.octets + 1)
        bounds.take(len(rest))
        yield from members_of(name, head + rest, bounds, depth - 1)
    elif any(head.startswith(magic) for magic, _ in _UNLISTED):
        yield from members_of(name, head, bounds, depth - 1)


def _in_compressed(name: str, data: bytes, bounds: Bounds, depth: int) -> Iterator[Found]:
    stem = _stem(name)
    try:
        inside = _unpacked(data, bounds)
    except Exception:
        yield Found("file", stem)
        raise
    yield Found("file", stem, inside[:_HEAD])
    # What gzip has packed is not yet an archive in an archive: .tar.gz is one.
    yield from members_of(stem, inside, bounds, depth if _is_tar(inside) else depth - 1)


_XZ_MEMORY = 128 * 1024 * 1024  # an xz file says how much its reader needs, and may say 4 GiB
_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY),
}
_MOST_STREAMS = 100  # that follow one another in a compressed file


def _unpacked(data: bytes, bounds: Bounds) -> bytes:
    """All streams of a compressed file, one behind the other."""
    pieces: list[bytes] = []
    magic, make = next((magic, make) for magic, make in _DECOMPRESSORS.items() if data.startswith(magic))
    while data.startswith(magic):
        if len(pieces) >= _MOST_STREAMS:
            raise _TooMuch("it has more streams than are looked at")
        stream = make()
        pieces.append(stream.decompress(data, bounds.octets + 1))
        bounds.take(len(pieces[-1]))
        data = stream.unused_data
    return b"".join(pieces)


_PACKED = {".gz": "", ".bz2": "", ".xz": "", ".tgz": ".tar", ".tbz2": ".tar", ".txz": ".tar"}


def _stem(name: str) -> str:
    """What a compressed file is called when it is unpacked."""
    for ending, instead in _PACKED.items():
        if name.lower().endswith(ending):
            return name[: -len(ending)] + instead
    return name
