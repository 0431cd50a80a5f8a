"""EXPN, and the table behind it."""

import pytest

from mailgw.receive.aliases import read_aliases
from mailgw.smtp.server import ServerSettings
from mailgw.testing.server import MemoryServer


def test_expn_tells_the_members(tmp_path):
    path = tmp_path / "aliases"
    path.write_text("# lists\nStaff: ann@example.org, ben@Example.NET  # two\n\nroot: ann@example.org\n")
    settings = ServerSettings(hostname="mx.example.org", expands=True)
    talk = MemoryServer(settings=settings, aliases=read_aliases(path)).connect()
    talk.heard()
    assert talk.say("EXPN staff") == "250-2.1.5 <ann@example.org>\r\n250 2.1.5 <ben@example.net>\r\n"
    assert talk.say("EXPN <Root>") == "250 2.1.5 <ann@example.org>\r\n"
    assert talk.say("EXPN nobody") == "550 5.1.1 no such list or alias\r\n"


@pytest.mark.parametrize("line", ["staff", "staff:", ": a@example.org", "staff: no address", "staff: a@example.org,"])
def test_a_broken_table_says_where(tmp_path, line):
    path = tmp_path / "aliases"
    path.write_text(f"ok: a@example.org\n{line}\n")
    with pytest.raises(ValueError, match=r"aliases:2: "):
        read_aliases(path)
