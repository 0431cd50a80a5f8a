"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

from mailgw.admin.speaking import Speaker
from mailgw.values.ledger import State
from mailgw.values.quantities import parse_duration

__all__ = ["Age", "selected", "speaking", "with_json", "with_selection"]

Function = Callable[..., Any]
speaking = click.make_pass_decorator(Speaker, ensure=True)


def with_json(function: Function) -> Function:
    """Take ``--json`` here too."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Speaker).as_json = True

    return click.option("--json", is_flag=True, expose_value=False, callback=remember, help="Answer with one JSON object.")(function)


class Age(click.ParamType[float]):
    """``2h``, ``1d 12h``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


def with_selection(function: Function) -> Function:
    """Take the options that select recipients, as one argument ``selection``."""
    options = [
        click.option("--sender", metavar="ADDRESS", help='Of this sender; "<>" for bounces.'),
        click.option("--recipient", metavar="ADDRESS", help="To this recipient."),
        click.option("--domain", metavar="DOMAIN", help="To this recipient domain."),
        click.option("--gateway", metavar="NAME", help="Waiting for this gateway."),
        click.option("--state", type=click.Choice([state.value for state in State]), help="In this state."),
        click.option("--older-than", type=Age(), metavar="DURATION", help='Arrived longer ago than this, for example "2h".'),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def selected(**said: Any) -> dict[str, Any]:
    """What was said, without what was not."""
    return {key: value for key, value in said.items() if value not in (None, "", ())}
