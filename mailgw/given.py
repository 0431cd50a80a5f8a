"""``given(IResolver)``: a field that the house provides."""

from typing import Any

import attrs
from zope.interface.interface import InterfaceClass

__all__ = ["given", "given_interface"]

_KEY = "mailgw.given"


def given(interface: InterfaceClass) -> Any:
    """Declare a field that is not a setting: the house fills it with its provider of ``interface``.

    In a test you pass it yourself, by keyword::

        clock: IClock = given(IClock)
    """
    return attrs.field(kw_only=True, metadata={_KEY: interface})


def given_interface(field: "attrs.Attribute[Any]") -> InterfaceClass | None:
    """The interface a field was given for, or None for a setting."""
    interface: InterfaceClass | None = field.metadata.get(_KEY)
    return interface
