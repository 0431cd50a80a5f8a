"""A DNS from a dict: see `mailgw.dns.zone`."""

from mailgw.dns.zone import zone

__all__ = ["zone"]
