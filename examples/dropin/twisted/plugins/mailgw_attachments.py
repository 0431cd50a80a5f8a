"""A content policy; the door is a Twisted drop-in: a file in a folder ``twisted/plugins`` on the Python path, without ``__init__.py``."""

import re

from twisted.plugin import IPlugin

from mailgw.api import IComponentFactory, IContentPolicy, frozen, implementer, proceed, quarantine

_NAME = re.compile(rb'name="?([^"\r\n;]+)', re.IGNORECASE)


@implementer(IContentPolicy)
@frozen
class Attachments:
    """Messages with an attachment whose plain name has a dangerous ending wait for an operator."""

    endings: tuple[str, ...] = (".exe", ".scr", ".js")

    def check_content(self, facts):
        endings = tuple(ending.lower().encode() for ending in self.endings)
        for name in _NAME.findall(facts.content.read()):
            if name.lower().endswith(endings):
                return quarantine(f"attachment {name.decode('ascii', 'replace')}")
        return proceed()


@implementer(IPlugin, IComponentFactory)
@frozen
class Factory:
    """What the drop-in gives: the name that the configuration says, and the class."""

    name: str
    component: type


attachments = Factory("attachments", Attachments)
