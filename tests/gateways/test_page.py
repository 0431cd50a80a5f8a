"""The gateways of docs/operating.md can be built as they stand there, and there is an example of each type."""

import re
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest
import trustme

from mailgw.admin.still_house import still_house
from mailgw.assemble import build_parts
from mailgw.config.reading import read_text

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"
HEAD = """\
[server]
hostname = "mx.example.org"
state = "state"
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
[[permit]]
on = "mx"
to = "example.org"
[[route]]
otherwise = true
gateway = "nowhere"
"""


def test_every_gateway_of_the_page_can_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = PAGE.read_text().split("\n## Gateways\n")[1].split("\n## ")[0]
    text = HEAD + "".join(re.findall(r"^```toml\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    own = trustme.CA().issue_cert("us.example.com")  # the only files that are looked at before the start
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    own.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    text = text.replace("/etc/mailgw/client.", f"{tmp_path}/client.")
    functions = ModuleType("mail_functions")
    functions.take = print  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mail_functions", functions)
    parts = build_parts(read_text(text, "operating.md", tmp_path), still_house())
    tables = tomllib.loads(text)["gateway"]
    assert set(parts.gateways) == set(tables)
    ours = {point.name for point in entry_points(group="mailgw.components") if point.value.startswith("mailgw.gateways.")}
    assert {table["type"] for table in tables.values()} == ours
    assert parts.routing.by_domain == {"internet", "spread"}
