"""A bound on the CPU of each of some processes, by Linux' control groups, so that what sends to them has the rest.

Needs the right to make groups: root, and the file system of the controllers mounted for writing.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["Quota", "missing"]

_V2 = Path("/sys/fs/cgroup")
_V1 = _V2 / "cpu"
_PERIOD = 10_000  # µs: short, so that a process that has used up its share does not sleep for long


def _root() -> Path:
    return _V1 if _V1.is_dir() else _V2


def missing() -> str:
    """Why it cannot be used here."""
    root = _root()
    controls = root / ("cgroup.procs" if root == _V1 else "cgroup.subtree_control")
    if not controls.exists() or not os.access(root, os.W_OK) or os.statvfs(root).f_flag & os.ST_RDONLY:
        return "control groups cannot be made"
    return "" if root == _V1 or "cpu" in controls.read_text().split() else "the groups have no controller of the CPU"


class Quota:
    """Gives each process ``share`` of one core and no more; a context manager: at its end, those that still run are free again."""

    def __init__(self, share: float, pids: Iterable[int], root: Path | None = None) -> None:
        self._share, self._pids, self._root = share, list(pids), root or _root()
        self._groups: list[Path] = []

    def __enter__(self) -> "Quota":
        allowed = int(_PERIOD * self._share)
        for pid in self._pids:
            group = self._root / f"mailgw-benchmark-{pid}"
            group.mkdir()
            self._groups.append(group)
            if (self._root / "cpu.cfs_quota_us").exists():
                (group / "cpu.cfs_period_us").write_text(f"{_PERIOD}")
                (group / "cpu.cfs_quota_us").write_text(f"{allowed}")
            else:
                (group / "cpu.max").write_text(f"{allowed} {_PERIOD}")
            (group / "cgroup.procs").write_text(f"{pid}")
        return self

    def __exit__(self, *_: object) -> None:
        for group, pid in zip(self._groups, self._pids, strict=False):
            with suppress(OSError):  # it has ended
                (self._root / "cgroup.procs").write_text(f"{pid}")
            with suppress(OSError):
                group.rmdir()
