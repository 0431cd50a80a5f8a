"""Two readers of one record: ours and pyspf, over generated records and one zone. Where they differ, the RFC says why."""

import re
from ipaddress import ip_address

import pytest
import spf as pyspf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailgw.interfaces import LookupFailed
from mailgw.senderauth.spf import check_host
from mailgw.testing import run
from mailgw.testing.zone import zone

TOP = "top.example.com"
NAMES = {
    "one.example.com": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"], "MX": [(10, "one.example.com"), (5, "two.example.com")]},
    "two.example.com": {"A": ["192.0.2.2", "192.0.2.130"], "MX": [(10, "void.example.com"), (20, "one.example.com")]},
    "void.example.com": {},
    "many.example.com": {"MX": [(n, "one.example.com") for n in range(11)]},
    "down.example.com": LookupFailed,
    "1.2.0.192.in-addr.arpa": {"PTR": ["one.example.com"]},
    "2.2.0.192.in-addr.arpa": {"PTR": ["liar.example.com", "two.example.com"]},
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": {"PTR": ["one.example.com"]},
    "liar.example.com": {"A": ["203.0.113.9"]},
    "ann.one.example.com": {"A": ["127.0.0.2"]},
    "1.2.0.192.in-addr.one.example.com": {"A": ["127.0.0.2"]},
    "says.example.com": {"TXT": ["%{c} %{i} of %{s} from %{h}: %{d2r}. %{l1r-}%_%%%{v}"]},
    "wrong.example.com": {"TXT": ["%{z}"]},
    "no-spf.example.com": {"TXT": ["hello"]},
    "double.example.com": {"TXT": ["v=spf1 -all", "v=spf1 +all"]},
}
HOSTS = ["one", "two", "void", "many", "nowhere", "nowhere2", "no-spf", "a", "b", "c"]
CLIENTS = ["192.0.2.1", "192.0.2.2", "192.0.2.77", "203.0.113.1", "2001:db8::1", "2001:db8::77", "::ffff:192.0.2.1"]

host = st.sampled_from(HOSTS).map("{}.example.com".format)
qualifier = st.sampled_from(["", "", "+", "-", "~", "?"])
macros = ["%{d}", "%{o}", "%{h}", "a.%{d2}", "%{l}.one.%{d2}", "%{L}.one.example.com", "%{ir}.%{v}.one.example.com"]
macros += ["%{l1r-}.one.example.com", "%{o1r}.x.com"]
good_spec = st.one_of(host, host, host.map(str.upper), host.map("{}.".format), st.sampled_from(macros))
faults = ["%{d0}.com", "%{z}.com", "%(d)", "x%", "museum", "a.123", "1.2.3.4", "a..example.com", "%%.example.com", "%{c}.com", "%{o1r}"]
bad_spec = st.sampled_from(faults)
good_cidr = st.sampled_from(["", "", "", "/24", "/32", "/0", "//64", "//128", "/25//64"])
bad_cidr = st.sampled_from(["/33", "//129", "/", "/024"])


def mechanisms(spec, cidr, ip4, ip6, others):
    with_cidr = st.tuples(st.sampled_from(["a", "mx", "A", "MX"]), st.one_of(st.just(""), spec.map(":{}".format)), cidr).map("".join)
    ptr = st.tuples(st.sampled_from(["ptr", "PTR"]), st.one_of(st.just(""), spec.map(":{}".format))).map("".join)
    with_domain = st.tuples(st.sampled_from(["include", "exists", "Include"]), spec).map(":".join)
    plain = st.sampled_from([*(f"ip4:{one}" for one in ip4), *(f"ip6:{one}" for one in ip6), *others])
    return st.tuples(qualifier, st.one_of(with_cidr, ptr, with_domain, plain)).map("".join)


good_term = st.one_of(
    mechanisms(
        good_spec, good_cidr, ["192.0.2.1", "192.0.2.0/25", "203.0.113.1/32"], ["2001:db8::1", "2001:DB8::/32", "2001:db8::77/127"], []
    ),
    good_spec.map("redirect={}".format),
    st.sampled_from(["exp=says.example.com", "exp=wrong.example.com", "x=y", "y=%{d}"]),
)
bad_term = st.one_of(
    mechanisms(
        bad_spec,
        bad_cidr,
        ["192.0.2", "192.0.2.1/33", "0.0.0.0/0", "192.0.2.01"],
        ["::/0", "2001:db8", "2001:db8::1/129", "::192.0.2.1"],
        ["include", "exists", "ip4", "all:x", "moo", "a:", "ptr/24", "all,"],
    ),
    bad_spec.map("redirect={}".format),
    bad_spec.map("exp={}".format),
    st.sampled_from(["z=%{", "exp=", "redirect=", "REDIRECT=a.example.com"]),
)
end = st.sampled_from(["", "-all", "~all", "?all", "all", "-all exp=says.example.com", "redirect=a.example.com", "redirect=b.example.com"])
good = st.tuples(st.lists(good_term, max_size=4), end).map(lambda parts: " ".join(["v=spf1", *parts[0], parts[1]]))
bad = st.tuples(good, bad_term).map(" ".join)  # one fault is enough
record = st.one_of(good, good, good, bad)
records_of_all = st.tuples(record, good, good, record)


def names_of(records):
    names = dict(NAMES)
    for domain, text in zip((TOP, "a.example.com", "b.example.com", "c.example.com"), records, strict=True):
        names[domain] = {"TXT": [text], "A": ["192.0.2.9"]}
    return names


class Asked:
    """The zone as pyspf asks for it."""

    def __init__(self, names):
        self.resolver = zone(names)

    def lookup(self, name, kind, strict=True, timeout=0):
        try:
            found = run(self.resolver.lookup(str(name), kind)).records
        except LookupFailed as problem:
            raise pyspf.TempError(str(problem)) from None
        said = {"TXT": lambda one: (one,), "MX": lambda one: one, "PTR": str}.get(kind, str)
        return [((name, kind), said(one)) for one in found]


def both(records, ip, sender, helo, monkeypatch):
    names = names_of(records)
    monkeypatch.setattr(pyspf, "DNSLookup", Asked(names).lookup)
    query = pyspf.query(ip, sender, helo, receiver="mx.example.org")
    query.t = "1767607200"
    query.set_default_explanation("")
    theirs, _, explanation = query.check()
    ours = run(check_host(zone(names), ip_address(ip), sender.rpartition("@")[2], sender, helo, "mx.example.org", 1767607200.0))
    return ours, theirs, explanation if theirs == "fail" else ""


def modifiers(text):
    return [term.partition("=")[0].lower() for term in text.split()[1:] if re.match(r"[a-z]+=", term, re.IGNORECASE)]


def repeats_an_unknown_modifier(records, ours):
    return any(names.count(name) > 1 for names in map(modifiers, records) for name in set(names) - {"exp", "redirect"})


def includes_itself(records, ours):
    domains = (TOP, "a.example.com", "b.example.com", "c.example.com")
    own = {"%{d}", "%{o}"}
    return any(
        term.lower().lstrip("+-~?").rstrip(".") in {f"include:{name}" for name in (domain, *own)}
        for domain, text in zip(domains, records, strict=True)
        for term in text.split()[1:]
    )


def has_a_redirect(records, ours):
    return any("redirect" in modifiers(text) for text in records)


def asked_for_servers(records, ours):
    return any(one.kind == "MX" and one.found is not None and len(one.found.records) > 1 for one in ours.lookups)


# Why the two may differ: theirs, ours (None: anything), when, and the section of RFC 7208.
JUSTIFIED = {
    "§6: only exp and redirect must not stand there twice": ("permerror", None, repeats_an_unknown_modifier),
    "§5.2: a record that includes itself is well-formed; what ends it is the limit": ("permerror", None, includes_itself),
    "§4.6.4, §6.1: a redirect that is not followed does not count": ("permerror", None, has_a_redirect),
    "§5.4: when a server has matched, the others need not be looked up, and are not void": ("permerror", None, asked_for_servers),
    "§6, §7.1: what an unknown modifier says must be a macro-string": (None, "permerror", lambda records, ours: "z=%{" in ours.record),
    "§7.3: a number of parts must not be 0": (None, "permerror", lambda records, ours: "%{d0}" in ours.record),
    "§5.7: exists has no domain of its own": (None, "permerror", lambda records, ours: 'exists" needs a domain' in ours.problem),
    "§4.6.1: names are the same in capitals": (None, None, lambda records, ours: any("REDIRECT=" in text for text in records)),
    "§4.3: a domain with one label has no record": (
        None,
        "permerror",
        lambda records, ours: re.search(r"(leads to|names) [a-z]+, which has no SPF record", ours.problem),
    ),
}


def justified(ours, theirs, records):
    """The reason why the two may differ, or None."""
    for reason, (they, we, holds) in JUSTIFIED.items():
        if they in (None, theirs) and we in (None, ours.result) and holds(records, ours):
            return reason
    return None


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records_of_all,
    st.sampled_from(CLIENTS),
    st.sampled_from([f"ann@{TOP}", f"ann-bob@{TOP}", f"o'neil@{TOP}"]),
    st.sampled_from(["one.example.com", "mail.example.net"]),
)
def test_pyspf_says_the_same(monkeypatch, records, ip, sender, helo):
    ours, theirs, explanation = both(records, ip, sender, helo, monkeypatch)
    if ours.result == theirs:
        assert ours.explanation.lower() == explanation.lower()
    else:
        assert justified(ours, theirs, records), (ours, theirs)


@pytest.mark.parametrize("terms", ["a:down.example.com", "mx:down.example.com", "include:down.example.com", "redirect=down.example.com"])
def test_pyspf_gives_up_for_now_as_we_do(monkeypatch, terms):
    records = [f"v=spf1 {terms}", "v=spf1", "v=spf1", "v=spf1"]
    ours, theirs, _ = both(records, "192.0.2.1", f"ann@{TOP}", "mail.example.net", monkeypatch)
    assert ours.result == theirs == "temperror"
