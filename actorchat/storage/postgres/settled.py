"""Finds out up to which number all messages are visible, though several servers draw numbers and commit at once.

A number that was drawn earlier may become visible later. What follows new messages by their numbers, as the search
index does, would then miss one.
"""

from __future__ import annotations

import time
from threading import Lock
from typing import Final

import attrs

from actorchat.storage.postgres.connecting import COMMIT_SECONDS, Connection
from actorchat.storage.postgres.statements import BLOCK, PostgresStatements

__all__ = ["SettledNumbers"]

_LONGEST: Final = 2.0 * COMMIT_SECONDS
"""Seconds after which no transaction of a batch can still run."""


@attrs.frozen
class _Sample:
    """All numbers up to `number` were drawn by transactions below `transaction`; `at` is monotonic."""

    number: int
    transaction: int
    at: float


class SettledNumbers:
    """Reads the number up to which no further message, edit or place will appear. Any thread may call."""

    def __init__(self, statements: PostgresStatements) -> None:
        self._statements = statements
        self._lock = Lock()
        self._settled = 0
        self._sample: _Sample | None = None

    def forget(self) -> None:
        with self._lock:
            self._settled, self._sample = 0, None

    def read(self, connection: Connection) -> int:
        """The settled number. A transaction that begins later sees everything up to it."""
        statements = self._statements
        with self._lock:
            if self._sample is None:
                # A batch has its transaction id before it draws its numbers. So those that have drawn one of these
                # numbers are below the newest transaction, which is read afterwards.
                [(drawn,)] = connection.execute(statements.drawn_so_far.encode()).fetchall()
                [(newest,)] = connection.execute(statements.newest_transaction.encode()).fetchall()
                number = drawn + BLOCK - 1 if drawn else 0
                self._sample = _Sample(number, newest, time.monotonic())
            [(oldest,)] = connection.execute(statements.oldest_transaction.encode()).fetchall()
            if oldest >= self._sample.transaction or time.monotonic() - self._sample.at >= _LONGEST:
                self._settled, self._sample = self._sample.number, None
            return self._settled
