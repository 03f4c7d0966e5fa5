"""Owns where chats live: the journal that commits them, the stores, the way to read.

Knows neither sockets nor actors. `open_store` opens what a URL names, `open_journal` commits to it; `Store`
is what a new kind of storage provides.
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
