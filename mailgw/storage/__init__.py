"""Where it lies: the stores of the queue."""
