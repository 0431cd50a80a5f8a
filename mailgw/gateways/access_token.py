"""Access tokens for a login elsewhere (OAuth 2, RFC 6749): fetched when they are needed, kept until they end."""

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import attrs
from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from mailgw.gateways.http_body import Body
from mailgw.gateways.http_redirects import Target
from mailgw.gateways.outgoing_tls import OutgoingTls, authorities_there
from mailgw.interfaces import IDialer
from mailgw.values.content import Content
from mailgw.values.secret import Secret

if TYPE_CHECKING:  # at run time only where there are tokens: an HTTP client costs every other start 10 ms
    from mailgw.gateways.http_client import Answer, Client

__all__ = ["AccessTokens", "NoToken", "OAuth"]

_MOST_READ = 65536  # octets of an answer
_TIMEOUT = 30.0  # seconds
_EARLY = 60.0  # seconds before its end a token is replaced
_USUAL = 300.0  # seconds that a token counts whose provider does not say (RFC 6749 §5.1 only recommends it)
_PAUSE = 30.0  # seconds after a failure before the provider is asked again
_FRESH = 10.0  # seconds: a token that is refused at this age would be refused again, were it fetched again

_log = Logger(namespace="mailgw.gateways")


class NoToken(Exception):
    """There is no access token now; the message says why, in the provider's words where it has some, without any secret."""


def _a_token_url(_: Any, attribute: "attrs.Attribute[Any]", value: str) -> None:
    try:
        target = Target(value)
    except ValueError as problem:
        raise ValueError(f"{attribute.name} {problem}") from None
    if not target.is_encrypted and target.host not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(f"{attribute.name} must begin with https://: secrets go there")


@frozen
class OAuth:
    """Where access tokens come from: by ``refresh_token`` (RFC 6749 §6) where there is one, else by client credentials (§4.4)."""

    token_url: str = field(validator=_a_token_url)
    client_id: str
    client_secret: Secret | None = None
    refresh_token: Secret | None = None
    scope: str = ""
    keep: Path | None = None  # where a refresh token is kept that the provider sends in place of the old one
    # A PEM file of authorities for https; none: those that the system trusts.
    trust: Path | None = field(default=None, validator=authorities_there)

    def __attrs_post_init__(self) -> None:
        if self.client_secret is None and self.refresh_token is None:
            raise ValueError("oauth needs client_secret or refresh_token")
        if self.keep is not None and self.refresh_token is None:
            raise ValueError("oauth: keep is for refresh tokens: say refresh_token, too")


@define(eq=False)
class AccessTokens:
    """The tokens of one login. However many ask, there is one request at a time."""

    settings: OAuth
    dialer: IDialer
    clock: IReactorTime
    _client: "Client" = field(init=False)
    _token: str = field(default="", init=False, repr=False)
    _since: float = field(default=0.0, init=False)
    _until: float = field(default=0.0, init=False)
    _refresh: str = field(default="", init=False, repr=False)  # a newer one than in the settings
    _problem: str = field(default="", init=False)
    _silent_until: float = field(default=0.0, init=False)
    _waiting: list["Deferred[None]"] | None = field(default=None, init=False)  # those who wait for the request under way

    def __attrs_post_init__(self) -> None:
        from mailgw.gateways.http_client import Client

        self._client = Client(
            self.dialer,
            self.clock,
            OutgoingTls(self.settings.trust),
            timeout=_TIMEOUT,
            connect_timeout=_TIMEOUT,
            max_idle=0.0,
            most_read=_MOST_READ,
        )

    async def current(self) -> str:
        """A token that is good for a while. Raises NoToken."""
        while self._waiting is not None:
            turn: Deferred[None] = Deferred()
            self._waiting.append(turn)
            await turn
        now = self.clock.seconds()
        if self._token and now < self._until:
            return self._token
        if now < self._silent_until:
            raise NoToken(self._problem)
        self._waiting = []
        try:
            return await self._fetch()
        except NoToken as problem:
            self._problem = str(problem)
            self._silent_until = self.clock.seconds() + _PAUSE
            _log.warn("no access token: {problem}", problem=self._problem)
            raise
        finally:
            waiting, self._waiting = self._waiting, None
            for turn in waiting:
                if not turn.called:
                    turn.callback(None)

    def forget(self, token: str) -> bool:
        """A server has refused this token; whether there may be another one that it has not seen."""
        if token != self._token:
            return True
        self._token = ""
        return self.clock.seconds() - self._since >= _FRESH

    async def _fetch(self) -> str:
        from mailgw.gateways.http_client import NoAnswer

        settings = self.settings
        form = {"grant_type": "client_credentials"}
        headers = {"Accept": "application/json"}
        try:
            if settings.refresh_token is not None:
                form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token(settings.refresh_token)}
            if settings.client_secret is not None:
                # RFC 6749 §2.3.1, which a provider must support; each half is form-encoded.
                pair = f"{quote_plus(settings.client_id)}:{quote_plus(settings.client_secret.read().decode())}"
                headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
            else:
                form["client_id"] = settings.client_id
        except (OSError, UnicodeDecodeError) as problem:
            raise NoToken(f"a secret for {self._host} cannot be read: {getattr(problem, 'strerror', None) or 'not UTF-8 text'}") from None
        if settings.scope:
            form["scope"] = settings.scope
        body = Body(Content.of(urlencode(form).encode()), "application/x-www-form-urlencoded")
        try:
            answer = await self._client.post(Target(settings.token_url), headers, body)
        except NoAnswer as problem:
            raise NoToken(f"the token service cannot be asked: {problem}") from None
        return self._take(answer)

    @property
    def _host(self) -> str:
        return Target(self.settings.token_url).host

    def _take(self, answer: "Answer") -> str:
        try:
            said = json.loads(answer.body)
        except (ValueError, RecursionError):
            said = None
        if answer.status != 200 or not isinstance(said, Mapping):
            raise NoToken(f"{self._host} gives no access token: {_refusal(said, answer.status)}")
        token, kind = said.get("access_token"), str(said.get("token_type", "Bearer"))
        if not isinstance(token, str) or not token or kind.lower() != "bearer":
            raise NoToken(f"{self._host} gives no access token: its answer holds no bearer token")
        lifetime = said.get("expires_in")
        if isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdigit():
            lifetime = float(lifetime)  # some providers write it so
        if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
            lifetime = _USUAL
        now = self.clock.seconds()
        self._token, self._since = token, now
        self._until = now + max(lifetime - _EARLY, lifetime / 2)
        newer = said.get("refresh_token")
        if isinstance(newer, str) and newer and newer != self._refresh and self.settings.refresh_token is not None:
            self._refresh = newer
            self._keep(newer)
        return token

    # ── Refresh tokens that change (RFC 6749 §6) ──

    def _refresh_token(self, given: Secret) -> str:
        """The newest one. Raises OSError, UnicodeDecodeError."""
        if not self._refresh:
            kept = self.settings.keep
            if kept is not None and kept.exists() and not (given.path and given.path.stat().st_mtime > kept.stat().st_mtime):
                return kept.read_text().strip()
            return given.read().decode()
        return self._refresh

    def _keep(self, token: str) -> None:
        kept = self.settings.keep
        if kept is None:
            return
        new = kept.with_name(f"{kept.name}.new")
        try:
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(token)
                file.flush()
                os.fsync(file.fileno())
            new.replace(kept)
        except OSError as problem:
            _log.error("the new refresh token cannot be kept in {path}: {problem}", path=str(kept), problem=problem.strerror)


def _refusal(said: Any, status: int) -> str:
    # RFC 6749 §5.2. The description is the provider's, for humans; it is bounded and printable.
    words = [said.get(key) for key in ("error", "error_description")] if isinstance(said, Mapping) else []
    text = ": ".join(word for word in words if isinstance(word, str) and word)
    text = "".join(c if " " <= c <= "~" else "?" for c in text[:300])
    return f"{text} (HTTP status {status})" if text else f"HTTP status {status}"
