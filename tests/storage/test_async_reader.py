"""Failing reads: which of them are an outage, when it ends, and what is logged."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.model import Policy
from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.memory import MemoryStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from actorchat.storage.worker_threads import InPlace
from actorchat.testing import FaultyStore
from tests.storage.sample_chat import CHAT, NOW, RESERVE, say


class OneBadChat(FaultyStore):
    """A store in which only reading a chat by its id fails."""

    def chat(self, chat: object) -> None:
        raise StorageUnavailable("a damaged page")


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def fail_to_read(chat_reader: AsyncReader) -> None:
    with pytest.raises(StorageUnavailable):
        await chat_reader.chat(CHAT)


async def test_a_read_outage_is_logged_once_and_ends_on_its_own(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(MemoryStore(Policy()))
    chat_reader = AsyncReader(store, InPlace())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chat_reader.watch)
        seen = [chat_reader.unreadable]
        for _ in range(2):
            store.unreadable = True
            for _ in range(10):
                await fail_to_read(chat_reader)
                seen.append(chat_reader.unreadable)
                await trio.sleep(1)
            store.unreadable = False
            # The outage ends without any read.
            await trio.sleep(1.1)
            seen.append(chat_reader.unreadable)
        assert seen == [False, *[True] * 10, False, *[True] * 10, False]
        nursery.cancel_scope.cancel()
    assert errors(caplog) == ["storage can't be read: as scripted"] * 2
    assert caplog.text.count("storage can be read again") == 2


async def test_a_read_that_fails_alone_is_no_outage_and_logged_once_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    chat_reader = AsyncReader(OneBadChat(MemoryStore(Policy())), InPlace())
    for _ in range(90):
        await fail_to_read(chat_reader)
        assert not chat_reader.unreadable
        await trio.sleep(1)
    assert errors(caplog) == ["a read failed while others work, the database may be damaged: a damaged page"] * 2


def test_a_probe_reads_each_table_of_the_files_as_they_are_now(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    with closing(SqliteStore(path, Policy())) as store:
        store.commit([RESERVE, say("hello")], Batch("w", 1, NOW))
        store.probe()
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = bytearray(path.read_bytes())
        content[4096:] = bytes(len(content) - 4096)
        path.write_bytes(content)
        # A pooled connection's cache must not hide damaged files.
        with pytest.raises(StorageUnavailable):
            store.probe()
