"""What a start does not import: each of these costs milliseconds, and only some configurations need it."""

import subprocess
import sys

import pytest

CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
{server}
[listen.mx]
kind = "relay"
endpoint = "tcp:0:interface=127.0.0.1"
[[permit]]
on = "mx"
to = "example.org"
[[route]]
otherwise = true
gateway = "internet"
[gateway.internet]
type = "{gateway}"
{rest}
"""
HTTP = 'url = "https://example.org/"'
BUILD = """\
import gc, sys
from twisted.application.service import IService
from mailgw.tap import Options, makeService
assert gc.isenabled()
options = Options()
options.parseOptions(sys.argv[1:])
IService(makeService(options))
print("\\n".join(sys.modules))
"""
UNWANTED = {
    "prometheus_client",
    "twisted.web.client",
    "twisted.web.http",
    "twisted.web.server",
    "twisted.conch",
    "twisted.mail.pop3",
    "twisted.mail.smtp",
    "treq",
    "klein",
    "jinja2",
    "click",
    "rich",
    "passlib",
    "libpass",
    "argon2",
    "jwt",
    "ldaptor",
    "psycopg",
    "publicsuffixlist",
    "google_re2",
    "re2",
    "mailgw.demo",
    "mailgw.fetching",
    "mailgw.gateways.http",
    "mailgw.login.schemes",
    "mailgw.observe.json_lines",
    "mailgw.observe.metrics_page",
    "mailgw.senderauth.spf",
    "mailgw.testing",
    "mailgw.workers.orders",
    "mailgw.workers.parent",
}


def imported(folder, *words, server="", gateway="mx", rest=""):
    """What a process has imported that has built the service."""
    file = folder / "mailgw.toml"
    file.write_text(CONFIGURATION.format(server=server, gateway=gateway, rest=rest))
    command = [sys.executable, "-c", BUILD, "--config", file, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_what_a_small_gateway_does_not_need(tmp_path):
    modules = imported(tmp_path)
    assert {"mailgw.tap", "mailgw.service", "mailgw.gateways.mx"} <= modules
    assert UNWANTED & modules == set()


@pytest.mark.parametrize(
    ("more", "needed"),
    [
        pytest.param({"gateway": "http", "rest": HTTP}, "mailgw.gateways.http", id="gateway"),
        pytest.param({"server": "workers = 2"}, "mailgw.workers.parent", id="workers"),
    ],
)
def test_what_is_configured_is_imported_at_the_start(tmp_path, more, needed):
    # Not with the first message: what cannot be imported must end the start.
    assert needed in imported(tmp_path, **more)


def test_a_json_log_is_imported_where_it_is_wanted(tmp_path):
    assert "mailgw.observe.json_lines" in imported(tmp_path, "--json-log", "events")
