"""``mailgw``: how the operator says it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import asdict

from mailgw.admin.account_commands import account
from mailgw.admin.checking import check as inspect
from mailgw.admin.login_commands import bans, fetched
from mailgw.admin.options import speaking, with_json
from mailgw.admin.queue_commands import queue
from mailgw.admin.record_commands import explain, log, policy
from mailgw.admin.simulate_commands import simulate_command
from mailgw.admin.speaking import Speaker
from mailgw.admin.spf_command import spf
from mailgw.admin.still_house import still_house
from mailgw.admin.tables import Column, Printer, readable_age, readable_size
from mailgw.components import Listing, catalogue
from mailgw.config.matrix import Cell

__all__ = ["main"]

EPILOG = """\b
Exit status:
  0  done; a listing may be empty
  1  nothing matched: no such message, no recipient changed, no route, no such component
  2  bad usage or bad configuration
  3  the daemon is needed and cannot be reached, or could not do it

\b
The configuration is the first of --config, $MAILGW_CONFIG, /etc/mailgw/mailgw.toml;
without any, the demo's ./demo/mailgw.toml.

\b
Completion, for bash (zsh and fish likewise):
  eval "$(_MAILGW_COMPLETE=bash_source mailgw)"
"""


MOMENTS = ("oldest", "until", "since")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="The configuration.")
@click.option(
    "--socket", type=click.Path(path_type=Path), metavar="PATH", help="The daemon's admin socket, instead of the configuration's."
)
@with_json
@click.version_option(package_name="mailgw")
@speaking
def main(speaker: Speaker, config: Path | None, socket: Path | None) -> None:
    """Look after a mailgw: its configuration, its queue, its running daemon."""
    speaker.config, speaker.socket = config, socket


main.add_command(queue)
main.add_command(account)
main.add_command(bans)
main.add_command(fetched)
main.add_command(explain)
main.add_command(log)
main.add_command(policy)
main.add_command(simulate_command)
main.add_command(spf)


@main.command(short_help="Report all errors of a configuration, and who may send where.")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@with_json
@speaking
def check(speaker: Speaker, file: Path | None) -> None:
    """Check the configuration, or FILE: report all that is wrong with it, then show who may send where.

    Warnings alone do not fail: the exit status is 0.
    """
    path = file or speaker.configuration()
    checked = inspect(path, still_house)
    if speaker.as_json:
        problems = [asdict(problem) for problem in checked.problems]
        speaker.out.json({"file": str(path), "ok": checked.is_usable, "problems": problems, "matrix": [asdict(c) for c in checked.matrix]})
    else:
        for problem in checked.problems:
            for line in str(problem).split("\n"):
                speaker.err.line(line)
        if checked.is_usable:
            tell_matrix(speaker.out, checked.matrix)
            speaker.out.line(f"{path}: ok")
    if not checked.is_usable:
        sys.exit(2)


def tell_matrix(out: Printer, matrix: Sequence[Cell]) -> None:
    """Print the relay matrix: a row for each listener and kind of client."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = {}
    for cell in matrix:
        rows.setdefault((cell.listener, cell.client), {"permitted": [], "unknown": [], "no": []})[cell.answer].append(cell.recipient)
    titles = {"permitted": "May send to", "unknown": "Cannot be said of", "no": "Not to"}
    shown = [answer for answer in titles if answer != "unknown" or any(row["unknown"] for row in rows.values())]
    out.table(
        [Column("Listener"), Column("Client"), *(Column(titles[answer], folds=True) for answer in shown)],
        [(*key, *(", ".join(row[answer]) or "-" for answer in shown)) for key, row in rows.items()],
    )
    out.line("")


@main.command(short_help="Have the running daemon read its configuration again.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@with_json
@speaking
def reload(speaker: Speaker, dry_run: bool) -> None:
    """Have the running daemon read its configuration again: new sessions and deliveries follow it, others end as they began.

    All is checked first. Where anything is wrong, or cannot change while mailgw runs, nothing changes, and the exit status is 2. Code of
    plugins that has changed is imported anew. SIGHUP does the same, and tells the log.
    """
    answer = speaker.order("reload", dry_run=dry_run)
    if speaker.as_json:
        return speaker.out.json(answer)
    for warning in answer["warnings"]:
        speaker.err.line(warning)
    for change in answer["changes"]:
        speaker.out.line(change)
    many = len(answer["changes"])
    number = "nothing changes" if not many else "1 change" if many == 1 else f"{many} changes"
    speaker.out.line(f"{number}: {'in force for new sessions and deliveries' if answer['applied'] else 'not applied'}")
    return None


@main.command()
@with_json
@speaking
def status(speaker: Speaker) -> None:
    """Say how the running daemon is.

    \b
    faults        what is a "fault" line in the log, since the start
    queue         recipients by state; oldest: the arrival of the oldest message
    certificates  until: when the first of a chain expires
    store         room: what may still be written before new mail hears 452
    dispatcher    lanes: destinations that have work or are backed off;
                  active: deliveries under way; waiting: those in memory that
                  wait for their turn; memory: octets of both; unsettled:
                  outcomes that are not on the disk yet; backed off: what
                  cannot be reached
    resolver      hits, misses: answers from the cache, and others; in flight:
                  questions under way; kept: answers in the cache
    """  # noqa: D301 - \b is for click
    answer = speaker.order("status")
    speaker.note_missing(answer)
    if speaker.as_json:
        return speaker.out.json(answer)
    answer.pop("missing", None)
    # What is over stays for the sake of others of its message alone: a 0 here would be read as "nothing was delivered".
    answer["queue"] = {key: value for key, value in answer["queue"].items() if value or key not in ("delivered", "failed", "dropped")}
    speaker.out.tree(readable(answer, speaker.now))
    return None


def readable(data: Any, now: float, key: str = "") -> Any:
    """The status with its durations and times made readable: what is called one of `MOMENTS` is in POSIX seconds."""
    if isinstance(data, Mapping):
        return {name: readable(value, now, name) for name, value in data.items()}
    if isinstance(data, list):
        return [readable(value, now) for value in data]
    if key == "uptime":
        return readable_age(data)
    if key == "room" and isinstance(data, int):
        return readable_size(data) if data >= 0 else f"none, {readable_size(-data)} too little"
    if key == "damage":
        return data or "none"
    if key in MOMENTS and isinstance(data, int | float):
        return f"in {readable_age(data - now)}" if data > now else f"{readable_age(now - data)} ago"
    return "-" if data is None else data


@main.command(short_help="Say which way mail for an address would go.")
@click.argument("address")
@click.option("--from", "sender", metavar="ADDRESS", default="", help="The sender; none: the null reverse-path.")
@click.option("--login", metavar="NAME", default="", help="The client has logged in with this name.")
@click.option("--ip", metavar="IP", default="", help="The client's address; none: a stranger's.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A tag that a policy has set; may be repeated.")
@with_json
@speaking
def route(speaker: Speaker, /, address: str, **said: Any) -> None:
    """Say which way mail for ADDRESS would go, whether it is known there, and who may send it."""
    with speaker.routing() as (ask, source):
        answer = ask("route", address=address, **{key: list(value) if key == "tags" else value for key, value in said.items()})
    if speaker.as_json:
        speaker.out.json({"source": source, **answer})
    else:
        tell_way(speaker.out, answer)
    if answer["route"] is None:
        sys.exit(1)


def tell_way(out: Printer, answer: Mapping[str, Any]) -> None:
    """Print what `mailgw.admin.signpost.Signpost.ask` answered."""
    way, recipient = answer["route"], answer["recipient"]
    pairs = [("address", answer["address"])]
    if way is None:
        pairs.append(("route", "none: mail for it is refused"))
    else:
        pairs += [
            ("rule", f"{way['rule']} ({way['where']})" if way["where"] else way["rule"]),
            ("gateway", way["gateway"]),
            ("next hop", way["next_hop"] or "as the gateway says"),
        ]
        if way["because"]:
            pairs.append(("because", way["because"]))
    pairs.append(("recipient", f"{recipient['state']}: {recipient['text']}" if recipient["text"] else recipient["state"]))
    out.pairs(pairs)
    if answer["permit"]:
        out.line("")
        out.table(
            [Column("Listener"), Column("May send"), Column("By", folds=True)],
            [(each["listener"], "yes" if each["permitted"] else "no", each["by"]) for each in answer["permit"]],
        )


@main.command(short_help="List what a configuration can name as a type; its settings.")
@click.argument("name", required=False)
@with_json
@speaking
def components(speaker: Speaker, name: str | None) -> None:
    """List what a configuration can name as a type; with NAME, its settings. Says so of those that cannot be used."""
    found = [one for one in catalogue() if name in (None, one.name)]
    if name and not found:
        raise speaker.failed("not-found", f'there is no component "{name}"')
    if speaker.as_json:
        return speaker.out.json({"components": [asdict(one) for one in found]})
    if name is None:
        speaker.out.table(
            [Column("Name"), Column("Is"), Column("Summary", folds=True)],
            [(one.name or "-", ", ".join(one.interfaces) or "unusable", one.problem or one.summary) for one in found],
        )
        return None
    for one in found:
        tell_component(speaker.out, one)
    return None


def tell_component(out: Printer, one: Listing) -> None:
    """Print all that is known about a component."""
    facts = [("name", one.name), ("is", ", ".join(one.interfaces)), ("class", one.module), ("from", one.door), ("summary", one.summary)]
    out.pairs((key, value) for key, value in [*facts, ("problem", one.problem)] if value)
    for line in one.detail.rstrip().split("\n") if one.detail else []:
        out.line(line)
    if one.settings:
        out.line("")
        out.table(
            [Column("Setting"), Column("Type", folds=True), Column("Default", folds=True)],
            [(setting.name, setting.type, "(must be given)" if setting.default is None else setting.default) for setting in one.settings],
        )
    out.line("")
