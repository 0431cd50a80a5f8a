"""The language: SMTP and LMTP engines without sockets, clocks or Twisted."""
