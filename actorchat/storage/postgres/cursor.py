"""Executes the shared statements on a connection of psycopg."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import starmap
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct

from actorchat.storage.postgres.connecting import Connection
from actorchat.storage.row_mapping import Row

__all__ = ["PostgresCursor"]

_encode: Final = msgspec.json.encode


class PostgresCursor:
    """A cursor on which the statements of `row_types` take written rows as one JSON array of objects of that type.

    In a pipeline, a statement is sent at once, and its result is awaited only when it is fetched.
    """

    def __init__(self, connection: Connection, row_types: Mapping[str, type[Struct]]) -> None:
        self.connection: Connection = connection
        self._row_types = row_types
        self._cursor: psycopg.Cursor[tuple[Any, ...]] = connection.cursor()

    def execute(self, statement: str, parameters: Row = (), /) -> object:
        if statement in self._row_types:
            return self.executemany(statement, (parameters,))
        # A cursor of its own: otherwise, in a pipeline, it would get the results of earlier statements too.
        self._cursor = self.connection.cursor()
        return self._cursor.execute(statement.encode(), parameters)

    def executemany(self, statement: str, rows: Iterable[Row], /) -> object:
        # Encoded five times as fast as dictionaries.
        objects = list(starmap(self._row_types[statement], rows))
        self._cursor = self.connection.cursor()
        return self._cursor.execute(statement.encode(), (_encode(objects).decode(),)) if objects else None

    def fetchone(self) -> Row | None:
        return self._cursor.fetchone()

    def fetchmany(self, size: int, /) -> list[Row]:
        return self._cursor.fetchmany(size)

    def fetchall(self) -> list[Row]:
        return self._cursor.fetchall()

    def ask(self, questions: Sequence[tuple[str, Row]]) -> list[list[Row]]:
        """The rows of each statement, with one round trip for all of them."""
        if len(questions) == 1:
            [(statement, parameters)] = questions
            self.execute(statement, parameters)
            return [self.fetchall() if self._cursor.description else []]
        asked: list[psycopg.Cursor[tuple[Any, ...]]] = []
        with self.connection.pipeline():
            for statement, parameters in questions:
                self.execute(statement, parameters)
                asked.append(self._cursor)
        return [cursor.fetchall() if cursor.description else [] for cursor in asked]
