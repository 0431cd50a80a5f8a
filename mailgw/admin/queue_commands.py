"""``mailgw queue``: look at the queue and give it orders."""

import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import click

from mailgw.admin.client import pieces
from mailgw.admin.options import selected, speaking, with_json, with_selection
from mailgw.admin.selecting import MOST
from mailgw.admin.speaking import Speaker
from mailgw.admin.tables import Column, readable_age, readable_size, tame
from mailgw.values.ledger import Order, State

__all__ = ["queue"]


@click.group()
@with_json
def queue() -> None:
    """Look at the queue and give it orders. Looking also works while mailgw is not running."""


LISTING = [
    Column("Message", right=True),
    Column("Age", right=True),
    Column("Size", right=True),
    Column("State"),
    Column("Next", right=True),
    Column("Tries", right=True),
    Column("Sender", folds=True),
    Column("Recipient", folds=True),
    Column("Gateway", folds=True),
    Column("Last word", folds=True),
]


@queue.command("list")
@with_selection
@click.option("--limit", type=click.IntRange(1, MOST), default=100, show_default=True, help="Show so many at most.")
@with_json
@speaking
def list_(speaker: Speaker, /, **said: Any) -> None:
    """List recipients, by message number."""
    with speaker.reading() as (ask, source):
        answer = ask("queue_list", selection=selected(**said))
    speaker.note_missing(answer)
    if speaker.as_json:
        return speaker.out.json({"source": source, **answer})
    now = speaker.now
    if not answer["entries"]:
        return speaker.out.line("nothing in the queue" if selected(**said) == {"limit": said["limit"]} else "nothing matches")
    speaker.out.table(
        LISTING,
        [
            (
                entry["message"],
                readable_age(now - entry["arrived"]),
                readable_size(entry["size"]),
                entry["state"],
                next_attempt(entry, now),
                entry["attempts"],
                entry["sender"],
                entry["recipient"],
                destination(entry),
                last_word(entry),
            )
            for entry in answer["entries"]
        ],
    )
    if answer["more"]:
        speaker.note(f"there are more than {len(answer['entries'])}; select, or say --limit (at most {MOST})")
    return None


@queue.command(short_help="Show one message: envelope, replies, header section.")
@click.argument("message", type=click.IntRange(1))
@click.option("--content", is_flag=True, help="Write the whole message to standard output, as it will be sent.")
@with_json
@speaking
def show(speaker: Speaker, message: int, content: bool) -> None:
    """Show one message: envelope, recipients with the last reply, header section."""
    if content and speaker.as_json:
        raise click.UsageError("--content writes the message itself; it cannot be combined with --json")
    with speaker.reading() as (ask, source):
        if content:
            return write(pieces(ask, message))
        answer = ask("queue_show", message=message)
    if speaker.as_json:
        return speaker.out.json({"source": source, **answer})
    now = speaker.now
    arrived = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(answer["arrived"]))
    speaker.out.pairs(
        [
            ("message", answer["message"]),
            ("sender", answer["sender"]),
            ("arrived", f"{arrived}, {readable_age(now - answer['arrived'])} ago"),
            ("size", f"{answer['size']} octets"),
            ("session", answer["session"]),
        ]
    )
    speaker.out.line("")
    speaker.out.table(
        [Column("Recipient", folds=True), Column("State"), Column("Next", right=True), Column("Tries", right=True), *LISTING[-2:]],
        [
            (entry["recipient"], entry["state"], next_attempt(entry, now), entry["attempts"], destination(entry), last_word(entry))
            for entry in answer["recipients"]
        ],
    )
    speaker.out.line("")
    for line in answer["header"].split("\n"):
        speaker.out.line(line.replace("\t", "    "))
    return None


def write(parts: Iterable[bytes]) -> None:
    """Write a message: its octets into a file or a pipe, its lines as harmless text on a terminal."""
    if not sys.stdout.isatty():
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    text = b"".join(parts).decode("utf-8", "backslashreplace")
    for line in text.replace("\r\n", "\n").split("\n"):
        click.echo(tame(line.replace("\t", "    ")))


@queue.command(short_help="Count recipients by destination and state.")
@click.option("--limit", type=click.IntRange(1, MOST), default=100, show_default=True, help="Show so many destinations at most.")
@with_json
@speaking
def stats(speaker: Speaker, limit: int) -> None:
    """Count recipients by destination and state, the fullest destination first.

    A message is in the queue until none of its recipients is open; who is delivered, failed or dropped is counted only until then.
    """
    with speaker.reading() as (ask, source):
        answer = ask("queue_stats", limit=limit)
    speaker.note_missing(answer)
    if speaker.as_json:
        return speaker.out.json({"source": source, **answer})
    now = speaker.now
    states = [state.value for state in State]
    total = {"gateway": "total", "next_hop": "", **answer["total"]}
    speaker.out.table(
        [Column("Gateway", folds=True), Column("Next hop", folds=True), *(Column(s.title(), right=True) for s in [*states, "oldest"])],
        [
            (row["gateway"], row["next_hop"], *(row[s] for s in states), readable_age(now - row["oldest"]) if row["oldest"] else "")
            for row in [*answer["destinations"], total]
        ],
    )
    if answer["more"]:
        speaker.note(f"there are more than {limit} destinations; raise --limit")
    return None


ORDERS = {
    Order.RETRY: ("Try again now, without waiting for the next attempt's time.", "made due"),
    Order.HOLD: ("Hold: no attempt is made until it is released.", "held"),
    Order.RELEASE: ("Release what is held.", "released"),
    Order.DROP: ("Drop: remove from the queue; neither sender nor recipient is told.", "dropped"),
}


def order_command(order: Order, help_text: str, done: str) -> None:
    """Add ``mailgw queue ORDER``."""

    @queue.command(order.value, help=f"{help_text} Give message numbers, options that select, or both.")
    @click.argument("messages", nargs=-1, type=click.IntRange(1))
    @with_selection
    @click.option("--all", "everything", is_flag=True, help="The whole queue is meant.")
    @click.option("--reason", metavar="TEXT", default="", help="Kept with what is held, and in the log.")
    @with_json
    @speaking
    def command(speaker: Speaker, /, messages: tuple[int, ...], everything: bool, reason: str, **said: Any) -> None:
        selection = selected(messages=list(messages) or None, **said)
        if everything and selection:
            raise click.UsageError("--all means the whole queue; it cannot be combined with a selection")
        if not everything and not selection:
            raise click.UsageError("nothing is selected: give message numbers or options that select, or say --all")
        answer = speaker.order(f"queue_{order.value}", selection=selection, everything=everything, reason=reason)
        speaker.note_missing(answer)
        if speaker.as_json:
            speaker.out.json(answer)
        else:
            number = answer["recipients"]
            speaker.out.line(f"{number} recipient{'' if number == 1 else 's'} {done}")
            if not number and order is not Order.RELEASE:
                speaker.note("nothing matches that could be; what is being tried at this moment is not reached")
        if not answer["recipients"]:
            sys.exit(1)


for _order, (_help, _done) in ORDERS.items():
    order_command(_order, _help, _done)


@queue.command()
@click.argument("folder")
@with_json
@speaking
def recover(speaker: Speaker, folder: str) -> None:
    """Queue again what can be read of a damaged queue that was set aside. FOLDER: as in `mailgw status`, or a whole path.

    What was done is remembered in the folder: a second run goes on where the first one ended.
    """
    recovered, unreadable, left = 0, [], 1
    while left:
        answer = speaker.order("queue_recover", folder=folder)
        recovered, left = recovered + answer["recovered"], answer["left"]
        unreadable += answer["unreadable"]
        for one in answer["unreadable"] if not speaker.as_json else ():
            speaker.err.line(f"message {one['message']} cannot be read: {one['why']}")
    if speaker.as_json:
        speaker.out.json({"recovered": recovered, "unreadable": unreadable})
    else:
        speaker.out.line(f"{recovered} message{'' if recovered == 1 else 's'} queued again, {len(unreadable)} could not be read")
    if not recovered:
        sys.exit(1)


def next_attempt(entry: Mapping[str, Any], now: float) -> str:
    """When something will happen to a recipient."""
    if entry["leased"]:
        return "now"
    if entry["state"] != State.WAITING.value:
        return "-"
    return readable_age(entry["due"] - now) if entry["due"] > now else "due"


def destination(entry: Mapping[str, Any]) -> str:
    """``internet (example.org)``."""
    return f"{entry['gateway']} ({entry['next_hop']})" if entry["next_hop"] else entry["gateway"] or "-"


def last_word(entry: Mapping[str, Any]) -> str:
    """Why it is held, else the last reply."""
    return entry["reason"] or entry["reply"] or "-"
