import pytest

from mailgw.interfaces import MemoryUnavailable
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import at, run
from mailgw.testing.memories import MemoryContract


class TestInProcessMemory(MemoryContract):
    def make_memory(self, folder, reactor, clock, room):
        return InProcessMemory(clock, room)


def test_trouble_can_be_asked_for():
    memory = InProcessMemory(at("2026-01-05T10:00+00:00"))
    memory.trouble = MemoryUnavailable("gone")
    with pytest.raises(MemoryUnavailable, match="gone"):
        run(memory.count("x:", 1, 1.0))
    memory.trouble = None
    assert run(memory.count("x:", 1, 1.0)) == 1
