"""A server is not ready while its database is missing or unreadable."""

import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from actorchat.chat.model import Policy
from actorchat.server.environment import Environment
from actorchat.server.settings import LimitSettings, Settings
from actorchat.storage import InPlace, Storage
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.memory import MemoryStore
from actorchat.testing import FaultyStore
from tests.server.server_under_test import SECRET, ApiClient, error_of, operator, run_server


def settings(folder: Path) -> Settings:
    return Settings(data=folder, port=0, secret=SECRET, limits=LimitSettings(messages_per_second=0))


def delete_database(folder: Path) -> None:
    for file in folder.glob("actorchat.db*"):
        file.unlink()


async def wait_ready(api: ApiClient, status: int) -> None:
    while (await api.call("GET", "/health/ready")).status_code != status:  # noqa: ASYNC110 - there is no event to wait for
        await trio.sleep(0.05)


@pytest.mark.slow
async def test_a_deleted_database_makes_the_server_unready_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_server(settings(tmp_path)) as api:
        visitor, chat = await api.talk()
        delete_database(tmp_path)
        await wait_ready(api, 503)
        assert error_of(await api.write(visitor, chat, "lost"))[:2] == (503, "storage_unavailable")
        answer = await api.call("GET", f"/api/chats/{chat}/messages", operator())
        assert error_of(answer)[:2] == (503, "storage_unavailable")
        assert error_of(await api.call("GET", "/health/ready"))[:2] == (503, "storage_unavailable")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"{tmp_path}/actorchat.db was deleted or moved while the server runs: put it back, or stop" in line


@pytest.mark.slow
async def test_a_database_that_is_back_makes_the_server_ready_again(tmp_path: Path) -> None:
    path, elsewhere = trio.Path(tmp_path / "actorchat.db"), trio.Path(tmp_path / "elsewhere")
    async with run_server(settings(tmp_path)) as api:
        visitor, chat = await api.talk()
        await path.rename(elsewhere)
        await wait_ready(api, 503)
        await elsewhere.rename(path)
        await wait_ready(api, 200)
        assert (await api.write(visitor, chat, "after")).status_code == 201
        messages = (await api.call("GET", f"/api/chats/{chat}/messages", visitor)).json()["messages"]
        assert [message["text"] for message in messages] == ["hello", "after"]


async def test_reads_that_fail_make_the_server_unready_until_they_work(caplog: pytest.LogCaptureFixture) -> None:
    stores: list[FaultyStore] = []

    @asynccontextmanager
    async def open_faulty(
        url: str,
        policy: Policy,
        *,
        clock: Callable[[], float],
        brokers: Collection[str] = (),
        folder: Path | None = None,
    ) -> AsyncIterator[Storage]:
        store = FaultyStore(MemoryStore(policy))
        stores.append(store)
        yield Storage(store, InPlace(), AsyncReader(store, InPlace()))

    async with run_server(environment=Environment(open_store=open_faulty)) as api:
        visitor, chat = await api.talk()
        path = f"/api/chats/{chat}/messages"
        assert (await api.call("GET", path, visitor)).status_code == 200
        stores[0].unreadable = True
        for _ in range(5):
            assert error_of(await api.call("GET", path, visitor))[:2] == (503, "storage_unavailable")
            assert error_of(await api.call("GET", "/health/ready"))[:2] == (503, "storage_unavailable")
        stores[0].unreadable = False
        await wait_ready(api, 200)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert line == "storage can't be read: as scripted"
