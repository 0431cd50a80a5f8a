"""How a gateway logs in at its servers: what it has to show, fresh for each connection."""

from ipaddress import ip_address

from attrs import frozen

from mailgw.gateways.access_token import AccessTokens, NoToken
from mailgw.gateways.dialing import split_address
from mailgw.smtp.sasl_client import Proof
from mailgw.values.secret import Secret

__all__ = ["CannotLogIn", "ServerLogin", "is_loopback"]


class CannotLogIn(Exception):
    """There is nothing to show now; the message says why, without any secret."""


@frozen
class ServerLogin:
    """A name with a password, with access tokens, or with a client certificate."""

    name: str
    password: Secret | None = None
    tokens: AccessTokens | None = None
    certificate: bool = False

    async def proof(self) -> Proof:
        """What to show now. Raises CannotLogIn."""
        try:
            password = self.password.read().decode() if self.password else None
        except OSError as problem:
            raise CannotLogIn(f"the password cannot be read: {problem.strerror or problem}") from None
        except UnicodeDecodeError:
            raise CannotLogIn(f"the password in {self.password} is not UTF-8 text") from None
        try:
            token = await self.tokens.current() if self.tokens else None
            return Proof(self.name, password, token, self.certificate)
        except NoToken as problem:
            raise CannotLogIn(str(problem)) from None
        except ValueError as problem:
            raise CannotLogIn(str(problem)) from None

    def has_another(self, refused: Proof) -> bool:
        """Whether `proof` may give something better than what a server has just refused for good."""
        return self.tokens is not None and refused.token is not None and self.tokens.forget(refused.token)


def is_loopback(where: str) -> bool:
    """Whether an address as `IDialer.dial` takes it stays on this machine."""
    if where.startswith("unix:"):
        return True
    try:
        host, _ = split_address(where, 25)
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
