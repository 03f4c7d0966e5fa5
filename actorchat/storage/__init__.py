"""Stores chats: the journal commits operations to a store in batches, and readers read from it.

`open_store` opens the storage that a URL names, and `open_journal` commits to it. `Store` is what a new kind of storage
implements.
"""

from actorchat.storage.factory import Storage, open_store
from actorchat.storage.journal import Journal, JournalStatistics, open_journal
from actorchat.storage.store import Batch, CommitInDoubt, DecisionAndCounters, Store, StoredLog, StoreUrlError
from actorchat.storage.worker_threads import InPlace, Runner

__all__ = [
    "Batch",
    "CommitInDoubt",
    "DecisionAndCounters",
    "InPlace",
    "Journal",
    "JournalStatistics",
    "Runner",
    "Storage",
    "Store",
    "StoreUrlError",
    "StoredLog",
    "open_journal",
    "open_store",
]
