"""A database whose files are deleted, moved, replaced or overwritten beneath the store that has them open."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from actorchat.chat.model import Policy
from actorchat.chat.operations import Changed
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import Role
from actorchat.storage import Journal, Storage, open_journal, open_store
from actorchat.storage import database_lock as claim_module
from actorchat.storage.database_lock import lock_database
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch, Store
from tests.storage.failing_disk import Disk
from tests.storage.sample_chat import CHAT, NOW, RESERVE, OutcomeRecorder, all_messages, say

CAP = 20.0


@attrs.define
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@attrs.frozen
class Running:
    """An open store and its journal; the chat has one message."""

    path: Path
    storage: Storage
    journal: Journal
    clock: Clock

    @property
    def store(self) -> Store:
        return self.storage.store

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def close_readers(self) -> None:
        """Close the readers' connections by a failing read, so that the writer's is the last one."""
        with pytest.raises(AttributeError):
            self.store.chat(None)  # type: ignore[arg-type]  # wrong on purpose

    async def say(self, text: str) -> str | None:
        """Send a message after a second. Returns the code of the refusal, or None if the message was stored."""
        self.clock.now += 1
        listener = OutcomeRecorder()
        self.journal.submit(say(text), listener)
        await self.journal.barrier()
        return listener.codes[0]

    async def say_until_stored(self, text: str) -> None:
        while await self.say(text) is not None:  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.01)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Running]:
    clock = Clock()
    with trio.fail_after(CAP):
        async with (
            open_store(f"sqlite:///{path}", Policy(), clock=clock) as storage,
            open_journal(
                storage.store, storage.runner, clock=clock, writer=os.urandom(8).hex(), tidy=storage.tidy
            ) as journal,
        ):
            journal.submit(RESERVE, OutcomeRecorder())
            await journal.barrier()
            yield Running(path, storage, journal, clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def texts(path: Path) -> list[str]:
    """The texts in a copy of the database file without its log, as after a power failure."""
    copy = path.with_name("copy.db")
    shutil.copyfile(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        return [row[0] for row in connection.execute("SELECT text FROM messages ORDER BY message_index")]


def content(path: Path) -> bytes:
    return path.read_bytes()


def outside(path: Path, *statements: str) -> None:
    """Execute the statements in another process, as an administrator's shell does."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for statement in sys.argv[2:]: connection.execute(statement).fetchall()\n"
        "connection.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path), *statements], check=True, timeout=CAP)


@contextmanager
def outside_reader(path: Path) -> Iterator[None]:
    """Inside the block, another process holds a read transaction."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True, isolation_level=None)\n"
        "connection.execute('BEGIN'), connection.execute('SELECT * FROM messages').fetchall()\n"
        "print('reads', flush=True), sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reads\n"
        yield


async def reopened(path: Path) -> list[str]:
    async with open_store(f"sqlite:///{path}", Policy()) as storage:
        return [message.text for message in all_messages(storage.store)]


async def test_a_deleted_lock_file_lets_no_second_store_in(path: Path) -> None:
    async with opened(path) as running:
        running.beside(".lock").unlink()
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="another server uses"):
                async with opened(path):
                    raise AssertionError("was opened")
        assert await running.say("a") is None
        # The refused stores have not dropped SQLite's locks, so another program's connection is not the last one.
        outside(path, "SELECT * FROM messages")
        assert running.beside("-wal").exists()
        assert await running.say("b") is None
    assert await reopened(path) == ["a", "b"]


async def test_a_server_of_an_older_version_is_seen_by_its_lock_file(path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(path.with_name("chat.db.lock"), "w") as lock:  # noqa: ASYNC230 - an empty file
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageUnavailable, match="another server uses"):
            async with opened(path):
                raise AssertionError("was opened")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc, and fails Linux's own locks")
def test_a_database_that_cannot_be_locked_leaves_no_descriptor_open(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> int:
        raise OSError(errno.ENOLCK, "No locks available")

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    before = open_descriptors()
    with pytest.raises(StorageUnavailable, match="cannot be locked: No locks available"):
        lock_database(path)
    assert open_descriptors() == before


@contextmanager
def claimed_outside(path: Path) -> Iterator[str]:
    """Let another process try to lock the database during the block. Yields its output."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from actorchat.storage.database_lock import lock_database\n"
        "try: claimed = lock_database(Path(sys.argv[1]))\n"
        "except Exception as error: print(error, flush=True)\n"
        "else: print('claimed', flush=True), sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline()


@pytest.mark.slow
async def test_with_per_process_locks_the_lock_is_taken_again_each_second(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_module, "_HAS_SHARED_LOCKS", False)
    monkeypatch.setattr(claim_module, "_CLOSING_UNLOCKS", True)
    async with opened(path) as running:
        running.beside(".lock").unlink()
        with claimed_outside(path) as said:
            assert "another server uses" in said
        # Closing any descriptor of the file drops the locks of the process.
        os.close(os.open(path, os.O_RDONLY))
        assert await running.say("a") is None
        running.beside(".lock").unlink()
        with claimed_outside(path) as said:
            assert "another server uses" in said
        os.close(os.open(path, os.O_RDONLY))
        with claimed_outside(path) as said:
            assert said == "claimed\n"
            assert await running.say("lost") == "storage_unavailable"
        await running.say_until_stored("b")


async def test_a_moved_database_is_away_until_it_is_back(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(path) as running:
        assert await running.say("before") is None
        os.rename(path, path.with_name("elsewhere"))
        assert await running.say("lost") == "storage_unavailable"
        assert running.journal.statistics().away
        with pytest.raises(StorageUnavailable, match="was deleted or moved"):
            all_messages(running.store)
        os.rename(path.with_name("elsewhere"), path)
        await running.say_until_stored("after")
    assert await reopened(path) == ["before", "after"]
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert f"{path} was deleted or moved while the server runs: put it back, or stop the server" in line


async def test_a_moved_database_has_every_message_that_was_broadcast(path: Path) -> None:
    async with opened(path) as running:
        assert await running.say("a") is None
        os.rename(path, path.with_name("elsewhere"))
        assert await running.say("b") == "storage_unavailable"
        assert texts(path.with_name("elsewhere")) == ["a"]


@pytest.mark.slow
async def test_a_database_deleted_while_idle_is_noticed(path: Path) -> None:
    async with opened(path) as running:
        assert await running.say("a") is None
        for file in path.parent.glob("chat.db*"):
            file.unlink()
        while not running.journal.statistics().away:  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.05)
        with pytest.raises(StorageUnavailable, match="was deleted or moved"):
            await running.storage.chat_reader.chat(CHAT)
    assert os.listdir(path.parent) == []


async def test_a_database_replaced_by_another_file_is_used_only_by_a_restart(path: Path) -> None:
    backup = path.with_name("backup.db")
    async with opened(path) as running:
        assert await running.say("old") is None
        outside(path, f"VACUUM INTO '{backup}'")
        assert await running.say("new") is None
        os.replace(backup, path)
        assert await running.say("lost") == "storage_unavailable"
        before = content(path)
        assert await running.say("lost too") == "storage_unavailable"
        with pytest.raises(StorageUnavailable, match=r"was replaced by another file.*restart the server"):
            await running.storage.chat_reader.newest(CHAT, Role.USER, before=None, limit=9)
    assert content(path) == before
    assert await reopened(path) == ["old"]


async def test_a_second_server_on_the_new_file_keeps_its_log_when_the_first_one_ends(path: Path) -> None:
    async with opened(path) as running:
        assert await running.say("old") is None
        running.close_readers()
        for file in path.parent.glob("chat.db*"):
            file.unlink()
        async with opened(path) as second:
            assert await second.say("new") is None
            log = os.stat(second.beside("-wal"))
            assert await running.say("lost") == "storage_unavailable"
            await running.storage.runner.run(running.store.close)
            assert os.path.samestat(os.stat(second.beside("-wal")), log)
            assert await second.say("newer") is None
    assert await reopened(path) == ["new", "newer"]


def overwrite(source: Path, path: Path) -> None:
    """Overwrite the file's content in place, as `cp` does."""
    path.write_bytes(source.read_bytes())


@pytest.mark.parametrize("kind", ["older copy", "copy without its log", "empty", "text"])
async def test_a_database_that_is_overwritten_is_left_as_it_is(path: Path, kind: str) -> None:
    backup = path.with_name("backup.db")
    async with opened(path) as running:
        if kind == "older copy":
            outside(path, f"VACUUM INTO '{backup}'")
        elif kind == "copy without its log":
            shutil.copyfile(path, backup)
        else:
            backup.write_text("" if kind == "empty" else "no database" * 1000)
        for text in "abc":
            # A checkpoint after each message, with a new stamp.
            running.clock.now += 10
            assert await running.say(text) is None
            outside(path, "PRAGMA wal_checkpoint(FULL)")
        assert await running.say("in the log") is None
        running.close_readers()
        overwrite(backup, path)
        assert await running.say("lost") == "storage_unavailable"
        with pytest.raises(StorageUnavailable, match="was overwritten while the server runs: restart the server"):
            await running.storage.chat_reader.chat(CHAT)
        assert await running.say("lost") == "storage_unavailable"
    assert content(path) == content(backup)
    assert not running.beside("-wal").exists() or not running.beside("-wal").stat().st_size


async def test_an_older_content_that_sqlite_restores_is_used_only_by_a_restart(path: Path) -> None:
    backup = path.with_name("backup.db")
    async with opened(path) as running:
        assert await running.say("old") is None
        outside(path, f"VACUUM INTO '{backup}'")
        assert await running.say("new") is None
        with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
        assert await running.say("lost") == "storage_unavailable"
        assert await running.say("lost") == "storage_unavailable"
    assert await reopened(path) == ["old"]


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm")])
async def test_a_deleted_log_is_saved_into_the_database(
    path: Path, suffixes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(path) as running:
        assert await running.say("a") is None
        assert await running.storage.chat_reader.chat(CHAT) is not None
        for suffix in suffixes:
            running.beside(suffix).unlink()
        assert await running.say("b") is None
        assert texts(path)[:1] == ["a"]
        outside(path, "SELECT * FROM messages")
        assert await running.say("c") is None
        assert [message.text for message in all_messages(running.store)] == ["a", "b", "c"]
        assert running.beside("-wal").exists()
    assert "was deleted while the server runs; what it held was saved into the database" in caplog.text
    assert await reopened(path) == ["a", "b", "c"]


async def test_a_deleted_log_that_is_being_read_is_kept_open_until_it_is_saved(path: Path) -> None:
    async with opened(path) as running:
        assert await running.say("a") is None
        with outside_reader(path):
            assert await running.say("b") is None
            running.beside("-wal").unlink()
            assert await running.say("lost") == "storage_unavailable"
        await running.say_until_stored("c")
    assert await reopened(path) == ["a", "b", "c"]


async def test_a_log_recreated_by_another_program_stops_the_store(path: Path) -> None:
    async with opened(path) as running:
        assert await running.say("a") is None
        for suffix in ("-wal", "-shm"):
            running.beside(suffix).unlink()
        running.beside("-wal").write_bytes(b"another's")
        assert await running.say("lost") == "storage_unavailable"
        with pytest.raises(StorageUnavailable, match="was replaced by another program"):
            await running.storage.chat_reader.chat(CHAT)
        assert texts(path) == ["a"]


async def test_other_programs_that_use_sqlite_do_not_stop_the_store(path: Path) -> None:
    backup = path.with_name("backup.db")
    async with opened(path) as running:
        for number, statement in enumerate(
            (
                "SELECT * FROM messages",
                "PRAGMA wal_checkpoint(TRUNCATE)",
                "VACUUM",
                "UPDATE people SET firstname = 'Anna'",
                f"VACUUM INTO '{backup}'",
                "PRAGMA optimize",
            )
        ):
            assert await running.say(str(number)) is None
            outside(path, statement)
            running.clock.now += 10
        assert await running.say("last") is None


def test_its_own_checkpoints_do_not_stop_the_store(path: Path) -> None:
    disk = Disk()
    disk.setup = lambda connection: connection.execute("PRAGMA wal_autocheckpoint=1")
    claimed = lock_database(path)
    with closing(SqliteStore(path, Policy(), disk.connect, claim=claimed)) as store:
        store.commit([RESERVE], Batch("w", 1, NOW))
        for number in range(2, 60):
            [(decision, _)] = store.commit([say(str(number))], Batch("w", number, NOW + 5 * number))
            assert isinstance(decision, Changed)
            store.tidy()
    claimed.release()


async def test_each_start_has_a_stamp_of_its_own(path: Path) -> None:
    stamps: list[int] = []
    for _ in range(3):
        async with opened(path) as running:
            with closing(sqlite3.connect(path)) as connection:
                stamps += connection.execute("PRAGMA user_version").fetchone()
            del running
    assert stamps == sorted(set(stamps))


def test_a_reader_that_checks_beside_the_writer_finds_no_foreign_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has read the old stamp when the writer's checkpoint raises it and the writer checks too."""
    with closing(SqliteStore(path, Policy())) as store:
        files = store._files
        assert files._lock is None
        stamps = iter((files.stamp, files.stamp + 1))
        waits, goes_on = threading.Event(), threading.Event()

        def read() -> int:
            stamp = next(stamps)
            if threading.current_thread() is not threading.main_thread():
                waits.set()
                goes_on.wait(0.5)
            return stamp

        monkeypatch.setattr(files, "_read_stamp", read)
        files._time_and_size = None
        files.stamp += 1
        reader = threading.Thread(target=files.check)
        reader.start()
        waits.wait()
        files.check()
        goes_on.set()
        reader.join()
        files.check()
        assert files.problem is None
