"""`mailgw simulate`: what a configuration would do, with all that is said; tables of cases; and the same verdicts as a server gives."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailgw.admin import own_reactor
from mailgw.admin.cli import main
from mailgw.admin.simulated_client import Attempt
from mailgw.admin.simulated_house import MovingClock, simulated_house
from mailgw.admin.simulating import simulate
from mailgw.assemble import build_parts
from mailgw.components import catalogue
from mailgw.config.reading import read_text
from mailgw.interfaces import LookupFailed
from mailgw.storage.memory_database import MemoryDatabase
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import MemoryServer, at, zone

CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
resolvers = ["127.0.0.1:1"]
[domains]
ours = ["example.org"]
[tls.default]
certificate = "none.pem"
key = {{ file = "none.pem" }}
[accounts.staff]
type = "password-file"
path = "users"
[listen.mx]
kind = "relay"
endpoint = "tcp:2525:interface=127.0.0.1"
tls = "default"
policies = [{policies}]
[listen.submission]
kind = "submission"
endpoint = "tcp:2587:interface=127.0.0.1"
starttls = "require"
tls = "default"
accounts = "staff"
[listen.submissions]
like = "submission"
endpoint = "tls:2465:interface=127.0.0.1"
[[permit]]
on = "mx"
to = "@ours"
[[permit]]
on = ["submission", "submissions"]
authenticated = true
[[route]]
to = "@ours"
gateway = "box"
recipients = {{ type = "list", path = "recipients" }}
[[route]]
otherwise = true
gateway = "internet"
[gateway.box]
type = "maildir"
path = "mail"
[gateway.internet]
type = "mx"
{rest}
"""


@pytest.fixture
def place(tmp_path):
    def configure(policies="", rest=""):
        (tmp_path / "mailgw.toml").write_text(CONFIGURATION.format(policies=policies, rest=rest))
        return tmp_path

    (tmp_path / "recipients").write_text("ben@example.org\ndora@example.org\n")
    (tmp_path / "access").write_text("203.0.113.7 reject go away\n203.0.113.8 hold look at it\n")
    # "secret", with few rounds
    (tmp_path / "users").write_text("anna:{SHA256-CRYPT}$5$rounds=1000$saltsalt$9sXhcqSGhSAx5cmkBU9nwJWTqd.1GZcAKWdWYYZcjC.\n")
    (tmp_path / "state").mkdir()
    configure()
    configure.folder = tmp_path
    return configure


def say(folder, *words):
    return CliRunner().invoke(main, ["--config", str(folder / "mailgw.toml"), "simulate", *words], catch_exceptions=False)


STRANGER = ("--listener", "mx", "--client", "203.0.113.7", "--mail-from", "a@example.com")


@pytest.mark.parametrize(
    ("words", "status", "reply"),
    [
        pytest.param((*STRANGER, "--rcpt-to", "ben@example.org"), 0, "250 2.0.0 queued as 0", id="accepted"),
        pytest.param((*STRANGER, "--rcpt-to", "x@elsewhere.example"), 1, "550 5.7.1 relaying denied", id="no relay"),
        pytest.param((*STRANGER, "--rcpt-to", "nobody@example.org"), 1, "550 5.1.1", id="unknown recipient"),
        pytest.param((*STRANGER, "--rcpt-to", "no-address"), 1, "553 5.1.3", id="bad address"),
        pytest.param((*STRANGER, "--tls", "--rcpt-to", "ben@example.org"), 0, "250 ", id="TLS"),
        pytest.param(
            ("--listener", "mx", "--client", "2001:db8::", "--mail-from", "<>", "--rcpt-to", "ben@example.org"), 0, "250 ", id="bounce"
        ),
        pytest.param(
            ("--listener", "submission", "--client", "192.0.2.1", "--mail-from", "a@example.org", "--rcpt-to", "b@elsewhere.example"),
            1,
            "530 5.7.0",
            id="submission without TLS",
        ),
        pytest.param(
            ("--listener", "submission", "--client", "::1", "--login", "anna", "--mail-from", "a@x.org", "--rcpt-to", "b@far.example"),
            0,
            "250 ",
            id="submission with a login",
        ),
        pytest.param(
            ("--listener", "submissions", "--client", "::1", "--login", "anna", "--mail-from", "a@x.org", "--rcpt-to", "b@far.example"),
            0,
            "250 ",
            id="submission with implicit TLS",
        ),
        pytest.param((*STRANGER, "--login", "anna", "--rcpt-to", "ben@example.org"), 1, "50", id="no logins there"),
    ],
)
def test_what_is_said_and_how_it_ends(place, words, status, reply):
    told = say(place(), *words, "--json")
    answer = json.loads(told.output)
    assert answer["recipients"][0]["reply"].startswith(reply), told.output
    assert told.exit_code == answer["status"] == status


def test_the_whole_story_is_printed(place):
    told = say(place(), *STRANGER, "--rcpt-to", "ben@example.org", "--rcpt-to", "x@elsewhere.example")
    assert told.exit_code == 1  # one of them was refused
    lines = told.output.splitlines()
    assert lines[:3] == ["S: 220 mx.example.org ESMTP", "C: EHLO client.example", "S: 250-mx.example.org"]
    assert "C: RCPT TO:<x@elsewhere.example>" in lines
    assert "S: 550 5.7.1 relaying denied" in lines
    assert lines[-1].startswith("adds       ")
    text = told.output
    assert 'Refused at RCPT by "permit"' in text
    assert 'permit to "@ours" does not match' in text
    assert 'route to "@ours" (' in text
    assert "to box" in text
    assert "[ref" not in text
    assert not any((place.folder / "state").iterdir())


def test_a_message_of_a_file_is_what_policies_see(place):
    folder = place('"rules"', '[policy.rules]\ntype = "headers"\nrequired = ["X-Wanted"]')
    (folder / "letter").write_bytes(b"From: a@example.com\nX-Wanted: yes\n.dot: no\n\n.hello\n")
    assert say(folder, *STRANGER, "--rcpt-to", "ben@example.org", "--message", str(folder / "letter")).exit_code == 0
    assert say(folder, *STRANGER, "--rcpt-to", "ben@example.org").exit_code == 1


def test_bad_usage_and_bad_configurations(place):
    folder = place()
    assert "no [listen.mix] that takes mail; did you mean" in say(folder, *STRANGER, "--rcpt-to", "b@x.org", "--listener", "mix").output
    for words in ((), STRANGER, (*STRANGER, "--rcpt-to", "a\nQUIT@x.org"), ("--cases", "x", "--tls")):
        assert say(folder, *words).exit_code == 2
    told = say(place('"spff"'), *STRANGER, "--rcpt-to", "ben@example.org")
    assert told.exit_code == 2
    assert "mailgw.toml:17:" in told.stderr


GREYLIST = ('"grey"', '[policy.grey]\ntype = "greylist"\ndelay = "5m"')


def rows(folder):
    with closing(sqlite3.connect(folder / "state" / "memory.db")) as database:
        return database.execute("SELECT key, kind, number, since FROM remembered ORDER BY key").fetchall()


def test_what_policies_remember_is_read_and_left_alone(place):
    folder = place(*GREYLIST)
    words = (*STRANGER, "--rcpt-to", "ben@example.org")
    assert say(folder, *words).exit_code == 75
    assert say(folder, *words).exit_code == 75  # the first time was forgotten
    assert not any((folder / "state").iterdir())
    assert say(folder, *words, "--again-after", "6m").exit_code == 0

    memory = MemoryDatabase(folder / "state" / "memory.db", 1000)
    memory.transact([lambda: memory.remember(0.0, "greylist:known 203.0.113.0/24", "", 4e9)], 0.0, True)
    before = rows(folder)
    assert say(folder, *words).exit_code == 0  # also while another process has it open
    assert rows(folder) == before
    memory.close()
    assert say(folder, *words).exit_code == 0
    assert rows(folder) == before

    (folder / "state" / "memory.db").write_bytes(b"nonsense" * 1000)
    told = say(folder, *words)
    assert told.exit_code == 3
    assert "memory.db cannot be read" in told.stderr


def test_a_memory_that_cannot_be_looked_at(place):
    folder = place()
    (folder / "state" / "memory.db").symlink_to("x" * 300)  # also root cannot look there
    told = say(folder, *STRANGER, "--rcpt-to", "ben@example.org")
    assert told.exit_code == 3
    assert "memory.db cannot be read: File name too long" in told.stderr


def test_nobody_is_called_and_the_trouble_is_shown(place):
    asked = '[[route]]\nto = "asked.example.org"\ngateway = "asked"\nrecipients = { type = "verify-recipient" }'
    folder = place(rest=f'{asked}\n[gateway.asked]\ntype = "smarthost"\naddress = "127.0.0.1:9"\n')
    text = (folder / "mailgw.toml").read_text()
    head, _, last = text.rpartition("[[route]]")  # "otherwise" must stay the last one
    first, _, rest = head.partition("[[route]]")
    (folder / "mailgw.toml").write_text(
        (first + "[[route]]" + last + "[[route]]" + rest).replace('ours = ["example.org"]', 'ours = ["example.org", ".example.org"]')
    )
    told = say(folder, *STRANGER, "--rcpt-to", "x@asked.example.org")
    assert told.exit_code == 75, told.output
    assert "not asked in a simulation" in told.output


def test_a_client_that_does_not_wait_for_the_greeting(place):
    folder = place('"patience"', '[policy.patience]\ntype = "greet-delay"\ndelay = "0.2s"')
    words = (*STRANGER, "--rcpt-to", "ben@example.org")
    assert say(folder, *words).exit_code == 0
    told = say(folder, *words, "--early-talker")
    assert told.exit_code == 1
    assert told.output.splitlines()[:2] == ["C: EHLO client.example", "S: 220 mx.example.org ESMTP"]
    assert "S: 550 5.5.1 you talk before you are greeted" in told.output


def test_early_talkers_among_the_cases(place):
    folder = place('"patience"', '[policy.patience]\ntype = "greet-delay"\ndelay = "0.1s"')
    case = 'listener = "mx"\nclient = "203.0.113.7"\nmail_from = "a@example.com"\nrcpt_to = "ben@example.org"\n'
    impatient = f'[[case]]\nname = "impatient"\n{case}early_talker = true\nexpect = "550 5.5.1"\npolicy = "patience"\n'
    (folder / "cases.toml").write_text(f'{impatient}[[case]]\nname = "patient"\n{case}expect = "250"\n')
    told = say(folder, "--cases", str(folder / "cases.toml"))
    assert told.exit_code == 0, told.output


def test_others_are_asked_if_that_is_wanted(place):
    address = f"unix:{place.folder}/server"
    folder = place('"others"', f'[policy.others]\ntype = "delegated"\naddress = "{address}"')
    words = (*STRANGER, "--rcpt-to", "ben@example.org")
    told = say(folder, *words)
    assert told.exit_code == 75
    assert f"outside    {address} was not asked, though the gateway would ask it: say --ask-others" in told.output
    told = say(folder, *words, "--ask-others")  # nobody is there
    assert told.exit_code == 75
    assert f"outside    {address} was asked" in told.output
    assert json.loads(say(folder, *words, "--json").output)["outside"] == [address]


def test_a_memory_that_cannot_be_seen_is_said_to_be_so(place):
    folder = place(rest='[memory]\ntype = "in-process"')
    told = say(folder, *STRANGER, "--rcpt-to", "ben@example.org")
    assert told.exit_code == 0
    assert told.stderr == 'mailgw: what policies remember is "in-process", known to the running gateway alone: here nothing is known\n'


def test_sessions_cannot_be_counted_while_nothing_runs(place):
    folder = place('"crowd"', '[policy.crowd]\ntype = "concurrency"\nlimit = 1')
    told = say(folder, *STRANGER, "--rcpt-to", "ben@example.org")
    assert told.exit_code == 0
    assert told.stderr.startswith("mailgw: whose sessions are there now is not known, none is counted: no daemon listens at ")


CASES = """\
clock = "2026-01-05T10:00+00:00"
[zone."example.com"]
TXT = "v=spf1 ip4:203.0.113.7 -all"
[zone."broken.example"]
TXT = "fails"

[[case]]
name = "the first time"
listener = "mx"
client = "203.0.113.7"
mail_from = "a@example.com"
rcpt_to = "ben@example.org"
expect = "451 4.7.1"
policy = "grey"
outcome = "refused"

[[case]]
name = "six minutes later"
listener = "mx"
client = "203.0.113.7"
mail_from = "a@example.com"
rcpt_to = ["ben@example.org", "nobody@example.org"]
again_after = "6m"
expect = ["250", "550 5.1.1"]
gateway = "box"

[[case]]
name = "forged"
listener = "mx"
client = "203.0.113.8"
mail_from = "a@example.com"
rcpt_to = "ben@example.org"
expect = "550 5.7.23"
policy = "spf"

[[case]]
name = "a broken zone"
listener = "mx"
client = "203.0.113.8"
mail_from = "a@broken.example"
rcpt_to = "ben@example.org"
message = "Subject: x\\n\\nx"
expect = "451"

[[case]]
name = "a name for this case alone"
listener = "mx"
client = "203.0.113.9"
mail_from = "a@special.example"
rcpt_to = "ben@example.org"
zone."special.example" = { TXT = ["v=spf1 -all"] }
expect = "550 5.7.23"
"""
BOTH = ('"spf", "grey"', GREYLIST[1] + '\n[policy.spf]\ntype = "spf"')


def test_cases_as_expected(place):
    folder = place(*BOTH)
    (folder / "cases.toml").write_text(CASES)
    told = say(folder, "--cases", str(folder / "cases.toml"))
    assert told.exit_code == 0, told.output
    assert told.output.splitlines()[-1] == "5 cases, all as expected"
    assert [line.split("  ")[0] for line in told.output.splitlines()[1:3]] == ["the first time", "six minutes later"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('expect = "451 4.7.1"', 'expect = "250"', 'ben@example.org: expected "250", got "451 4.7.1 greylisted, come again in 300 s"'),
        ('policy = "spf"', 'policy = "grey"', 'expected policy "grey", got "spf"'),
        ('gateway = "box"', 'gateway = "internet"', 'expected gateway "internet", got "box"'),
        ('outcome = "refused"', 'outcome = "held"', 'expected outcome "held", got "refused"'),
        ('"550 5.1.1"]', '"250"]', 'nobody@example.org: expected "250", got "550 5.1.1'),
    ],
)
def test_a_difference_is_told_with_its_story(place, old, new, said):
    folder = place(*BOTH)
    assert CASES.count(old) == 1
    (folder / "cases.toml").write_text(CASES.replace(old, new))
    told = say(folder, "--cases", str(folder / "cases.toml"))
    assert told.exit_code == 1
    assert said in told.output
    assert told.output.splitlines()[-1] == "5 cases, 1 different"
    answer = json.loads(say(folder, "--cases", str(folder / "cases.toml"), "--json").output)
    assert not answer["ok"]
    assert sum(not case["ok"] for case in answer["cases"]) == 1


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('name = "forged"', 'name = "six minutes later"', 28, 'there is a case "six minutes later" before this one'),
        ('outcome = "refused"', 'outcom = "refused"', 15, 'has no key "outcom"; did you mean "outcome"?'),
        ('expect = ["250", "550 5.1.1"]', 'expect = ["250", "250", "250"]', 24, "needs one reply for all recipients, or one for each"),
        ('gateway = "box"', 'gateway = "bux"', 25, 'there is no [gateway.bux]; did you mean "box"?'),
        ('again_after = "6m"', 'again_after = "soon"', 23, '"soon" is no duration'),
        ('client = "203.0.113.9"', 'client = "somewhere"', 48, "somewhere"),
        ('client = "203.0.113.9"', 'client = "203.0.113.9"\nmessage_file = "none"', 49, "none: No such file or directory"),
        ('TXT = "fails"', 'TXTS = "fails"', 2, "'TXTS' is none of"),
        ('clock = "2026-01-05T10:00+00:00"', 'clock = "2026-01-05"', 1, "is no moment; write it like"),
        ("[[case]]\n", "[[cases]]\n", 7, 'a file of cases has no "cases"; did you mean "case"?'),
        ('zone."special', 'zone"special', 51, "is not TOML"),
    ],
)
def test_errors_in_a_file_of_cases_have_their_line(place, old, new, line, said):
    folder = place(*BOTH)
    assert old in CASES
    (folder / "cases.toml").write_text(CASES.replace(old, new))
    told = say(folder, "--cases", str(folder / "cases.toml"))
    assert told.exit_code == 2
    assert f"cases.toml:{line}: " in told.stderr, told.stderr
    assert said in told.stderr


# ── The same verdict as a server gives ──

NAMES = {
    "example.com": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"], "A": ["192.0.2.1"], "MX": [(10, "mail.example.com")]},
    "mail.example.com": {"A": ["192.0.2.1"]},
    "7.113.0.203.zen.example.net": {"A": ["127.0.0.2"]},
    "8.113.0.203.zen.example.net": LookupFailed,
    "7.113.0.203.in-addr.arpa": {"PTR": ["client.example.com"]},
}
EXAMPLES = {
    "access-table": 'on = "client"\npath = "access"',
    "attachment": 'names = ["*.exe"]',
    "concurrency": "limit = 5",
    "dnsbl": 'zones = ["zen.example.net"]',
    "greylist": 'delay = "5m"',
    "headers": 'required = ["X-Wanted"]',
    "helo": 'unknown = "reject"',
    "list": 'path = "recipients"',
    "quota": 'limit = "1 per hour"\nper = "login"',
    "rate-limit": 'limit = "1 per hour"',
    "reverse-dns": "",
    "sender-domain": "",
    "sender-rights": "",
    "spf": "",
}
CLIENTS = ["192.0.2.1", "203.0.113.7", "203.0.113.8"]
SENDERS = ["a@example.com", "a@nowhere.example", ""]
LETTER = b"From: a@example.com\r\nContent-Type: application/x; name=x.exe\r\n\r\nx\r\n"
POLICIES = ("IClientPolicy", "ISenderPolicy", "IRecipientPolicy", "IContentPolicy")
TYPES = sorted({one.name for one in catalogue() if set(POLICIES) & set(one.interfaces) and one.module.startswith("mailgw.policies")})


def parts_for(kind, tmp_path, house_of):
    text = CONFIGURATION.format(policies='"it"', rest=f'[policy.it]\ntype = "{kind}"\n{EXAMPLES[kind]}')
    configuration = read_text(text, "mailgw.toml", tmp_path)
    house = house_of(configuration)
    return configuration, house, build_parts(configuration, house)


def on_a_server(parts, clock, client, sender):
    [asked] = {
        one.name: one for stage in ("client", "sender", "recipient", "content") for one in getattr(parts.rules["mx"], stage)
    }.values()
    permits = [one.component for one in parts.rules["mx"].relay]
    server = MemoryServer(policies=[asked.component], permits=permits, routing=parts.routing)
    talk = server.connect(ip=client)
    reply = talk.heard()
    for step in ("EHLO client.example", f"MAIL FROM:<{sender}>", "RCPT TO:<ben@example.org>", "DATA", LETTER + b".\r\n"):
        if not reply.startswith(("2", "3")):
            break
        reply = talk.say(step)
    return reply.splitlines()[-1].partition(" queued as ")[0]


@pytest.mark.parametrize("kind", TYPES)
def test_a_policy_says_the_same_to_a_simulated_client_as_to_one_of_a_server(place, kind):
    if kind not in EXAMPLES:
        pytest.skip(f"{kind} asks others, takes its time or wants to know more: see tests/live/test_every_policy.py")
    heard = set()

    def house_of(reactor):
        clock = at("2026-01-05T10:00+00:00")
        return lambda configuration: simulated_house(configuration, reactor, clock, InProcessMemory(clock), zone(NAMES))

    async def play(reactor):
        for client in CLIENTS:
            for sender in SENDERS:
                configuration, house, parts = parts_for(kind, place.folder, house_of(reactor))
                attempt = Attempt(
                    listener="mx",
                    client=client,
                    mail_from=sender,
                    rcpt_to=("ben@example.org",),
                    content=LETTER,
                )
                simulated = await simulate(configuration, house, parts, attempt, reactor, place.folder)
                _, _, others = parts_for(kind, place.folder, house_of(reactor))
                reply = on_a_server(others, MovingClock(), client, sender)
                assert simulated.replies[0].partition(" queued as ")[0] == reply, (client, sender)
                heard.add(reply)

    own_reactor.run(play)
    assert heard


def test_the_cases_of_the_page_are_as_it_says(place):
    page = Path(__file__).parents[2] / "docs" / "operating.md"
    [cases] = re.findall(r"^```toml\n(clock = .*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    folder = place(*GREYLIST)
    text = (folder / "mailgw.toml").read_text().replace('gateway = "box"', 'gateway = "mailboxes"')
    (folder / "mailgw.toml").write_text(text.replace("[gateway.box]", "[gateway.mailboxes]"))
    (folder / "cases.toml").write_text(cases)
    told = say(folder, "--cases", str(folder / "cases.toml"))
    assert told.exit_code == 0, told.output
