"""A reactor for one command."""

import os
import signal
import sys
import threading

import pytest
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from mailgw.admin.own_reactor import run


async def later(reactor, value="done"):
    await deferLater(reactor, 0.001)
    return value


def test_it_gives_what_the_coroutine_gives():
    assert run(later) == "done"
    assert run(lambda reactor: later(reactor, 2)) == 2


def test_it_raises_what_the_coroutine_raises():
    async def fail(reactor):
        await later(reactor)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run(fail)


def test_a_coroutine_that_need_not_wait():
    async def at_once(reactor):
        return 1

    assert run(at_once) == 1


def test_it_has_threads():
    async def elsewhere(reactor):
        return await deferToThreadPool(reactor, reactor.getThreadPool(), threading.get_ident)

    assert run(elsewhere) != threading.get_ident()


def test_it_is_not_installed_and_leaves_nothing_open():
    before = "twisted.internet.reactor" in sys.modules
    run(later)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run(later)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert ("twisted.internet.reactor" in sys.modules) == before


def test_an_interrupt_ends_it():
    ended = []

    async def wait(reactor):
        reactor.callLater(0, os.kill, os.getpid(), signal.SIGINT)
        try:
            await deferLater(reactor, 1000)
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        run(wait)
    assert ended == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_a_thread():
    given = []
    thread = threading.Thread(target=lambda: given.append(run(later)))
    thread.start()
    thread.join(60)
    assert given == ["done"]
