"""``mailgw bans`` and ``mailgw fetched``: who may not log in for a while, and who has fetched mail."""

import sys

import click

from mailgw.admin.options import speaking, with_json
from mailgw.admin.speaking import Speaker
from mailgw.admin.tables import Column, readable_age

__all__ = ["bans", "fetched"]


@click.group(short_help="List and lift bans of networks that failed to log in.")
@with_json
def bans() -> None:
    """Look at the networks that failed to log in too often, and let them try again."""


LISTING = [
    Column("Network"),
    Column("Since", right=True),
    Column("Ends", right=True),
    Column("Failures", right=True),
    Column("Last account", folds=True),
]


@bans.command("list")
@with_json
@speaking
def list_(speaker: Speaker) -> None:
    """List the networks that are banned now."""
    answer = speaker.order("bans_list")
    if speaker.as_json:
        return speaker.out.json(answer)
    if not answer["bans"]:
        return speaker.out.line("nobody is banned")
    speaker.out.table(
        LISTING,
        [
            (
                ban["network"],
                f"{readable_age(speaker.now - ban['since'])} ago",
                f"in {readable_age(ban['until'] - speaker.now)}",
                ban["failures"],
                ban["account"] or "-",
            )
            for ban in answer["bans"]
        ],
    )
    return None


@bans.command(short_help="Let a network log in again.")
@click.argument("network", required=False, default="")
@click.option("--all", "everything", is_flag=True, help="Lift all bans.")
@with_json
@speaking
def lift(speaker: Speaker, network: str, everything: bool) -> None:
    """Let NETWORK, or the network of an IP address, log in again; its failures are forgotten."""
    if bool(network) == everything:
        raise click.UsageError("say a network, or --all")
    answer = speaker.order("bans_lift", network=network, everything=everything)
    if speaker.as_json:
        speaker.out.json(answer)
    for lifted in answer["lifted"] if not speaker.as_json else ():
        speaker.out.line(f"{lifted} may log in again")
    if not answer["lifted"]:
        if not speaker.as_json:
            speaker.note("no such network is banned" if network else "nobody is banned")
        sys.exit(1)


@click.command(short_help="Say who has just fetched mail, for POP before SMTP.")
@click.argument("address")
@click.option("--login", metavar="NAME", default="", help="Who has fetched it, for the log.")
@with_json
@speaking
def fetched(speaker: Speaker, address: str, login: str) -> None:
    """Say that somebody has just fetched mail from the IP ADDRESS, with a password.

    For other POP3 or IMAP servers: where a permit rule has the type "recently-fetched", he may send from there for a while.
    """
    answer = speaker.order("fetched", address=address, login=login)
    if speaker.as_json:
        speaker.out.json(answer)
