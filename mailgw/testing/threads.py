"""Threads that are none: what would be done in one is done at once."""

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorThreads
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

__all__ = ["ThreadsAtOnce"]


class _PoolAtOnce(ThreadPool):
    def callInThreadWithCallback(  # noqa: N802
        self, onResult: Callable[[bool, Any], object] | None, func: Callable[..., Any], *args: Any, **kw: Any  # noqa: N803
    ) -> None:
        result: Any
        try:
            succeeded, result = True, func(*args, **kw)
        except Exception:
            succeeded, result = False, Failure()  # type: ignore[no-untyped-call]
        if onResult is not None:
            onResult(succeeded, result)


@implementer(IReactorThreads)
class ThreadsAtOnce:
    """For fields that are ``given(IReactorThreads)``: no thread is started, and what is awaited is there when it is asked for."""

    def __init__(self) -> None:
        self._pool = _PoolAtOnce(0, 1)

    def getThreadPool(self) -> ThreadPool:  # noqa: N802
        return self._pool

    def callInThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002, N802
        callable(*args, **kwargs)

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: A002, N802
        callable(*args, **kwargs)

    def suggestThreadPoolSize(self, size: int) -> None:  # noqa: N802
        """Nothing to suggest."""
