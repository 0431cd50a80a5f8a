"""Every policy at work: its refusal with a reference, what `mailgw explain` says about it, and the same verdict by `mailgw simulate`.

One gateway with a listener for each case; clients say their addresses by the PROXY protocol. First all sessions are held, then all commands
are run, then each case is looked at.
"""

import json
import re
import socket
import socketserver
import sqlite3
import threading
from base64 import b64encode
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Literal

import pytest
from attrs import field, frozen
from click.testing import CliRunner
from name_server import NameServer
from processes import PATIENCE, Gateway, SmtpSink

from mailgw.admin.cli import main
from mailgw.components import catalogue
from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

MESSAGE = "Date: Mon, 5 Jan 2026 10:00:00 +0000\nFrom: anna@example.com\nSubject: hello\n\nHello.\n"
PROGRAM = MESSAGE.replace("\n\n", "\nContent-Type: application/octet-stream; name=run.exe\n\n", 1)
NAMES = {
    "example.com": {"MX": [(10, "mx.example.com")], "TXT": ["v=spf1 ip4:192.0.2.0/24 -all"], "A": ["192.0.2.1"]},
    "mx.example.com": {"A": ["127.0.0.1"]},
    "client.example": {"A": ["192.0.2.9"]},
    "9.113.0.203.zen.example.net": {"A": ["127.0.0.2"], "TXT": ["see https://example.net/203.0.113.9"]},
    "9.113.0.203.silent.example.net": None,
}


@frozen(kw_only=True)
class Case:
    """What is configured, what a client does, and what has to be said about it."""

    type: str
    settings: str = ""
    listen: str = ""
    client: str = "203.0.113.9"
    helo: str = "client.example"
    sender: str = "anna@example.com"
    recipient: str = "ben@example.org"
    login: str = ""
    message: str = MESSAGE
    is_early: bool = False
    before: int = 0  # so many sessions like it before
    beside: int = 0  # so many sessions are there and wait
    reply: str  # the last one that the client hears, without its reference
    by: str = ""  # who decides; none: the policy
    outcome: str = "refused"
    said: tuple[str, ...]  # lines of `mailgw explain`: facts, and what would have to be different
    simulated: tuple[str, ...] = ()  # options of `mailgw simulate`
    of_simulation: tuple[str, ...] = ()  # what it has to say about itself
    place: Literal["policy", "permit", "route"] = "policy"  # where in the configuration it stands

    def table(self, name):
        """The line that an explanation has to name."""
        return f"[policy.{name}]" if self.place == "policy" else f"[[{self.place}]]  # {name}"

    def tables(self, name):
        """Its part of the configuration, behind the listeners."""
        text = f'{self.table(name)}\ntype = "{self.type}"\n{self.settings}\n'
        if self.place == "route":
            settings = ", ".join([f'type = "{self.type}"', *self.settings.splitlines()])
            text = f'{self.table(name)}\nto = "{self.recipient.partition("@")[2]}"\ngateway = "box"\nrecipients = {{ {settings} }}\n'
        return text + (f'on = "{name}"\n' if self.place == "permit" else "")


CASES = {
    "access-table": Case(
        type="access-table",
        settings='on = "client"\npath = "access"',
        reply="554 5.7.1 mail from there is not wanted",
        said=(
            "fact       client: 203.0.113.9  (the connection)",
            "fact       entry: 203.0.113.0/24 reject  ({folder}/access:2)",
            "otherwise  another entry for it, or none, in {folder}/access",
        ),
    ),
    "attachment": Case(
        type="attachment",
        message=PROGRAM,
        reply="550 5.7.1 files with names that end with .exe are not accepted here: run.exe",
        said=("fact       attachment: run.exe  (part 1, application/octet-stream)", "otherwise  the message without this file"),
    ),
    "concurrency": Case(
        type="concurrency",
        settings="limit = 1",
        beside=1,
        reply="421 4.7.0 too many sessions at once from your address, try again later",
        said=(
            "fact       client: 203.0.113.9  (the connection)",
            "fact       other sessions: 1  (this process)",
            "otherwise  an end of one of its sessions, or a higher limit than 1",
        ),
    ),
    "delegated": Case(
        type="delegated",
        settings='address = "unix:{folder}/server"\nlook_up_names = false',
        reply="554 5.7.1 ben is on leave",
        said=(
            "fact       answer: REJECT 5.7.1 ben is on leave  (policy server unix:{folder}/server, at RCPT)",
            "otherwise  another answer of the policy server",
        ),
        simulated=("--ask-others",),
    ),
    "dnsbl": Case(
        type="dnsbl",
        settings='zones = ["zen.example.net"]',
        reply="554 5.7.1 203.0.113.9 is listed at zen.example.net: see https://example.net/203.0.113.9",
        said=(
            "fact       zen.example.net (+1): 203.0.113.9: 127.0.0.2  (A 9.113.0.203.zen.example.net)",
            "fact       reason: see https://example.net/203.0.113.9  (TXT 9.113.0.203.zen.example.net)",
            "otherwise  the operator of zen.example.net takes it off the list",
        ),
    ),
    "greet-delay": Case(
        type="greet-delay",
        settings='delay = "0.5s"',
        is_early=True,
        reply="550 5.5.1 you talk before you are greeted",
        said=("fact       sent before the greeting: yes  (the connection)", "otherwise  a client that waits for the greeting"),
        simulated=("--early-talker",),
    ),
    "greylist": Case(
        type="greylist",
        reply="451 4.7.1 greylisted, come again in N",
        said=(
            "because    not seen before",
            "fact       client network: 203.0.113.0/24  (the connection)",
            "fact       recipient: ben@example.org  (the client's RCPT command)",
            "otherwise  the same mail from 203.0.113.0/24, 300 s after it came first; or an entry in allow or allow_names",
        ),
    ),
    "headers": Case(
        type="headers",
        settings='required = ["X-Wanted"]',
        reply="550 5.6.0 the message has no X-Wanted: field",
        said=("fact       X-Wanted: not there  (the header section)", "otherwise  the field X-Wanted:"),
    ),
    "helo": Case(
        type="helo",
        helo="mx.example.org",
        reply="550 5.7.1 HELO is our own name",
        said=("fact       HELO: mx.example.org  (the client's own words)", "otherwise  the client's own host name"),
    ),
    "list": Case(
        type="list",
        settings='path = "recipients"',
        recipient="nobody@example.org",
        reply="550 5.1.1 no such user here",
        said=(
            "fact       recipient: nobody@example.org  (the client's RCPT command)",
            "fact       list: neither it nor @example.org is there  ({folder}/recipients)",
            "otherwise  a line nobody@example.org or @example.org in {folder}/recipients",
        ),
    ),
    "quota": Case(
        type="quota",
        settings='limit = "1 per week"\nper = "network"',
        before=1,
        reply="450 4.7.1 the limit of 1 message per week is reached, try again in N",
        said=(
            "because    1 message of 203.0.113.9",
            "fact       network: 203.0.113.9/32  (the connection)",
            "fact       messages in this week: 1  (memory)",
            "fact       limit: 1 per week  (the policy's settings)",
            "otherwise  ",
        ),
    ),
    "rate-limit": Case(
        type="rate-limit",
        settings='limit = "1 per hour"',
        before=1,
        reply="450 4.7.1 too many messages, try again in N",
        said=(
            "because    more than 1 per hour for 203.0.113.9",
            "fact       client: 203.0.113.9  (the connection)",
            "fact       limit: 1 per hour, 1 at once  (the policy's settings)",
            "otherwise  N s later, or a higher limit than 1 per hour",
        ),
    ),
    "recently-fetched": Case(
        type="recently-fetched",
        place="permit",
        recipient="carl@elsewhere.example",
        reply="550 5.7.1 relaying denied",
        by="permit",
        said=(
            "           nobody has fetched mail from 203.0.113.9 in the last day",
            "fact       recipient: carl@elsewhere.example  (the client's RCPT command)",
            'otherwise  a login, or a [[permit]] on "recently-fetched" with to = "elsewhere.example" or from_network = "203.0.113.9"',
        ),
    ),
    "reverse-dns": Case(
        type="reverse-dns",
        reply="554 5.7.25 203.0.113.9 has no reverse name",
        said=("fact       reverse name: none  (PTR 9.113.0.203.in-addr.arpa)", "otherwise  a PTR record for the client's address"),
    ),
    "sender-domain": Case(
        type="sender-domain",
        sender="anna@nowhere.example",
        reply="550 5.1.8 sender's domain nowhere.example cannot take an answer",
        said=(
            "fact       sender's domain: no such domain  (MX, A, AAAA nowhere.example)",
            "otherwise  a domain with MX or address records",
        ),
    ),
    "sender-rights": Case(
        type="sender-rights",
        settings='addresses = { anna = ["anna@example.org"] }',
        client="127.0.0.9",  # a password is taken without TLS from this machine only
        login="anna",
        reply="553 5.7.1 anna may not send as anna@example.com",
        said=(
            "fact       login: anna  (the client's AUTH command)",
            "fact       address: anna@example.com  (the client's MAIL command)",
            "otherwise  another address or login, or anna@example.com among the addresses of anna",
        ),
    ),
    "size-per-recipient": Case(
        type="size-per-recipient",
        settings='limits = { "ben@example.org" = "50 octets" }',
        reply="550 5.2.3 message is too big: this recipient takes up to 50 octets",
        said=("fact       limit: ben@example.org: 50 octets  (limits ben@example.org)", "otherwise  a smaller message, or a higher limit"),
    ),
    "spf": Case(
        type="spf",
        reply="550 5.7.23 SPF fail for example.com",
        said=(
            "fact       SPF record: v=spf1 ip4:192.0.2.0/24 -all  (TXT example.com)",
            "otherwise  203.0.113.9 in the SPF record of example.com",
        ),
    ),
    "sql": Case(
        type="sql",
        settings='database = "users.db"\nquery = "SELECT 1 FROM users WHERE address = :address"',
        recipient="nobody@example.org",
        reply="550 5.1.1 no such user here",
        said=(
            "fact       recipient: nobody@example.org  (the client's RCPT command)",
            "fact       row: none  ({folder}/users.db)",
            "otherwise  a row for nobody@example.org in {folder}/users.db",
        ),
    ),
    "a-recipients-route": Case(
        type="list",
        place="route",
        settings='path = "recipients"',
        recipient="nobody@lists.example",
        reply="550 5.1.1 no such user here",
        by='recipients of route to "lists.example"',
        said=(
            "fact       list: neither it nor @lists.example is there  ({folder}/recipients)",
            "otherwise  a line nobody@lists.example or @lists.example in {folder}/recipients",
        ),
    ),
    "a-held-message": Case(
        type="access-table",
        settings='on = "sender"\npath = "senders"',
        reply="250 2.0.0 queued as N",
        outcome="held",
        said=("because    look at it", "fact       entry: anna@example.com hold  ({folder}/senders:1)", "otherwise  another entry for it"),
    ),
    "a-list-that-is-down": Case(
        type="dnsbl",
        settings='zones = ["silent.example.net"]',
        reply="421 4.3.0 local problem, try again later",
        said=(
            "trouble    cannot be answered at connect: 9.113.0.203.silent.example.net A: ",
            "otherwise  an answer; on_error in its table says what follows where there is none",
        ),
    ),
    "tarpit": Case(
        type="tarpit",
        settings='after = 0\nstep = "0.2s"',
        recipient="carl@elsewhere.example",
        reply="550 5.7.1 relaying denied",
        by="permit",
        said=("asked      tarpit at refusal: proceed", "             replied after 0.2 s", "             refusals: 1  (this session)"),
    ),
    "verify-recipient": Case(
        type="verify-recipient",
        settings='gateway = "hop"',
        recipient="gone@example.org",
        reply="550 5.1.1 no such recipient",
        said=(
            "fact       recipient: gone@example.org  (RCPT command)",
            "fact       reply: 550 5.1.1 nobody of that name",
            "otherwise  a server that knows gone@example.org",
        ),
    ),
    "verify-sender": Case(
        type="verify-sender",
        settings='gateway = "internet"',
        sender="gone@example.com",
        reply="550 5.1.8 the mail servers of example.com know no such sender",
        said=("fact       sender: gone@example.com  (MAIL command)", "fact       reply: 550 5.1.1 nobody of that name", "otherwise  "),
    ),
}


class _PolicyServer(socketserver.StreamRequestHandler):
    def handle(self):
        asked = {}
        for line in self.rfile:
            name, equals, value = line.decode().rstrip("\n").partition("=")
            if equals:
                asked[name] = value
                continue
            self.server.asked.append(asked)
            answer = "REJECT 5.7.1 ben is on leave" if asked["recipient"].startswith("ben@") else "DUNNO"
            self.wfile.write(f"action={answer}\n\n".encode())
            asked = {}


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def policy_server(path):
    with _Server(str(path), _PolicyServer) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def knows_nobody(command, argument):
    return "550 5.1.1 nobody of that name" if command == "RCPT" and "gone@" in argument else None


def configuration(ports, folder, resolver, hop):
    text = f"""\
[server]
hostname = "mx.example.org"
state = "state"
shutdown_grace = "5s"
resolvers = ["{resolver}"]
[domains]
ours = ["example.org", "lists.example"]
[accounts.staff]
type = "password-file"
path = "users"
[listen.plain]
kind = "relay"
endpoint = "tcp:{ports["plain"]}:interface=127.0.0.1"
"""
    for name, case in CASES.items():
        text += f'[listen.{name}]\nkind = "relay"\nendpoint = "tcp:{ports[name]}:interface=127.0.0.1"\nproxy = "127.0.0.1"\n'
        text += f'policies = "{name}"\n' if case.place == "policy" else ""
        text += 'accounts = "staff"\nallow_cleartext_auth = true\n' if case.login else ""
    tables = "".join(case.tables(name) for name, case in CASES.items()).replace("{folder}", str(folder))
    return f"""\
{text}
[[permit]]
on = {json.dumps(list(CASES))}
to = "@ours"
{tables}
[[route]]
otherwise = true
gateway = "box"
[gateway.box]
type = "maildir"
path = "box"
[gateway.hop]
type = "smarthost"
address = "{hop}"
tls = "never"
[gateway.internet]
type = "mx"
port = {hop.rpartition(":")[2]}
tls = "never"
"""


class Talk:
    """A session from a chosen address."""

    def __init__(self, port, case):
        self.case = case
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        first = f"PROXY TCP4 {case.client} 192.0.2.25 40000 25\r\n" + (f"EHLO {case.helo}\r\n" if case.is_early else "")
        self.socket.sendall(first.encode())
        self.lines = self.socket.makefile("rb")

    def hear(self):
        while (line := self.lines.readline().decode()).startswith("-", 3):
            pass
        assert line.endswith("\r\n"), line
        return line.rstrip()

    def say(self, line):
        self.socket.sendall(line.encode() + b"\r\n")
        return self.hear()

    def steps(self):
        case, content = self.case, self.case.message.replace("\n", "\r\n")
        yield self.hear
        yield self.hear if case.is_early else lambda: self.say(f"EHLO {case.helo}")
        if case.login:
            secret = b64encode(f"\0{case.login}\0secret".encode()).decode()
            yield lambda: self.say(f"AUTH PLAIN {secret}")
        yield lambda: self.say(f"MAIL FROM:<{case.sender}> SIZE={len(content)}")
        yield lambda: self.say(f"RCPT TO:<{case.recipient}>")
        yield lambda: self.say("DATA")
        yield lambda: self.say(content + ".")

    def whole(self):
        """Everything, up to the reply that decides, which is given."""
        with self:
            for step in self.steps():
                reply = step()
                if reply[0] in "45":
                    break
            return reply

    def close(self):
        self.lines.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@frozen
class Told:
    """What became of a case."""

    reply: str
    explained: str
    simulated: dict


@frozen
class House:
    """The gateway while it runs, and what is around it."""

    gateway: Gateway
    hop: SmtpSink
    server: _Server
    told: dict = field(factory=dict)  # by the name of the case

    def simulate(self, name, *more):
        case = CASES[name]
        letter = self.gateway.folder / f"{name}.eml"
        letter.write_text(case.message)
        words = ["--listener", name, "--client", case.client, "--helo", case.helo, "--mail-from", case.sender, "--rcpt-to", case.recipient]
        words += ["--message", str(letter), *(["--login", case.login] if case.login else []), *more]
        return self.command("simulate", *words)

    def command(self, *words):
        """The command itself, but without a process of its own: there are many."""
        return CliRunner().invoke(main, ["--config", str(self.gateway.file), *words], catch_exceptions=False)

    def simulated(self, name):
        done = self.simulate(name, *CASES[name].simulated, "--json")
        assert done.exit_code in (0, 1, 75), done.output
        return json.loads(done.stdout)

    def explained(self, reply):
        what = re.search(r"\[ref (.+)\]|queued as ([0-9]+)", reply)
        done = self.command("explain", what[1] or what[2])
        assert done.exit_code == 0, done.output
        return done.stdout


def put_files(folder):
    (folder / "access").write_text("# who may not\n203.0.113.0/24 reject mail from there is not wanted\n")
    (folder / "senders").write_text("anna@example.com hold look at it\n")
    (folder / "recipients").write_text("ben@example.org\n")
    # "secret", with few rounds
    (folder / "users").write_text("anna:{SHA256-CRYPT}$5$rounds=1000$saltsalt$eKLZU9t9OoPWrqOQsoTIKG0aYkZ5rGOoOQhiIvoSWX2\n")
    with closing(sqlite3.connect(folder / "users.db")) as database:
        database.execute("CREATE TABLE users (address TEXT PRIMARY KEY)")


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    put_files(folder)
    ports = {name: free_port() for name in (*CASES, "plain")}
    with (
        NameServer(NAMES) as names,
        SmtpSink(knows_nobody) as hop,
        policy_server(folder / "server") as server,
        pytest.MonkeyPatch.context() as patch,
        ExitStack() as staying,
    ):
        # The entry points of the sources as they are now, whenever they were installed.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        gateway = staying.enter_context(Gateway(folder, configuration(ports, folder, names.address, hop.address), ports["plain"]))
        house = House(gateway, hop, server)
        replies = {}
        for name, case in CASES.items():
            for _ in range(case.before):
                assert Talk(ports[name], case).whole().startswith("250 ")
            for _ in range(case.beside):
                assert staying.enter_context(Talk(ports[name], case)).hear().startswith("220 ")
            replies[name] = Talk(ports[name], case).whole()
        for name, reply in replies.items():
            house.told[name] = Told(reply, house.explained(reply), house.simulated(name))
        yield house


def in_general(reply):
    """Without its reference or number, and without how long something still takes."""
    reply = re.sub(r" \[ref [0-9A-Z]{5}\]$", "", reply)
    return re.sub(r"(queued as|again in|than|at) \d+( s| days?| hours?| minutes?)?$", r"\1 N", reply)


def test_no_policy_is_forgotten():
    there = {one.name for one in catalogue() if one.module.startswith("mailgw.policies.")}
    assert there == {case.type for case in CASES.values()}


@pytest.mark.parametrize("name", CASES)
def test_what_it_refuses_is_explained(house, name):
    case, told = CASES[name], house.told[name]
    assert in_general(told.reply) == case.reply
    assert ("[ref " in told.reply) == (case.outcome == "refused")
    lines = re.sub(r"^otherwise  \d+ s later", "otherwise  N s later", told.explained, flags=re.MULTILINE).splitlines()
    if case.outcome == "refused":
        assert lines[0] == told.reply
        assert lines[1].startswith("Refused ")
    assert f"by {case.by or name}, " in lines[1 if case.outcome == "refused" else 0].replace(f'"{case.by or name}"', case.by or name)
    line = 1 + house.gateway.file.read_text().splitlines().index(case.table(name))
    rule = "asked" if name == "tarpit" else "rule"
    assert [one for one in lines if one.startswith(rule) and one.rstrip(")").endswith(f"{house.gateway.file}:{line}")], told.explained
    for said in case.said:
        wanted = said.format(folder=house.gateway.folder)
        assert [one for one in lines if one.startswith(wanted)], f"{wanted}\n\n{told.explained}"
    assert any(one.startswith("otherwise  ") and len(one) > 15 for one in lines), told.explained


@pytest.mark.parametrize("name", CASES)
def test_a_simulation_says_the_same(house, name):
    case, told = CASES[name], house.told[name]
    [recipient] = told.simulated["recipients"]
    assert in_general(recipient["reply"]) == case.reply
    assert told.simulated["by"] == (case.by or name)
    assert told.simulated["outcome"] == case.outcome


def test_a_simulation_sends_and_remembers_nothing(house):
    sent = len(house.hop.messages)
    assert sent == 0
    before = memory_of(house)
    for name in ("greylist", "quota", "rate-limit", "verify-recipient"):
        assert house.simulate(name).exit_code in (1, 75)
    assert memory_of(house) == before
    assert house.hop.messages == []


def memory_of(house):
    with closing(sqlite3.connect(f"file:{house.gateway.folder}/state/memory.db?mode=ro", uri=True)) as database:
        return database.execute("SELECT key, kind, number, since, text FROM remembered ORDER BY key").fetchall()


def test_others_are_asked_only_if_that_is_wanted(house):
    asked = len(house.server.asked)
    done = house.simulate("delegated")
    assert done.exit_code == 75
    where = f"unix:{house.gateway.folder}/server"
    assert f"outside    {where} was not asked, though the gateway would ask it: say --ask-others" in done.stdout.splitlines()
    assert "not asked in a simulation" in done.stdout
    assert len(house.server.asked) == asked
    done = house.simulate("delegated", "--ask-others")
    assert done.exit_code == 1
    assert f"outside    {where} was asked" in done.stdout.splitlines()
    assert [one["recipient"] for one in house.server.asked[asked:]] == ["ben@example.org"]


def test_the_commands_as_an_operator_runs_them(house):
    case, told = CASES["spf"], house.told["spf"]
    done = house.gateway.cli("explain", told.reply.rpartition(" ")[2].rstrip("]"))
    assert (done.returncode, done.stdout) == (0, told.explained)
    words = ["--listener", "spf", "--client", case.client, "--mail-from", case.sender, "--rcpt-to", case.recipient]
    done = house.gateway.cli("simulate", *words)
    assert done.returncode == 1, done.stderr
    assert "S: 550 5.7.23 SPF fail for example.com" in done.stdout.splitlines()
    explained = [line for line in told.explained.splitlines() if line.startswith(("rule", "fact", "otherwise"))]
    assert [line for line in done.stdout.splitlines() if line.startswith(("rule", "fact", "otherwise"))] == explained
