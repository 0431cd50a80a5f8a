"""What every gateway must keep. Inherit `GatewayContract` in a test module, and pytest asks your gateway."""

from collections.abc import Mapping
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from mailgw.interfaces import IGateway
from mailgw.testing.facts import RECIPIENT, a_shipment, an_address, an_envelope
from mailgw.testing.running import run
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Outcome, Recipient, Shipment

__all__ = ["GatewayContract"]


def _shipments() -> dict[str, Shipment]:
    binary = bytes(range(256)) * 4
    return {
        "plain": a_shipment(),
        "null reverse-path": a_shipment(sender="<>"),
        "many recipients": a_shipment(*(f"user{n}@example.org" for n in range(250))),
        "the same recipient twice": a_shipment(RECIPIENT, RECIPIENT),
        "postmaster without a domain": a_shipment("postmaster"),
        "quoted local-part": a_shipment('"a b@c"@example.org'),
        "path-like local-part": a_shipment('"../../etc/passwd"@example.org', '".."@example.org', "/etc/passwd@example.org"),
        "percent and braces": a_shipment("a%b@example.org", "{domain}@example.org"),
        "line break in the local-part": a_shipment(Address("a\r\nRSET", "example.org"), RECIPIENT),
        "NUL in the local-part": a_shipment(Address("a\0b", "example.org")),
        "address literal": a_shipment("a@[192.0.2.1]", "a@[IPv6:2001:db8::1]"),
        "internationalized": a_shipment("\u00fc@example.org", envelope=an_envelope(smtputf8=True)),
        "DSN parameters": a_shipment(
            Recipient(an_address(RECIPIENT), frozenset({"SUCCESS"}), "rfc822;a+b=c@example.org"),
            envelope=an_envelope(ret="HDRS", envid="x\r\ny+="),
        ),
        "REQUIRETLS": a_shipment(envelope=an_envelope(requiretls=True)),
        "empty content": a_shipment(content=b""),
        "a lone dot": a_shipment(content=b".\r\n.\r\n..\r\n"),
        "no CRLF at the end": a_shipment(content=b"Subject: x\r\n\r\nx"),
        "bare CR and LF": a_shipment(content=b"Subject: x\r\n\r\n.\n.\r.\r\n\n.\r\n\r\n.\nMAIL FROM:<a@b.example>\r\n"),
        "binary": a_shipment(content=binary, envelope=an_envelope(body="BINARYMIME")),
        "8-bit": a_shipment(content="Subject: x\r\n\r\n\u00fc\r\n".encode(), envelope=an_envelope(body="8BITMIME")),
        "with added fields": a_shipment(content=Content.of(b"Subject: x\r\n\r\n", b"Received: from x\r\n")),
    }


class GatewayContract:
    """Give `gateway`; override `run` where the gateway needs a network or a reactor to finish::

    class TestMine(GatewayContract):
        @pytest.fixture
        def gateway(self, tmp_path):
            return Mine(tmp_path)
    """

    @pytest.fixture
    def gateway(self) -> Any:
        """The gateway to be asked."""
        raise NotImplementedError("a contract needs a fixture named gateway")

    def run(self, awaitable: Any) -> Any:
        """Drive what ``deliver`` gave to its end."""
        return run(awaitable)

    def deliver(self, gateway: Any, shipment: Shipment) -> Mapping[Address, Outcome]:
        """Deliver, and check that there is an outcome for every recipient, and nothing else."""
        outcomes = gateway.deliver(shipment)
        if isawaitable(outcomes):
            outcomes = self.run(outcomes)
        assert isinstance(outcomes, Mapping)
        assert set(outcomes) == {recipient.address for recipient in shipment.recipients}
        assert all(isinstance(outcome, Outcome) for outcome in outcomes.values())
        return outcomes

    def test_provides_the_interface(self, gateway: Any) -> None:
        assert verifyObject(IGateway, gateway)

    @pytest.mark.parametrize("name", _shipments())
    def test_an_outcome_for_every_recipient(self, gateway: Any, name: str) -> None:
        self.deliver(gateway, _shipments()[name])

    def test_content_in_a_file(self, gateway: Any, tmp_path: Path) -> None:
        file = tmp_path / "message"
        original = b"Subject: x\r\n\r\n" + b".line\r\n" * 50_000
        file.write_bytes(original)
        self.deliver(gateway, a_shipment(content=Content(file, len(original), b"Received: from x\r\n")))
        assert file.read_bytes() == original

    def test_content_that_is_gone(self, gateway: Any, tmp_path: Path) -> None:
        self.deliver(gateway, a_shipment(content=Content(tmp_path / "gone", 100)))

    def test_twice(self, gateway: Any) -> None:
        assert self.deliver(gateway, a_shipment()).keys() == self.deliver(gateway, a_shipment(message=2)).keys()
