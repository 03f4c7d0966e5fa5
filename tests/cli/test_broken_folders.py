"""A broken data folder or database makes `serve` end with one line and exit status 1."""

import gc
import logging
import os
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trio

from actorchat.chat.model import Policy
from actorchat.cli import main
from actorchat.server.auth import ensure_secret
from actorchat.storage import open_journal, open_store
from actorchat.storage.schema import HEAD
from tests.cli.drop_privileges import permissions_apply
from tests.storage.sample_chat import RESERVE, OutcomeRecorder, say

pytestmark = pytest.mark.slow

Break = Callable[[Path, ExitStack], object]
"""Breaks a data folder. Anything that must be undone is pushed on the stack."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data folder with one chat, inside the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ACTORCHAT_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "actorchat-data"
    folder.mkdir(mode=0o700)
    ensure_secret(folder)

    async def talk() -> None:
        async with (
            open_store(f"sqlite:///{folder}/actorchat.db", Policy()) as storage,
            open_journal(storage.store, storage.runner) as journal,
        ):
            for operation in (RESERVE, say("hello")):
                journal.submit(operation, OutcomeRecorder())

    trio.run(talk)
    yield folder
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


@pytest.fixture(autouse=True)
def process_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what the command changes in this process. A server that starts fails the test."""
    root, ours = logging.getLogger(), logging.getLogger("actorchat")
    before = root.handlers[:], root.level, ours.level, sys.getswitchinterval(), gc.get_threshold()

    def started(*_: object) -> str:
        raise AssertionError("the server started")

    monkeypatch.setattr("actorchat.cli.serve._print_welcome", started)
    yield
    root.handlers[:], root_level, own_level, interval, thresholds = before
    root.setLevel(root_level)
    ours.setLevel(own_level)
    sys.setswitchinterval(interval)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def serve(*options: str) -> int:
    with permissions_apply(), pytest.raises(SystemExit) as ended:
        main(["serve", "--port", "0", *options], prog_name="actorchat")
    assert isinstance(ended.value.code, int)
    return ended.value.code


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def instead_of(name: str, make: Callable[[Path], object]) -> Break:
    """Replace that file of the folder by what `make` creates."""

    def break_it(data: Path, _: ExitStack) -> None:
        (data / name).unlink(missing_ok=True)
        make(data / name)

    return break_it


def with_mode(name: str, mode: int) -> Break:
    def break_it(data: Path, _: ExitStack) -> None:
        (data / name).touch()
        (data / name).chmod(mode)

    return break_it


def content(edit: Callable[[bytes], bytes]) -> Break:
    """Change the database's bytes with `edit`."""

    def break_it(data: Path, _: ExitStack) -> None:
        path = data / "actorchat.db"
        path.write_bytes(edit(path.read_bytes()))

    return break_it


def statements(*text: str) -> Break:
    return lambda data, _: sql(data / "actorchat.db", *text)


def another_program(*text: str) -> Break:
    """Replace the database by one that another program made with these statements."""

    def break_it(data: Path, _: ExitStack) -> None:
        (data / "actorchat.db").unlink()
        sql(data / "actorchat.db", *text)

    return break_it


def versioned(version: str) -> Break:
    return another_program(
        "CREATE TABLE alembic_version (version_num)",
        f"INSERT INTO alembic_version VALUES ('{version}')",  # noqa: S608 - constant text
    )


def locked(*text: str, new: bool = False) -> Break:
    """Keep the database open in another connection that has executed these statements."""

    def break_it(data: Path, stack: ExitStack) -> None:
        if new:
            (data / "actorchat.db").unlink()
        other = stack.enter_context(closing(sqlite3.connect(data / "actorchat.db", isolation_level=None)))
        for statement in text:
            other.execute(statement).fetchall()

    return break_it


def limited(size: int) -> Break:
    """Limit files to `size` bytes, like a disk that is nearly full."""

    def break_it(data: Path, stack: ExitStack) -> None:
        for path in data.iterdir():
            path.unlink()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        stack.callback(signal.signal, signal.SIGXFSZ, signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
        stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    return break_it


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fspath(path.relative_to(Path.cwd())))


def a_file_instead(data: Path, _: ExitStack) -> None:
    data.rename(data.with_name("elsewhere"))
    data.write_text("no folder")


def a_link_to(target: str) -> Break:
    def break_it(data: Path, _: ExitStack) -> None:
        data.rename(data.with_name("elsewhere"))
        data.symlink_to(target)

    return break_it


def folder_with_mode(mode: int, *, empty: bool = False) -> Break:
    def break_it(data: Path, _: ExitStack) -> None:
        if empty:
            for path in data.iterdir():
                path.unlink()
        data.chmod(mode)

    return break_it


def parent_with_mode(mode: int) -> Break:
    def break_it(data: Path, _: ExitStack) -> None:
        data.rename(data.with_name("elsewhere"))
        data.parent.chmod(mode)

    return break_it


def of_another_user(name: str) -> Break:
    def break_it(data: Path, _: ExitStack) -> None:
        path = data / name
        path.touch()
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.chown(path, 65534, 65534)

    return break_it


def garbage_behind_the_header(data: bytes) -> bytes:
    return data[:4096] + b"\xff" * (len(data) - 4096)


BREAKS: dict[str, tuple[Break, str]] = {
    "folder: a file": (a_file_instead, "actorchat-data is not a folder"),
    "folder: a link to nowhere": (a_link_to("nowhere"), "a symbolic link that does not lead to a folder"),
    "folder: a link to itself": (a_link_to("actorchat-data"), "a symbolic link that does not lead to a folder"),
    "folder: not readable": (folder_with_mode(0o000), "has the mode 0000"),
    "folder: not writable, empty": (folder_with_mode(0o500, empty=True), "has the mode 0500"),
    "folder: not writable, in use": (folder_with_mode(0o500), "has the mode 0500"),
    "folder: not searchable": (folder_with_mode(0o600), "has the mode 0600"),
    "folder: its parent not writable": (parent_with_mode(0o500), "has the mode 0500"),
    "secret: a folder": (instead_of("secret", Path.mkdir), "secret is a folder"),
    "secret: a link to nowhere": (
        instead_of("secret", lambda path: path.symlink_to("x")),
        "a symbolic link to a file",
    ),
    "secret: a link to itself": (instead_of("secret", lambda path: path.symlink_to(path)), "symbolic links"),
    "secret: not readable": (with_mode("secret", 0o000), "has the mode 0000"),
    "database: a folder": (instead_of("actorchat.db", Path.mkdir), "is a folder, but a file is needed"),
    "database: a pipe": (instead_of("actorchat.db", os.mkfifo), "is not a regular file"),
    "database: a socket": (instead_of("actorchat.db", a_socket), "is not a regular file"),
    "database: a device": (instead_of("actorchat.db", lambda path: path.symlink_to("/dev/full")), "not a regular file"),
    "database: a link to nowhere": (
        instead_of("actorchat.db", lambda path: path.symlink_to("no/where.db")),
        "no does not exist",
    ),
    "database: a link to itself": (instead_of("actorchat.db", lambda path: path.symlink_to(path)), "cannot be used"),
    "database: not readable": (with_mode("actorchat.db", 0o200), "has the mode 0200"),
    "database: not writable": (with_mode("actorchat.db", 0o400), "has the mode 0400"),
    "database: text": (content(lambda _: b"no database at all" * 500), "is not an SQLite database"),
    "database: 50 bytes": (content(lambda data: data[:50]), "or is damaged"),
    "database: cut off": (content(lambda data: data[:6000]), "or is damaged"),
    "database: garbage": (content(garbage_behind_the_header), "or is damaged"),
    "schema: newer": (statements("UPDATE alembic_version SET version_num = '0099'"), "use the newer version"),
    "schema: no version": (statements("DELETE FROM alembic_version"), "exactly one schema version"),
    "schema: two versions": (statements("INSERT INTO alembic_version VALUES ('2')"), "exactly one schema version"),
    "schema: a version of no kind": (
        another_program("CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES (NULL)"),
        "exactly one schema version",
    ),
    "schema: no version table": (statements("DROP TABLE alembic_version"), "belongs to another program"),
    "schema: a table lacks": (statements("DROP TABLE people"), "lacks the table people"),
    "schema: a column lacks": (statements("ALTER TABLE chats DROP COLUMN rev"), "lacks the column rev of"),
    "schema: another program's of our version": (versioned(HEAD), "lacks the table"),
    "schema: another program's of an older version of ours": (versioned("0001"), "does not have the tables"),
    "tables: a foreign chats": (another_program("CREATE TABLE chats (x)"), "its tables are chats"),
    "tables: a foreign view": (another_program("CREATE VIEW chats AS SELECT 1"), "its tables are chats"),
    "tables: four others": (
        another_program(*(f"CREATE TABLE {name} (x)" for name in "abcd")),
        "its tables are a, b, c, …",
    ),
    "tables: foreign, with a version": (
        another_program("CREATE TABLE alembic_version (x)"),
        "its tables are alembic_version",
    ),
    "values: a bad id": (statements("UPDATE chats SET uuid = 'x'"), "holds a value that actorchat did not write"),
    "values: a bad counter": (statements("UPDATE source_counters SET unread_chats = 'x', rev = 'y'"), "holds a value"),
    "locked: for a write": (locked("BEGIN IMMEDIATE"), "is locked by another program"),
    "locked: wholly": (locked("PRAGMA locking_mode=EXCLUSIVE", "BEGIN IMMEDIATE"), "is locked by another program"),
    "locked: read without a log": (
        locked("PRAGMA journal_mode=DELETE", "BEGIN", "SELECT * FROM chats"),
        "is locked by another program",
    ),
    "locked: new": (locked("BEGIN EXCLUSIVE", new=True), "is locked by another program"),
    "log: a folder": (instead_of("actorchat.db-wal", Path.mkdir), "actorchat.db-wal is not a file"),
    "log: not writable": (with_mode("actorchat.db-wal", 0o400), "has the mode 0400"),
    "index of the log: a folder": (instead_of("actorchat.db-shm", Path.mkdir), "actorchat.db-shm is not a file"),
    "index of the log: not writable": (with_mode("actorchat.db-shm", 0o400), "has the mode 0400"),
    "journal: a folder": (instead_of("actorchat.db-journal", Path.mkdir), "actorchat.db-journal is not a file"),
    "lock: a folder": (instead_of("actorchat.db.lock", Path.mkdir), "actorchat.db.lock is a folder"),
    "lock: not writable": (with_mode("actorchat.db.lock", 0o400), "has the mode 0400"),
    "disk: full at once": (limited(0), "File too large"),
    "disk: full after the secret": (limited(100), "cannot be used"),
    "disk: full in the schema": (limited(20_000), "cannot be used"),
}

if hasattr(os, "geteuid") and os.geteuid() == 0:
    BREAKS |= {
        f"{name or 'folder'}: of another user": (of_another_user(name), "belongs to nobody")
        for name in ("", "secret", "actorchat.db", "actorchat.db-wal", "actorchat.db.lock")
    }


@pytest.mark.parametrize(("break_it", "told"), BREAKS.values(), ids=BREAKS)
def test_a_broken_folder_is_one_line_and_status_1(
    data: Path, break_it: Break, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        break_it(data, stack)
        assert serve() == 1
    written = capsys.readouterr()
    assert written.out == ""
    (line,) = written.err.splitlines()
    assert line.startswith("actorchat: the ")
    assert told in line


@pytest.mark.parametrize("size", [100, 8_000, 20_000, 40_000])
def test_a_start_that_fails_for_lack_of_room_leaves_nothing_behind(
    data: Path, size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        limited(size)(data, stack)
        assert serve() == 1
        # The output is captured in memory, because the size of files is limited.
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert os.listdir(data) == []


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000])
def test_a_name_that_is_too_long_is_one_line_and_status_1(
    data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve("--data", name) == 1
    assert serve("--storage", f"sqlite:///{name}") == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("File name too long" in line for line in lines)


def test_an_absolute_path_that_lacks_a_slash_is_one_line_with_the_right_one(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = str(tmp_path / "chat.db").removeprefix("/")
    assert serve("--storage", f"sqlite:///{given}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"does not exist: an absolute path has four slashes, as in sqlite:////{given}")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this platform has no /proc")
def test_a_folder_that_can_not_be_created_is_one_line_and_status_1(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve("--data", "/proc/chat") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "actorchat: the data folder can't be used: /proc/chat can't be created there"


def test_a_folder_in_an_option_that_may_not_be_read_is_one_line_and_status_1(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.chmod(0o000)
    assert serve("--data", str(data)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has the mode 0000" in line


def test_a_deleted_current_folder_is_one_line_and_status_1(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert serve() == 1
    assert capsys.readouterr().err == "actorchat: the current folder no longer exists; change to another one\n"


def test_an_invalid_host_name_is_one_line_and_status_1(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("--host", "x" * 64 + ".example") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "invalid host name" in line


def test_a_home_folder_of_an_unknown_user_is_a_bad_setting(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("--data", "~nobody-has-this-name/data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("actorchat: data: expected the path of a folder")


def test_a_database_of_another_program_is_left_as_it_was(data: Path) -> None:
    path = data / "actorchat.db"
    path.unlink()
    sql(path, "CREATE TABLE contacts (name)")
    before = path.read_bytes()
    assert serve() == 1
    assert path.read_bytes() == before
