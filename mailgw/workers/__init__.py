"""Several processes on one machine: the parent that binds, spawns, restarts, adds up, and its workers, each a whole gateway."""
