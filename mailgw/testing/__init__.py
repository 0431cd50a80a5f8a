"""For plugin authors: facts with defaults, a clock, a zone, dialogs, gateways with scripted outcomes, contract suites."""

from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing.accounts import Users
from mailgw.testing.clock import StandingClock, at
from mailgw.testing.facts import a_client, a_message, a_recipient, a_sender, a_shipment, an_address, an_envelope
from mailgw.testing.gateways import ScriptedDomainGateway, ScriptedGateway
from mailgw.testing.running import run
from mailgw.testing.server import MemoryServer
from mailgw.testing.threads import ThreadsAtOnce
from mailgw.testing.zone import zone

__all__ = [
    "InProcessMemory",
    "MemoryServer",
    "ScriptedDomainGateway",
    "ScriptedGateway",
    "StandingClock",
    "ThreadsAtOnce",
    "Users",
    "a_client",
    "a_message",
    "a_recipient",
    "a_sender",
    "a_shipment",
    "an_address",
    "an_envelope",
    "at",
    "run",
    "zone",
]
