"""Every gateway of ours keeps the contract."""

from pathlib import Path
from typing import Any

import pytest

from mailgw.gateways.discard import Discard
from mailgw.gateways.lmtp import Lmtp
from mailgw.gateways.maildir import Maildir
from mailgw.gateways.mx import Mx
from mailgw.gateways.smarthost import Smarthost
from mailgw.testing.clock import at
from mailgw.testing.contracts import GatewayContract
from mailgw.testing.mail_server import DROP, MailServer
from mailgw.testing.network import Network, SameThread
from mailgw.testing.server import Identity
from mailgw.testing.zone import zone

ZONE = zone({"example.org": {"MX": [(10, "mx.example.org")]}, "mx.example.org": {"A": ["192.0.2.1"]}})


def given(network: Network) -> dict[str, Any]:
    us = Identity("us.example.com")
    return {"dialer": network, "resolver": ZONE, "identity": us, "clock": network.clock, "threads": network.threads}


class TestDiscard(GatewayContract):
    @pytest.fixture
    def gateway(self) -> Any:
        return Discard()


class TestMaildir(GatewayContract):
    @pytest.fixture
    def gateway(self, tmp_path: Path) -> Any:
        path = f"{tmp_path}/mail/{{domain}}/{{local_part}}"
        return Maildir(path, clock=at("2026-01-05T10:00+00:00"), identity=Identity(), threads=SameThread())

    @pytest.fixture(autouse=True)
    def _nothing_outside(self, tmp_path: Path) -> Any:
        yield
        assert {path.name for path in tmp_path.iterdir()} <= {"mail", "message"}


class OverTheNetwork(GatewayContract):
    server: Any = None

    @pytest.fixture
    def network(self) -> Network:
        self.current = Network({"192.0.2.1:25": self.server(), "unix:/lmtp": self.server()})
        return self.current

    def run(self, awaitable: Any) -> Any:
        return self.current.run(awaitable)


class TestSmarthost(OverTheNetwork):
    server = MailServer

    @pytest.fixture
    def gateway(self, network: Network) -> Any:
        return Smarthost("192.0.2.1", **given(network))


class TestSmarthostThatOffersNothing(TestSmarthost):
    @staticmethod
    def server() -> MailServer:
        return MailServer(offers=())


class TestSmarthostThatOffersAll(TestSmarthost):
    @staticmethod
    def server() -> MailServer:
        return MailServer(offers=("PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "BINARYMIME", "REQUIRETLS", "LIMITS RCPTMAX=7"))


class TestSmarthostThatTalksNonsense(TestSmarthost):
    @staticmethod
    def server() -> MailServer:
        return MailServer({"RCPT": "hello"})


class TestSmarthostThatHangsUp(TestSmarthost):
    @staticmethod
    def server() -> MailServer:
        return MailServer({".": DROP})


class TestSmarthostThatIsDown(TestSmarthost):
    @staticmethod
    def server() -> Any:
        return OSError(113, "No route to host")


class TestLmtp(OverTheNetwork):
    @staticmethod
    def server() -> MailServer:
        return MailServer(lmtp=True)

    @pytest.fixture
    def gateway(self, network: Network) -> Any:
        return Lmtp("unix:/lmtp", **given(network))


class TestMx(OverTheNetwork):
    server = MailServer

    @pytest.fixture
    def gateway(self, network: Network) -> Any:
        return Mx(**given(network))


del GatewayContract, OverTheNetwork
