"""What a program's exit status means for a delivery: sysexits.h, and what shells add to it."""

from signal import Signals

from mailgw.values.delivery import Handed, Outcome, delivered, later, never
from mailgw.values.reply import Reply

__all__ = ["outcome_of"]

# sysexits.h. 64 to 78 are the program's considered opinion, so they are final, but for those that name trouble of the moment.
_REFUSED = {
    64: (554, "5.3.5", "the program was called wrongly"),  # EX_USAGE
    65: (554, "5.6.0", "the program cannot use the message"),  # EX_DATAERR
    66: (550, "5.3.0", "the program lacks an input"),  # EX_NOINPUT
    67: (550, "5.1.1", "no such user"),  # EX_NOUSER
    68: (550, "5.1.2", "no such host"),  # EX_NOHOST
    69: (554, "5.3.0", "the service is not available"),  # EX_UNAVAILABLE
    70: (554, "5.3.0", "the program failed"),  # EX_SOFTWARE
    72: (554, "5.3.5", "the program lacks a system file"),  # EX_OSFILE
    73: (550, "5.2.0", "the program cannot create its output"),  # EX_CANTCREAT
    76: (554, "5.5.0", "the program met a protocol error"),  # EX_PROTOCOL
    77: (550, "5.7.0", "permission denied"),  # EX_NOPERM
    78: (554, "5.3.5", "the program is not set up correctly"),  # EX_CONFIG
}
_DEFERRED = {
    71: "4.3.0",  # EX_OSERR: no memory, no process
    74: "4.3.0",  # EX_IOERR
    75: "4.3.0",  # EX_TEMPFAIL
    126: "4.3.5",  # a shell: found, but cannot be run
    127: "4.3.5",  # a shell: not found
}


def outcome_of(status: int | None, signal: int | None, said: str, handed: Handed) -> Outcome:
    """The outcome for a program that ended with an exit status or by a signal; ``said`` is the first line of its output, if any.

    A status that sysexits.h does not know says nothing about the message: a script that breaks ends with 1. Such mail waits.
    """
    because = f": {said}" if said else ""
    if status == 0:
        return delivered(Reply(250, "2.0.0", f"taken by the program{because}"), handed=handed)
    if status in _REFUSED:
        code, enhanced, text = _REFUSED[status]
        return never(Reply(code, enhanced, f"{text}{because}"))
    if status is None:
        name = Signals(signal).name if signal in set(Signals) else f"signal {signal}"
        return later(Reply(451, "4.3.0", f"the program was ended by {name}{because}"))
    return later(Reply(451, _DEFERRED.get(status, "4.3.0"), f"the program ended with status {status}{because}"))
