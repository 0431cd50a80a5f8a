"""``mailgw``: how the operator says it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mailgw.admin.options import speaking, with_json
from mailgw.admin.queue_commands import queue
from mailgw.admin.speaking import Speaker
from mailgw.admin.tables import readable_age

__all__ = ["main"]

EPILOG = """\b
Exit status:
  0  done; a listing may be empty
  1  nothing matched: no such message, no recipient changed, no route, no such component
  2  bad usage or bad configuration
  3  the daemon is needed and cannot be reached, or could not do it

\b
The configuration is the first of --config, $MAILGW_CONFIG, /etc/mailgw/mailgw.toml;
without any, the demo's folder ./demo.

\b
Completion, for bash (zsh and fish likewise):
  eval "$(_MAILGW_COMPLETE=bash_source mailgw)"
"""


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


@main.command()
@with_json
@speaking
def status(speaker: Speaker) -> None:
    """Say how the running daemon is."""
    answer = speaker.order("status")
    if speaker.as_json:
        return speaker.out.json(answer)
    speaker.out.tree(readable(answer, time.time()))
    return None


def readable(answer: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The status with its durations and times made readable."""
    queue_ = dict(answer["queue"])
    queue_["oldest"] = readable_age(now - queue_["oldest"]) if queue_["oldest"] else "-"
    return {**answer, "uptime": readable_age(answer["uptime"]), "queue": queue_}
