"""A damaged page of the database: only the chats with rows on it are affected."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Refused, ReserveChat
from actorchat.protocol import User
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from tests.storage.world import ANN, CHAT, NOW, RESERVE

BOB = User(2, ANN.role, firstname="Bob")
HEALTHY = UUID(int=2)
MARK = "the page of this text will be damaged "


def say(chat: UUID, author: User, text: str) -> AddMessage:
    return AddMessage(chat, author, text, client_id=text[-20:])


def fill(path: Path) -> None:
    """A chat whose messages fill pages of their own, and one beside it."""
    with closing(SqliteStore(path, Policy())) as store:
        store.commit([RESERVE, *(say(CHAT, ANN, MARK * 40 + str(number)) for number in range(60))], Batch("w", 1, NOW))
        store.commit([ReserveChat(HEALTHY, "shop", BOB), say(HEALTHY, BOB, "hello")], Batch("w", 2, NOW))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def damage(path: Path) -> None:
    """Overwrite the header of the page that holds the middle of the first chat's messages."""
    with closing(sqlite3.connect(path)) as connection:
        [(size,)] = connection.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    at = content.find((MARK * 2 + "").encode(), len(content) // 2 - size)
    start = at // size * size
    content[start : start + 16] = b"\xff" * 16
    path.write_bytes(content)


def codes(store: SqliteStore, number: int, *operations: AddMessage) -> list[str | None]:
    decided = store.commit(operations, Batch("w", number, NOW))
    return [decision.code if isinstance(decision, Refused) else None for decision, _ in decided]


def test_a_damaged_page_of_one_chat_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat.db"
    fill(path)
    damage(path)
    with closing(SqliteStore(path, Policy())) as store, caplog.at_level(logging.ERROR):
        sick, well = say(CHAT, ANN, "are you there?"), say(HEALTHY, BOB, "how are you?")
        assert codes(store, 3, well, sick) == [None, "storage_unavailable"]
        assert codes(store, 4, sick) == ["storage_unavailable"]
        assert codes(store, 5, say(HEALTHY, BOB, "fine")) == [None]
        page = store.since(HEALTHY, rev=0, limit=10)
        assert page is not None
        assert [message.text for message in page.messages] == ["hello", "how are you?", "fine"]
    [record] = [record for record in caplog.records if "damaged" in record.getMessage()]
    assert str(CHAT) in record.getMessage()
