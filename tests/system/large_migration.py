"""Moves a large SQLite database with `actorchat migrate`, which is killed on the way, and compares both databases.

python -m tests.system.large_migration --messages 1000000
"""

import hashlib
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import click
import psycopg
from rich.console import Console
from rich.progress import track

from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, CloseChat, MarkMessage, Operation, ReserveChat
from actorchat.protocol import Role, User
from actorchat.storage import schema
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from actorchat.testing import random_operations
from tests.postgres_server import PostgresServer

NOW = 1_700_000_000
BATCH = 500
MESSAGES_A_CHAT = 40
OPERATORS = tuple(User(number, Role.OPERATOR, firstname=f"Operator {number}") for number in range(1, 9))
OF_THE_DATABASE = {"log", "relayed", "writers", "settings"}
"""The tables that say something about one database and its servers."""


def fill(path: Path, messages: int) -> None:
    """Store so many messages in chats of `MESSAGES_A_CHAT`, which are accepted, and in part read and closed."""
    chance = random.Random(messages)
    with closing(SqliteStore(path, Policy())) as store:
        numbers = iter(range(1, sys.maxsize))
        odd = list(random_operations(5, 2_000))
        for start in range(0, len(odd), 20):
            number = next(numbers)
            store.commit(odd[start : start + 20], Batch("filler", number, NOW + number))
        chats = range(messages // MESSAGES_A_CHAT)
        waiting: list[Operation] = []
        last_id = store.newest_number()
        for index in track(chats, description="Storing messages", console=Console(stderr=True)):
            chat, owner = UUID(int=1_000 + index), User(1_000 + index, Role.USER, firstname=f"Visitor {index}")
            operator = chance.choice(OPERATORS)
            waiting += [ReserveChat(chat, f"shop-{index % 20}", owner), AddMessage(chat, owner, "Good morning!")]
            waiting.append(AcceptChat(chat, operator))
            for place in range(MESSAGES_A_CHAT - 1):
                author = chance.choice((owner, operator))
                key = f"key-{place}" if chance.random() < 0.5 else None
                waiting.append(AddMessage(chat, author, f"Message {place} of {chat}, €ю👍", client_id=key))
            if len(waiting) >= BATCH or index == chats[-1]:
                number = next(numbers)
                store.commit(waiting, Batch("filler", number, NOW + number))
                waiting, last_id = [], store.newest_number()
            waiting += [MarkMessage(chat, owner, last_id, chance.random() < 0.5)]
            waiting += [CloseChat(chat, operator)] if chance.random() < 0.7 else []
        store.commit(waiting, Batch("filler", next(numbers), NOW * 2))


def plain(value: object) -> object:
    """Return the value as both databases have it."""
    return value.hex if isinstance(value, UUID) else int(value) if isinstance(value, bool) else value


def digest(rows: Iterable[tuple[object, ...]]) -> tuple[int, str]:
    """Return the number of the rows and a hash of them in their order."""
    count, found = 0, hashlib.sha256()
    for row in rows:
        count += 1
        found.update(repr(tuple(map(plain, row))).encode())
    return count, found.hexdigest()


def differing_tables(path: Path, url: str) -> list[str]:
    """Read every table of both databases, and return a line for each that is not the same."""
    differing = []
    with closing(sqlite3.connect(path)) as old, psycopg.connect(url) as new:
        for table in schema.metadata.sorted_tables:
            if table.name in OF_THE_DATABASE:
                continue
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            key = ", ".join(
                f'"{column.name}"' + (' COLLATE "C"' if str(column.type)[:4] in ("TEXT", "VARC") else "")
                for column in table.primary_key
            )
            text = f'SELECT {columns} FROM "{table.name}" ORDER BY {key}'  # noqa: S608 - names of the schema
            with new.cursor(name="rows") as cursor:
                theirs = digest(cursor.execute(text))
            ours = digest(old.execute(text.replace(' COLLATE "C"', "")))
            click.echo(f"{table.name}: {ours[0]:,} rows, {'the same' if ours == theirs else 'NOT the same'}")
            if ours != theirs:
                differing.append(f"{table.name}: {ours} and {theirs}")
    return differing


def copied(url: str) -> str:
    """Say how many messages the new database has."""
    with psycopg.connect(url) as connection:
        [(there,)] = connection.execute("SELECT to_regclass('messages') IS NOT NULL").fetchall()
        count = connection.execute("SELECT count(*) FROM messages").fetchall()[0][0] if there else 0
    return f"{count:,} messages copied"


def migrate(folder: Path, url: str, kill_after: float | None) -> int:
    """Run `actorchat migrate`, kill it after so many seconds, and return its exit status."""
    command = (sys.executable, "-m", "actorchat", "migrate", url, "--data", str(folder))
    with subprocess.Popen(command) as process:
        try:
            return process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


@click.command
@click.option("--messages", default=1_000_000, show_default=True)
@click.option(
    "--kill-after", type=float, multiple=True, default=(15.0, 40.0), help="Seconds, for each time it is killed."
)
def main(messages: int, kill_after: tuple[float, ...]) -> None:
    """Move a database of so many messages, killing the move each time, and compare every table."""
    server = PostgresServer()
    with tempfile.TemporaryDirectory(prefix="actorchat-migration-") as name:
        folder, path = Path(name), Path(name) / "actorchat.db"
        try:
            server.create()
            server.start()
            fill(path, messages)
            url = server.new_database()
            for seconds in kill_after:
                click.echo(f"killed after {seconds:g} s: exit status {migrate(folder, url, seconds)}, {copied(url)}")
            began = time.monotonic()
            if migrate(folder, url, None) != 0:
                raise click.ClickException("actorchat migrate failed")
            click.echo(f"the last part took {time.monotonic() - began:.0f} s")
            if differing := differing_tables(path, url):
                raise click.ClickException("; ".join(differing))
        finally:
            server.close()


if __name__ == "__main__":
    main()
