"""Paging through lists of chats while the chats move, with the memory and SQLite stores."""

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actorchat.chat.model import Policy, Stage
from actorchat.chat.operations import AcceptChat, AddMessage, Operation, ReserveChat
from actorchat.chat.ports import ChatFilter, ChatPage, ListPlace
from actorchat.protocol import Role, User
from actorchat.storage.memory import MemoryStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from actorchat.testing._list_checks import check_walk
from actorchat.testing._store_writer import random_operations
from tests.storage.sample_chat import EVE, NOW

FILTERS = st.builds(
    ChatFilter,
    stages=st.sampled_from([None, frozenset({Stage.NEW}), frozenset({Stage.NEW, Stage.OPEN}), frozenset(Stage)]),
    sources=st.sampled_from([None, frozenset({"shop"}), frozenset({"mall"})]),
    operator_id=st.sampled_from([None, 1]),
    limit=st.integers(1, 4),
)


class _Both:
    """A memory and a SQLite store with the same operations, whose pages must be equal."""

    def __init__(self, memory: MemoryStore, sqlite: SqliteStore) -> None:
        self.memory, self.sqlite = memory, sqlite
        self.batches = 0

    def commit(self, operations: Sequence[Operation], now: float = NOW) -> None:
        self.batches += 1
        batch = Batch("walk", self.batches, now)
        assert self.memory.commit(operations, batch) == self.sqlite.commit(operations, batch)

    def chats(self, which: ChatFilter) -> ChatPage:
        page = self.memory.chats(which)
        assert page == self.sqlite.chats(which)
        return page


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32),
    which=FILTERS,
    pauses=st.lists(st.tuples(st.integers(0, 25), st.integers(-3, 3)), min_size=1, max_size=8),
)
@settings(max_examples=80, deadline=None)
def test_paging_shows_each_matching_chat_once_while_chats_move(
    seed: int, which: ChatFilter, pauses: list[tuple[int, int]]
) -> None:
    operations, steps = random_operations(seed, 10_000), iter(pauses * 100)
    with TemporaryDirectory() as folder, closing(SqliteStore(Path(folder) / "chat.db", Policy())) as sqlite:
        both = _Both(MemoryStore(Policy()), sqlite)
        for n in range(1, 9):
            owner, chat = User(100 + n, Role.USER), UUID(int=n)
            first = AddMessage(chat, owner, "hi") if n % 3 else AcceptChat(chat, EVE)
            both.commit([ReserveChat(chat, "mall" if n % 4 == 0 else "shop", owner), first])

        def between() -> None:
            number, seconds = next(steps)
            both.commit(list(islice(operations, number)), NOW + seconds)

        between()
        check_walk(both, which, between)  # type: ignore[arg-type]  # has the methods that `check_walk` uses


def test_paging_continues_in_a_database_restored_from_a_backup(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "chat.db", Policy())) as sqlite:
        both = _Both(MemoryStore(Policy()), sqlite)
        for n in range(1, 4):
            owner = User(100 + n, Role.USER)
            both.commit([ReserveChat(UUID(int=n), "shop", owner), AddMessage(UUID(int=n), owner, "hi")])
        page = both.chats(ChatFilter(before=ListPlace(1_000_000, 3), limit=1))
        assert [chat.uuid.int for chat in page.chats] == [2]
        assert page.next == ListPlace(3, 2)
