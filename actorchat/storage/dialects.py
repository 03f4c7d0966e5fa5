"""Has the parts of SQL statements that SQLite and PostgreSQL spell differently.

Statements take lists of keys as one JSON array. SQLite gets written rows one by one as positional parameters, and
PostgreSQL all rows of a statement as one JSON array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy import JSON, Column, ColumnElement, Table, Text, bindparam, cast, column, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.engine import Dialect as Compiler
from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["PostgresDialect", "RowColumns", "SqlDialect", "SqliteDialect"]

RowColumns = Callable[[str], ColumnElement[Any]]
"""Returns the value of a written row with that name."""


class SqlDialect(Protocol):
    """Builds parts of statements. `Any`, as in SQLAlchemy, is a clause of any type."""

    compiler: Compiler
    rows_are_json: bool
    """Whether a statement that writes rows takes them as one JSON array of objects."""

    def keys(self, name: str) -> Any:
        """A table of the scalars in the JSON array that is the parameter `name`."""

    def key(self, keys: Any, of: ColumnElement[Any]) -> ColumnElement[Any]:
        """The scalar in a row of `keys`, to be compared with the column `of`."""

    def tuples(self, name: str) -> Any:
        """A table of the arrays in the JSON array that is the parameter `name`."""

    def item(self, tuples: Any, place: int, of: ColumnElement[Any]) -> ColumnElement[Any]:
        """A part of the array in a row of `tuples`, to be compared with the column `of`."""

    def among(self, of: ColumnElement[Any], name: str = "keys") -> ColumnElement[bool]:
        """Whether the column `of` has one of the scalars in the JSON array that is the parameter `name`."""

    def greater(self, one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
        """The greater of two values."""

    def written(self, columns: Mapping[str, ColumnElement[Any]]) -> RowColumns:
        """The values of written rows, with the types of `columns`."""

    def insert(self, table: Table, names: Sequence[str], row: RowColumns) -> Any:
        """Insert written rows, whose values are named as their columns; has `on_conflict_do_update`."""


class _SqliteCompiler(SQLiteCompiler):
    # Its own adds an offset as a parameter to each limit.
    limit_clause = SQLCompiler.limit_clause


class SqliteDialect:
    """The dialect of SQLite."""

    def __init__(self) -> None:
        self.compiler: Compiler = sqlite.dialect(paramstyle="qmark")
        self.compiler.statement_compiler = _SqliteCompiler
        self.rows_are_json: bool = False

    def keys(self, name: str) -> Any:
        return func.json_each(bindparam(name)).table_valued("value", name="asked")

    def key(self, keys: Any, of: ColumnElement[Any]) -> ColumnElement[Any]:
        value: ColumnElement[Any] = keys.c.value
        return value

    def tuples(self, name: str) -> Any:
        return self.keys(name)

    def item(self, tuples: Any, place: int, of: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.json_extract(tuples.c.value, literal_column(f"'$[{place}]'"))

    def among(self, of: ColumnElement[Any], name: str = "keys") -> ColumnElement[bool]:
        return of.in_(select(func.json_each(bindparam(name)).table_valued("value").c.value))

    def greater(self, one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
        # With two arguments, max returns the greater one.
        return func.max(one, other)

    def written(self, columns: Mapping[str, ColumnElement[Any]]) -> RowColumns:
        return bindparam

    def insert(self, table: Table, names: Sequence[str], row: RowColumns) -> Any:
        return sqlite.insert(table).values({name: row(name) for name in names})


class PostgresDialect:
    """The dialect of PostgreSQL."""

    def __init__(self) -> None:
        self.compiler: Compiler = postgresql.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
        self.rows_are_json: bool = True

    def keys(self, name: str) -> Any:
        values = func.json_array_elements_text(cast(bindparam(name), JSON))
        return values.table_valued(column("value", Text), name="asked")

    def key(self, keys: Any, of: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(keys.c.value, of.type)

    def tuples(self, name: str) -> Any:
        values = func.json_array_elements(cast(bindparam(name), JSON))
        return values.table_valued(column("value", JSON), name="asked")

    def item(self, tuples: Any, place: int, of: ColumnElement[Any]) -> ColumnElement[Any]:
        return cast(tuples.c.value.op("->>")(literal_column(str(place))), of.type)

    def among(self, of: ColumnElement[Any], name: str = "keys") -> ColumnElement[bool]:
        # Read once into an array, so that the plan does not depend on how many there are.
        keys = self.keys(name)
        array = func.array(select(self.key(keys, of)).select_from(keys).scalar_subquery())
        return of == func.any(array)

    def greater(self, one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.greatest(one, other)

    def written(self, columns: Mapping[str, ColumnElement[Any]]) -> RowColumns:
        typed = [Column(name, of.type) for name, of in columns.items()]
        rows = func.json_to_recordset(cast(bindparam("rows"), JSON)).table_valued(*typed, name="written")
        return rows.render_derived(with_types=True).c.__getitem__

    def insert(self, table: Table, names: Sequence[str], row: RowColumns) -> Any:
        return postgresql.insert(table).from_select(names, select(*map(row, names)))
