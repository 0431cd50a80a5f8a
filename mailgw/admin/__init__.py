"""The operator: what he can do, and how he says it."""
