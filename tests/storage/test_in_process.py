import pytest

from mailgw.interfaces import StoreFull
from mailgw.storage.in_process import InProcessStore
from mailgw.testing.stores import QueueStoreContract
from mailgw.values.ledger import Selection


class TestInProcessStore(QueueStoreContract):
    def make_store(self, folder, reactor):
        folder.mkdir()
        return InProcessStore(folder)

    def test_trouble_can_be_asked_for(self, store, pump):
        store.trouble = StoreFull("no room")
        with pytest.raises(StoreFull, match="no room"):
            self.keep(store, pump, "a@example.org")
        store.trouble = None
        assert pump.run(store.find(Selection())) == []
