"""SQLite connections that fail where a test wants, like those on full or broken disks."""

import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from actorchat.storage.connections import connect

Before = Callable[[str], object]


class _Cursor(sqlite3.Cursor):
    connection: "_Connection"

    def execute(self, sql: str, parameters: Any = (), /) -> "_Cursor":  # Any: as in the sqlite3 module
        self.connection.before(sql)
        self.connection.reading(sql, parameters)
        super().execute(sql, parameters)
        self.connection.after(sql)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> "_Cursor":  # Any: as in the sqlite3 module
        self.connection.before(sql)
        super().executemany(sql, parameters)
        return self


class _Connection(sqlite3.Connection):
    before: Before
    after: Before
    reading: Callable[[str, object], object]

    def cursor(self, factory: Any = None) -> Any:  # Any: as in the sqlite3 module
        return super().cursor(_Cursor)


class Disk:
    """Opens the store's connections. `before` and `after` are called with each statement of a writer and may raise.

    `reading` is called like `before`, with the parameters too.
    `setup` is called with each new connection of a writer.
    """

    def __init__(self) -> None:
        self.before: Before = lambda sql: None
        self.after: Before = lambda sql: None
        self.reading: Callable[[str, object], object] = lambda sql, parameters: None
        self.setup: Callable[[sqlite3.Connection], object] = lambda connection: None
        self.writers: list[sqlite3.Connection] = []

    def connect(self, path: Path, read_only: bool) -> sqlite3.Connection:
        if read_only:
            return connect(path, read_only)
        connection = connect(path, read_only, _Connection)
        assert isinstance(connection, _Connection)
        connection.before = lambda sql: self.before(sql)
        connection.after = lambda sql: self.after(sql)
        connection.reading = lambda sql, parameters: self.reading(sql, parameters)
        self.setup(connection)
        self.writers.append(connection)
        return connection
