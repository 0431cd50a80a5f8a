from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import QueueStoreContract


class TestSqliteStore(QueueStoreContract):
    def make_store(self, folder, reactor):
        return SqliteStore.open(folder, reactor)
