"""What another configuration changes in meaning, and what cannot change while mailgw runs."""

from pathlib import Path

import pytest

from mailgw.admin.still_house import still_house
from mailgw.assemble import build_parts
from mailgw.config.changes import changes, needs_restart
from mailgw.config.reading import read_text

CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
[domains]
ours = ["example.org", "example.net"]
[networks]
office = ["192.0.2.0/24"]
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
policies = ["grey", "rules"]
[[permit]]
on = "mx"
to = "@ours"
[[permit]]
on = "mx"
from_network = "@office"
[policy.grey]
type = "greylist"
delay = "5m"
[policy.rules]
type = "headers"
[[route]]
to = "@ours"
gateway = "hook"
[[route]]
to = "other.example"
gateway = "internet"
[[route]]
otherwise = true
gateway = "internet"
[gateway.hook]
type = "http"
url = "https://hook.example/secret-place"
[gateway.internet]
type = "mx"
"""


def loaded(text):
    configuration = read_text(text, "mailgw.toml", Path("/nowhere"))
    return configuration, build_parts(configuration, still_house(configuration)).rules


def told(new):
    return [str(change) for change in changes(*loaded(CONFIGURATION), *loaded(new))]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        pytest.param("[domains]", "# a comment\n\n[domains]", [], id="a comment"),
        pytest.param('endpoint = "tcp:25"', 'endpoint = ["tcp:25"]', [], id="spelling"),
        pytest.param('delay = "5m"', 'delay = "300s"', ["[policy.grey] delay: 5m -> 300s"], id="a duration"),
        pytest.param('endpoint = "tcp:25"', 'endpoint = "tcp:26"', ["[listen.mx] endpoint: tcp:25 -> tcp:26"], id="an endpoint"),
        pytest.param('["grey", "rules"]', '["rules", "grey"]', ["[listen.mx] policies: grey, rules -> rules, grey"], id="their order"),
        pytest.param('type = "greylist"', 'type = "greylist"\nmode = "observe"', ["[policy.grey] mode: enforce -> observe"], id="a mode"),
        pytest.param(
            ', "example.net"]',
            "]",
            ["[domains] ours -example.net", "relaying: stranger on mx may no longer send to @ours example.net"],
            id="a domain less",
        ),
        pytest.param(
            "from_network",
            'to = "example.com"\nfrom_network',
            [
                '[[permit]] permit from "@office": is gone',
                '[[permit]] permit to "example.com" from "@office": is new',
                "relaying: network @office on mx may no longer send to elsewhere",
            ],
            id="a rule becomes narrower",
        ),
        pytest.param(
            '[[route]]\nto = "@ours"\ngateway = "hook"\n[[route]]\nto = "other.example"\ngateway = "internet"\n',
            '[[route]]\nto = "other.example"\ngateway = "internet"\n[[route]]\nto = "@ours"\ngateway = "hook"\n',
            ['[[route]] are asked in another order: to "other.example"; to "@ours"; otherwise'],
            id="order of routes",
        ),
        pytest.param("secret-place", "other-secret", ["[gateway.hook] url: is another one"], id="what may be secret is not shown"),
        pytest.param(
            "[policy.rules]\n",
            '[listen.more]\nlike = "mx"\nendpoint = "tcp:26"\n[policy.rules]\n',
            ["[listen.more] is new: relay at tcp:26"],
            id="a listener",
        ),
        pytest.param('type = "mx"', 'type = "discard"', ["[gateway.internet] type: mx -> discard"], id="another gateway"),
    ],
)
def test_changes(old, new, said):
    assert CONFIGURATION.count(old) == 1
    found = told(CONFIGURATION.replace(old, new))
    assert [line.partition(", by ")[0] for line in found if line.partition(", by ")[0] in said] == said
    rest = [line for line in found if line not in said]
    assert bool(found) == bool(said)
    assert all(line.startswith("relaying: ") for line in rest), rest
    assert "secret" not in " ".join(found)


def test_what_is_permitted_anew_names_the_rule_and_its_line():
    new = CONFIGURATION.replace('on = "mx"\nfrom_network = "@office"', 'on = "mx"\nfrom_network = ["@office", "198.51.100.0/24"]')
    assert (
        'relaying: network 198.51.100.0/24 on mx may now send to elsewhere, by permit from "@office", "198.51.100.0/24" (mailgw.toml:15)'
        in told(new)
    )
    # The office itself may send what it could before: a rule that has another name is not a change for it.
    assert not [line for line in told(new) if line.startswith("relaying: network @office")]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('state = "state"', 'state = "other"', "mailgw.toml:3: [server] state: "),
        ('hostname = "mx.example.org"', 'hostname = "other.example.org"', "mailgw.toml:2: [server] hostname: "),
        ('state = "state"', 'state = "state"\nworkers = 2', "mailgw.toml:4: [server] workers: "),
        ("[domains]", '[admin]\nmetrics = "tcp:9115:interface=127.0.0.1"\n[domains]', "mailgw.toml:5: [admin] metrics: "),
        ("[domains]", '[memory]\ntype = "in-process"\n[domains]', "mailgw.toml:5: [memory] type: "),
        ("[domains]", '[records]\nkeep = "1d"\n[domains]', "mailgw.toml:5: [records] keep: "),
    ],
)
def test_what_needs_a_restart_is_told_with_its_line(old, new, where):
    before, _ = loaded(CONFIGURATION)
    after, _ = loaded(CONFIGURATION.replace(old, new))
    report = after.report()
    needs_restart(before, before, report)
    assert not report.errors
    needs_restart(before, after, report)
    assert f"{where}cannot change while mailgw runs; it needs a restart" in [str(one) for one in report.errors]
