"""Defines the tables that only PostgreSQL has, and names those that only SQLite has."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Computed,
    DateTime,
    Double,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
    text,
)

from actorchat.storage.schema import log
from actorchat.storage.schema import metadata as shared

__all__ = ["metadata"]

metadata: MetaData = MetaData()
for _table in shared.sorted_tables:
    # In place of the log there are the three tables of commits below.
    if _table is not log:
        _table.to_metadata(metadata)

# PostgreSQL updates a row without touching its indexes if no indexed column changes. So `last_activity`, which each
# message changes, is in none. This column does not change while a chat is active.
_chats = metadata.tables["chats"]
_chats.append_column(
    Column(
        "inactive_since",
        BigInteger,
        Computed("CASE WHEN stage IN ('closed', 'reserved') THEN last_activity END", persisted=True),
    )
)
for _index in [each for each in _chats.indexes if each.name in {"chats_closed", "chats_reserved"}]:
    _chats.indexes.discard(_index)
_since = _chats.c.inactive_since
Index("chats_closed", _chats.c.source, _since, postgresql_where=text("stage = 'closed'"))
Index("chats_reserved", _since, postgresql_where=text("stage = 'reserved'"))

_Name: Final = Text(collation="C")

# One row per batch, written in its transaction: what it changed. `previous` is the writer's batch before it that has a
# row. `drawn` is from the sequence `commit_order`.
Table(
    "commits",
    metadata,
    Column("writer", _Name, primary_key=True),
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("previous", BigInteger, nullable=False),
    Column("drawn", BigInteger, nullable=False),
    Column("time", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

# While there are message brokers: the commits that have no place yet in the order in which they are published.
Table(
    "commit_queue",
    metadata,
    Column("writer", _Name, primary_key=True),
    Column("batch", BigInteger, primary_key=True, autoincrement=False),
    Column("drawn", BigInteger, nullable=False),
)

# The order in which commits are published, for those that some broker has not confirmed.
_places = Table(
    "commit_places",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("writer", _Name, nullable=False),
    Column("batch", BigInteger, nullable=False),
)
Index("commit_places_batch", _places.c.writer, _places.c.batch, unique=True)

# The servers that use the database. A server is gone when its row has expired.
Table(
    "nodes",
    metadata,
    Column("node", _Name, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("statistics", Text, nullable=False),
    Column("presence", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("process", Text, nullable=False, server_default=""),
)

# Which server does what only one is to do.
Table(
    "leases",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

# The people with open sockets, and the server of each. Consoles have a chat of zeros. It need not survive a crash.
_presence = Table(
    "presence",
    metadata,
    Column("chat", Uuid, primary_key=True),
    Column("role", String(8), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("node", _Name, primary_key=True),
    # Nobody reads it, but earlier versions write it.
    Column("sockets", BigInteger, nullable=False, server_default=text("0")),
    prefixes=["UNLOGGED"],
)
Index("presence_node", _presence.c.node)

# Requests for the live actors of a server, and their answers, for some seconds. They need not survive a crash.
Table(
    "inspections",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("node", _Name, nullable=False),
    Column("request", LargeBinary, nullable=False),
    Column("answer", LargeBinary),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    prefixes=["UNLOGGED"],
)
