"""Name servers that are down, slow or lie, and come back: what was configured follows, in time, and nothing by accident."""

import smtplib
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from name_server import NameServer
from processes import gateway_in, mails, wait_until

from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

TIMEOUT = 2  # seconds; of the policies
FAULTS = ["down", "silent", "slow", "lies", "truncated", "loop", "servfail", "refused"]
IN_TIME = {"down", "truncated", "loop", "servfail", "refused"}  # the resolver knows before the policy's time is over
TEMPERROR = {"pass": "mark", "defer": "defer", "reject": "reject"}
POLICIES = {
    "dnsbl": ('zones = ["list.example"]', "connect"),
    "reverse-dns": ('mismatch = "reject"', "connect"),
    "sender-domain": ('unreachable = "pass"', "mail"),
    "spf": ('helo = "ignore"\ntemperror = "{temperror}"', "mail"),
}
LISTENERS = [(policy, on_error) for policy in POLICIES for on_error in TEMPERROR]
REPLIES = {  # what a client hears where it is not let in: at the greeting, at MAIL, and at MAIL where SPF says "temperror"
    "defer": {"connect": "421 4.3.0 local problem", "mail": "451 4.3.0 local problem", "temperror": "451 4.7.24 SPF of "},
    "reject": {"connect": "554 5.7.1 local policy", "mail": "550 5.7.1 local policy", "temperror": "550 5.7.24 SPF of "},
}


def listener(policy, on_error, port):
    name, settings = f"{policy}-{on_error}", POLICIES[policy][0].format(temperror=TEMPERROR[on_error])
    return f"""
[listen.{name}]
kind = "relay"
endpoint = "tcp:{port}:interface=127.0.0.1"
xclient = "127.0.0.1"
policies = "{name}"
[policy.{name}]
type = "{policy}"
{settings}
timeout = "{TIMEOUT}s"
on_error = "{on_error}"
skip_networks = ["127.0.0.0/8"]
"""


def names_of(number):
    """A client with all that policies look for, and nothing in the caches yet."""
    return {
        f"d{number}.example": {
            "A": [f"203.0.113.{number}"],
            "MX": [(10, f"d{number}.example")],
            "TXT": ["v=spf1 ip4:203.0.113.0/24 -all"],
        },
        f"{number}.113.0.203.in-addr.arpa": {"PTR": [f"d{number}.example."]},
    }


class House:
    def __init__(self, gateway, names, ports):
        self.gateway, self.names, self.ports = gateway, names, ports
        self.accepted = 0

    def talk(self, listener, ip, domain):
        """The last reply to a client that wants to send a message."""
        with smtplib.SMTP("127.0.0.1", self.ports[listener], timeout=30) as client:
            client.ehlo("proxy.example")
            for command in (f"XCLIENT ADDR={ip}", "EHLO client.example", f"MAIL FROM:<a@{domain}>", "RCPT TO:<b@example.org>", "DATA"):
                code, text = client.docmd(command)
                if code not in (220, 250, 354):
                    return f"{code} {text.decode()}"
            client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
            code, text = client.getreply()
            return f"{code} {text.decode()}"

    def everywhere(self, ip, domain):
        """The same at all listeners at once: for each of them the last reply."""
        with ThreadPoolExecutor(len(LISTENERS)) as pool:
            said = dict(zip(LISTENERS, pool.map(lambda one: self.talk(one, ip, domain), LISTENERS), strict=True))
        self.accepted += sum(reply.startswith("250 ") for reply in said.values())
        return said

    def refused(self, ip, domain):
        """Where the client is not let in, and what it hears there."""
        return {one: reply for one, reply in self.everywhere(ip, domain).items() if not reply.startswith("250 2.0.0 queued")}

    def delivered(self):
        return len(mails(self.gateway.folder / "mail"))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    ports = {one: free_port() for one in LISTENERS}
    rest = "".join(listener(*one, port) for one, port in ports.items())
    rest += f"""
[[permit]]
on = {[f"{policy}-{on_error}" for policy, on_error in LISTENERS]}
to = "@ours"
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
"""
    with NameServer({}, delay=TIMEOUT * 2) as names, pytest.MonkeyPatch.context() as patch:
        # The entry points of the sources as they are now, whenever they were installed.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        # The first one is never there.
        resolvers = f'resolvers = ["127.0.0.1:{free_port()}", "{names.address}"]\n'
        with gateway_in(tmp_path_factory.mktemp("dns") / "gateway", rest, server=resolvers) as gateway:
            yield House(gateway, names, ports)


def expected(policy, on_error, fault):
    if on_error == "pass":
        return "250 2.0.0 queued"
    stage = "temperror" if policy == "spf" and fault in IN_TIME else POLICIES[policy][1]
    return REPLIES[on_error][stage]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_follows_is_what_was_configured(house, fault):
    number = 10 + FAULTS.index(fault)
    names, client = house.names, (f"203.0.113.{number}", f"d{number}.example")
    names.names.update(names_of(number))
    with broken(names, fault):
        said = house.everywhere(*client)
    wrong = {one: reply for one, reply in said.items() if not reply.startswith(expected(*one, fault))}
    assert wrong == {}
    # And when it is there again, so are the answers: no fault is remembered. What was asked before may still be waited for.
    wait_until(lambda: house.refused(*client) == {}, "an answer")


@contextmanager
def broken(names, fault):
    """A name server that does not do what it should, and then does again."""
    if fault in ("down", "truncated"):
        names.stop()
    names.has_tcp = fault != "truncated"
    if fault == "truncated":
        names.start()
    names.fault = fault
    try:
        yield
    finally:
        names.fault = ""
        if fault == "truncated":
            names.stop()
        names.has_tcp = True
        if fault in ("down", "truncated"):
            names.start()


def test_a_truncated_answer_is_fetched_over_tcp(house):
    house.names.names.update(names_of(30))
    house.names.fault = "truncated"
    try:
        assert house.refused("203.0.113.30", "d30.example") == {}
    finally:
        house.names.fault = ""


def test_who_is_to_be_refused_is_refused_whatever_faults_lead_to(house):
    house.names.names.update({"40.113.0.203.list.example": {"A": ["127.0.0.2"]}, "fail40.example": {"TXT": ["v=spf1 -all"]}})
    said = house.everywhere("203.0.113.40", "fail40.example")
    starts = {"dnsbl": "554 5.7.1 203.0.113.40 is listed", "reverse-dns": "554 5.7.25", "sender-domain": "550 5.1.8", "spf": "550 5.7.23"}
    assert {one: reply for one, reply in said.items() if not reply.startswith(starts[one[0]])} == {}


def test_the_fault_stands_in_the_story(house):
    house.names.fault = "servfail"
    try:
        said = house.talk(("sender-domain", "reject"), "203.0.113.50", "d50.example")
    finally:
        house.names.fault = ""
    reference = said.partition("[ref ")[2].rstrip("]")
    told = wait_until(lambda: house.gateway.cli("explain", reference).stdout, "the refusal in the records")
    assert "sender-domain-reject" in told
    assert "cannot be answered at mail: d50.example MX: " in told


def test_only_what_was_accepted_is_delivered(house):
    wait_until(lambda: house.delivered() >= house.accepted, "all deliveries")
    assert house.delivered() == house.accepted
    assert house.accepted >= len(LISTENERS)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_told_about_name_servers(tmp_path, workers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    dead, page = f"127.0.0.1:{free_port()}", free_port()
    rest = f"""
[policy.hello]
type = "helo"
unknown = "reject"
[[route]]
otherwise = true
gateway = "nowhere"
[gateway.nowhere]
type = "discard"
[admin]
metrics = "tcp:{page}:interface=127.0.0.1"
"""
    with NameServer({"known.example": {"A": ["192.0.2.1"]}}) as names:
        server = f'workers = {workers}\nresolvers = ["{dead}", "{names.address}"]\n'
        with gateway_in(tmp_path / "gateway", rest, server, 'policies = "hello"') as gateway:
            for name, code in [("known.example", 250), ("known.example", 250), ("other.example", 550)]:
                with gateway.client() as client:
                    client.ehlo(name)
                    assert client.mail("a@example.com")[0] == code
            told = gateway.ask("status")["resolver"]
            assert told["hits"] + told["misses"] == 3
            assert told["misses"] in ({2} if workers == 1 else {2, 3})  # workers do not know what others have asked already
            assert told["name_servers"][names.address]["questions"] == told["misses"]
            assert told["in_flight"] == 0
            assert told["name_servers"][dead]["failed"] >= 1
            assert told["name_servers"][dead]["questions"] == told["name_servers"][dead]["failed"]
            assert told["name_servers"][names.address]["failed"] == 0
            assert dead in gateway.cli("status").stdout
            with urllib.request.urlopen(f"http://127.0.0.1:{page}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            assert f"mailgw_dns_cache_misses_total {told['misses']}.0" in lines
            assert f'mailgw_dns_failures_total{{server="{dead}"}} {told["name_servers"][dead]["failed"]}.0' in lines
