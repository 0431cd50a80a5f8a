"""The staff of a listener, of what `mailgw.assemble` made: who keeps off those that guess, lets in, receives mail and gives it out."""

from pathlib import Path
from random import Random
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime

from mailgw.assemble import House, Parts
from mailgw.config.model import Configuration, Listener
from mailgw.credentials import ILoginGuard
from mailgw.gateways.maildir import BadName
from mailgw.interfaces import IClock, IMemory
from mailgw.journal import Journal
from mailgw.login.porter import Porter
from mailgw.login.throttle import LoginThrottle
from mailgw.policies.recently_fetched import note_fetch
from mailgw.receive.peer import peer_of
from mailgw.receive.reception import Reception
from mailgw.smtp.answers import ServerSettings
from mailgw.values.address import Address, BadAddress

__all__ = ["guard_of", "pop3_of", "porter_of", "reception_of"]


def guard_of(configuration: Configuration, memory: Any, clock: IReactorTime, journal: Journal) -> LoginThrottle:
    """Who keeps off those that guess passwords, for all listeners; ``memory`` provides IMemory."""
    return LoginThrottle(configuration.logins, memory, clock, journal)


def porter_of(listener: Listener, parts: Parts, journal: Journal, clock: IReactorTime, hostname: str, guard: ILoginGuard) -> Porter | None:
    """Who lets clients log in at a listener; None where nobody can."""
    if not listener.accounts:
        return None
    return Porter(
        accounts=[parts.accounts[name] for name in listener.accounts],
        journal=journal,
        clock=clock,
        hostname=hostname,
        guard=guard,
        allow_cleartext=listener.allow_cleartext_auth,
    )


def reception_of(listener: Listener, configuration: Configuration, parts: Parts, *, store: Any, **more: Any) -> Reception:
    """What the conversations of a listener share; ``store`` has `incoming` and `room`, ``more`` goes to `Reception`."""
    server = configuration.server
    engine = ServerSettings(
        hostname=server.hostname,
        starttls=bool(listener.tls) and listener.starttls != "never",
        require_tls=listener.starttls == "require",
        require_auth=listener.kind == "submission",
        max_message_size=listener.max_message_size,
        max_text_line=listener.max_text_line,
        max_recipients=listener.max_recipients,
        max_errors=listener.max_errors,
        max_commands=listener.max_commands,
        fix_line_ends=listener.line_endings == "fix",
        expands=listener.aliases is not None,
        authenticates=bool(listener.accounts),
        soft_bounce=server.soft_bounce,
    )
    return Reception(
        listener=listener.name,
        kind=listener.smtp_kind,
        engine=engine,
        rules=parts.rules[listener.name],
        routing=parts.routing,
        store=store,
        incoming=store.incoming,
        room=store.room,
        max_hops=listener.max_hops,
        command_timeout=listener.command_timeout,
        data_timeout=listener.data_timeout,
        message_timeout=listener.message_timeout,
        session_timeout=listener.session_timeout,
        xclient=listener.xclient,
        **more,
    )


def pop3_of(
    listener: Listener, parts: Parts, house: House, journal: Journal, reactor: Any, porter: Porter, tls: Any, randomness: Random
) -> Any:
    """The factory of a POP3 listener, for the folders of its Maildir gateway."""
    # Not before the reactor is chosen: twisted.mail.pop3 installs one.
    from mailgw.fetching.letting_in import Fetching
    from mailgw.fetching.sessions import Pop3Factory

    gateway: Any = parts.gateways[listener.gateway]
    memory, clock = cast(IMemory, house[IMemory]), cast(IClock, house[IClock])

    def folder_of(login: str) -> Path | None:
        try:
            address = Address.parse(login) if "@" in login or listener.domain is None else Address(login, listener.domain)
            folder: Path = gateway.folder_of(address)
        except (BadAddress, BadName):
            return None
        return folder

    fetching = Fetching(
        listener=listener.name,
        porter=porter,
        journal=journal,
        reactor=reactor,
        folder_of=folder_of,
        fetched=lambda ip, login: note_fetch(memory, clock, ip, login),
        peer_of=peer_of,
    )
    limits = {"max_sessions": listener.max_sessions, "max_sessions_per_client": listener.max_sessions_per_client}
    return Pop3Factory(fetching, randomness, tls=tls if listener.starttls != "never" else None, **limits)
