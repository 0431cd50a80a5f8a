"""For plugin authors: facts with defaults, a clock, a zone, dialogs, gateways with scripted outcomes, contract suites."""

from mailgw.testing.running import run
from mailgw.testing.zone import zone

__all__ = ["run", "zone"]
