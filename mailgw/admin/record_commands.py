"""``mailgw explain``, ``mailgw log``, ``mailgw policy report``: why was that?"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from mailgw.admin.explaining import summary, tell
from mailgw.admin.options import Age, speaking, with_json
from mailgw.admin.speaking import Speaker
from mailgw.admin.stories import Filter, Stories, Story

__all__ = ["explain", "log", "policy"]

_MOST_SHOWN = 20  # stories of one address


def stories_of(speaker: Speaker) -> Stories:
    """The records of the daemon, running or not. Raises Exit."""
    state = speaker.where().state
    if state is None:
        raise speaker.failed("configuration", "the state folder is not known; say --config FILE")
    folder = state / "records"
    try:
        if not folder.is_dir():
            raise speaker.failed("not-found", f"there are no decision records in {folder}")
        os.scandir(folder).close()  # else a folder that may not be read would look empty
        return Stories(folder)
    except OSError as problem:
        remedy = "run mailgw as the daemon's user, or as root"
        raise speaker.failed("unavailable", f"{problem.filename}: {problem.strerror}; {remedy}") from None


@click.command(short_help="Tell why mail was refused, or what became of it.")
@click.argument("what", metavar="REF|QUEUE-ID|SESSION|ADDRESS")
@with_json
@speaking
def explain(speaker: Speaker, what: str) -> None:
    """Tell the story of a refusal, a message or an address: which rule, on which fact, in which line.

    REF is what stands at the end of a refusal: "[ref 7QK3M]". Of an address, the newest 20 stories are told.
    """
    found = stories_of(speaker).about(what)
    if not found:
        raise speaker.failed("not-found", f"nothing is known about {what}: no such reference, message, session or address in the records")
    found = _without_echoes(found)
    shown = found[-_MOST_SHOWN:]
    if len(found) > len(shown):
        speaker.note(f"{len(found)} stories; these are the newest {len(shown)}. mailgw log --address {what} lists all")
    if speaker.as_json:
        return speaker.out.json({"stories": [{**story.record, "later": list(story.later)} for story in shown]})
    for number, story in enumerate(shown):
        if number:
            speaker.out.line("")
        for line in tell(story):
            speaker.out.line(line)
    return None


def _without_echoes(found: Sequence[Story]) -> list[Story]:
    """All but transactions that were given up because everybody in them was refused, where those refusals are told."""
    refused = {_place(story.record) for story in found if story.record["event"] == "refused"}

    def is_echo(one: Mapping[str, Any]) -> bool:
        is_meant = one["event"] == "abandoned" and "more" not in one and _place(one) in refused
        return is_meant and not any(way["reply"].startswith("2") for way in one.get("recipients", ()))

    return [story for story in found if not is_echo(story.record)]


def _place(one: Mapping[str, Any]) -> tuple[Any, Any]:
    return one.get("session"), one.get("transaction")


@click.command(short_help="List decisions and deliveries, a line each.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens from now on, until interrupted.")
@click.option("--address", metavar="ADDRESS", default="", help='Sender or recipient; "@example.org" for all of a domain.')
@click.option("--client", metavar="CLIENT", default="", help="IP address, login or HELO name.")
@click.option(
    "--verdict", metavar="WORD", default="", help="accepted, held, refused, discarded, delivered ...; or reject, defer, ... of a policy."
)
@click.option("--policy", metavar="NAME", default="", help="Asked this policy, or refused by it.")
@click.option("--since", type=Age(), metavar="DURATION", help='Not older than this, for example "2h".')
@click.option("--until", type=Age(), metavar="DURATION", help="Not younger than this.")
@with_json
@speaking
def log(speaker: Speaker, /, follow: bool, since: float | None, until: float | None, **said: str) -> None:
    """List decisions and deliveries, a line each; with --json, a JSON object each."""
    stories = stories_of(speaker)
    wanted = Filter(
        **said,
        since=0.0 if since is None else speaker.now - since,
        until=float("inf") if until is None else speaker.now - until,
    )
    entries: Iterator[dict[str, Any]] = stories.follow(wanted) if follow else stories.matching(wanted)
    with suppress(KeyboardInterrupt, BrokenPipeError):
        for entry in entries:
            if speaker.as_json:
                speaker.out.json_line(entry)
            else:
                speaker.out.line(summary(entry))
            if follow:
                sys.stdout.flush()


@click.group()
@with_json
def policy() -> None:
    """Look at policies at work."""


@policy.command(short_help="Say what a policy has decided, or would have.")
@click.argument("name")
@click.option("--since", type=Age(), metavar="DURATION", help='Not older than this, for example "7d"; default: all that is kept.')
@with_json
@speaking
def report(speaker: Speaker, name: str, since: float | None) -> None:
    """Say what policy NAME has decided, or in mode "observe" would have: to whom, how often, and whether others agree."""
    began = time.time() if since is None else speaker.now - since
    wanted = Filter(policy=name, since=0.0 if since is None else began)
    answer = counted(stories_of(speaker), wanted)
    if not answer["asked"]:
        raise speaker.failed("not-found", f'the records know no answer of policy "{name}"')
    if speaker.as_json:
        return speaker.out.json(answer)
    for line in told(answer):
        speaker.out.line(line)
    return None


def counted(stories: Stories, wanted: Filter) -> dict[str, Any]:
    """What a policy said: how often, about whom, and what became of the mail all the same."""
    verdicts: Counter[str] = Counter()
    clients: Counter[str] = Counter()
    senders: Counter[str] = Counter()
    replies: Counter[str] = Counter()
    faults = 0
    seen: set[tuple[Any, ...]] = set()
    fates: dict[tuple[Any, ...], str] = {}  # of what was objected to: what became of it, a line if it was taken
    for entry in stories.matching(wanted):
        for said in entry.get("asked", ()):
            if said["policy"] != wanted.policy:
                continue
            # What was said before the greeting is told with each transaction, a refused recipient at once and with its transaction.
            transaction = 0 if said["stage"] == "connect" else entry.get("transaction", 0)
            once = (entry["session"], entry["client"]["ip"], transaction, said["stage"], said.get("recipient", ""))
            if said["verdict"] != "proceed" and said.get("observed"):
                fates[once] = fates.get(once) or _fate(entry, said)
            if once in seen:
                continue
            seen.add(once)
            verdicts[said["verdict"]] += 1
            faults += "fault" in said
            if said["verdict"] == "proceed":
                continue
            clients[entry["client"]["ip"]] += 1
            senders[entry.get("sender", "-")] += 1
            replies[said.get("reply") or said.get("why", "")] += 1
    taken = [line for line in fates.values() if line]
    return {
        "policy": wanted.policy,
        "asked": sum(verdicts.values()),
        "verdicts": dict(verdicts.most_common()),
        "faults": faults,
        "observed": len(fates),
        "refused_by_others_too": len(fates) - len(taken),
        "taken_all_the_same": len(taken),
        "clients": dict(clients.most_common(10)),
        "senders": dict(senders.most_common(10)),
        "replies": dict(replies.most_common(10)),
        "examples": taken[-10:],
    }


def _fate(entry: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """A line about the mail that was taken in spite of an objection; empty: it was refused, or given up."""
    about = said.get("recipient")
    ways = [way for way in entry.get("recipients", ()) if way["address"] == about]
    is_taken = entry["event"] in _TAKEN and (not ways or any(way["reply"].startswith("2") for way in ways))
    return summary(entry) if is_taken else ""


_TAKEN = ("accepted", "held", "discarded")


def told(answer: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    asked = answer["asked"]
    verdicts = ", ".join(f"{word} {count} ({100 * count / asked:.1f} %)" for word, count in answer["verdicts"].items())
    yield f"policy {answer['policy']}: asked {asked} times: {verdicts}"
    if answer["faults"]:
        yield f"it could not answer {answer['faults']} times"
    if answer["observed"]:
        yield (
            f"it only observes. Had it been enforced: {answer['observed']} objection{'s' * (answer['observed'] != 1)}, "
            f"{answer['refused_by_others_too']} of them to what was refused anyway, {answer['taken_all_the_same']} to what was taken"
        )
    for title in ("replies", "clients", "senders"):
        if answer[title]:
            yield ""
            yield f"most frequent {title}:"
            yield from (f"  {count:6}  {text}" for text, count in answer[title].items())
    if answer["examples"]:
        yield ""
        yield "what was taken and would not have been (the newest):"
        yield from (f"  {line}" for line in answer["examples"])
