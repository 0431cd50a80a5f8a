"""Which recipients the operator means: plain data, as JSON carries it, into a `Selection`."""

from collections.abc import Mapping
from typing import Any

from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.ledger import Selection, State

__all__ = ["MOST", "BadRequest", "selection_from"]

MOST = 10_000  # entries in one answer: about 4 MB of JSON, however long the queue is
DEFAULT_LIMIT = 100
FIELDS = ("message", "sender", "recipient", "domain", "gateway", "state", "older_than", "limit")


class BadRequest(Exception):
    """The request makes no sense; the text says why, in words fit for the operator."""


def selection_from(said: Mapping[str, Any], now: float) -> Selection:
    """The selection for ``{"domain": "example.org", "state": "held", "older_than": 7200, "limit": 100}``.

    The keys are those of `Selection`; ``older_than`` is an age in seconds before ``now`` (POSIX seconds), ``state`` a name.
    Addresses and domains are given in any spelling. Raises BadRequest.
    """
    for key in said:
        if key not in FIELDS:
            raise BadRequest(f'a selection has no "{key}"; it has {", ".join(FIELDS)}')
    older_than = _number(said, "older_than", 0)
    return Selection(
        message=_integer(said, "message"),
        sender=_address(_text(said, "sender")),
        recipient=_address(_text(said, "recipient")),
        domain=_domain(_text(said, "domain")),
        gateway=_text(said, "gateway"),
        state=_state(_text(said, "state")),
        older_than=None if older_than is None else now - older_than,
        limit=_limit(_integer(said, "limit")),
    )


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said.get(key, "")
    if not isinstance(value, str):
        raise BadRequest(f"{key} must be a text")
    return value


def _number(said: Mapping[str, Any], key: str, least: float) -> float | None:
    value = said.get(key)
    if value is None:
        return None
    # "not (value >= least)": NaN is no number of seconds either.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise BadRequest(f"{key} must be a number, at least {least}")
    return value


def _integer(said: Mapping[str, Any], key: str) -> int | None:
    value = _number(said, key, 1)
    # SQLite's integers end at 2**63 - 1.
    if value is not None and (not isinstance(value, int) or value >= 2**63):
        raise BadRequest(f"{key} must be a whole number")
    return value


def _limit(limit: int | None) -> int:
    if limit is None:
        return DEFAULT_LIMIT
    if limit > MOST:
        raise BadRequest(f"limit must be at most {MOST}")
    return limit


def _state(name: str) -> State | None:
    if not name:
        return None
    try:
        return State(name)
    except ValueError:
        raise BadRequest(f'there is no state "{name}"; the states are {", ".join(state.value for state in State)}') from None


def _address(text: str) -> str:
    if text in ("", "<>"):
        return text
    text = text.removeprefix("<").removesuffix(">")
    if text.lower() == "postmaster":
        return text  # it needs no domain (RFC 5321 §4.5.1)
    try:
        return str(Address.parse(text))
    except BadAddress as problem:
        raise BadRequest(f'"{text}" is no address: {problem}') from None


def _domain(text: str) -> str:
    if not text:
        return ""
    try:
        return parse_domain(text.removeprefix("@"))
    except BadAddress as problem:
        raise BadRequest(f'"{text}" is no domain: {problem}') from None
