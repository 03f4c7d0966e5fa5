"""`actorchat migrate` moves all rows to PostgreSQL, also when it is interrupted, and nothing that is not the same."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from uuid import UUID

import attrs
import psycopg
import pytest
import trio

from actorchat.chat.accounts import Account, AddAccount
from actorchat.chat.documents import ChangeDocument, DocumentKey, DocumentKind
from actorchat.chat.model import Policy, StoredAttachment, Upload, identity_of
from actorchat.chat.operations import AddMessage, Changed, EditMessage, Operation, RecordUpload, ReserveChat, SetTags
from actorchat.protocol import AttachmentType, Role, User
from actorchat.server.backup import BackupProgress
from actorchat.server.bootstrap import StartFailed
from actorchat.server.diagnosis import Verdict, diagnose
from actorchat.server.restore import restore_backup
from actorchat.server.serving import open_server
from actorchat.server.settings import Settings
from actorchat.server.storage_migration import MigrationFailed, migrate_storage
from actorchat.storage import StoreUrlError
from actorchat.storage.move_record import record_move, record_path
from actorchat.storage.postgres.sqlite_import import TABLES
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch, Store
from actorchat.testing import random_operations
from tests.storage.sample_chat import EVE, NOW, all_messages, say
from tests.storage.test_store_equality import everything


@pytest.fixture
def url(new_postgres: Callable[[], str]) -> str:
    return new_postgres()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data=tmp_path)


def fill(settings: Settings, brokers: Sequence[str] = ()) -> None:
    """Write chats as a server does that is stopped afterwards."""
    operations: list[Operation] = [
        *random_operations(5, 1_800),
        AddAccount(account=Account(id=EVE.id, login="eve"), user=EVE),
        ChangeDocument(DocumentKey(DocumentKind.SETTINGS, "shop", ""), lambda known: '{"title": "Shop"}'),
    ]
    path = Path(settings.storage_url.removeprefix("sqlite:///"))
    with closing(SqliteStore(path, Policy(), brokers=brokers)) as store:
        waiting = iter(operations)
        for number in range(1, 100):
            store.commit(list(islice(waiting, 20)), Batch("test", number, NOW + number))
        bob, chat = User(50, Role.USER, firstname="Bob"), UUID(int=99)
        said = AddMessage(chat, bob, "a word")
        [_, (added, _)] = store.commit([ReserveChat(chat, "shop", bob), said], Batch("test", 100, NOW + 100))
        assert isinstance(added, Changed)
        edit = EditMessage(chat, bob, added.messages[0].id, "another word")
        store.commit([edit, SetTags(chat, ("b",))], Batch("test", 101, NOW + 101))
    with closing(sqlite3.connect(path)) as connection:
        for table in ("chats", "messages", "people", "edits", "chat_tags", "accounts", "documents", "moves"):
            assert connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchall(), table  # noqa: S608 - a constant


class StoppedError(Exception):
    pass


class Interrupting(BackupProgress):
    """Interrupts the copy when so many rows are done."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.first: int | None = None
        self.last = 0

    def begin(self, step: str) -> Callable[[int, int], None]:
        def report(done: int, total: int) -> None:
            self.first = done if self.first is None else self.first
            self.last = done
            if done >= self.rows:
                raise StoppedError

        return report


def moved(settings: Settings, url: str, *, skip: bool = False) -> int:
    return migrate_storage(settings, url, skip_unpublished=skip, progress=BackupProgress()).rows


def contents(store: Store) -> object:
    return everything(store), store.accounts(), all_messages(store), store.newest_number() > 0


def test_everything_is_the_same_and_goes_on_with_new_numbers(settings: Settings, url: str) -> None:
    fill(settings)
    assert moved(settings, url) > 100
    path = Path(settings.storage_url.removeprefix("sqlite:///"))
    with closing(SqliteStore(path, Policy())) as old, closing(PostgresStore(url, Policy())) as new:
        assert contents(new) == contents(old)
        assert (new.identity, new.corrected_counters) == (old.identity, 0)
        assert new.searchable(0, 5_000) == old.searchable(0, 5_000)
        newest = old.newest_number()
        message = all_messages(old)[0].id
        assert new.located(message) == old.located(message)
        reserve = ReserveChat(UUID(int=77), "shop", User(60, Role.USER, firstname="Cyd"))
        [(decision, _)] = new.commit([reserve], Batch("new", 1, NOW + 999))
        added = new.commit([say("after the move")], Batch("new", 2, NOW + 1_000))
        assert isinstance(decision, Changed)
        [(said, _)] = added
        assert not isinstance(said, Changed) or said.messages[0].id > newest


def test_an_interrupted_move_goes_on_where_it_was(
    settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.sqlite_import._PAGE", 10)
    fill(settings)
    begun = 0
    for rows in (50, 120):
        interrupting = Interrupting(rows)
        with pytest.raises(StoppedError):
            migrate_storage(settings, url, skip_unpublished=False, progress=interrupting)
        assert interrupting.first == begun
        begun = interrupting.last
        with pytest.raises(StoreUrlError, match="run actorchat migrate again"):
            PostgresStore(url, Policy())
    moved(settings, url)
    path = Path(settings.storage_url.removeprefix("sqlite:///"))
    with closing(SqliteStore(path, Policy())) as old, closing(PostgresStore(url, Policy())) as new:
        assert contents(new) == contents(old)


@pytest.mark.parametrize("change", ["UPDATE messages SET text = 'x' WHERE id = 3", "DELETE FROM chats"])
def test_a_difference_is_named_and_no_server_opens_the_database(
    settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.sqlite_import._PAGE", 100)
    fill(settings)

    class Changing(BackupProgress):
        def begin(self, step: str) -> Callable[[int, int], None]:
            if step == "comparing":
                with psycopg.connect(url, autocommit=True) as connection:
                    connection.execute(change.encode())
            return super().begin(step)

    with pytest.raises(MigrationFailed, match=r"the row (id=3 of messages differs in text|number=\d+ of chats is in)"):
        migrate_storage(settings, url, skip_unpublished=False, progress=Changing())
    with pytest.raises(StoreUrlError, match="run actorchat migrate again"):
        PostgresStore(url, Policy())


def test_only_an_empty_database_that_no_server_uses_is_filled(settings: Settings, url: str, tmp_path: Path) -> None:
    fill(settings)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO nodes VALUES ('a', 1, '1', 'ready', '', '{}', 0, now() + interval '1 hour')")
        with pytest.raises(MigrationFailed, match=r"a server uses .*: stop it first"):
            moved(settings, url)
        connection.execute("DELETE FROM nodes")
        with pytest.raises(StoppedError):
            migrate_storage(settings, url, skip_unpublished=False, progress=Interrupting(1))
        other = Settings(data=tmp_path / "other")
        (tmp_path / "other").mkdir()
        fill(other)
        with pytest.raises(MigrationFailed, match="a part of the chats of another SQLite database"):
            moved(other, url)
    moved(settings, url)
    with pytest.raises(MigrationFailed, match=f"these chats were moved to {url} already"):
        moved(settings, url)
    with pytest.raises(MigrationFailed, match="is not empty"):
        moved(other, url)


def test_commits_that_a_broker_lacks_are_not_lost_unasked(tmp_path: Path, url: str) -> None:
    settings = Settings(data=tmp_path, broker=("redis://127.0.0.1:6379",))
    name = "redis://127.0.0.1:6379"
    fill(settings, brokers=[name])
    with pytest.raises(MigrationFailed, match=f"{name} has not confirmed everything"):
        moved(settings, url)
    assert moved(settings, url, skip=True)


def test_brokers_that_only_the_database_names_count_too_and_the_database_stays_byte_for_byte(
    settings: Settings, url: str
) -> None:
    name = "redis://127.0.0.1:6379"
    fill(settings, brokers=[name])
    path = Path(settings.storage_url.removeprefix("sqlite:///"))
    before = path.read_bytes()
    with pytest.raises(MigrationFailed, match=f"{name} has not confirmed everything"):
        moved(settings, url)
    assert path.read_bytes() == before
    assert moved(settings, url, skip=True)
    assert path.read_bytes() == before


def test_a_broker_that_has_confirmed_everything_is_in_nobodys_way(settings: Settings, url: str) -> None:
    name = "redis://127.0.0.1:6379"
    fill(settings, brokers=[name])
    path = Path(settings.storage_url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE relayed SET seq = (SELECT max(seq) FROM log)")
    assert moved(settings, url)


def test_a_database_without_a_name_keeps_its_log_when_it_gets_one(settings: Settings, url: str) -> None:
    fill(settings, brokers=["redis://127.0.0.1:6379"])
    path = Path(settings.storage_url.removeprefix("sqlite:///"))
    count = "SELECT (SELECT count(*) FROM log), (SELECT max(seq) FROM relayed)"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM settings WHERE name = 'identity'")
        connection.commit()
        before = connection.execute(count).fetchall()
    assert moved(settings, url, skip=True)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(count).fetchall() == before


def test_a_running_server_and_wrong_urls_are_named(settings: Settings, url: str, tmp_path: Path) -> None:
    with pytest.raises(MigrationFailed, match="does not exist: is --data the folder"):
        moved(settings, url)
    fill(settings)
    path = Path(settings.storage_url.removeprefix("sqlite:///"))
    for target, said in (
        ("mysql://x", "to PostgreSQL only"),
        ("postgresql://127.0.0.1:1/x", "refused"),
        (f"postgresql:///x?host={tmp_path}", "No such file"),
        (f"{url}_missing", "does not exist"),
    ):
        with pytest.raises(MigrationFailed, match=said) as failed:
            moved(settings, target)
        assert "the next run" not in str(failed.value)
    with pytest.raises(MigrationFailed, match=r"`storage` is memory://: name the old one with --storage sqlite:///"):
        moved(Settings(storage="memory://"), url)
    command = [sys.executable, "-m", "actorchat", "migrate", url, "--data", str(tmp_path)]
    with closing(SqliteStore(path, Policy())):
        # A server in another process holds the lock.
        held = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from pathlib import Path; from actorchat.storage.database_lock import lock_database;"
                f"lock_database(Path({str(path)!r})); import subprocess, sys;"
                f"sys.exit(subprocess.run({command!r}).returncode)",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert held.returncode == 1
    assert "uses" in held.stderr or "in use" in held.stderr


def test_every_table_with_content_is_moved() -> None:
    names = {table.name for table in TABLES}
    assert {"chats", "messages", "uploads", "people", "accounts", "sessions", "blocks", "audit", "documents"} <= names


def sqlite_of(settings: Settings) -> Path:
    return Path(settings.storage_url.removeprefix("sqlite:///"))


def actorchat(*arguments: str, **environment: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "actorchat", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout + done.stderr


async def started(settings: Settings) -> None:
    async with open_server(attrs.evolve(settings, port=None)):
        pass


@pytest.mark.slow
async def test_no_server_starts_with_a_database_whose_chats_were_moved(settings: Settings, tmp_path: Path) -> None:
    fill(settings)
    record_move(sqlite_of(settings), "postgresql://actorchat:***@db/chat")
    with pytest.raises(StartFailed) as refused:
        await started(settings)
    record = tmp_path / "actorchat.db.moved"
    assert "were moved to postgresql://actorchat:***@db/chat: start the server with that URL as" in str(refused.value)
    assert f"delete {record}" in str(refused.value)
    [found] = [finding async for finding in diagnose(settings) if finding.check == "database"]
    assert (found.verdict, "were moved to postgresql://" in found.found) == (Verdict.FAIL, True)
    record.unlink()
    await started(settings)


async def test_a_missing_database_whose_chats_were_moved_is_not_made_anew(settings: Settings) -> None:
    record_move(sqlite_of(settings), "postgresql://db/chat")
    with pytest.raises(StartFailed, match="were moved to postgresql://db/chat"):
        await started(settings)
    assert not sqlite_of(settings).exists()


@pytest.mark.slow
def test_a_move_leaves_a_record_and_the_database_can_still_be_read(
    settings: Settings, url: str, tmp_path: Path
) -> None:
    fill(settings)
    with pytest.raises(StoppedError):
        migrate_storage(settings, url, skip_unpublished=False, progress=Interrupting(1))
    assert not record_path(sqlite_of(settings)).exists()
    moved(settings, url)
    with pytest.raises(StartFailed, match=f"were moved to {url}"):
        trio.run(started, settings)
    person, data = ("--role", "user", "--user-id", "50"), ("--data", str(tmp_path))
    status, said = actorchat("export", *person, *data, "--output", str(tmp_path / "bob.zip"))
    assert (status, "Exported 1 chat" in said, "this export lacks what was written since" in said) == (0, True, True)
    status, said = actorchat("erase", *person, *data, "--yes")
    assert (status, f"were moved to {url}" in said) == (1, True)
    status, said = actorchat("backup", str(tmp_path / "b.tar"), *data)
    assert status == 0, said
    for folder in (tmp_path, tmp_path / "new"):
        restored = Settings(data=folder)
        restore_backup(restored, tmp_path / "b.tar", force=True, progress=BackupProgress())
        trio.run(started, restored)


def test_a_move_that_cannot_be_recorded_is_not_completed(settings: Settings, url: str, tmp_path: Path) -> None:
    fill(settings)
    (tmp_path / "actorchat.db.moved").mkdir()
    with pytest.raises(MigrationFailed, match=r"actorchat\.db\.moved"):
        moved(settings, url)
    with pytest.raises(StoreUrlError, match="run actorchat migrate again"):
        PostgresStore(url, Policy())
    (tmp_path / "actorchat.db.moved").rmdir()
    assert moved(settings, url)


def test_a_move_whose_connection_is_lost_says_that_the_next_run_goes_on(
    settings: Settings, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.storage.postgres.sqlite_import._PAGE", 100)
    fill(settings)

    class Ending(BackupProgress):
        def begin(self, step: str) -> Callable[[int, int], None]:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            return super().begin(step)

    with pytest.raises(MigrationFailed, match="the next run goes on from here"):
        migrate_storage(settings, url, skip_unpublished=False, progress=Ending())
    assert moved(settings, url)


@pytest.mark.slow
@pytest.mark.parametrize("password", ["", "pa55word"])
@pytest.mark.parametrize("file", [True, False])
def test_the_command_ends_with_what_to_do_next(
    password: str, file: bool, settings: Settings, url: str, tmp_path: Path
) -> None:
    with closing(SqliteStore(sqlite_of(settings), Policy())) as store:
        operations: list[Operation] = [ReserveChat(UUID(int=99), "lk", EVE)]
        if file:
            stored = StoredAttachment(UUID(int=9), AttachmentType.FILE, "a.txt", "txt", 5)
            operations.append(RecordUpload(Upload(stored, identity_of(EVE), "lk", "text/plain", NOW)))
        store.commit(operations, Batch("test", 1, NOW))
    target = url.replace("@", f":{password}@") if password else f"{url}?application_name=a&connect_timeout=9"
    # Two nodes on the new database have these in their environment, and --data names the old one.
    nodes = {"ACTORCHAT_STORAGE": target, "ACTORCHAT_BUS": "postgres", "ACTORCHAT_WORKERS": "2"}
    status, said = actorchat("migrate", target, "--data", str(tmp_path), **nodes)
    assert (status, "copied and compared. Start the server with --storage" in said) == (0, True), said
    if password:
        shown = target.replace(password, "***")
        assert f"--storage and this URL, with the password that is hidden here: {shown}\n" in said
    else:
        assert f"--storage '{target}'\n" in said
    where = f"the files of chats are still in {tmp_path}/attachments: several servers need them in a bucket or a shared"
    assert (where in said, "files of chats" in said) == (file, file)


def test_the_reason_is_named_if_the_storage_is_not_sqlite(tmp_path: Path) -> None:
    nodes = {"ACTORCHAT_STORAGE": "postgresql://ann:pa55word@db/chat", "ACTORCHAT_DATA": str(tmp_path)}
    status, said = actorchat("migrate", "postgresql://ann@db/chat", **nodes)
    assert (status, "`storage` is postgresql://ann:***@db/chat: name the old one with" in said) == (1, True), said
