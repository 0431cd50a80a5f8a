"""One transaction, recipients on LMTP, HTTP, pipe, Python and Maildir gateways and on their combinations, failing differently."""

import email
import email.policy
import json
import os
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest
from processes import SmtpSink, gateway_in, mails, wait_until

REST = """
[[route]]
to = "boxes.example.org"
gateway = "boxes"
[[route]]
to = "lmtp.example.org"
gateway = "lmtp"
[[route]]
to = "web.example.org"
gateway = "web"
[[route]]
to = "program.example.org"
gateway = "program"
[[route]]
to = "function.example.org"
gateway = "function"
[[route]]
to = "both.example.org"
gateway = "both"
[[route]]
to = "either.example.org"
gateway = "either"
[[route]]
otherwise = true
gateway = "bounces"
[gateway.boxes]
type = "maildir"
path = "mail/{{local_part}}"
[gateway.archive]
type = "maildir"
path = "archive/{{local_part}}"
[gateway.bounces]
type = "maildir"
path = "bounces"
[gateway.lmtp]
type = "lmtp"
address = "{lmtp}"
retry = ["1h"]
[gateway.web]
type = "http"
url = "http://127.0.0.1:{web}/mail"
max_recipients = 1
retry = ["1s"]
[gateway.program]
type = "pipe"
command = ["{folder}/program", "{{sender}}", "{{recipient}}"]
user = "{user}"
directory = "{folder}"
[gateway.function]
type = "python"
call = "live_functions:take"
[gateway.both]
type = "copy"
gateways = ["archive", "web"]
retry = ["1s"]
[gateway.dead]
type = "smarthost"
address = "127.0.0.1:1"
[gateway.spread]
type = "balance"
gateways = ["dead", "archive"]
[gateway.either]
type = "fail-over"
gateways = ["dead", "spread"]
"""
LISTEN = """
[[permit]]
on = "mx"
to = ".example.org"
"""
PROGRAM = """\
#!/bin/sh
case "$2" in
gone@*) echo "nobody of that name"; exit 67 ;;
later@*) exit 75 ;;
esac
{ echo "from $1 to $2"; cat; } > "program.$2"
"""
FUNCTIONS = """\
from mailgw.api import delivered, never

def take(shipment):
    with open("function.mail", "wb") as file:
        file.write(shipment.content.read())
    return {one.address: never("not here") if one.address.local_part == "gone" else delivered() for one in shipment.recipients}
"""
GONE = {f"gone@{name}.example.org" for name in ("lmtp", "web", "program", "function")}
LATER = {f"later@{name}.example.org" for name in ("lmtp", "program")}
GOOD = {f"good@{name}.example.org" for name in ("boxes", "lmtp", "web", "program", "function", "both", "either")}


class Web(BaseHTTPRequestHandler):
    """Refuses those who are gone, and is busy for the first request for anybody at both.example.org."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        recipient = unquote(self.headers["X-Mailgw-Recipients"])
        self.server.posts.append((recipient, self.headers["Idempotency-Key"], body))
        status = 410 if recipient.startswith("gone@") else 200
        if recipient.endswith("@both.example.org") and sum(one == recipient for one, _, _ in self.server.posts) == 1:
            status = 503
        answer = b"no such mailbox\n" if status == 410 else b"well\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.posts = []
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def at_lmtp(command, argument):
    if command == ".":
        return {"later@": "452 4.2.2 mailbox is full", "gone@l": "550 5.2.1 mailbox is closed"}.get(argument[:6])
    return None


def test_each_recipient_has_its_own_outcome(tmp_path, web, monkeypatch):
    folder = tmp_path / "gateway"
    with SmtpSink(at_lmtp, lmtp=True) as lmtp:
        user = "root" if os.geteuid() == 0 else ""
        rest = REST.format(lmtp=lmtp.address, web=web.server_port, folder=folder, user=user)
        gateway = gateway_in(folder, rest, listen=LISTEN)
        (folder / "program").write_text(PROGRAM)
        (folder / "program").chmod(0o700)
        (folder / "live_functions.py").write_text(FUNCTIONS)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        with gateway:
            with gateway.client() as client:
                recipients = sorted(GOOD | GONE | LATER)
                client.sendmail("sender@example.com", recipients, "Subject: to all\r\nMessage-ID: <1@example.com>\r\n\r\nhello\r\n")
            wait_until(lambda: len(bounced(folder)) == len(GONE), "the bounces")
            wait_until(lambda: sum(one == "good@both.example.org" for one, _, _ in web.posts) == 2, "the second try of the copy")
            listed = wait_until(lambda: waiting(gateway, len(LATER)), "the rest of the queue")
            status = json.loads(gateway.cli("status", "--json").stdout)
        log = gateway.log.read_text()
    assert listed == LATER
    assert bounced(folder) == {
        "gone@lmtp.example.org": ("5.2.1", "smtp; 550 5.2.1 mailbox is closed"),
        "gone@web.example.org": ("5.1.6", "x-mailgw; 550 5.1.6 HTTP 410: no such mailbox"),
        "gone@program.example.org": ("5.1.1", "x-mailgw; 550 5.1.1 no such user: nobody of that name"),
        "gone@function.example.org": ("5.0.0", "x-mailgw; 550 5.0.0 not here"),
    }
    # The good ones, wherever they live.
    [box] = mails(folder / "mail" / "good")
    assert b"Delivered-To: good@boxes.example.org" in box
    assert [recipients for _, recipients, _ in lmtp.messages] == [["good@lmtp.example.org"]]
    piped = (folder / "program.good@program.example.org").read_text()
    assert piped.startswith("from sender@example.com to good@program.example.org\nReceived: ")
    assert b"\r\nSubject: to all\r\n" in (folder / "function.mail").read_bytes()
    posted = Counter(recipient for recipient, _, _ in web.posts)
    assert posted == {"good@web.example.org": 1, "gone@web.example.org": 1, "good@both.example.org": 2}
    assert all(body.endswith(b"\r\n\r\nhello\r\n") for _, _, body in web.posts)
    [first, second] = [key for recipient, key, _ in web.posts if recipient == "good@both.example.org"]
    assert first == second
    # One archive copy for each of the two who have one, although the web service was asked twice.
    archived = sorted(mail.split(b"Delivered-To: ")[1].split(b"\n")[0].decode() for mail in mails(folder / "archive" / "good"))
    assert archived == ["good@both.example.org", "good@either.example.org"]
    assert status["faults"] == 0
    assert "Traceback" not in log


def waiting(gateway, number):
    """Who is still waiting, when it is so many and each of them was tried."""
    entries = json.loads(gateway.cli("queue", "list", "--json").stdout)["entries"]
    left = [entry for entry in entries if entry["state"] == "waiting"]
    return {entry["recipient"] for entry in left} if len(left) == number and all(entry["attempts"] for entry in left) else None


def bounced(folder):
    """What the bounces say: ``{recipient: (status, diagnostic code)}``."""
    told = {}
    for bounce in mails(folder / "bounces"):
        message = email.message_from_bytes(bounce, policy=email.policy.default)
        for block in list(list(message.iter_parts())[1].iter_parts())[1:]:
            assert block["Action"] == "failed"
            told[block["Final-Recipient"].removeprefix("rfc822;")] = (block["Status"], block["Diagnostic-Code"])
    return told
