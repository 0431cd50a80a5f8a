"""SMTP clients that know how far they came."""

import socket
import ssl

from processes import PATIENCE


class Refused(Exception):
    """A reply other than the one that was hoped for."""


class Lost(Exception):
    """The connection is gone."""


def trusting():
    """A TLS context that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Client:
    """One session, which has said EHLO; with ``tls``, a context, after STARTTLS again. Raises Refused, Lost."""

    def __init__(self, port, tls=None):
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except OSError as problem:
            raise Lost(str(problem)) from problem
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self.socket.makefile("rb")
        try:
            self.hear("220")
            self.say("EHLO client.load.example", "250")
            if tls is not None:
                self.say("STARTTLS", "220")
                self._answers.close()
                self.socket = tls.wrap_socket(self.socket)
                self._answers = self.socket.makefile("rb")
                self.say("EHLO client.load.example", "250")
        except (Refused, Lost):
            self.close()
            raise
        except OSError as problem:
            self.close()
            raise Lost(str(problem)) from problem

    def hear(self, code):
        try:
            while True:
                line = self._answers.readline().decode(errors="replace")
                if not line.endswith("\n"):
                    raise Lost("connection closed")
                if line[3:4] != "-":
                    break
        except OSError as problem:
            raise Lost(str(problem)) from problem
        if not line.startswith(code):
            raise Refused(line.strip())
        return line

    def send(self, octets):
        try:
            self.socket.sendall(octets)
        except OSError as problem:
            raise Lost(str(problem)) from problem

    def say(self, command, code):
        self.send(f"{command}\r\n".encode())
        return self.hear(code)

    def begin(self, sender, recipients):
        """Everything up to the 354."""
        self.say(f"MAIL FROM:<{sender}>", "250")
        for one in recipients:
            self.say(f"RCPT TO:<{one}>", "250")
        self.say("DATA", "354")

    def post(self, books, sender, recipients, content):
        """Send a letter, and write down in the books what came of it."""
        kind = "refused"
        try:
            self.begin(sender, recipients)
            kind = "partial"
            self.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            kind = "doubtful"
            self.hear("250")
            kind = "acknowledged"
        except Refused:
            kind = "refused"
            raise
        except Lost:
            kind = "partial" if kind == "refused" else kind
            raise
        finally:
            books.said(kind, recipients)

    def quit(self):
        try:
            self.say("QUIT", "221")
        finally:
            self.close()

    def abort(self):
        """End with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self):
        self._answers.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.quit()
        else:
            self.close()
