"""The policies and settings of docs/logins.md that stand around logins can be built as they stand there."""

import re
import sqlite3
from pathlib import Path

from mailgw.admin.still_house import still_house
from mailgw.assemble import build_parts
from mailgw.config.reading import read_text
from mailgw.login.throttle import Throttling

PAGE = Path(__file__).parents[2] / "docs" / "logins.md"
HEAD = """\
[server]
hostname = "mx.example.org"
state = "state"
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
policies = ["own-address", "own-address-by-file", "own-address-by-table", "hourly"]
[[permit]]
on = "mx"
to = "example.org"
[[route]]
otherwise = true
gateway = "nowhere"
[gateway.nowhere]
type = "discard"
"""


def test_what_stands_around_logins_can_be_built(tmp_path):
    section = PAGE.read_text().split("\n## Logins under attack, own addresses, limits\n")[1].split("\n### POP before SMTP\n")[0]
    text = HEAD + "".join(re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    (tmp_path / "senders").write_text("anna info@example.org\n")
    with sqlite3.connect(tmp_path / "users.db") as database:
        database.execute("CREATE TABLE alias(owner, address)")
    database.close()
    text = text.replace("/etc/mailgw/senders", f"{tmp_path}/senders").replace("/var/lib/mail/users.db", f"{tmp_path}/users.db")
    configuration = read_text(text, "logins.md", tmp_path)
    rules = build_parts(configuration, still_house()).rules["mx"]
    assert [len(stage) for stage in (rules.sender, rules.recipient, rules.content)] == [4, 1, 4]
    assert configuration.logins == Throttling()  # the page shows the defaults
