"""Names to addresses: twisted.names behind ``IResolver``."""
