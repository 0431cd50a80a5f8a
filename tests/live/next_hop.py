"""A next hop as a process of its own: slow, and failing by chance.

    python tests/live/next_hop.py LEDGER [--slow 0.02] [--faults 1]

Prints its port. Each recipient of a message it takes gets a line in the ledger before the reply: time, recipient, name, "whole" or
"damaged". Recipients that begin with "gone." it does not know. It ends with its standard input.
"""

import argparse
import os
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

from letters import recognised
from processes import SmtpSink

# How often, for ``--faults 1``, and what.
FAULTS = {
    "greeting": (0.02, "421 4.3.2 too busy"),
    "MAIL": (0.02, "451 4.3.0 not now"),
    "RCPT": (0.05, "450 4.2.1 mailbox busy"),
    "DATA": (0.02, "drop"),
    "body": (0.02, "drop"),
    ".": (0.05, "451 4.3.0 disk slow"),
}


@contextmanager
def next_hop(folder, slow, faults):
    """Have one while the context lasts; gives its port and its ledger."""
    ledger = folder / "ledger"
    ledger.touch()
    command = [sys.executable, __file__, ledger, "--slow", str(slow), "--faults", str(faults)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield int(process.stdout.readline()), ledger
    finally:
        process.communicate()


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("ledger")
    options.add_argument("--slow", type=float, default=0.0, help="seconds that it takes at most to take a message (%(default)s)")
    options.add_argument("--faults", type=float, default=0.0, help="how much of its usual trouble it makes (%(default)s)")
    chosen = options.parse_args()
    ledger = os.open(chosen.ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    dice, sleep = random.Random(), threading.Event().wait

    def verdict(command, argument):
        if command == "RCPT" and argument.upper().startswith("TO:<GONE."):
            return "550 5.1.1 no such user"
        if command == "." and chosen.slow:
            sleep(dice.random() * chosen.slow)
        chance, reply = FAULTS.get(command, (0, None))
        return reply if dice.random() < chance * chosen.faults else None

    def keep(message):
        _, recipients, content = message
        name, whole = recognised(content) or ("?", False)
        state = "whole" if whole else "damaged"
        os.write(ledger, "".join(f"{time.time()}\t{one}\t{name}\t{state}\n" for one in recipients).encode())

    with SmtpSink(verdict, keep=keep) as sink:
        sys.stdout.write(f"{sink.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
