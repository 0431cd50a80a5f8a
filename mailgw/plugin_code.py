"""The code of plugins, as it was when it was imported; what has changed since can be imported anew, and put back.

A package is taken as a whole: its modules know each other. Drop-ins are looked at one by one, and follow when a package does.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import invalidate_caches
from importlib.metadata import files
from pathlib import Path
from types import ModuleType
from typing import Any

from attrs import define, field

__all__ = ["PluginCode", "Renewal"]

_NAMED = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*:[A-Za-z_][\w.]*\Z")  # "module:Class", and what a setting may say alike
_DROP_INS = "twisted.plugins."
_OURS = ("mailgw", "twisted")  # these need a restart
_State = tuple[int, int, int]


@define
class Renewal:
    """What was imported anew: it is put back at the end unless ``keep`` is set."""

    modules: Sequence[str]
    keep: bool = False


@define
class PluginCode:
    """Call `note` when plugins have been imported."""

    _known: dict[str, _State] = field(factory=dict, init=False)

    def note(self, *said: str) -> None:
        """Remember how the files are now; ``said``: what a configuration says that may name plugins, as "module:Class"."""
        # Twisted's own drop-ins are among them until something has changed: to know which they are costs a start 20 ms.
        roots = {match[1] for text in said if (match := _NAMED.match(text))} - set(_OURS)
        self._known = {name: _state(module) for name, module in list(sys.modules.items()) if _is_plugin(name, module, roots)}

    def changed(self) -> list[str]:
        """The modules whose files are not as they were."""
        return sorted(name for name, state in self._known.items() if _state(sys.modules.get(name)) != state and not _is_twisted(name))

    @contextmanager
    def renewed(self) -> Iterator[Renewal]:
        """Whoever imports plugins in here gets what lies on the disk now."""
        invalidate_caches()
        changed = self.changed()
        if not changed:
            yield Renewal(())
            return
        roots = {name.partition(".")[0] for name in changed if not name.startswith(_DROP_INS)}
        known = [name for name in self._known if name in sys.modules and not _is_twisted(name)]
        gone = [name for name in known if name.startswith(_DROP_INS) or name.partition(".")[0] in roots]
        before = {name: sys.modules.pop(name) for name in gone}
        renewal = Renewal(changed)
        try:
            yield renewal
        finally:
            if not renewal.keep:
                for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
                    del sys.modules[name]
                sys.modules.update(before)


def _is_plugin(name: str, module: ModuleType | None, roots: set[str]) -> bool:
    if name.startswith(_DROP_INS):
        return not name.startswith(f"{_DROP_INS}mailgw_")
    return name.partition(".")[0] in roots and module is not None


def _is_twisted(name: str) -> bool:
    return f"{name.replace('.', '/')}.py" in _twisted_files()


@cache
def _twisted_files() -> frozenset[str]:
    return frozenset(str(path) for path in files("Twisted") or ())


def _state(module: Any) -> _State:
    path = getattr(module, "__file__", None)
    try:
        status = Path(path).stat() if path else None
    except OSError:
        status = None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else (0, 0, 0)
