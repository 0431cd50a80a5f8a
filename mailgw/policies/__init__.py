"""May it pass? One file, one opinion."""
