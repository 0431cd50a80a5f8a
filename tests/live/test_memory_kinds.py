"""What policies remember, over a restart: in a file, and in the process."""

import pytest
from processes import gateway_in

pytestmark = pytest.mark.live

REST = """
[memory]
type = "{kind}"
[policy.slow]
type = "rate-limit"
limit = "1 per day"
what = "messages"
[[route]]
otherwise = true
gateway = "nowhere"
[gateway.nowhere]
type = "discard"
"""


def codes(gateway):
    with gateway.client() as client:
        client.ehlo("c.example")
        return [client.mail("a@example.com")[0], client.rset()[0], client.mail("a@example.com")[0]]


@pytest.mark.parametrize(("kind", "afterwards"), [("sqlite", 450), ("in-process", 250)])
def test_a_limit_over_a_restart(tmp_path, kind, afterwards):
    with gateway_in(tmp_path / "gateway", REST.format(kind=kind), listen='policies = "slow"') as gateway:
        assert codes(gateway) == [250, 250, 450]
        assert (gateway.folder / "state" / "memory.db").exists() == (kind == "sqlite")
        gateway.stop()
        gateway.process.stderr.close()
        gateway.start()
        assert codes(gateway)[0] == afterwards
