from ipaddress import ip_network

import pytest
from office_hours import OfficeHours

from mailgw.api import Verdict
from mailgw.testing import a_recipient, at, run


@pytest.mark.parametrize(
    ("moment", "ip", "verdict"),
    [
        ("2026-01-05T10:00+00:00", "10.1.2.3", Verdict.PERMIT),
        ("2026-01-05T07:59+00:00", "10.1.2.3", Verdict.PROCEED),
        ("2026-01-05T18:00+00:00", "10.1.2.3", Verdict.PROCEED),
        ("2026-01-05T10:00+00:00", "192.0.2.1", Verdict.PROCEED),
        ("2026-01-05T10:00+00:00", "2001:db8::1", Verdict.PROCEED),
    ],
)
def test_office_hours(moment, ip, verdict):
    rule = OfficeHours([ip_network("10.0.0.0/8")], clock=at(moment))
    assert run(rule.may_relay(a_recipient("anybody@example.com", ip=ip))).verdict is verdict
