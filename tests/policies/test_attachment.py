"""What is found in messages: names, types, programs, and what archives hold."""

import bz2
import gzip
import lzma
import tarfile
import zipfile
from base64 import b64encode
from email.message import EmailMessage
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.policies.attachment import Attachment
from mailgw.policies.inside import Bounds, members_of
from mailgw.policies.relay import Permit
from mailgw.testing import run
from mailgw.testing.facts import a_message
from mailgw.testing.server import MemoryServer
from mailgw.testing.threads import ThreadsAtOnce
from mailgw.values.content import Content

PROGRAM = b"MZ\x90\x00\x03" + bytes(80)


def zipped(*members, **options):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", options.get("kind", zipfile.ZIP_DEFLATED)) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def encrypted(*members):
    """The flag is all that is looked at."""
    data = bytearray(zipped(*members))
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(magic)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(magic, at + 4)
    return bytes(data)


def tarred(*members):
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return file.getvalue()


def letter(data=b"x", name="a.bin", type_="application/octet-stream"):
    message = EmailMessage()
    message["Subject"] = "hello"
    message.set_content("hello")
    main, _, sub = type_.partition("/")
    message.add_attachment(data, maintype=main, subtype=sub, filename=name)
    return message.as_bytes().replace(b"\n", b"\r\n")


def v7(*members):
    """A tar archive as it was before POSIX: nothing but its checksum says what it is."""
    data = bytearray(tarred(*members))
    data[257:265] = bytes(8)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def raw(disposition="", type_="application/octet-stream", body=b"x"):
    head = b"Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: " + type_.encode() + b"\r\n"
    return head + (f"Content-Disposition: {disposition}\r\n".encode() if disposition else b"") + b"\r\n" + body + b"\r\n--b--\r\n"


def encoded(encoding):
    """A program in base64."""
    return raw(type_=f"image/png\r\nContent-Transfer-Encoding: {encoding}", body=b64encode(PROGRAM))


def policy(**options):
    return Attachment(**options, threads=ThreadsAtOnce())


def verdict(decision):
    said = str(decision.reply) if decision.reply else decision.verdict.value
    return f"{said} +{','.join(sorted(decision.tags))}" if decision.tags else said


def ending(extension, name):
    return f"550 5.7.1 files with names that end with .{extension} are not accepted here: {name}"


def program(name):
    return f"550 5.7.1 programs are not accepted here: {name}"


UNLISTED = {"unlisted": "reject"}
CLOSED = "550 5.7.1 archives that cannot be looked into are not accepted here: "
UNSEEN = "550 5.6.0 the message cannot be looked into"
BEYOND = "550 5.7.1 archives that unpack to so much are not accepted here: "
CASES = {
    "plain text": ({}, b"Subject: x\r\n\r\nhello\r\n", "proceed"),
    "no header": ({}, b"\r\nhello\r\n", "proceed"),
    "fine": ({}, letter(), "proceed"),
    # names
    "name": ({}, letter(name="run.exe"), ending("exe", "run.exe")),
    "two endings": ({}, letter(name="invoice.pdf.EXE"), ending("exe", "invoice.pdf.EXE")),
    "dot and blank at the end": ({}, raw('attachment; filename="run.exe. ."'), ending("exe", "run.exe")),
    "rfc 2231": ({}, raw("attachment; filename*=utf-8''r%C3%BCn%2Eexe"), ending("exe", "r\xfcn.exe")),
    "rfc 2231 in pieces": ({}, raw("attachment; filename*0=run; filename*1=.exe"), ending("exe", "run.exe")),
    "rfc 2231 in encoded pieces": ({}, raw("attachment; filename*0*=utf-8''run; filename*1*=%2Eexe"), ending("exe", "run.exe")),
    "rfc 2047": ({}, raw('attachment; filename="=?utf-8?b?cnVuLmV4ZQ==?="'), ending("exe", "run.exe")),
    "name of the content type": ({}, raw("attachment", 'application/pdf; name="run.exe"'), ending("exe", "run.exe")),
    "the worse of two names": ({}, raw("attachment; filename=a.txt", "text/plain; name=run.exe"), ending("exe", "run.exe")),
    "written from right to left": ({}, raw("attachment; filename*=utf-8''a%E2%80%AEfdp.exe"), ending("exe", "afdp.exe")),
    "folded": ({}, raw('attachment;\r\n filename="run.exe"'), ending("exe", "run.exe")),
    "two names in one field": ({}, raw("attachment; filename=a.txt; filename=run.exe"), ending("exe", "run.exe")),
    "two names, one by rfc 2231": ({}, raw("attachment; filename=a.txt; filename*=utf-8''run.exe"), ending("exe", "run.exe")),
    "two names, by rfc 2231 first": ({}, raw("attachment; filename*=utf-8''run.exe; FileName=a.txt"), ending("exe", "run.exe")),
    "name in the disposition": ({}, raw("attachment; name=run.exe"), ending("exe", "run.exe")),
    "comment behind the name": ({}, raw("attachment; filename=run.exe (a comment)"), ending("exe", "run.exe")),
    "no comment in a quoted name": ({}, raw('attachment; filename="mail of example.com (1)"'), "proceed"),
    "a long word": (
        {},
        raw(f'attachment; filename="=?utf-8?q?{"=F0=9F=98=80" * 100}.exe?="'),
        ending("exe", "\N{GRINNING FACE}" * 100 + ".exe"),
    ),
    "a codec of Python's": ({}, raw("attachment; filename*=punycode''a-.exe"), ending("exe", "a-.exe")),
    "name of a message": ({}, raw("attachment; filename=run.js", "message/rfc822", b"x: y\r\n\r\nz"), ending("js", "run.js")),
    "not at the end": ({}, letter(name="exe.txt"), "proceed"),
    "own list": ({"extensions": [".DOC"]}, letter(name="a.doc"), ending("doc", "a.doc")),
    "own list, not the usual": ({"extensions": ["doc"]}, letter(name="a.exe"), "proceed"),
    "pattern": (
        {"names": ["Invoice*.zip"]},
        letter(name="invoice-7.zip"),
        "550 5.7.1 files with such a name are not accepted here: invoice-7.zip",
    ),
    "tagged": ({"action": "tag"}, letter(name="run.exe"), "proceed +attachment"),
    "held": ({"action": "quarantine"}, letter(name="run.exe"), "quarantine"),
    "discarded": ({"action": "discard"}, letter(name="run.exe"), "discard"),
    # types
    "type": ({}, raw(type_="application/x-msdownload"), "550 5.7.1 files of type application/x-msdownload are not accepted here"),
    "types by pattern": ({"types": ["video/*"]}, raw(type_="Video/MP4"), "550 5.7.1 files of type video/mp4 are not accepted here"),
    # programs
    "program": ({}, letter(PROGRAM, "a.txt"), program("a.txt")),
    "program without a name": ({}, raw(type_="image/png", body=b"\x7fELF\x02"), program("part 1")),
    "program, nobody minds": ({"programs": False}, letter(PROGRAM, "a.txt"), "proceed"),
    "MZ in a text": ({}, letter(b"MZ is the abbreviation of " + b"x" * 90, "a.txt"), "proceed"),
    "shortcut": ({}, letter(b"L\0\0\0\1\x14\2\0", "a"), program("a")),
    "in a forwarded message": (
        {},
        b"Content-Type: message/rfc822\r\n\r\n" + raw("attachment; filename=run.exe"),
        ending("exe", "run.exe"),
    ),
    # archives
    "zip": ({}, letter(zipped(("a.txt", b"x")), "a.zip"), "proceed"),
    "zip, name": ({}, letter(zipped(("d/run.exe", b"x")), "a.zip"), ending("exe", "a.zip: d/run.exe")),
    "zip, program": ({}, letter(zipped(("d/a.txt", PROGRAM)), "a.zip"), program("a.zip: d/a.txt")),
    "zip behind something": ({}, letter(b"%PDF-1.7" + zipped(("run.exe", b"x")), "a.pdf"), ending("exe", "a.pdf: run.exe")),
    "zip in a zip": ({}, letter(zipped(("b.zip", zipped(("run.exe", b"x")))), "a.zip"), ending("exe", "a.zip: b.zip: run.exe")),
    "zip behind something, in a zip": (
        {},
        letter(zipped(("b.zip", b"x" * 1000 + zipped(("run.exe", b"x")))), "a.zip"),
        ending("exe", "a.zip: b.zip: run.exe"),
    ),
    "three deep": (
        UNLISTED,
        letter(zipped(("b.zip", zipped(("c.zip", zipped(("run.exe", b"x")))))), "a.zip"),
        f"{CLOSED}a.zip: b.zip: c.zip: an archive in an archive in an archive",
    ),
    "three deep, nobody minds": ({}, letter(zipped(("b.zip", zipped(("c.zip", zipped(("run.exe", b"x")))))), "a.zip"), "proceed"),
    "zip, encrypted": (
        {"encrypted": "reject"},
        letter(encrypted(("a.txt", b"x")), "a.zip"),
        "550 5.7.1 encrypted archives are not accepted here: a.zip: a.txt",
    ),
    "zip, encrypted, nobody minds": ({}, letter(encrypted(("a.txt", b"x")), "a.zip"), "proceed"),
    "zip, encrypted, name": ({}, letter(encrypted(("run.exe", b"x")), "a.zip"), ending("exe", "a.zip: run.exe")),
    "zip, compressed otherwise": (
        UNLISTED,
        letter(zipped(("a.txt", b"x"), kind=zipfile.ZIP_LZMA), "a.zip"),
        f"{CLOSED}a.zip: a.txt: compressed in a way that is not known here",
    ),
    "zip, broken": (
        {"broken": "defer"},
        letter(b"PK\x03\x04xxxx", "a.zip"),
        "450 4.7.1 broken archives are not accepted here: a.zip: BadZipFile",
    ),
    "a tar that is a zip, too": ({}, letter(tarred(("a.txt", b"x")) + zipped(("run.exe", b"x")), "a.zip"), ending("exe", "a.zip: run.exe")),
    "zip, broken, nobody minds": ({}, letter(b"PK\x03\x04xxxx", "a.zip"), "proceed"),
    "zip, one member broken": (
        {},
        letter(zipped(("a.txt", b"x"), ("run.exe", b"x")).replace(b"a.txt", b"b.txt", 1), "a.zip"),
        ending("exe", "a.zip: run.exe"),
    ),
    "zip, the member itself broken": (
        {},
        letter(zipped(("run.exe", b"x")).replace(b"run.exe", b"run.txt", 1), "a.zip"),
        ending("exe", "a.zip: run.exe"),
    ),
    "zip, one member broken, and refused": (
        {"broken": "reject"},
        letter(zipped(("a.txt", b"x"), ("c.txt", b"x")).replace(b"a.txt", b"b.txt", 1), "a.zip"),
        "550 5.7.1 broken archives are not accepted here: a.zip: a.txt: BadZipFile",
    ),
    "zip, many members": (
        {"max_members": 3},
        letter(zipped(*[(f"{n}.txt", b"x") for n in range(4)]), "a.zip"),
        f"{BEYOND}a.zip: it has more members than are looked at",
    ),
    "zip, a bomb": (
        {"max_unpacked": 100_000},
        letter(zipped(("b.zip", zipped(("x", bytes(10**6)), kind=zipfile.ZIP_STORED))), "a.zip"),
        f"{BEYOND}a.zip: it unpacks to more than is looked at",
    ),
    "tar": ({}, letter(tarred(("a.txt", b"x"), ("run.exe", b"x")), "a.tar"), ending("exe", "a.tar: run.exe")),
    "tar of old": ({}, letter(v7(("run.exe", b"x")), "a.bin"), ending("exe", "a.bin: run.exe")),
    "tar of old, packed": (
        {},
        letter(gzip.compress(v7(("b.zip", zipped(("run.exe", b"x"))))), "a.tgz"),
        ending("exe", "a.tar: b.zip: run.exe"),
    ),
    "tar, program": ({}, letter(tarred(("a.txt", PROGRAM)), "a.tar"), program("a.tar: a.txt")),
    "tar, broken": ({"broken": "tag"}, letter(tarred(("a.txt", b"x" * 2000))[:1000].replace(b"0", b"z"), "a.tar"), "proceed +attachment"),
    "tar.gz": ({}, letter(gzip.compress(tarred(("run.exe", b"x"))), "a.tar.gz"), ending("exe", "a.tar: run.exe")),
    "tgz with a zip": (
        {},
        letter(gzip.compress(tarred(("b.zip", zipped(("run.exe", b"x"))))), "a.tgz"),
        ending("exe", "a.tar: b.zip: run.exe"),
    ),
    "gz": ({}, letter(gzip.compress(b"x"), "run.exe.gz"), ending("exe", "run.exe")),
    "gz, broken, name": ({}, letter(gzip.compress(b"x")[:-8] + bytes(8), "run.exe.gz"), ending("exe", "run.exe")),
    "gz, program": ({}, letter(gzip.compress(PROGRAM), "a.gz"), program("a")),
    "gz, a program in the second stream": ({}, letter(gzip.compress(b"") + gzip.compress(PROGRAM), "a.gz"), program("a")),
    "gz, a bomb": (
        {"max_unpacked": 10**6},
        letter(gzip.compress(bytes(10**7)), "a.gz"),
        f"{BEYOND}a.gz: it unpacks to more than is looked at",
    ),
    "gz, many streams": ({}, letter(gzip.compress(b"x") * 101, "a.gz"), f"{BEYOND}a.gz: it has more streams than are looked at"),
    "gz, broken": ({"broken": "tag"}, letter(b"\x1f\x8b\x08xx" + b"y" * 40, "a.gz"), "proceed +attachment"),
    "bz2": ({}, letter(bz2.compress(PROGRAM), "a.bz2"), program("a")),
    "xz": ({}, letter(lzma.compress(PROGRAM), "a.xz"), program("a")),
    "7z": (UNLISTED, letter(b"7z\xbc\xaf'\x1c\x00", "a.7z"), f"{CLOSED}a.7z: 7z"),
    "winmail.dat": (UNLISTED, letter(b"\x78\x9f\x3e\x22\x01\x00", "winmail.dat"), f"{CLOSED}winmail.dat: TNEF"),
    "rar in a zip": (UNLISTED, letter(zipped(("b.rar", b"Rar!\x1a\x07\x00")), "a.zip"), f"{CLOSED}a.zip: b.rar: RAR"),
    # messages
    "many parts": (
        {"max_parts": 2},
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 3 + b"--b--\r\n",
        "550 5.6.0 the message cannot be looked into",
    ),
    "many multiparts": (
        {},
        b"".join(b"Content-Type:\r\n multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(60)),
        "550 5.6.0 the message cannot be looked into",
    ),
    "many multiparts for its size": (
        {"beyond": "tag"},
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(40)) + b"--x\r\n" * 260_000,
        "proceed +attachment",
    ),
    "many parts, forwarded": (
        {"max_parts": 2},
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\nContent-Type: message/rfc822\r\n\r\nx:\r\n" * 60,
        UNSEEN,
    ),
    "lines and nothing else": ({"beyond": "tag"}, b"Subject: x\r\n\r\n" + b"\r\n" * 1_100_000, "proceed +attachment"),
    "lines of binary content": ({"beyond": "tag"}, b"Subject: x\r\n\r\n" + b"\r" * 1_100_000, "proceed +attachment"),
    "two types": ({}, b"Content-Type: text/plain\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\nx\r\n", UNSEEN),
    "the same type twice": ({}, b"Content-Type: text/plain\r\nContent-Type: text/plain\r\n\r\nx\r\n", "proceed"),
    "two boundaries": ({}, b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n", UNSEEN),
    "two encodings": ({}, encoded("7bit\r\nContent-Transfer-Encoding: base64"), UNSEEN),
    "a message in base64": ({}, raw(type_="message/rfc822\r\nContent-Transfer-Encoding: base64", body=b"eDogeQ0K"), UNSEEN),
    "a report in base64": ({}, raw(type_="message/delivery-status\r\nContent-Transfer-Encoding: base64", body=b"eDogeQ0K"), "proceed"),
    "a number of thousands of digits": ({}, raw(f"attachment; filename*{'9' * 5000}*=run.exe"), UNSEEN),
    "encoding and a blank": ({}, encoded("base64 "), program("part 1")),
    "encoding and a comment": ({}, encoded("(a comment) base64"), program("part 1")),
    "encoding in quotes": ({}, encoded('"Base64";'), program("part 1")),
    "encoding in the next line": ({}, encoded("\r\n base64"), program("part 1")),
    "encoding that nobody knows": ({}, encoded("base65"), "proceed"),
    "a long field": ({}, raw("attachment; filename=" + "x" * 9000), "550 5.6.0 the message cannot be looked into"),
}


@pytest.mark.parametrize(("options", "content", "expected"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("in_file", [False, True], ids=["memory", "file"])
def test_attachment(options, content, expected, in_file, tmp_path):
    where = content
    if in_file:
        (tmp_path / "m").write_bytes(content)
        where = Content(tmp_path / "m", len(content))
    decision = run(policy(**options).check_content(a_message(where)))
    assert verdict(decision) == expected
    if decision.reply:
        assert decision.evidence
        assert decision.remedy


def test_grounds():
    decision = run(policy().check_content(a_message(letter(zipped(("d/run.exe", PROGRAM)), "a.zip"))))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("attachment", "a.zip: d/run.exe", "part 2, application/octet-stream"),
        ("extensions", "exe", "the policy's settings"),
        ("attachment", "a.zip: d/run.exe: Windows program", "part 2, application/octet-stream, its first octets"),
    ]
    assert decision.remedy == "the message without this file"


def test_the_severest_counts():
    message = letter(encrypted(("run.exe", b"x")), "a.zip")
    both = policy(action="tag", tag="odd", encrypted="quarantine")
    assert verdict(run(both.check_content(a_message(message)))) == "quarantine +odd"


def test_an_extension_is_none():
    with pytest.raises(ValueError, match="patterns belong into names"):
        policy(extensions=["*.exe"])


def test_a_file_that_is_gone_is_raised(tmp_path):
    with pytest.raises(OSError, match="gone"):
        run(policy().check_content(a_message(Content(tmp_path / "gone", 10))))


PARTS = st.one_of(
    st.binary(max_size=200),
    st.lists(st.tuples(st.text(min_size=1, max_size=10), st.binary(max_size=50)), max_size=3, unique_by=lambda one: one[0]).map(
        lambda members: tarred(*[(name.encode("ascii", "replace").decode().replace("\0", "0"), data) for name, data in members])
    ),
    st.binary(max_size=100).map(gzip.compress),
    st.binary(max_size=100).map(lambda data: zipped(("a.txt", data), ("b.zip", zipped(("c", data))))),
)


@settings(max_examples=150, deadline=None)
@given(PARTS, st.data())
def test_damaged_archives_end_in_a_finding_or_in_none(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 4))):
        if damaged:
            damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    for found in members_of("a", bytes(damaged), Bounds(100, 10**6)):
        assert found.what in ("file", "encrypted", "unlisted", "beyond", "broken")


PIECES = [b"--b\r\n", b"--b--\r\n", b"\r\n", b"Content-Type: ", b"multipart/mixed; boundary=b", b"message/rfc822", b"x", b"\xff"]
PIECES += [b";", b"\0", b"Content-Disposition: attachment; filename*0*=x''%FF; name=\"", b"Content-Transfer-Encoding: base64\r\n"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_message_gets_a_decision(pieces):
    assert run(policy().check_content(a_message(b"".join(pieces)))).verdict.value in ("proceed", "reject")


def test_talk():
    server = MemoryServer(policies=[policy()], permits=[Permit(to=frozenset({"example.org"}), name="ours")])
    talk = server.connect()
    talk.say(b"EHLO c.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
    assert talk.say(letter(name="run.exe") + b".\r\n") == f"{ending('exe', 'run.exe')}\r\n"
    talk.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
    assert talk.say(letter() + b".\r\n") == "250 2.0.0 queued as 1\r\n"
