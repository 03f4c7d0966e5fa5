"""Takes locks that are named, for what has no row or may have none yet. They are held until the transaction ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

import psycopg

from actorchat.storage.postgres.connecting import START_SECONDS, Connection
from actorchat.storage.row_mapping import keys

__all__ = [
    "ACCOUNTS",
    "PLACES",
    "START",
    "TAKE",
    "TRY_TO_TAKE",
    "Locks",
    "in_order",
    "lock_number",
    "take",
    "take_start",
]

Locks = dict[int, bool]
"""The numbers of locks, and whether each is exclusive; otherwise others may share it."""

TAKE: Final = """
    SELECT CASE WHEN (asked ->> 1)::boolean THEN pg_advisory_xact_lock((asked ->> 0)::bigint)::text
    ELSE pg_advisory_xact_lock_shared((asked ->> 0)::bigint)::text END FROM json_array_elements(%s::json) asked"""
"""Waits for locks, in the order of `in_order`."""

TRY_TO_TAKE: Final = """
    SELECT CASE WHEN (asked ->> 1)::boolean THEN pg_try_advisory_xact_lock((asked ->> 0)::bigint)
    ELSE pg_try_advisory_xact_lock_shared((asked ->> 0)::bigint) END FROM json_array_elements(%s::json) asked"""
"""Takes each lock that is free, without waiting."""


def lock_number(kind: str, *name: object) -> int:
    """The number of a lock. Two names may share one, and then wait for each other without need."""
    digest = blake2b("\0".join((kind, *map(str, name))).encode(), digest_size=8, person=b"actorchat").digest()
    return int.from_bytes(digest, "big", signed=True)


START: Final = lock_number("start")
"""Held while the schema is upgraded and the counters are recounted."""

ACCOUNTS: Final = lock_number("accounts")
"""Held by batches that change accounts, sign-ins or blocks."""

PLACES: Final = lock_number("places")
"""Held while commits get their places in the order in which they are published."""


def in_order(locks: Mapping[int, bool]) -> str:
    """The parameter of the statements: every transaction takes locks in this order."""
    return keys(sorted(locks.items()))


def take(connection: psycopg.Connection[tuple[Any, ...]], locks: Iterable[int]) -> None:
    """Take exclusive locks, in the transaction of the connection."""
    connection.execute(TAKE, (in_order(dict.fromkeys(locks, True)),))


def take_start(connection: Connection) -> None:
    """Take `START`, which a server that upgrades a large database holds for long, in the transaction."""
    connection.execute(f"SET LOCAL lock_timeout = '{START_SECONDS}s'".encode())
    take(connection, [START])
    connection.execute("SET LOCAL lock_timeout TO DEFAULT")
