"""The memory and SQLite stores have equal decisions and contents after random batches."""

from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorchat.chat.model import ANONYMOUS_IDS, Identity, OnClosed, Policy
from actorchat.chat.ports import ChatFilter
from actorchat.protocol import Role
from actorchat.storage.memory import MemoryStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch, Store
from actorchat.testing import random_operations
from tests.storage.sample_chat import NOW

POLICIES = st.builds(
    Policy,
    capacity=st.integers(0, 2),
    idle_timeout=st.sampled_from((0, 30)),
    answer_timeout=st.sampled_from((0, 10)),
    on_closed=st.sampled_from(OnClosed),
)


def everything(store: Store) -> object:
    chats = [UUID(int=n) for n in range(1, 6)]
    return (
        [store.chat(chat) for chat in chats],
        [store.since(chat, rev=0, limit=1_000) for chat in chats],
        [store.since(chat, rev=7, limit=3) for chat in chats],
        [store.newest(chat, role, before=9, limit=4) for chat in chats for role in Role],
        [store.authored(chat, role, after=2, upto=9, limit=3) for chat in chats for role in Role],
        store.chats(ChatFilter()),
        store.chats(ChatFilter(before=chats[2], owner_id=1)),
        store.chats(ChatFilter(tag="b")),
        sorted(store.summaries(chats), key=lambda found: found.chat.uuid),
        store.operators(None),
        store.feed_snapshot(["shop", "mall"], 2),
        store.due(NOW + 30, 3),
        sorted(store.unused(NOW + 10, 99)),
        store.person(Identity(Role.USER, ANONYMOUS_IDS + 7)),
        store.due(NOW + 10_000, 99),
    )


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    policy=POLICIES,
    reopen=st.booleans(),
    cached=st.sampled_from((0, 2, 16_384)),
)
@settings(max_examples=60, deadline=None)
def test_memory_and_sqlite_are_equal(seed: int, sizes: list[int], policy: Policy, reopen: bool, cached: int) -> None:
    operations = iter(random_operations(seed, sum(sizes)))
    with ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory())) / "chat.db"
        stack.enter_context(pytest.MonkeyPatch.context()).setattr("actorchat.storage.row_cache._MAX_CACHED", cached)
        memory, sqlite = MemoryStore(policy), SqliteStore(path, policy)
        for number, size in enumerate(sizes, 1):
            taken = [next(operations) for _ in range(size)]
            batch = Batch("test", number, NOW + number)
            assert memory.commit(taken, batch) == sqlite.commit(taken, batch)
            if reopen:
                sqlite.close()
                sqlite = SqliteStore(path, policy)
                assert sqlite.corrected_counters == 0
        stack.enter_context(closing(sqlite))
        assert everything(memory) == everything(sqlite)
