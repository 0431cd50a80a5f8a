"""SPF, section by section of RFC 7208: what each record says about a client."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.interfaces import LookupFailed
from mailgw.senderauth import spf
from mailgw.senderauth.spf import check_host
from mailgw.senderauth.spf_macros import BadRecord
from mailgw.senderauth.spf_record import is_spf, parse_record
from mailgw.testing import run
from mailgw.testing.zone import zone

DOMAIN = "e.example.com"
SIX = "cafe:babe::1"
LONG = "a" * 64
NAMES = {
    # Hosts
    "mail.example.com": {"A": ["1.2.3.4"], "AAAA": [SIX]},
    "four.example.com": {"A": ["1.2.3.5", "1.2.3.4"]},
    "near.example.com": {"A": ["1.2.3.99"]},
    "six.example.com": {"AAAA": [SIX]},
    "other.example.com": {"A": ["9.8.7.6"], "AAAA": ["2001:db8::9"]},
    "empty.example.com": {},
    "down.example.com": LookupFailed,
    "alias.example.com": {"CNAME": ["mail.example.com"]},
    "foo:bar/baz.example.com": {"A": ["1.2.3.4"]},
    "abc.1-2": {"A": ["1.2.3.4"]},
    "abc.xn--zckzah": {"A": ["1.2.3.4"]},
    # MX
    "mx.example.com": {"MX": [(20, "mail.example.com"), (10, "other.example.com")]},
    "mx-a.example.com": {"A": ["1.2.3.4"]},
    "mx-null.example.com": {"MX": [(0, "")]},
    "mx-ten.example.com": {"MX": [(n, "other.example.com") for n in range(9)] + [(99, "mail.example.com")]},
    "mx-many.example.com": {"MX": [(n, "mail.example.com") for n in range(11)]},
    "mx-down.example.com": {"MX": [(10, "down.example.com"), (20, "mail.example.com")]},
    "mx-down-later.example.com": {"MX": [(10, "mail.example.com"), (20, "down.example.com")]},
    "mx-void.example.com": {"MX": [(n, f"nowhere{n}.example.com") for n in range(3)]},
    # Records to include
    "pass.example.com": {"TXT": ["v=spf1 ip4:1.2.3.4 ip6:cafe:babe::/32 -all exp=says.example.com"]},
    "fail.example.com": {"TXT": ["v=spf1 -all exp=says.example.com"]},
    "softfail.example.com": {"TXT": ["v=spf1 ~all"]},
    "neutral.example.com": {"TXT": ["v=spf1 ?all"]},
    "nothing.example.com": {"TXT": ["v=spf1"]},
    "bad.example.com": {"TXT": ["v=spf1 ipv4:1.2.3.4 -all"]},
    "two.example.com": {"TXT": ["v=spf1 -all", "v=spf1 +all"]},
    "no-spf.example.com": {"TXT": ["v=spf10", "hello"]},
    "loop1.example.com": {"TXT": ["v=spf1 include:loop2.example.com"]},
    "loop2.example.com": {"TXT": ["v=spf1 include:loop1.example.com"]},
    "round.example.com": {"TXT": ["v=spf1 redirect=round.example.com"]},
    "nine.example.com": {"TXT": ["v=spf1 " + "a:other.example.com " * 9 + "+all"]},
    "ten.example.com": {"TXT": ["v=spf1 " + "a:other.example.com " * 10 + "+all"]},
    # Explanations
    "says.example.com": {"TXT": ["%{c} may not send for %{o}"]},
    "says-two.example.com": {"TXT": ["one", "two"]},
    "says-wrong.example.com": {"TXT": ["%{z} is no macro"]},
    "says-bytes.example.com": {"TXT": [b"\xc3\xa4h"]},
    "says-down.example.com": LookupFailed,
    "says-much.example.com": {"TXT": ["x" * 1000]},
    "says-controls.example.com": {"TXT": [b"a\r\n550 b\x1b[31m\x00"]},
    "says-dot.example.com": {"TXT": ["this. is. %{d}."]},
    "says-all.example.com": {"TXT": ["<%{s}> %{h} %{r} %{t} %{i} %{v} %{p}%_%%%-"]},
    "says-queried.example.com": {"TXT": ["%{c} is queried as %{ir}.%{v}.arpa"]},
    "says-upper.example.com": {"TXT": ["http://x/?s=%{S}&l=%{L}"]},
    # Reverse names
    "4.3.2.1.in-addr.arpa": {"PTR": ["liar.example.org", "Host.E.example.com.", "mail.example.com"]},
    "host.e.example.com": {"A": ["1.2.3.4"]},
    "liar.example.org": {"A": ["1.1.1.1"]},
    "1." + "0." * 23 + "e.b.a.b.e.f.a.c.ip6.arpa": {"PTR": ["six.e.example.com"]},
    "six.e.example.com": {"AAAA": [SIX]},
    "5.3.2.1.in-addr.arpa": LookupFailed,
    "6.3.2.1.in-addr.arpa": {"PTR": ["down.example.com", "six.example.com.e.example.com"]},
    "six.example.com.e.example.com": {"A": ["1.2.3.6"]},
    "7.3.2.1.in-addr.arpa": {"PTR": [f"n{n}.example.net" for n in range(10)] + ["late.e.example.com"]},
    "late.e.example.com": {"A": ["1.2.3.7"]},
    **{f"n{n}.example.net": {"A": ["7.7.7.7"]} for n in range(10)},
    # What macros lead to
    "4.3.2.1.in-addr._spf.example.com": {"A": ["127.0.0.2"]},
    ".".join("10000000000000000000000000000000"[i] for i in range(24)) + ".e.b.a.b.e.f.a.c.ip6._spf.example.com": {"A": ["127.0.0.2"]},
    "foo.lp._spf.example.com": {"A": ["127.0.0.2"]},
    "bar.foo.lp.example.com": {"A": ["127.0.0.2"]},
    "foo.bar.lp.example.com": {"A": ["127.0.0.2"]},
    "com.example.e.r.example.com": {"A": ["127.0.0.2"]},
    "host.e.example.com.p.example.com": {"A": ["127.0.0.2"]},
    "unknown.p.example.com": {"A": ["127.0.0.2"]},
    "a%b c%20.esc.example.com": {"A": ["127.0.0.2"]},
    "o%27neil.u.example.com": {"A": ["127.0.0.2"]},
    "xn--bcher-kva.example.o.example.com": {"A": ["127.0.0.2"]},
}


def ask(record, ip="1.2.3.4", sender=f"foo@{DOMAIN}", helo="mail.example.com", domain=None, **more):
    texts = record if isinstance(record, list) else [record]
    own = NAMES.get(DOMAIN, {}) | ({"TXT": texts} if record is not None else {}) | more
    return run(
        check_host(
            zone({**NAMES, DOMAIN: own}), ip_address(ip), domain or sender.rpartition("@")[2], sender, helo, "mx.example.org", 1767607200.0
        )
    )


# ── §4: check_host ──

WHICH_RECORD = {
    "one": ("v=spf1 -all", "fail"),
    "none": (None, "none"),
    "no-spf": ("nothing of interest", "none"),
    "no-space": ("v=spf10 -all", "none"),
    "no-space-at-all": ("v=spf1-all", "none"),
    "version-2": ("v=spf2 -all", "none"),
    "case": ("V=sPf1 -ALL", "fail"),
    "only-the-version": ("v=spf1", "neutral"),
    "version-and-space": ("v=spf1 ", "neutral"),
    "leading-space": (" v=spf1 -all", "none"),
    "two-spaces": ("v=spf1  mx   -all  ", "fail"),
    "tab": ("v=spf1\t-all", "none"),
    "among-others": (["hello", "v=spf1 -all", b"\xa0 beyond ASCII"], "fail"),
    "two": (["v=spf1 -all", "v=spf1 -all"], "permerror"),
    "one-and-one-that-looks-like-it": (["v=spf1 -all", "v=spf10 +all"], "fail"),
    "beyond-ascii": (b"v=spf1 a:\xc3\xa4.example.com -all", "permerror"),
    "beyond-ascii-in-a-modifier": (b"v=spf1 x=\xa0 -all", "permerror"),
    "control": (b"v=spf1 a:ctrl.example.com\rptr -all", "permerror"),
    "nul": (b"v=spf1 a:mail.example.com\0 -all", "permerror"),
    "endless": ("v=spf1 " + "ip4:9.9.9.9 " * 2000, "permerror"),
}


@pytest.mark.parametrize(("record", "result"), WHICH_RECORD.values(), ids=WHICH_RECORD)
def test_which_record_counts(record, result):
    assert ask(record).result == result


DOMAINS = {
    "long-label": f"{LONG}.example.com",
    "empty-label": "a...example.com",
    "one-label": "localhost",
    "literal": "[1.2.3.5]",
    "nothing": "",
    "dot": ".",
    "space": "JUMPIN' JUPITER.example.com",
    "too-long": ".".join(["a" * 60] * 5),
    "no-idna": "\u2024.example.com",
    "no-such-name": "nowhere.example.com",
}


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_domains_that_cannot_have_a_record(domain):
    answer = ask("v=spf1 -all", sender=f"foo@{domain}", domain=domain)
    assert answer.result == "none"
    assert answer.problem
    assert len(answer.lookups) == (domain == "nowhere.example.com")


@pytest.mark.parametrize("domain", ["e.example.com.", "E.Example.COM"])
def test_spellings_of_a_domain(domain):
    assert ask("v=spf1 exists:%{ir}.%{v}._spf.%{d2} -all", domain=domain).result == "pass"


def test_a_domain_beyond_ascii():
    names = zone({"xn--bcher-kva.example": {"TXT": ["v=spf1 exists:%{o}.o.example.com -all"]}, **NAMES})
    for domain in ("bücher.example", "Bücher.example", "xn--bcher-kva.example"):
        answer = run(check_host(names, ip_address("1.2.3.4"), domain, f"x@{domain}"))
        assert (answer.result, answer.domain) == ("pass", "xn--bcher-kva.example")


SYNTAX = {
    "unknown-mechanism": "v=spf1 moo -all",
    "found-behind-the-end": "v=spf1 -all moo",
    "found-although-another-matches": "v=spf1 ip4:1.2.3.4 ip4:1.2.3 -all",
    "modifier-without-name": "v=spf1 =a -all",
    "modifier-begins-with-digit": "v=spf1 1up=foo -all",
    "modifier-name": "v=spf1 o$ps=foo -all",
    "modifier-macro": "v=spf1 x=%abc -all",
    "modifier-macro-open": "v=spf1 x=%{d -all",
    "modifier-with-qualifier": "v=spf1 -x=y -all",
    "modifier-as-mechanism": "v=spf1 redirect:pass.example.com",
    "redirect-alone": "v=spf1 redirect",
    "redirect-empty": "v=spf1 redirect=",
    "redirect-twice": "v=spf1 redirect=pass.example.com redirect=pass.example.com",
    "redirect-twice-case": "v=spf1 redirect=pass.example.com REDIRECT=pass.example.com",
    "redirect-no-domain": "v=spf1 ?all redirect=abc",
    "exp-empty": "v=spf1 exp= -all",
    "exp-twice": "v=spf1 exp=says.example.com exp=says.example.com -all",
    "exp-no-domain": "v=spf1 exp=-all -all",
    "all-dot": "v=spf1 all.",
    "all-argument": "v=spf1 all:foo",
    "all-cidr": "v=spf1 all/8",
    "two-qualifiers": "v=spf1 +-all",
    "comma": "v=spf1 a:mail.example.com, -all",
    "include-alone": "v=spf1 include -all",
    "include-empty": "v=spf1 include: -all",
    "include-cidr": "v=spf1 include:pass.example.com/24 -all",
    "include-cidr-only": "v=spf1 include/24 -all",
    "a-empty": "v=spf1 a: -all",
    "a-no-domain": "v=spf1 a:foo-bar -all",
    "a-number": "v=spf1 a:111.222.33.44 -all",
    "a-number-label": "v=spf1 a:mail.example.123 -all",
    "a-top-dash": "v=spf1 a:example.-com -all",
    "a-top-dash-end": "v=spf1 a:example.com- -all",
    "a-top-only": "v=spf1 a:museum -all",
    "a-top-only-dot": "v=spf1 a:museum. -all",
    "a-cidr4": "v=spf1 a/33 -all",
    "a-cidr4-zero": "v=spf1 a/08 -all",
    "a-cidr4-empty": "v=spf1 a/ -all",
    "a-cidr4-long": "v=spf1 a/" + "9" * 5000 + " -all",
    "a-cidr6": "v=spf1 a//129 -all",
    "a-cidr6-zero": "v=spf1 a//064 -all",
    "a-cidr-both-wrong": "v=spf1 a/24/64 -all",
    "a-cidr-turned": "v=spf1 a//64/24 -all",
    "a-only-cidr": "v=spf1 a:/24 -all",
    "mx-empty": "v=spf1 mx: -all",
    "mx-cidr4": "v=spf1 mx/33 -all",
    "mx-number": "v=spf1 mx:abc.123 -all",
    "ptr-empty": "v=spf1 ptr: -all",
    "ptr-cidr": "v=spf1 ptr/0 -all",
    "exists-alone": "v=spf1 exists -all",
    "exists-empty": "v=spf1 exists: -all",
    "exists-cidr": "v=spf1 exists:mail.example.com/8 -all",
    "ip4-alone": "v=spf1 ip4 -all",
    "ip4-empty": "v=spf1 ip4: -all",
    "ip4-short": "v=spf1 ip4:1.2.3 -all",
    "ip4-zero": "v=spf1 ip4:1.2.03.4 -all",
    "ip4-port": "v=spf1 ip4:1.2.3.4:25 -all",
    "ip4-cidr": "v=spf1 ip4:1.2.3.4/33 -all",
    "ip4-cidr-zero": "v=spf1 ip4:1.2.3.4/032 -all",
    "ip4-cidr-empty": "v=spf1 ip4:1.2.3.4/ -all",
    "ip4-cidr-long": "v=spf1 ip4:1.2.3.4/" + "9" * 5000 + " -all",
    "ip4-dual": "v=spf1 ip4:1.2.3.4/8//4 -all",
    "ip4-six": "v=spf1 ip4:cafe:babe::1 -all",
    "ip6-alone": "v=spf1 ip6 -all",
    "ip6-short": "v=spf1 ip6:1:2:3 -all",
    "ip6-cidr": "v=spf1 ip6:::1/129 -all",
    "ip6-dual": "v=spf1 ip6:::1//33 -all",
    "ip6-zone": "v=spf1 ip6:fe80::1%%eth0 -all",
    "ip6-four": "v=spf1 ip6:1.2.3.4 -all",
    "macro-letter": "v=spf1 exists:%{j}.example.com -all",
    "macro-only-in-exp": "v=spf1 exists:%{ir}.%{c}.example.com -all",
    "macro-brackets": "v=spf1 exists:%(ir).example.com -all",
    "macro-trailing": "v=spf1 exists:mail.example.com% -all",
    "macro-embedded": "v=spf1 exists:%foo.example.com -all",
    "macro-open": "v=spf1 exists:%{d.example.com -all",
    "macro-no-parts": "v=spf1 exists:%{d0}.example.com -all",
    "macro-delimiter": "v=spf1 exists:%{d!}.example.com -all",
    "macro-not-last": "v=spf1 exists:%{d}x -all",
    "macro-dot-in-braces-is-none": "v=spf1 exists:%{d.}com -all",
    "macro-percent-dash": "v=spf1 exists:foo%%- -all",
}


@pytest.mark.parametrize("record", SYNTAX.values(), ids=SYNTAX)
def test_syntax_errors_are_found_before_anything_is_asked(record):
    answer = ask(record)
    assert answer.result == "permerror"
    assert [one.name for one in answer.lookups] == [DOMAIN]
    assert answer.problem.startswith(f"the record of {DOMAIN} is not valid: ")
    assert answer.record == record[:1000]


TROUBLE = {
    "own": (None, "down.example.com", "temperror"),
    "include": ("v=spf1 include:down.example.com -all", DOMAIN, "temperror"),
    "redirect": ("v=spf1 redirect=down.example.com", DOMAIN, "temperror"),
    "a": ("v=spf1 a:down.example.com -all", DOMAIN, "temperror"),
    "mx": ("v=spf1 mx:down.example.com -all", DOMAIN, "temperror"),
    "host-of-mx": ("v=spf1 mx:mx-down.example.com -all", DOMAIN, "temperror"),
    "host-of-mx-not-reached": ("v=spf1 mx:mx-down-later.example.com -all", DOMAIN, "pass"),
    "exists": ("v=spf1 exists:down.example.com -all", DOMAIN, "temperror"),
    "not-reached": ("v=spf1 ip4:1.2.3.4 a:down.example.com -all", DOMAIN, "pass"),
}


@pytest.mark.parametrize(("record", "domain", "result"), TROUBLE.values(), ids=TROUBLE)
def test_a_dns_that_does_not_answer(record, domain, result):
    answer = ask(record, domain=domain)
    assert answer.result == result
    assert [one for one in answer.lookups if one.answer.startswith("try later: no answer")] or result == "pass"


# ── §4.6, §5, §6: mechanisms and modifiers ──

MATCHES = {
    # all (§5.1)
    "all-fail": ("-all", "1.2.3.4", "fail"),
    "all-softfail": ("~all", "1.2.3.4", "softfail"),
    "all-neutral": ("?all", "1.2.3.4", "neutral"),
    "all-plus": ("+all", "1.2.3.4", "pass"),
    "all-bare": ("all -all", "1.2.3.4", "pass"),
    "nothing-matches": ("ip4:9.9.9.9", "1.2.3.4", "neutral"),
    # include (§5.2)
    "include-pass": ("include:pass.example.com ~all", "1.2.3.4", "pass"),
    "include-pass-qualified": ("-include:pass.example.com ~all", "1.2.3.4", "fail"),
    "include-fail": ("include:fail.example.com ~all", "1.2.3.4", "softfail"),
    "include-softfail": ("include:softfail.example.com -all", "1.2.3.4", "fail"),
    "include-neutral": ("include:neutral.example.com -all", "1.2.3.4", "fail"),
    "include-no-match": ("include:nothing.example.com -all", "1.2.3.4", "fail"),
    "include-permerror": ("include:bad.example.com -all", "1.2.3.4", "permerror"),
    "include-none": ("include:no-spf.example.com -all", "1.2.3.4", "permerror"),
    "include-no-name": ("include:nowhere.example.com -all", "1.2.3.4", "permerror"),
    "include-two": ("include:two.example.com -all", "1.2.3.4", "permerror"),
    "include-no-domain": ("include:%{l}%{l}%{l}.. -all", "1.2.3.4", "permerror"),
    "include-empty-label": ("include:a..example.com -all", "1.2.3.4", "permerror"),
    "include-one-label": ("include:%{d1} -all", "1.2.3.4", "permerror"),
    "include-not-reached": ("ip4:1.2.3.4 include:no-spf.example.com", "1.2.3.4", "pass"),
    # a (§5.3)
    "a": ("a:mail.example.com -all", "1.2.3.4", "pass"),
    "a-second": ("a:four.example.com -all", "1.2.3.4", "pass"),
    "a-alias": ("a:alias.example.com -all", "1.2.3.4", "pass"),
    "a-other": ("a:other.example.com -all", "1.2.3.4", "fail"),
    "a-none": ("a:empty.example.com -all", "1.2.3.4", "fail"),
    "a-no-name": ("a:nowhere.example.com -all", "1.2.3.4", "fail"),
    "a-six": ("a:six.example.com -all", SIX, "pass"),
    "a-six-to-four": ("a:six.example.com -all", "1.2.3.4", "fail"),
    "a-four-to-six": ("a:four.example.com -all", SIX, "fail"),
    "a-cidr": ("a:near.example.com/24 -all", "1.2.3.4", "pass"),
    "a-cidr-narrow": ("a:near.example.com/26 -all", "1.2.3.4", "fail"),
    "a-cidr-0": ("a:other.example.com/0 -all", "1.2.3.4", "pass"),
    "a-cidr-0-six": ("a:other.example.com/0 -all", SIX, "fail"),
    "a-cidr6-0": ("a:other.example.com//0 -all", SIX, "pass"),
    "a-cidr6-0-four": ("a:other.example.com//0 -all", "1.2.3.4", "fail"),
    "a-cidr6-0-mapped": ("a:six.example.com//0 -all", "::ffff:1.2.3.4", "fail"),
    "a-cidr6-0-no-name": ("a:nowhere.example.com//0 -all", SIX, "fail"),
    "a-dual": ("a:other.example.com/8//1 -all", SIX, "fail"),
    "a-dual-six": ("a:other.example.com/32//0 -all", SIX, "pass"),
    "a-mapped": ("a:mail.example.com -all", "::ffff:1.2.3.4", "pass"),
    "a-colon-domain": ("a:foo:bar/baz.example.com -all", "1.2.3.4", "pass"),
    "a-dash-in-top-label": ("a:abc.1-2 -all", "1.2.3.4", "pass"),
    "a-idn": ("a:abc.xn--zckzah -all", "1.2.3.4", "pass"),
    "a-trailing-dot": ("a:mail.example.com. -all", "1.2.3.4", "pass"),
    "a-empty-label": ("a:sub..example.com -all", "1.2.3.4", "fail"),
    "a-long-label": (f"a:{LONG}.example.com -all", "1.2.3.4", "fail"),
    "a-percent": ("a:%%.example.com -all", "1.2.3.4", "fail"),
    # mx (§5.4)
    "mx": ("mx:mx.example.com -all", "1.2.3.4", "pass"),
    "mx-six": ("mx:mx.example.com -all", SIX, "pass"),
    "mx-no-implicit": ("mx:mx-a.example.com -all", "1.2.3.4", "fail"),
    "mx-null": ("mx:mx-null.example.com -all", "1.2.3.4", "fail"),
    "mx-cidr": ("mx:mx.example.com/0 -all", "4.4.4.4", "pass"),
    "mx-ten": ("mx:mx-ten.example.com -all", "1.2.3.4", "pass"),
    "mx-eleven": ("mx:mx-many.example.com -all", "1.2.3.4", "permerror"),
    "mx-void": ("mx:mx-void.example.com -all", "1.2.3.4", "permerror"),
    "mx-none": ("mx -all", "1.2.3.4", "fail"),
    # ptr (§5.5)
    "ptr": ("ptr -all", "1.2.3.4", "pass"),
    "ptr-six": ("ptr -all", SIX, "pass"),
    "ptr-target": ("ptr:EXAMPLE.com -all", "1.2.3.4", "pass"),
    "ptr-exact": ("ptr:mail.example.com -all", "1.2.3.4", "pass"),
    "ptr-not-validated": ("ptr:example.org -all", "1.2.3.4", "fail"),
    "ptr-part-of-a-label": ("ptr:ample.com -all", "1.2.3.4", "fail"),
    "ptr-none": ("ptr -all", "1.2.3.99", "fail"),
    "ptr-dns-error": ("ptr -all", "1.2.3.5", "fail"),
    "ptr-dns-error-of-one": ("ptr -all", "1.2.3.6", "pass"),
    "ptr-beyond-ten": ("ptr -all", "1.2.3.7", "fail"),
    # ip4, ip6 (§5.6)
    "ip4": ("ip4:1.2.3.4 -all", "1.2.3.4", "pass"),
    "ip4-network": ("ip4:1.2.0.0/16 -all", "1.2.3.4", "pass"),
    "ip4-host-bits": ("ip4:1.2.9.9/16 -all", "1.2.3.4", "pass"),
    "ip4-0": ("ip4:9.9.9.9/0 -all", "1.2.3.4", "pass"),
    "ip4-six": ("ip4:0.0.0.0/0 -all", SIX, "fail"),
    "ip4-mapped": ("ip4:1.2.3.4 -all", "::ffff:1.2.3.4", "pass"),
    "ip6": ("ip6:cafe:babe:8000::/32 -all", SIX, "pass"),
    "ip6-upper": ("IP6:CAFE:BABE::1 -all", SIX, "pass"),
    "ip6-other-half": ("ip6:cafe:babe:8000::/33 -all", SIX, "fail"),
    "ip6-0": ("ip6:::/0 -all", SIX, "pass"),
    "ip6-four": ("ip6:::/0 -all", "1.2.3.4", "fail"),
    "ip6-embedded-four": ("ip6:::1.1.1.1/0 -all", "1.2.3.4", "fail"),
    "ip6-mapped": ("ip6:::ffff:1.2.3.4 -all", "::ffff:1.2.3.4", "fail"),
    # exists (§5.7)
    "exists": ("exists:mail.example.com -all", "9.9.9.9", "pass"),
    "exists-six": ("exists:mail.example.com -all", SIX, "pass"),
    "exists-only-aaaa": ("exists:six.example.com -all", SIX, "fail"),
    "exists-not": ("exists:nowhere.example.com -all", "1.2.3.4", "fail"),
    # modifiers (§6)
    "redirect": ("redirect=pass.example.com", "1.2.3.4", "pass"),
    "redirect-first": ("redirect=pass.example.com ip4:9.9.9.9", "1.2.3.4", "pass"),
    "redirect-not-needed": ("redirect=pass.example.com ?all", "1.2.3.4", "neutral"),
    "redirect-fail": ("redirect=fail.example.com", "1.2.3.4", "fail"),
    "redirect-permerror": ("redirect=bad.example.com", "1.2.3.4", "permerror"),
    "redirect-none": ("redirect=no-spf.example.com", "1.2.3.4", "permerror"),
    "redirect-no-name": ("redirect=nowhere.example.com", "1.2.3.4", "permerror"),
    "redirect-one-label": ("redirect=%{d1}", "1.2.3.4", "permerror"),
    "redirect-macro": ("redirect=pass.%{d2}", "1.2.3.4", "pass"),
    "unknown-modifiers": ("a=1 x=%{d} a.b-c_9=y/:= x=again default=pass -all", "1.2.3.4", "fail"),
    "empty-modifier": ("x= -all", "1.2.3.4", "fail"),
    "modifier-called-all": ("all=pass -all", "1.2.3.4", "fail"),
    # limits (§4.6.4)
    "ten-terms": ("a:other.example.com " * 10 + "+all", "1.2.3.4", "pass"),
    "eleven-terms": ("a:other.example.com " * 11 + "+all", "1.2.3.4", "permerror"),
    "eleven-terms-not-reached": ("a:other.example.com " * 9 + "a:mail.example.com a a a", "1.2.3.4", "pass"),
    "terms-that-do-not-ask": ("ip4:9.9.9.9 " * 30 + "ip6:::1 " * 30 + "-all", "1.2.3.4", "fail"),
    "include-at-limit": ("include:nine.example.com -all", "1.2.3.4", "pass"),
    "include-over-limit": ("include:ten.example.com -all", "1.2.3.4", "permerror"),
    "include-at-limit-twice": ("a:other.example.com include:nine.example.com -all", "1.2.3.4", "permerror"),
    "redirect-at-limit": ("redirect=nine.example.com", "1.2.3.4", "pass"),
    "redirect-over-limit": ("redirect=ten.example.com", "1.2.3.4", "permerror"),
    "include-loop": ("include:loop1.example.com -all", "1.2.3.4", "permerror"),
    "include-itself": (f"include:{DOMAIN} -all", "1.2.3.4", "permerror"),
    "redirect-loop": ("redirect=round.example.com", "1.2.3.4", "permerror"),
    "two-void": ("a:nowhere1.example.com a:empty.example.com -all", "1.2.3.4", "fail"),
    "three-void": ("a:nowhere1.example.com mx:empty.example.com exists:nowhere3.example.com -all", "1.2.3.4", "permerror"),
    "three-void-ptr": ("a:nowhere1.example.com a:nowhere2.example.com ptr -all", "1.2.3.99", "permerror"),
}


@pytest.mark.parametrize(("terms", "ip", "result"), MATCHES.values(), ids=MATCHES)
def test_mechanisms_and_modifiers(terms, ip, result):
    answer = ask(f"v=spf1 {terms}", ip)
    assert answer.result == result
    assert bool(answer.problem) == (result == "permerror" or answer.mechanism == "")


def test_without_a_domain_the_current_one_is_meant():
    assert ask("v=spf1 a -all", A=["1.2.3.4"]).result == "pass"
    assert ask("v=spf1 a/24 -all", A=["1.2.3.9"]).result == "pass"
    assert ask("v=spf1 mx//32 -all", SIX, MX=[(1, "six.e.example.com")]).result == "pass"
    there = {"c.example.com": {"TXT": ["v=spf1 a -all"], "A": ["1.2.3.4"]}, DOMAIN: {"TXT": ["v=spf1 redirect=c.example.com"]}}
    names = zone({**NAMES, **there})
    assert run(check_host(names, ip_address("1.2.3.4"), DOMAIN, f"a@{DOMAIN}")).result == "pass"


# ── §7: macros ──

MACROS = {
    "ir-v-d2": ("%{ir}.%{v}._spf.%{d2}", "1.2.3.4", "foo@e.example.com", True),
    "ir-v-six": ("%{ir}.%{v}._spf.%{d2}", SIX, "foo@e.example.com", True),
    "l": ("%{l}.lp._spf.example.com", "1.2.3.4", "foo@e.example.com", True),
    "l-upper-case-name": ("%{L}.lp._spf.example.com", "1.2.3.4", "FOO@e.example.com", True),
    "l-split": ("%{lr-}.lp.example.com", "1.2.3.4", "foo-bar@e.example.com", True),
    "l-unsplit": ("%{lr}.lp.example.com", "1.2.3.4", "foo-bar@e.example.com", False),
    "l-delimiters": ("%{l+-=}.lp.example.com", "1.2.3.4", "foo=bar@e.example.com", True),
    "l-right": ("%{l1-}.lp._spf.example.com", "1.2.3.4", "bar-foo@e.example.com", True),
    "l-right-of-reversed": ("%{l1r-}.lp._spf.example.com", "1.2.3.4", "foo-bar@e.example.com", True),
    "d-reversed": ("%{dR}.r.example.com", "1.2.3.4", "foo@e.example.com", True),
    "d-more-than-there-is": ("%{d99999999999999999999r}.r.example.com", "1.2.3.4", "foo@e.example.com", True),
    "d-leading-zeros": ("%{d003r}.r.example.com", "1.2.3.4", "foo@e.example.com", True),
    "d-endless-digits": ("%{d" + "1" * 5000 + "r}.r.example.com", "1.2.3.4", "foo@e.example.com", True),
    "p": ("%{p}.p.example.com", "1.2.3.4", "foo@e.example.com", True),
    "p-unknown": ("%{p}.p.example.com", "1.2.3.99", "foo@e.example.com", True),
    "p-dns-error": ("%{p}.p.example.com", "1.2.3.5", "foo@e.example.com", True),
    "escapes": ("a%%b%_c%-.esc.example.com", "1.2.3.4", "foo@e.example.com", True),
    "url": ("%{L}.u.example.com", "1.2.3.4", "o'neil@e.example.com", True),
    "not-url": ("%{l}.u.example.com", "1.2.3.4", "o'neil@e.example.com", False),
    "h": ("%{h}", "9.9.9.9", "foo@e.example.com", True),
    "truncated": ("%{l}." + "%{l1r}." * 20 + "%{ir}.%{v}._spf.%{d2}", "1.2.3.4", f"{'x' * 60}@e.example.com", False),
    "truncated-to-what-is-there": ("%{l}" * 4 + ".4.3.2.1.in-addr._spf.example.com", "1.2.3.4", f"{'x' * 60}@e.example.com", True),
    "empty-label": ("%{l}.lp._spf.example.com", "1.2.3.4", '"a..b"@e.example.com', False),
    "beyond-ascii": ("%{l}.lp._spf.example.com", "1.2.3.4", "fü@e.example.com", False),
    "beyond-ascii-s": ("%{s}.lp._spf.example.com", "1.2.3.4", "fü@e.example.com", False),
    "beyond-ascii-not-used": ("%{ir}.%{v}._spf.%{d2}", "1.2.3.4", "fü@e.example.com", True),
}


@pytest.mark.parametrize(("spec", "ip", "sender", "found"), MACROS.values(), ids=MACROS)
def test_macros(spec, ip, sender, found):
    assert ask(f"v=spf1 exists:{spec} -all", ip, sender).result == ("pass" if found else "fail")


@pytest.mark.parametrize(
    ("spec", "sender", "name"),
    [
        ("%{s}.example.com", "foo@e.example.com", "foo@e.example.com.example.com"),
        ("%{s}.example.com", "@e.example.com", "postmaster@e.example.com.example.com"),
        ("%{l}.%{o}", "e.example.com", "postmaster.e.example.com"),
    ],
)
def test_what_a_macro_asks_for(spec, sender, name):
    assert name in [one.name for one in ask(f"v=spf1 exists:{spec} -all", sender=sender, domain=DOMAIN).lookups]


def test_the_examples_of_the_rfc():
    """§7.4."""
    names = {"4": "192.0.2.3", "6": "2001:db8::cb01"}
    expected = {
        "%{s}": "strong-bad@email.example.com",
        "%{o}": "email.example.com",
        "%{d}": "email.example.com",
        "%{d4}": "email.example.com",
        "%{d3}": "email.example.com",
        "%{d2}": "example.com",
        "%{dr}": "com.example.email",
        "%{d2r}": "example.email",
        "%{l}.x": "strong-bad.x",
        "%{l-}": "strong.bad",
        "%{lr}.x": "strong-bad.x",
        "%{lr-}": "bad.strong",
        "%{l1r-}.x": "strong.x",
        "%{ir}.%{v}._spf.%{d2}": "3.2.0.192.in-addr._spf.example.com",
        "%{lr-}.lp._spf.%{d2}": "bad.strong.lp._spf.example.com",
        "%{lr-}.lp.%{ir}.%{v}._spf.%{d2}": "bad.strong.lp.3.2.0.192.in-addr._spf.example.com",
        "%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}": "3.2.0.192.in-addr.strong.lp._spf.example.com",
        "%{d2}.trusted-domains.example.net": "example.com.trusted-domains.example.net",
    }
    sixth = {
        "%{ir}.%{v}._spf.%{d2}": "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com",
    }
    for ip, table in ((names["4"], expected), (names["6"], sixth)):
        for spec, name in table.items():
            here = zone({"email.example.com": {"TXT": [f"v=spf1 exists:{spec} -all"]}})
            answer = run(check_host(here, ip_address(ip), "email.example.com", "strong-bad@email.example.com"))
            assert answer.lookups[-1].name == name, spec


# ── §6.2: explanations ──

EXPLANATIONS = {
    "plain": ("-all exp=says.example.com", "1.2.3.4 may not send for e.example.com"),
    "first": ("exp=says.example.com -all", "1.2.3.4 may not send for e.example.com"),
    "macro": ("-all exp=says.%{d2}", "1.2.3.4 may not send for e.example.com"),
    "none": ("-all", ""),
    "not-for-softfail": ("~all exp=says.example.com", ""),
    "not-for-pass": ("+all exp=says.example.com", ""),
    "of-an-include": ("include:fail.example.com -all", ""),
    "of-an-include-that-passes": ("-include:pass.example.com", ""),
    "of-a-redirect": ("redirect=fail.example.com", "1.2.3.4 may not send for e.example.com"),
    "redirect-cancels-ours": ("redirect=softfail.example.com exp=says.example.com", ""),
    "two-texts": ("-all exp=says-two.example.com", ""),
    "no-text": ("-all exp=nowhere.example.com", ""),
    "no-domain": ("-all exp=a..example.com", ""),
    "bad-macro": ("-all exp=says-wrong.example.com", ""),
    "beyond-ascii": ("-all exp=says-bytes.example.com", ""),
    "dns-error": ("-all exp=says-down.example.com", ""),
    "bounded": ("-all exp=says-much.example.com", "x" * 400),
    "no-controls": ("-all exp=says-controls.example.com", "a??550 b?[31m?"),
    "dots-stay": ("-all exp=says-dot.example.com", "this. is. e.example.com."),
    "all-letters": (
        "-all exp=says-all.example.com",
        "<foo@e.example.com> mail.example.com mx.example.org 1767607200 1.2.3.4 in-addr host.e.example.com %%20",
    ),
    "void-does-not-count": ("a:nowhere1.example.com a:nowhere2.example.com -all exp=nowhere3.example.com", ""),
    "url": ("-all exp=says-upper.example.com", "http://x/?s=foo%40e.example.com&l=foo"),
}


@pytest.mark.parametrize(("terms", "text"), EXPLANATIONS.values(), ids=EXPLANATIONS)
def test_explanations(terms, text):
    answer = ask(f"v=spf1 {terms}")
    assert answer.explanation == text
    assert answer.result != "permerror"


def test_explanation_of_a_six_client():
    expected = "cafe:babe::1 is queried as 1." + "0." * 23 + "e.b.a.b.e.f.a.c.ip6.arpa"
    assert ask("v=spf1 -all exp=says-queried.example.com", SIX).explanation == expected


def test_explanation_beyond_ascii():
    answer = ask("v=spf1 -all exp=says-upper.example.com", sender="fü@e.example.com")
    assert answer.explanation == "http://x/?s=f%C3%BC%40e.example.com&l=f%C3%BC"
    assert ask("v=spf1 -all exp=says-all.example.com", sender="fü@e.example.com").explanation.startswith("<f?@e.example.com> ")
    assert ask("v=spf1 -all exp=%{l}.example.com", sender="fü@e.example.com").explanation == ""


# ── The grounds ──


def test_the_way_to_the_match_is_told():
    names = {
        "top.example.com": {"TXT": ["v=spf1 ip4:9.9.9.9 redirect=mid.example.com"]},
        "mid.example.com": {"TXT": ["v=spf1 include:softfail.example.com include:in.example.com -all"]},
        "in.example.com": {"TXT": ["v=spf1 a:other.example.com include:pass.example.com"]},
    }
    answer = run(check_host(zone(NAMES | names), ip_address("1.2.3.4"), "top.example.com", "a@top.example.com"))
    assert answer.result == "pass"
    assert answer.path == (
        "top.example.com: redirect=mid.example.com",
        "mid.example.com: include:in.example.com",
        "in.example.com: include:pass.example.com",
        "pass.example.com: ip4:1.2.3.4",
    )
    assert (answer.mechanism, answer.record_domain) == ("include:in.example.com", "mid.example.com")
    assert answer.record == "v=spf1 include:softfail.example.com include:in.example.com -all"
    assert [(one.depth, one.domain, one.term, one.outcome) for one in answer.steps] == [
        (0, "top.example.com", "ip4:9.9.9.9", "does not match: 1.2.3.4 is not in it"),
        (0, "top.example.com", "redirect=mid.example.com", "goes on at mid.example.com"),
        (1, "mid.example.com", "include:softfail.example.com", "asks softfail.example.com"),
        (2, "softfail.example.com", "~all", "matches"),
        (1, "mid.example.com", "include:softfail.example.com", "does not match: softfail.example.com says softfail"),
        (1, "mid.example.com", "include:in.example.com", "asks in.example.com"),
        (2, "in.example.com", "a:other.example.com", "does not match: 1.2.3.4 is not among the answers"),
        (2, "in.example.com", "include:pass.example.com", "asks pass.example.com"),
        (3, "pass.example.com", "ip4:1.2.3.4", "matches"),
        (2, "in.example.com", "include:pass.example.com", "matches"),
        (1, "mid.example.com", "include:in.example.com", "matches"),
    ]
    assert [(one.kind, one.name, one.answer) for one in answer.lookups][3:5] == [
        ("TXT", "in.example.com", "v=spf1 a:other.example.com include:pass.example.com"),
        ("A", "other.example.com", "9.8.7.6"),
    ]


def test_an_include_that_did_not_match_is_no_part_of_the_way():
    answer = ask("v=spf1 include:pass.example.com include:fail.example.com ?ip4:5.5.5.5 -all", "5.5.5.6")
    assert answer.path == ("e.example.com: -all",)


def test_where_an_error_was_is_told():
    answer = ask("v=spf1 include:bad.example.com -all")
    assert (answer.record_domain, answer.record) == ("bad.example.com", "v=spf1 ipv4:1.2.3.4 -all")
    assert answer.path == ("e.example.com: include:bad.example.com",)
    assert answer.problem == 'the record of bad.example.com is not valid: "ipv4:1.2.3.4": there is no such mechanism'
    answer = ask("v=spf1 a:nowhere1.example.com a:empty.example.com mx:empty.example.com")
    assert answer.problem == "MX empty.example.com is one of more than 2 questions that had no answer (§4.6.4)"
    assert [one.answer for one in answer.lookups[1:]] == ["no such name", "no such records", "no such records"]
    assert [one.is_void for one in answer.lookups] == [False, True, True, True]
    answer = ask("v=spf1 include:no-spf.example.com -all")
    assert (answer.record_domain, answer.problem) == (
        DOMAIN,
        "include:no-spf.example.com names no-spf.example.com, which has no SPF record (§5.2)",
    )


# ── Whatever stands there ──

TERMS = st.one_of(
    st.text(st.characters(min_codepoint=0, max_codepoint=0x17F), max_size=20),
    st.from_regex(r"[-+~?]?(all|include|a|mx|ptr|ip4|ip6|exists|redirect|exp|x)[:=/]?[-a-z0-9.%{}:/_]{0,20}", fullmatch=True),
)


@settings(max_examples=200)
@given(st.lists(TERMS, max_size=6), st.text(max_size=20))
def test_any_record_is_read_or_refused(terms, sender):
    record = ("v=spf1 " + " ".join(terms)).encode()
    assert is_spf(record)
    try:
        parse_record(record)
    except BadRecord:
        expected = {"permerror"}
    else:
        expected = {"pass", "fail", "softfail", "neutral", "permerror"}
    answer = run(check_host(zone({DOMAIN: {"TXT": [record]}}), ip_address("1.2.3.4"), DOMAIN, sender, sender))
    assert answer.result in expected


def test_what_is_made_to_take_long_does_not():
    """Texts on which a careless reader spends seconds."""
    long = "a" * 15_000
    records = [f"v=spf1 a:x.{long}! -all", f"v=spf1 exists:{'%{l}' * 3700} -all", f"v=spf1 exists:{'%{lr}.' * 2400}com -all"]
    records += [f"v=spf1 a:x{'/1' * 7000} -all", f"v=spf1 exists:{'%{d}' * 3000}! -all", "v=spf1 " + "ip4:9.9.9.9 " * 1200]
    for record in records:
        assert ask(record, sender=f"{'x.' * 31}x@e.example.com").result in ("permerror", "fail", "neutral")


# ── What was found out before ──


class Counting:
    """A resolver that counts, and whose names can change."""

    def __init__(self, names):
        self.names, self.asked = names, []

    async def lookup(self, name, kind):
        self.asked.append((name, kind))
        return await zone(self.names).lookup(name, kind)


BEFORE = {
    "again.example": {"TXT": ["v=spf1 include:more.again.example a -all"], "A": ["1.2.3.9"]},
    "more.again.example": {"TXT": ["v=spf1 ip4:1.2.3.0/29 -all"]},
}
CHANGES = {
    "nothing": ({}, "fail"),
    "the record": ({"again.example": {"TXT": ["v=spf1 ~all"]}}, "softfail"),
    "an included record": ({"more.again.example": {"TXT": ["v=spf1 ip4:1.2.3.0/24 -all"]}}, "pass"),
    "an address": ({"again.example": {**BEFORE["again.example"], "A": ["1.2.3.44"]}}, "pass"),
    "the included domain is gone": ({"more.again.example": {}}, "permerror"),
    "a name server is down": ({"more.again.example": LookupFailed}, "temperror"),
    "the domain is gone": ({"again.example": {}}, "none"),
}


@pytest.mark.parametrize(("change", "result"), CHANGES.values(), ids=CHANGES)
def test_an_answer_is_given_again_only_while_the_dns_says_the_same(change, result):
    resolver, ip = Counting(BEFORE), ip_address("1.2.3.44")
    first = run(check_host(resolver, ip, "again.example", "ann@again.example"))
    assert first.result == "fail"
    questions = list(resolver.asked)
    resolver.names, resolver.asked = {**BEFORE, **change}, []
    second = run(check_host(resolver, ip, "again.example", "ben@again.example"))
    assert second.result == result
    assert (second is first) == (not change)
    assert change or resolver.asked == questions
    resolver.names = BEFORE
    assert run(check_host(resolver, ip, "again.example", "ann@again.example")) == first


def test_what_depends_on_the_sender_is_found_out_for_each():
    record = "v=spf1 exists:%{l}.each.example -all"
    resolver, ip = zone({"each.example": {"TXT": [record]}, "ann.each.example": {"A": ["127.0.0.2"]}}), ip_address("1.2.3.4")
    for sender, result in (("ann", "pass"), ("ben", "fail"), ("ann", "pass")):
        assert run(check_host(resolver, ip, "each.example", f"{sender}@each.example")).result == result


def test_not_more_answers_than_a_thousand_are_kept():
    resolver = zone({"many.example": {"TXT": ["v=spf1 -all"]}})
    for number in range(1100):
        run(check_host(resolver, ip_address(number), "many.example", "a@many.example"))
    assert len(spf._answers) == 1000
