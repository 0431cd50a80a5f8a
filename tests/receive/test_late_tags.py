"""Tags that come after the routes were asked."""

import pytest
from attrs import frozen

from mailgw.policies.relay import Permit
from mailgw.routes.by_tag import ByTag
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.testing.server import MemoryServer
from mailgw.values.decision import proceed


@frozen
class AtMail:
    def check_sender(self, facts):
        return proceed(tags={"bulk"})


@frozen
class AtRcpt:
    def check_recipient(self, facts):
        return proceed(tags={"bulk"}) if facts.recipient.local_part == "two" else proceed()


@frozen
class AtData:
    def check_content(self, facts):
        return proceed(tags={"bulk"})


@pytest.mark.parametrize(
    ("policy", "gateways"),
    [(AtMail, ["bulk"]), (AtRcpt, [""]), (AtData, [""])],  # "": the dispatcher asks the routes
)
def test_a_late_tag_lets_the_routes_be_asked_again(policy, gateways):
    routes = Routing([Rule("bulk", ByTag(frozenset({"bulk"}), "bulk")), Rule("otherwise", Default("anywhere"))])
    server = MemoryServer(policies=[policy()], permits=[Permit(to=frozenset({"example.org"}), name="ours")], routing=routes)
    talk = server.connect()
    talk.say(b"EHLO c.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<one@example.org>\r\nRCPT TO:<two@example.org>\r\nDATA\r\n")
    assert talk.say(b"Subject: x\r\n\r\nx\r\n.\r\n") == "250 2.0.0 queued as 1\r\n"
    assert [parcel.destination.gateway for parcel in server.parcels] == gateways
    assert [parcel.envelope.tags for parcel in server.parcels] == [{"bulk"}]


def test_without_a_late_tag_the_routes_stand():
    server = MemoryServer(policies=[AtRcpt()], permits=[Permit(to=frozenset({"example.org"}), name="ours")])
    talk = server.connect()
    talk.say(b"EHLO c.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<one@example.org>\r\nDATA\r\n")
    talk.say(b"Subject: x\r\n\r\nx\r\n.\r\n")
    assert [parcel.destination.gateway for parcel in server.parcels] == ["anywhere"]
