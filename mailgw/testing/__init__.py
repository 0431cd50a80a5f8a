"""For plugin authors: facts with defaults, a clock, a zone, dialogs, gateways with scripted outcomes, contract suites."""
