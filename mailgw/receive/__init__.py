"""Bytes in: the protocol on the socket and the conversation held over it."""
