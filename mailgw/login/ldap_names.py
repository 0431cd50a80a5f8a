"""A user's name inside of a filter or a distinguished name, where it can mean nothing but itself."""

import re
import warnings
from typing import Any

from ldaptor.protocols import pureldap

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it uses old names of pyparsing
    from ldaptor.ldapfilter import InvalidLDAPFilter, parseFilter

__all__ = ["LOGIN", "FilterTemplate", "dn_with"]

LOGIN = "{login}"
_SPECIAL = re.compile(r'[,+"\\<>;=]')


class FilterTemplate:
    """A search filter (RFC 4515) with ``{login}`` in it. It is read before a name is put in, so no name can change its shape.

    Raises ValueError for a text that is no filter, or in which the name is not a whole value that must be equal.
    """

    def __init__(self, text: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tree = parseFilter(text)
        except InvalidLDAPFilter:
            raise ValueError(f'"{text}" is no LDAP filter; write it like "(uid={LOGIN})"') from None
        self._places = 0
        self._filled(self._tree, LOGIN.encode())
        if not self._places or text.count(LOGIN) != self._places:
            raise ValueError(f'"{text}": {LOGIN} must be a whole value, as in "(uid={LOGIN})"')

    def filled(self, login: str) -> Any:
        """The filter with a name in it, as ldaptor sends it."""
        return self._filled(self._tree, login.encode())

    def _filled(self, node: Any, login: bytes) -> Any:
        if isinstance(node, pureldap.LDAPFilterSet):
            return type(node)([self._filled(one, login) for one in node])
        if isinstance(node, pureldap.LDAPFilter_not):
            return pureldap.LDAPFilter_not(self._filled(node.value, login))
        if isinstance(node, pureldap.LDAPFilter_equalityMatch):
            value = node.assertionValue.value
            if value in (LOGIN, LOGIN.encode()):
                self._places += 1
                return pureldap.LDAPFilter_equalityMatch(node.attributeDesc, pureldap.LDAPAssertionValue(login))
        return node


def dn_with(template: str, login: str) -> str:
    """A distinguished name with a user's name in place of ``{login}`` (RFC 4514 §2.4)."""
    escaped = _SPECIAL.sub(lambda match: f"\\{match[0]}", login).replace("\0", "\\00")
    if escaped.startswith(("#", " ")):
        escaped = f"\\{escaped}"
    if escaped.endswith(" ") and not escaped.endswith("\\ "):
        escaped = f"{escaped[:-1]}\\ "
    return template.replace(LOGIN, escaped)
