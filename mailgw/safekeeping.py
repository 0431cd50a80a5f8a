"""The queue's store as the configuration wants it, and what is said when its disk is in trouble."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from mailgw.config.model import Server
from mailgw.interfaces import StoreDamaged
from mailgw.journal import Fault, Journal
from mailgw.storage.damage import damaged_folders
from mailgw.storage.sqlite import SqliteStore

__all__ = ["condition_of", "open_store"]

_log = Logger(namespace="mailgw.store")


def open_store(folder: Path, server: Server, reactor: Any, journal: Journal, base: int = 0) -> SqliteStore:
    """Open the store in ``folder`` as [server] says; a new one counts messages from ``base`` on.

    When its database turns out to be damaged and a new one is wanted, the process ends, with status 1: the next start makes it.
    Raises StoreUnavailable.
    """
    is_renewed = server.damaged_queue == "start-new"
    try:
        store = SqliteStore.open(folder, reactor, server.min_free, base, is_renewed)
    except StoreDamaged as problem:
        raise StoreDamaged(f'{problem}; with [server] damaged_queue = "start-new" it is set aside, and new mail is taken') from problem

    def tell_room(is_there: bool) -> None:
        if is_there:
            _log.warn("there is room for new mail again in {folder}", folder=folder)
        else:
            gone = f"queue.db was removed from {folder}, or replaced: bring it back, or restart mailgw, which begins with what is there"
            why = gone if store.room.is_gone else f"less than min_free is free on the file system of {folder}"
            journal.note(Fault("", "store", f"new mail is refused: {why}"))

    def tell_damage(what: str) -> None:
        _log.critical("THE QUEUE IS DAMAGED: {what}", what=what)
        journal.note(Fault("", "store", f"the queue is damaged: {what}"))
        if is_renewed:
            # Whoever started the process sees by its exit status that this was no orderly end, and starts another one.
            reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
            reactor.callLater(0, reactor.stop)

    store.room.tell = tell_room
    store.tell_damage = tell_damage
    if store.set_aside:
        _log.critical("THE QUEUE WAS DAMAGED and is set aside, a new one is begun: {what}", what=store.set_aside)
        journal.note(Fault("", "store", f"the queue was damaged, and is set aside in {store.set_aside}"))
    return store


def condition_of(store: SqliteStore, folder: Path) -> Mapping[str, Any]:
    """For `mailgw status`: octets of room for new mail, what is damaged, and the damaged ones that were set aside."""
    return {"room": store.room.left, "damage": store.damage, "set_aside": damaged_folders(folder)}
