"""Asking policies, one after the other, within a time limit."""

from typing import Any

from attrs import frozen

__all__ = ["Asked", "Rules"]


@frozen
class Asked:
    """A policy as the configuration lists it."""

    name: str  # "spf", as in [policy.spf]
    component: Any  # provides one or more of the policy interfaces
    timeout: float = 30.0  # seconds
    where: str = ""  # "etc/mailgw.toml:57"


@frozen
class Rules:
    """Who is asked at each stage of a listener's conversations, compiled at assembly; an empty stage costs nothing."""

    client: tuple[Asked, ...] = ()
    sender: tuple[Asked, ...] = ()
    relay: tuple[Asked, ...] = ()  # the permit rules; the end of the list means no
    recipient: tuple[Asked, ...] = ()
    content: tuple[Asked, ...] = ()
