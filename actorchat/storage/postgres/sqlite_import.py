"""Copies all rows of a SQLite database into an empty PostgreSQL database, and compares both row by row.

Each page of rows is committed together with the place in its table, so a copy that was interrupted goes on there. Until
both databases were compared, no server opens the new one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final
from uuid import UUID

import attrs
import msgspec
from psycopg import sql
from sqlalchemy import Boolean, Table, Uuid

from actorchat.storage import schema
from actorchat.storage.postgres.advisory import take_start
from actorchat.storage.postgres.connecting import Connection
from actorchat.storage.postgres.history import EPOCH, HISTORY
from actorchat.storage.postgres.statements import BLOCK
from actorchat.storage.row_mapping import Row
from actorchat.storage.startup_repair import IDENTITY
from actorchat.storage.store import StoreUrlError

__all__ = ["IMPORT", "ImportMismatch", "SqliteImport", "check_imported"]

IMPORT: Final = "import"
"""The setting with the place of an import that is not complete."""

_PAGE: Final = 5_000
"""Rows that are committed at once."""

_LEFT_OUT: Final = frozenset({"log", "relayed", "writers", "settings"})
"""Tables that say how far a server has come, and one that needs care."""

_OWN_SETTINGS: Final = frozenset({IMPORT, EPOCH, HISTORY})
"""Settings that each database has for itself."""

TABLES: Final[Sequence[Table]] = tuple(table for table in schema.metadata.sorted_tables if table.name not in _LEFT_OUT)

Report = Callable[[int, int], None]
"""Receives how many rows are done, and how many there are."""


class ImportMismatch(Exception):  # noqa: N818 - names what was found
    """A row is not the same in both databases. The text names the first one."""


class _Place(msgspec.Struct):
    """How far the import from the database `identity` has come: all of the tables `done`, and `table` up to `key`."""

    identity: str
    done: list[str] = []
    table: str = ""
    key: list[Any] = []
    copied: int = 0


def check_imported(connection: Connection, name: str) -> None:
    """Raise `StoreUrlError` if an import into the database is not complete. `name` is for the message."""
    if connection.execute("SELECT 1 FROM settings WHERE name = %s", (IMPORT,)).fetchall():
        raise StoreUrlError(
            f"{name} holds a part of the chats of a SQLite database: run actorchat migrate again, which goes on where"
            " it was interrupted"
        )


@attrs.define(eq=False)
class SqliteImport:
    """Copies `source`, which nothing changes meanwhile and whose random name is `identity`, to `target`.

    Both have the newest schema. `name` is that of the target, for messages.
    """

    source: sqlite3.Connection
    target: Connection
    identity: str
    name: str

    def begin(self) -> int:
        """Check that the target is empty, or has an unfinished import of this source. Returns how many rows it has.

        Raises `StoreUrlError` if it has anything else, or if servers use it.
        """
        with self.target.transaction():
            take_start(self.target)
            if self.target.execute("SELECT 1 FROM nodes WHERE expires_at > now()").fetchall():
                raise StoreUrlError(f"a server uses {self.name}: stop it first")
            place = self._place()
            if place is not None and place.identity == self.identity:
                return place.copied
            if place is not None:
                raise StoreUrlError(
                    f"{self.name} holds a part of the chats of another SQLite database: name an empty database"
                )
            for table in TABLES:
                found = sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(table.name))
                if self.target.execute(found).fetchall():
                    if self._has_identity():
                        raise StoreUrlError(
                            f"these chats were moved to {self.name} already: start the server with that URL as"
                            " --storage, or name an empty database to move them again"
                        )
                    raise StoreUrlError(f"{self.name} is not empty (it has {table.name}): name an empty database")
            self.target.execute("DELETE FROM settings")
            self._put_place(_Place(self.identity))
        return 0

    def rows(self) -> int:
        """How many rows the source has."""
        return sum(self.source.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] for table in TABLES)  # noqa: S608 - constants

    def copy(self, report: Report) -> None:
        """Copy the rows that are not copied yet."""
        total = self.rows()
        place = self._place() or _Place(self.identity)
        report(place.copied, total)
        for table in TABLES:
            if table.name in place.done:
                continue
            if place.table != table.name:
                place.table, place.key = str(table.name), []
            self._copy_table(table, place, lambda copied: report(copied, total))

    def _copy_table(self, table: Table, place: _Place, report: Callable[[int], None]) -> None:
        keys = [column.name for column in table.primary_key.columns]
        names = [column.name for column in table.columns]
        places = [names.index(key) for key in keys]
        convert = _to_postgres(table)
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table.name), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        while True:
            after = f"WHERE ({', '.join(keys)}) > ({', '.join('?' * len(keys))})" if place.key else ""
            page = self.source.execute(
                f"SELECT {', '.join(names)} FROM {table.name} {after} ORDER BY {', '.join(keys)} LIMIT {_PAGE}",  # noqa: S608 - constants
                place.key,
            ).fetchall()
            with self.target.transaction():
                if page:
                    with self.target.cursor() as cursor, cursor.copy(copy) as rows:
                        for row in page:
                            rows.write_row(convert(row))
                    place.key = [page[-1][index] for index in places]
                    place.copied += len(page)
                if len(page) < _PAGE:
                    place.done.append(str(table.name))
                self._put_place(place)
            report(place.copied)
            if len(page) < _PAGE:
                return

    def compare(self, report: Report) -> int:
        """Compare all rows. Returns how many there are. Raises `ImportMismatch`."""
        total, compared = self.rows(), 0
        for table in TABLES:
            for ours, theirs in zip_longest(self._source_rows(table), self._target_rows(table)):
                if ours != theirs:
                    raise ImportMismatch(_difference(table, ours, theirs))
                compared += 1
                if compared % _PAGE == 0:
                    report(compared, total)
        report(total, total)
        return total

    def finish(self) -> None:
        """Take over the settings, let new numbers follow those in use, and let servers open the database."""
        settings = self.source.execute("SELECT name, value FROM settings").fetchall()
        number = self._highest(
            ("messages", "id"),
            ("moves", "place"),
            ("chats", "place"),
            ("edits", "place"),
            ("removed_chats", "place"),
            ("writers", "last_message_id"),
        )
        chat = self._highest(("chats", "number"), ("messages", "chat"), ("uploads", "chat"))
        with self.target.transaction():
            self.target.execute("ANALYZE")
        # Last, because the move is complete with it.
        with self.target.transaction():
            with self.target.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO settings (name, value) VALUES (%s, %s)",
                    [row for row in settings if row[0] not in _OWN_SETTINGS],
                )
            # The block of the newest number counts as taken.
            self.target.execute("SELECT setval('message_blocks', %s)", (number // BLOCK * BLOCK + 1,))
            self.target.execute("SELECT setval('chat_numbers', %s, false)", (chat + 1,))
            self.target.execute("DELETE FROM settings WHERE name = %s", (IMPORT,))

    def _highest(self, *columns: tuple[str, str]) -> int:
        newest = (self.source.execute(f"SELECT max({column}) FROM {table}").fetchone()[0] for table, column in columns)  # noqa: S608 - constants
        return max(number or 0 for number in newest)

    def _has_identity(self) -> bool:
        found = self.target.execute("SELECT value FROM settings WHERE name = %s", (IDENTITY,)).fetchall()
        return found == [(self.identity,)]

    def _place(self) -> _Place | None:
        for (value,) in self.target.execute("SELECT value FROM settings WHERE name = %s", (IMPORT,)).fetchall():
            return msgspec.json.decode(value, type=_Place)
        return None

    def _put_place(self, place: _Place) -> None:
        self.target.execute(
            "INSERT INTO settings (name, value) VALUES (%s, %s)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (IMPORT, msgspec.json.encode(place).decode()),
        )

    def _source_rows(self, table: Table) -> Iterable[Row]:
        keys = ", ".join(column.name for column in table.primary_key.columns)
        names = ", ".join(column.name for column in table.columns)
        return self.source.execute(f"SELECT {names} FROM {table.name} ORDER BY {keys}")  # noqa: S608 - constants

    def _target_rows(self, table: Table) -> Iterator[Row]:
        """The rows of a table as SQLite has them, in the order of SQLite."""
        keys = [
            # Numbers by their index, texts by their bytes.
            sql.SQL('{} COLLATE "C"' if column.type.python_type is str else "{}").format(sql.Identifier(column.name))
            for column in table.primary_key.columns
        ]
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
            sql.Identifier(table.name),
            sql.SQL(", ").join(keys),
        )
        uuids = [index for index, column in enumerate(table.columns) if isinstance(column.type, Uuid)]
        with self.target.transaction(), self.target.cursor("compared") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(query)
            for row in cursor:
                if not uuids:
                    yield row
                    continue
                values = list(row)
                for index in uuids:
                    values[index] = UUID(values[index]).hex
                yield tuple(values)


def _to_postgres(table: Table) -> Callable[[Row], Row]:
    flags = [index for index, column in enumerate(table.columns) if isinstance(column.type, Boolean)]
    if not flags:
        return lambda row: row

    def convert(row: Row) -> Row:
        values = list(row)
        for index in flags:
            values[index] = bool(values[index])
        return tuple(values)

    return convert


def _difference(table: Table, ours: Row | None, theirs: Row | None) -> str:
    """Which row and column differ, without what people wrote."""
    columns = list(table.columns)
    row = ours or theirs or ()
    key = ", ".join(f"{column.name}={row[index]!r}" for index, column in enumerate(columns) if column.primary_key)
    if ours is None or theirs is None:
        where = "the new database only" if ours is None else "the old database only"
        return f"the row {key} of {table.name} is in {where}"
    differing = next(column.name for column, one, other in zip(columns, ours, theirs, strict=True) if one != other)
    return f"the row {key} of {table.name} differs in {differing}"
