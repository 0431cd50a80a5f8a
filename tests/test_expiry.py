"""Certificates that are about to expire are in the log, once a day."""

from datetime import UTC, datetime, timedelta

import pytest
import trustme
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs

from mailgw.expiry import ExpiryWatch
from mailgw.tls import ServerTls
from mailgw.values.secret import Secret

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL")

END = datetime(2050, 3, 4, 5, 6, 7, tzinfo=UTC)
DAY = 86400.0


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def certify(path, authority, until):
    issued = authority.issue_cert("mx.example.org", key_type=trustme.KeyType.ECDSA, not_after=until)
    issued.private_key_and_cert_chain_pem.write_to_path(path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


@pytest.fixture
def path(tmp_path, authority):
    certify(tmp_path / "cert", authority, END)
    return tmp_path / "cert"


def clock_at(time):
    clock = Clock()
    clock.rightNow = time.timestamp()
    return clock


def watch(path, clock):
    tls = ServerTls(path, Secret(path=path), clock)
    return ExpiryWatch(lambda: {"brand": tls}, clock)


def warned(do):
    """The warnings in the log meanwhile."""
    with capturedLogs() as captured:
        do()
    return [
        event["log_format"].format(**event).replace(str(event["path"]), "PATH")
        for event in captured
        if event["log_level"] is LogLevel.warn and event["log_namespace"] == "mailgw.tls"
    ]


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (timedelta(days=14, seconds=1), []),
        (timedelta(days=14), ["certificate PATH of [tls.brand] expires on 2050-03-04"]),
        (timedelta(seconds=1), ["certificate PATH of [tls.brand] expires on 2050-03-04"]),
        (timedelta(0), ["certificate PATH of [tls.brand] expired on 2050-03-04"]),
        (timedelta(days=-100), ["certificate PATH of [tls.brand] expired on 2050-03-04"]),
    ],
    ids=["long", "two weeks", "a second", "none", "over"],
)
def test_what_is_said_at_the_start(path, left, said):
    assert warned(watch(path, clock_at(END - left)).start) == said


def test_one_line_a_day_until_it_is_renewed(path, authority):
    clock = clock_at(END - timedelta(days=15.5))
    watching = watch(path, clock)
    assert warned(watching.start) == []
    assert warned(lambda: clock.advance(DAY)) == []
    for _ in range(3):
        assert len(warned(lambda: clock.advance(DAY))) == 1
        assert warned(lambda: clock.pump([3600.0] * 23)) == []
        clock.advance(-23 * 3600.0)
    certify(path, authority, END + timedelta(days=90))
    assert warned(lambda: clock.advance(DAY)) == []


def test_the_end(path):
    clock = clock_at(END)
    watching = watch(path, clock)
    watching.stop()
    watching.start()
    watching.stop()
    assert clock.getDelayedCalls() == []
    watching.stop()
