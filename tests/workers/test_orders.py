"""What a worker does when its parent tells it, and what becomes of the descriptors that come along; and its lifeline."""

import os
import resource
import socket
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from attrs import define, field
from few_descriptors import room_for

from mailgw.admin.reading import Refusal
from mailgw.listening import CannotBind, Inherited
from mailgw.problems import BadConfiguration, Problem
from mailgw.testing import run
from mailgw.workers.lifeline import is_cut
from mailgw.workers.orders import Orders
from mailgw.workers.transcript import text_in, transcript


@define
class Gateway:
    """Builds what it is told, and takes the first of the sockets."""

    texts: list = field(factory=list)
    adopted: list = field(factory=list)
    ends: int = 0
    refuses: bool = False

    @contextmanager
    def plan(self, text):
        if text == "bad":
            raise BadConfiguration([Problem("file", 1, "nonsense")])
        self.texts.append(text)
        try:
            yield text
        finally:
            self.ends += 1

    def adopt(self, plan, sockets):
        if self.refuses:
            raise CannotBind("no such socket")
        self.adopted.append((plan, list(sockets)))
        name = next(iter(sockets))
        os.close(sockets.pop(name))


@pytest.fixture
def handed():
    """A transcript and two descriptors; all that is open afterwards was open before."""
    before = os.listdir("/proc/self/fd")
    copy, (one, other) = transcript("new\u00e4"), os.pipe()
    yield [copy, one, other]
    for descriptor in (copy, one, other):
        os.close(descriptor)
    assert os.listdir("/proc/self/fd") == before


def order(orders, name, **arguments):
    return run(orders.by_name()[f"reload_{name}"](**arguments))


def test_made_ready_and_kept(handed):
    orders = Orders(gateway := Gateway())
    order(orders, "prepare", sockets=["mx tcp:25", "more tcp:26"], descriptors=handed)
    assert (gateway.texts, gateway.adopted, gateway.ends) == (["new\u00e4"], [], 0)
    order(orders, "keep")
    assert (gateway.adopted, gateway.ends) == ([("new\u00e4", ["mx tcp:25", "more tcp:26"])], 1)
    with pytest.raises(Refusal, match="nothing was made ready"):
        order(orders, "keep")


def test_made_ready_and_dropped(handed):
    orders = Orders(gateway := Gateway())
    order(orders, "prepare", sockets=["a b", "c d"], descriptors=handed)
    order(orders, "drop")
    order(orders, "drop")
    assert (gateway.adopted, gateway.ends) == ([], 1)


def test_made_ready_twice(handed):
    orders = Orders(gateway := Gateway())
    for _ in range(2):
        order(orders, "prepare", sockets=["a b", "c d"], descriptors=handed)
    assert gateway.ends == 1
    order(orders, "keep")
    assert (len(gateway.adopted), gateway.ends) == (1, 2)


def test_what_cannot_be_kept_is_dropped(handed):
    orders = Orders(gateway := Gateway(refuses=True))
    order(orders, "prepare", sockets=["a b", "c d"], descriptors=handed)
    with pytest.raises(Refusal, match="no such socket"):
        order(orders, "keep")
    assert gateway.ends == 1


def test_what_is_bad_is_refused(handed):
    orders = Orders(Gateway())
    bad = transcript("bad")
    with pytest.raises(Refusal, match="nonsense"):
        order(orders, "prepare", sockets=["a b", "c d"], descriptors=[bad, *handed[1:]])
    os.close(bad)
    with pytest.raises(Refusal, match="2 sockets and a transcript were announced, but 1 descriptors came"):
        order(orders, "prepare", sockets=["a b", "c d"], descriptors=handed[:1])
    with pytest.raises(Refusal, match="nothing was made ready"):
        order(orders, "keep")


@pytest.mark.parametrize("room", [0, 1])
def test_what_cannot_be_taken_over_whole_is_refused_and_nothing_of_it_kept(handed, room):
    orders = Orders(gateway := Gateway())
    with room_for(room), pytest.raises(Refusal, match="it cannot be made ready: Too many open files") as caught:
        order(orders, "prepare", sockets=["a b", "c d"], descriptors=handed)
    assert caught.value.kind == "unavailable"
    assert gateway.ends == 1
    with pytest.raises(Refusal, match="nothing was made ready"):
        order(orders, "keep")
    order(orders, "prepare", sockets=["a b", "c d"], descriptors=handed)
    order(orders, "drop")


def test_a_socket_that_cannot_be_taken_over_is_a_problem_of_its_endpoint():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        before = os.listdir("/proc/self/fd")
        inherited = Inherited({"mx tcp:25": os.dup(listening.fileno())}, None, None)
        with room_for(0), pytest.raises(CannotBind, match=r'\[listen.mx\] endpoint "tcp:25": Too many open files'):
            inherited.port(SimpleNamespace(name="mx"), "tcp:25", None)
        assert os.listdir("/proc/self/fd") == before


def test_a_transcript_that_cannot_be_written_leaves_nothing_open():
    before, limits = os.listdir("/proc/self/fd"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            transcript("longer than ten octets")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir("/proc/self/fd") == before


def test_a_transcript_can_be_read_again():
    copy = transcript("text")
    assert [text_in(copy), text_in(copy)] == ["text", "text"]
    assert not os.get_inheritable(copy)
    os.close(copy)


def test_a_lifeline_is_cut_when_its_other_end_is_closed():
    ours, theirs = os.pipe()
    assert not is_cut(ours)
    os.close(theirs)
    assert is_cut(ours)
    os.close(ours)
