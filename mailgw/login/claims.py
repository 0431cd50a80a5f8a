"""What an access token says, and whether it is for us (RFC 7519 §4.1, RFC 7662 §2.2, RFC 9068)."""

from collections.abc import Mapping
from typing import Any

from attrs import frozen
from twisted.cred.error import UnauthorizedLogin

__all__ = ["Claims", "Wanted"]


@frozen
class Claims:
    """Those of one token, whose issuer has vouched for it."""

    login: str
    until: float  # POSIX seconds; when it ends


@frozen
class Wanted:
    """What a token must say."""

    issuer: str
    audience: frozenset[str]  # one of them must be among the token's
    scope: frozenset[str] = frozenset()  # all of them
    parties: frozenset[str] = frozenset()  # azp or client_id must be one of them; empty: any
    claim: str = "sub"  # whose value is the login
    leeway: float = 60.0  # seconds that clocks may differ

    def check(self, said: Mapping[str, Any], now: float, *, vouched: bool = False) -> Claims:
        """The login and the end. Raises UnauthorizedLogin for whatever is missing or does not fit.

        ``vouched``: the authorization server itself has just said that the token is active (RFC 7662): then issuer, audience and end
        need not be there, but must fit where they are.
        """
        login, begin = said.get(self.claim), said.get("nbf", 0)
        end: Any = said.get("exp", now + self.leeway if vouched else None)
        fits = (
            self._is(said.get("iss"), frozenset({self.issuer}) if self.issuer else frozenset(), vouched)
            and self._is(said.get("aud"), self.audience, vouched)
            and (not self.parties or _texts(said.get("azp", said.get("client_id"))) & self.parties)
            and self.scope <= _scopes(said)
            and isinstance(login, str)
            and login
            and login.isprintable()
        )
        if not fits or not _is_time(end) or not _is_time(begin):
            raise UnauthorizedLogin()
        if end + self.leeway <= now or begin - self.leeway > now:
            raise UnauthorizedLogin()
        return Claims(str(login), float(end))

    @staticmethod
    def _is(value: Any, wanted: frozenset[str], vouched: bool) -> bool:
        if value is None and vouched:
            return True
        return not wanted or bool(_texts(value) & wanted)


def _texts(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset({value})
    return frozenset(one for one in value if isinstance(one, str)) if isinstance(value, list) else frozenset()


def _scopes(said: Mapping[str, Any]) -> frozenset[str]:
    # RFC 8693 §4.2: one text; some providers give a list, or call it scp.
    value = said.get("scope", said.get("scp", ""))
    return frozenset(value.split()) if isinstance(value, str) else _texts(value)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
