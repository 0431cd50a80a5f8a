"""What is counted, divided and handed out between workers: tables."""

import pytest

from mailgw.part import share
from mailgw.workers.command import Command
from mailgw.workers.duty import hand_out
from mailgw.workers.patience import Patience
from mailgw.workers.tally import Tally


@pytest.mark.parametrize(
    ("lives", "delays"),
    [
        ([100.0], [0.0]),
        ([100.0, 100.0, 100.0], [0.0, 0.0, 0.0]),
        ([100.0, 1.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 4.0, 8.0]),
        ([0.1] * 10, [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]),
        ([1.0, 1.0, 10.0, 1.0], [0.0, 1.0, 0.0, 1.0]),
    ],
    ids=["once", "now and then", "soon after", "always", "healed in between"],
)
def test_patience(lives, delays):
    patience = Patience()
    assert [patience.delay(lived) for lived in lives] == delays


@pytest.mark.parametrize(
    ("orphans", "load", "given"),
    [
        ([], {1: 1}, {}),
        ([2], {}, {}),
        ([2], {1: 1}, {2: 1}),
        ([3, 4, 5, 6], {1: 1, 2: 1}, {3: 1, 4: 2, 5: 1, 6: 2}),
        ([9], {1: 3, 2: 2, 4: 2}, {9: 2}),
    ],
    ids=["nothing to do", "nobody there", "the other one", "in turn", "who has least"],
)
def test_parts_are_handed_out(orphans, load, given):
    assert hand_out(orphans, load) == given


@pytest.mark.parametrize(("parts", "each"), [(1, 20), (2, 10), (3, 7), (64, 1)])
def test_connections_are_shared(parts, each):
    assert share({"internet": 20, "one": 1}, parts) == {"internet": each, "one": 1}


def test_counters_never_go_back():
    tally = Tally()
    a, b = ["mailgw_accepted_messages"], ["mailgw_deliveries", "internet"]
    tally.count(1, [[a, 10], [b, 2]])
    tally.count(2, [[a, 5]])
    assert tally.sum() == {tuple(a): 15, tuple(b): 2}
    tally.count(1, [[a, 11], [b, 2]])
    tally.bury(1)
    tally.bury(3)
    assert tally.sum() == {tuple(a): 16, tuple(b): 2}
    tally.count(1, [[a, 1]])
    assert tally.sum() == {tuple(a): 17, tuple(b): 2}


@pytest.mark.parametrize(
    ("twistd", "log", "files"),
    [
        ({"nodaemon": True}, ["--logfile", "-"], {1: 1, 2: 2}),
        ({"nodaemon": True, "logfile": "-"}, ["--logfile", "-"], {1: 1, 2: 2}),
        ({"nodaemon": True, "logfile": "log"}, ["--logfile", "-"], {1: "r", 2: 2}),
        ({"nodaemon": False, "logfile": "log"}, ["--logfile", "-"], {1: "r", 2: "r"}),
        ({"nodaemon": False, "syslog": True, "prefix": "mx"}, ["--syslog", "--prefix", "mx-2"], {1: 1, 2: "r"}),
        ({"nodaemon": True, "logger": Tally}, ["--logger", "mailgw.workers.tally.Tally"], {1: 1, 2: 2}),
        ({}, ["--logfile", "-"], {1: "r", 2: "r"}),
    ],
    ids=["terminal", "stdout", "file", "daemon", "syslog", "logger", "unknown"],
)
def test_a_worker_logs_where_its_parent_does(tmp_path, twistd, log, files):
    command = Command(twistd, tmp_path / "mailgw.toml")
    found, sockets = command.descriptors({"mx tcp:25": 9, "mx tcp6:25": 7})
    assert found == {0: "w", **files, 3: 9, 4: 7}
    assert sockets == {"mx tcp:25": 3, "mx tcp6:25": 4}
    words = command.words(2, sockets)
    assert words[words.index("--pidfile=") + 1 : words.index("mailgw")] == log
    assert words[words.index("mailgw") :] == [
        *("mailgw", "--config", str(tmp_path / "mailgw.toml"), "--worker", "2"),
        *("--handed", '{"mx tcp:25": 3, "mx tcp6:25": 4}'),
    ]


def test_a_worker_has_its_parents_reactor(tmp_path):
    words = Command({"nodaemon": True, "reactor": "uvloop"}, tmp_path, ("--json-log", "/events")).words(1, {})
    assert words[words.index("--reactor") + 1] == "uvloop"
    assert words[-2:] == ["--json-log", "/events"]
