"""The SASL mechanisms that we know as a server, by name, the strongest first."""

from collections.abc import Callable, Collection, Iterable, Mapping

from attrs import frozen

from mailgw.smtp.sasl import Circumstances, Exchange, cram_md5, external, login, oauthbearer, plain, xoauth2
from mailgw.smtp.scram import HASHES, scram

__all__ = ["MECHANISMS", "Mechanism", "base_of", "in_order"]

_PLUS = "-PLUS"


@frozen(kw_only=True)
class Mechanism:
    """One of them."""

    begin: Callable[[Circumstances], Exchange]
    speaks_first: bool = False  # the server does (RFC 4954 §4: then there must be no initial response)
    reveals: bool = False  # who listens learns a password or token


MECHANISMS: Mapping[str, Mechanism] = {
    **{f"SCRAM-{name}{_PLUS}": Mechanism(begin=scram(name, True)) for name in HASHES},
    **{f"SCRAM-{name}": Mechanism(begin=scram(name, False)) for name in HASHES},
    "EXTERNAL": Mechanism(begin=external),
    "OAUTHBEARER": Mechanism(begin=oauthbearer, reveals=True),
    "XOAUTH2": Mechanism(begin=xoauth2, reveals=True),
    "CRAM-MD5": Mechanism(begin=cram_md5, speaks_first=True),
    "PLAIN": Mechanism(begin=plain, reveals=True),
    "LOGIN": Mechanism(begin=login, reveals=True),
}


def base_of(name: str) -> str:
    """The mechanism without its channel binding: what accounts call it."""
    return name.removesuffix(_PLUS)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, the strongest first, those that we do not know at the end."""
    known: Collection[str] = list(MECHANISMS)
    wanted = set(names)
    return (*(name for name in known if name in wanted), *sorted(wanted.difference(known)))
