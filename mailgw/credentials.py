"""What a client shows to be believed: twisted.cred's credentials for SMTP AUTH (RFC 4954), one interface for each kind of proof.

`twisted.cred.credentials` has two of them: IUsernamePassword (PLAIN, LOGIN) and IUsernameHashedPassword (CRAM-MD5). All carry
``username``, the authcid: whose proof it is; who is believed acts as the name that the accounts give back.
"""

from attrs import frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from zope.interface import Attribute, Interface

from mailgw.values.facts import ClientFacts
from mailgw.values.reply import Reply

__all__ = [
    "AccountsUnavailable",
    "IAccounts",
    "IBearerToken",
    "IClientCertificate",
    "ILoginGuard",
    "ISaslDialogue",
    "IScramProof",
    "ISubmitter",
    "LoginRefused",
    "ScramVerifier",
]


class AccountsUnavailable(Exception):
    """Nobody can say now whether the proof is good; the message says why. The peer hears 454 4.7.0, never 535."""


class LoginRefused(Exception):
    """A guard does not let the client try to log in; ``reply`` is what it hears."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


@frozen
class ScramVerifier:
    """What is kept of a password for SCRAM (RFC 5802 §3); nobody can log in elsewhere with it."""

    hash_name: str  # "SHA-1" or "SHA-256"
    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes
    made_up: bool = False  # for a user who is not there: no proof is ever good, and the next accounts in the list may know him


class IScramProof(ICredentials):
    """A SCRAM exchange whose first message has arrived; the client still waits for salt and iterations."""

    username = Attribute("str: the authcid, prepared with SASLprep.")
    hash_name = Attribute('str: "SHA-1" or "SHA-256"; the verifier must be of the same.')

    async def prove(verifier: ScramVerifier) -> bool:
        """Send the challenge, and look whether the client's proof is good. Ask once only.

        For a user who is not there, give a verifier made up from his name and a secret, always the same, and say ``made_up``: the
        exchange then fails at its end, like one with a wrong password. Raises whatever ends the exchange (a client that cancels or
        is gone).
        """


class IBearerToken(ICredentials):
    """An OAuth 2 access token (RFC 6750) from OAUTHBEARER (RFC 7628) or XOAUTH2."""

    username = Attribute('str: the user that the client names; "" where it names none.')
    token = Attribute("str: never to be logged.")


class IClientCertificate(ICredentials):
    """EXTERNAL (RFC 4422 appendix A): a TLS client certificate, whose key the client has; not yet whose it is."""

    username = Attribute('str: the user that the client asks to be; "" for the one that the certificate says.')
    fingerprint = Attribute("str: SHA-256 of the certificate, lower case hexadecimal.")
    names = Attribute("tuple[str, ...]: its rfc822Name and dNSName alternative names; empty if no authority we trust signed it.")


class ISaslDialogue(ICredentials):
    """A whole SASL exchange, for accounts that judge it themselves (pass-through to Dovecot)."""

    username = Attribute('str: "", as nobody has looked into it yet.')
    mechanism = Attribute('str: "PLAIN", in upper case.')
    initial = Attribute("bytes | None: the initial response, if there was one.")

    async def respond(challenge: bytes) -> bytes:
        """Send a challenge and give the client's response, both not in base64. Raises whatever ends the exchange."""


class IAccounts(ICredentialsChecker):
    """One [accounts.NAME]: twisted's ICredentialsChecker, which may be ``async def``, and the SASL mechanisms it can serve::

        credentialInterfaces = (IUsernamePassword,)

        def mechanisms(self):
            return frozenset({"PLAIN", "LOGIN"})

        async def requestAvatarId(self, credentials):
            if not await self.is_right(credentials.username, credentials.password):
                raise UnauthorizedLogin()
            return credentials.username

    ``requestAvatarId`` gives the login, str. It raises UnauthorizedLogin for a proof that is not good and for an unknown user
    alike, in the same time, and `AccountsUnavailable`; any other exception is a fault of the plugin (454 and its name in the log).
    """

    def mechanisms() -> frozenset[str]:
        """Upper case, as they are now: only what every account can use. "-PLUS" forms are not named, they follow."""


class ISubmitter(Interface):
    """twisted.cred's avatar: who has logged in."""

    login = Attribute("str: as his accounts call him; never empty.")


class ILoginGuard(Interface):
    """Stands before the accounts: asked before each attempt to log in, told after it::

        async def before(self, client, account):
            return Reply(421, "4.7.0", "too many failed logins, come back later") if client.ip in self.banned else None

    ``account`` is the name that the client gave, prepared with SASLprep; "" where the mechanism has not told it (pass-through of
    mechanisms that only the accounts understand, a token that names nobody). No proof has been looked at before `before` answers.
    What it raises is a fault: the client hears 454 4.7.0.
    """

    async def before(client: ClientFacts, account: str) -> Reply | None:
        """None: go on, after a delay if it waits. A reply refuses the attempt unseen: with 421 the session ends, too."""

    async def failed(client: ClientFacts, account: str) -> Reply | None:
        """The proof was not good: what is said instead of 535 (421 ends the session), or None. Not called where nobody could say."""

    async def doubted(client: ClientFacts, account: str) -> None:
        """Some accounts have refused the proof, and others could not be asked: the client hears 454, and may have been guessing."""

    async def succeeded(client: ClientFacts, account: str) -> None:
        """The client has logged in; ``account`` is the name that it gave, not the login."""
