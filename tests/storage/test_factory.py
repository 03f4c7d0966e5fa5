"""Opening a store by its URL, and closing it without leaving threads or files."""

import os
import threading
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from actorchat.chat.model import Policy
from actorchat.chat.ports import ChatFilter, StorageUnavailable
from actorchat.protocol import Role
from actorchat.storage import StoreUrlError, open_journal, open_store
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.memory import MemoryStore
from actorchat.storage.worker_threads import InPlace, open_workers
from actorchat.testing import FaultyStore
from tests.storage.sample_chat import CHAT, RESERVE, OutcomeRecorder, say


@pytest.mark.parametrize(
    "url", ["", "memory", "memory://x", "sqlite://", "sqlite:///", "sqlite:path", "postgres://", "x.db"]
)
async def test_an_url_that_names_no_storage_is_refused_with_what_to_use(url: str) -> None:
    with pytest.raises(StoreUrlError, match="use sqlite:///"):
        async with open_store(url, Policy()):
            raise AssertionError("was opened")


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
async def test_commits_are_read_back_and_leaving_leaves_no_thread_and_no_log(scheme: str, tmp_path: Path) -> None:
    before = threading.active_count()
    url = "memory://" if scheme == "memory" else f"sqlite:///{tmp_path}/chat.db"
    async with open_store(url, Policy()) as storage:
        async with open_journal(storage.store, storage.runner) as journal:
            listener = OutcomeRecorder()
            for operation in (RESERVE, say("a"), say("b")):
                journal.submit(operation, listener)
            await journal.barrier()
            assert listener.codes == [None] * 3
        page = await storage.chat_reader.newest(CHAT, Role.USER, before=None, limit=9)
        assert page is not None
        assert page.messages == tuple(listener.stored_messages)
    assert threading.active_count() == before
    assert sorted(os.listdir(tmp_path)) == ([] if scheme == "memory" else ["chat.db", "chat.db.lock"])


async def test_sqlites_name_for_memory_is_refused_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUrlError, match="use memory://"):
        async with open_store("sqlite:///:memory:", Policy()):
            raise AssertionError("was opened")
    assert os.listdir(tmp_path) == []


async def test_a_database_is_opened_by_one_at_a_time_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "alias.db").symlink_to(tmp_path / "chat.db")
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("chat", "alias")]
    async with open_store(urls[0], Policy()), open_store(f"sqlite:///{tmp_path}/other.db", Policy()):
        for url in urls:
            with pytest.raises(StorageUnavailable, match=r"another server uses .*chat\.db; stop it or"):
                async with open_store(url, Policy()):
                    raise AssertionError("was opened")
    async with open_store(urls[1], Policy()):
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
async def test_a_store_leaves_no_open_file_however_it_ends(tmp_path: Path) -> None:
    def ours() -> list[str]:
        links = [fd for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
        return [name for fd in links if (name := str(fd.readlink())).startswith(str(tmp_path))]

    async with open_store(f"sqlite:///{tmp_path}/chat.db", Policy()):
        assert any(name.endswith(".lock") for name in ours())
    assert ours() == []
    (tmp_path / "bad.db").write_text("no database, but long enough to be looked at as one" * 20)
    with pytest.raises(StoreUrlError):
        async with open_store(f"sqlite:///{tmp_path}/bad.db", Policy()):
            raise AssertionError("was opened")
    assert ours() == []


async def test_a_relative_path_is_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite:///chat.db", Policy()):
        assert (tmp_path / "chat.db").exists()


async def test_a_store_that_fails_to_open_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(StoreUrlError):
        async with open_store(f"sqlite:///{tmp_path}/no/folder.db", Policy()):
            raise AssertionError("was opened")
    assert threading.active_count() == before


async def test_reads_go_on_beside_a_write_and_see_only_whole_batches(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/chat.db", Policy()) as storage:
        async with open_journal(storage.store, storage.runner) as journal, trio.open_nursery() as nursery:
            journal.submit(RESERVE, OutcomeRecorder())
            await journal.barrier()
            seen: list[int] = []

            async def read() -> None:
                while not seen or seen[-1] < 1_000:
                    page = await storage.chat_reader.after(CHAT, Role.USER, after=-1, limit=5_000)
                    assert page is not None
                    assert page.chat.next_index == len(page.messages)
                    seen.append(len(page.messages))

            for _ in range(3):
                nursery.start_soon(read)
            for n in range(20):
                for k in range(50):
                    journal.submit(say(f"{n} {k}"), OutcomeRecorder())
                await journal.barrier()
        assert set(seen) <= set(range(0, 1_001, 50))


async def test_a_read_that_fails_says_that_storage_is_away() -> None:
    store = FaultyStore(MemoryStore(Policy()))
    chat_reader = AsyncReader(store, InPlace())
    store.unreadable = True
    for read in (
        partial(chat_reader.chat, CHAT),
        partial(chat_reader.chats, ChatFilter()),
        partial(chat_reader.feed_snapshot, {"shop"}, 1),
    ):
        with pytest.raises(StorageUnavailable):
            await read()


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
async def test_a_read_can_be_cancelled(scheme: str, tmp_path: Path) -> None:
    url = "memory://" if scheme == "memory" else f"sqlite:///{tmp_path}/chat.db"
    async with open_store(url, Policy()) as storage:
        with trio.move_on_after(0.01) as scope:
            while True:
                await storage.chat_reader.chat(CHAT)
        assert scope.cancelled_caught


async def test_workers_finish_what_they_began_before_their_block_is_left() -> None:
    done: list[str] = []
    gate = threading.Event()

    def work() -> None:
        gate.wait()
        done.append(threading.current_thread().name)

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with open_workers("worker", 2) as workers:
                nursery.start_soon(workers.run, work)
                nursery.start_soon(workers.run, work)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
                gate.set()
        assert len(done) == 2
    assert set(done) <= {"worker-0", "worker-1"}


async def test_an_error_in_a_worker_is_raised_in_its_caller() -> None:
    async with open_workers("worker") as workers:
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 / 0)
        assert await workers.run(lambda: threading.current_thread().name) == "worker"


async def test_an_error_in_meanwhile_is_raised_after_the_call() -> None:
    done: list[str] = []
    async with open_workers("worker") as workers:
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: done.append("call"), lambda: 1 / 0)
        assert done == ["call"]
        assert await workers.run(lambda: threading.current_thread().name) == "worker"
