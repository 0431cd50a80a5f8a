"""Bring it there: each gateway delivers shipments to one kind of place."""
