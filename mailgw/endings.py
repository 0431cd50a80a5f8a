"""What the code of others raises that would end more than it: the session that it was called in, a coroutine of ours, the process."""

from twisted.python.failure import Failure

__all__ = ["Ending", "no_ending"]


class Ending(Exception):
    """SystemExit, KeyboardInterrupt, GeneratorExit or their like as a fault; ``raised`` is what it was."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__(f"raised {raised!r}")
        self.raised = raised
        self.__cause__ = raised

    def __repr__(self) -> str:
        return repr(self.raised)


def no_ending(failure: Failure) -> Failure:
    """An errback for what others have promised: the failure, with `Ending` where it holds no Exception."""
    raised: BaseException | None = failure.value
    if raised is None or isinstance(raised, Exception):
        return failure
    return Failure(Ending(raised))  # type: ignore[no-untyped-call]
