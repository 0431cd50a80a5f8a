"""What an operator's selection compares with, in the spelling in which addresses are compared."""

from attrs import frozen

from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.ledger import Selection

__all__ = ["Matching"]


@frozen
class Matching:
    """A `Selection` with its addresses as `Address.folded` spells them; None where anything matches."""

    selection: Selection
    sender: str | None
    recipient: str | None
    domain: str | None

    @classmethod
    def of(cls, selection: Selection) -> "Matching":
        """Spell the selection's addresses. What is no address is compared as it is, in lower case."""
        return cls(
            selection,
            _folded(selection.sender) if selection.sender else None,
            _folded(selection.recipient) if selection.recipient else None,
            _domain(selection.domain) if selection.domain else None,
        )


def _folded(text: str) -> str:
    if text == "<>":
        return "@"
    try:
        return Address.parse(text).folded
    except BadAddress:
        return (text if "@" in text else f"{text}@").lower()


def _domain(text: str) -> str:
    try:
        return parse_domain(text).lower()
    except BadAddress:
        return text.lower()
