"""Keep it safe: states, retry, fairness, the dispatcher and the bounce."""
