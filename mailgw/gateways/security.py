"""The TLS of one connection to a next hop: what it is to be, and in words why it did not come about."""

from attrs import frozen
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.python.failure import Failure

__all__ = ["Security", "in_words"]


@frozen
class Security:
    """The TLS that one connection is to have."""

    creator: IOpenSSLClientConnectionCreator
    required: bool  # no session in clear
    verified: bool  # the creator verifies the certificate
    implicit: bool = False  # from the first octet


def in_words(reason: Failure) -> str:
    """Why a handshake failed."""
    problem = reason.value
    if isinstance(problem, VerificationError):
        return "its certificate is for another name"
    if isinstance(problem, SSL.Error) and problem.args and isinstance(problem.args[0], list):
        words = ", ".join(what for _, _, what in problem.args[0]) or "no reason given"  # OpenSSL's own list
        # Twisted keeps OpenSSL's reason to itself.
        return words.replace("certificate verify failed", "its certificate has expired, or nobody whom we trust has signed it")
    return reason.getErrorMessage().replace("\n", " ")
