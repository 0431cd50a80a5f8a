import socket

import pytest

from mailgw.notify import NOBODY, ServiceManager, Summary


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, NOBODY, id="nobody asks"),
        pytest.param({"NOTIFY_SOCKET": ""}, NOBODY, id="empty"),
        pytest.param({"NOTIFY_SOCKET": "@"}, NOBODY, id="no name"),
        pytest.param({"NOTIFY_SOCKET": "run/notify"}, NOBODY, id="no absolute path"),
        pytest.param({"NOTIFY_SOCKET": "vsock:2:1"}, NOBODY, id="another family"),
        pytest.param({"WATCHDOG_USEC": "1000000"}, NOBODY, id="a watchdog and nobody to tell"),
        pytest.param({"NOTIFY_SOCKET": "/run/notify"}, ServiceManager("/run/notify"), id="path"),
        pytest.param({"NOTIFY_SOCKET": "@notify"}, ServiceManager("@notify"), id="abstract"),
        pytest.param(
            {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2500000"}, ServiceManager("/n", 2.5), id="watchdog for whoever reads it"
        ),
        pytest.param(
            {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "77"}, ServiceManager("/n", 2.5), id="our watchdog"
        ),
        pytest.param(
            {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "78"}, ServiceManager("/n"), id="another's watchdog"
        ),
        pytest.param({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, ServiceManager("/n"), id="no number"),
        pytest.param({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "²"}, ServiceManager("/n"), id="no ASCII number"),
    ],
)
def test_what_the_environment_says(environment, expected):
    assert ServiceManager.of(environment, 77) == expected


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_one_datagram_for_each_news(tmp_path, is_abstract):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(f"\0{tmp_path}" if is_abstract else f"{tmp_path}/notify")
        manager = ServiceManager(f"@{tmp_path}" if is_abstract else f"{tmp_path}/notify")
        manager.tell("READY=1", "STATUS=über\nalles")
        manager.tell("WATCHDOG=1")
        assert listener.recv(4096).decode() == "READY=1\nSTATUS=über alles"
        assert listener.recv(4096) == b"WATCHDOG=1"


def test_nobody_and_a_listener_that_is_gone_cost_nothing(tmp_path):
    NOBODY.tell("READY=1")
    ServiceManager(f"{tmp_path}/gone").tell("READY=1")


@pytest.mark.parametrize("numbers", [(1, 0, 0), (3, 5000, 20)])
def test_a_summary_is_read_as_it_was_written(numbers):
    assert Summary.parse(str(Summary(*numbers))) == Summary(*numbers)


@pytest.mark.parametrize("text", ["", "Unwell: x", "1 listeners, 2 sessions", "-1 listeners, 0 sessions, 0 recipients in delivery"])
def test_other_texts_are_no_summary(text):
    assert Summary.parse(text) is None
