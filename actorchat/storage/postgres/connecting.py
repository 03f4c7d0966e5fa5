"""Opens connections to a PostgreSQL database, and keeps some for reading."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Final

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import TextLoader

from actorchat.storage.store import StoreUrlError
from actorchat.urls import without_secrets

__all__ = [
    "COMMIT_SECONDS",
    "READ_SECONDS",
    "START_SECONDS",
    "Connection",
    "Connector",
    "Readers",
    "check_version",
    "is_alive",
]

COMMIT_SECONDS: Final = 3
"""The longest transaction of a batch. A server that stops in the middle of one holds locks no longer than this."""

READ_SECONDS: Final = 30
START_SECONDS: Final = 600
_LOCK_SECONDS: Final = 5

_OLDEST: Final = 17
_NEW_OPTION: Final = "transaction_timeout"
"""An option that older servers do not know: they refuse a connection that has it."""

_LIMIT: Final = b"SELECT extract(epoch FROM current_setting('transaction_timeout')::interval)::int8"

_DEFAULTS: Final = {
    "application_name": "actorchat",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    # With several hosts in the URL, the one that is not a standby.
    "target_session_attrs": "read-write",
}


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose transactions end after the time that was asked for.

    `limits` are statements that each transaction has to begin with: none, unless a pooler has dropped the options of
    the connection, so that it has the limit of its user. `transaction` executes them itself.
    """

    limits: tuple[str, ...] = ()

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        with super().transaction(savepoint_name, force_rollback) as transaction:
            self.set_limits()
            yield transaction

    def set_limits(self) -> None:
        """Execute `limits`, in a transaction that has just begun."""
        for statement in self.limits:
            self.execute(statement.encode())


class Connector:
    """Opens connections to the database with this URL. Raises `StoreUrlError` if it is no valid URL."""

    def __init__(self, url: str) -> None:
        self.name: str = without_secrets(url)
        """The URL without its password, for messages."""
        try:
            self._parameters: dict[str, Any] = {**_DEFAULTS, **conninfo_to_dict(url)}
        except psycopg.ProgrammingError as error:
            raise StoreUrlError(f"{self.name!r} is not a PostgreSQL URL: {str(error).strip()}") from None

    def open(self, seconds: int) -> Connection:
        """Open a connection whose transactions end after so many seconds, 0: never.

        Raises `psycopg.Error`, and `StoreUrlError` if the server is too old.
        """
        connection = self.connect(seconds)
        try:
            if connection.execute(_LIMIT).fetchall() != [(seconds,)]:
                # Zero first, because a timer that is running does not change.
                limit = f"SET LOCAL {_NEW_OPTION} = '{seconds}s'"
                connection.limits = (f"SET LOCAL {_NEW_OPTION} = 0", limit)
        except BaseException:
            close(connection)
            raise
        return connection

    def connect(self, seconds: int) -> Connection:
        """Open a connection as `open` does, but ask it nothing, so that this takes `connect_timeout` per host at most.

        Behind a pooler that drops the options of a connection, its transactions have no limit.
        """
        options = (
            f"-c {_NEW_OPTION}={seconds}s -c lock_timeout={min(seconds, _LOCK_SECONDS)}s -c jit=off"
            " -c timezone=UTC -c client_encoding=UTF8"
        )
        given: str | None = self._parameters.get("options")
        parameters = {**self._parameters, "options": options if given is None else f"{options} {given}"}
        # Statements are prepared at once: they are few, and each one runs again and again.
        try:
            return Connection.connect(**parameters, autocommit=True, prepare_threshold=0, context=_ADAPTERS)
        except psycopg.OperationalError as error:
            # In whatever language the server speaks, unless it is about an option of the URL.
            if _NEW_OPTION in str(error) and _NEW_OPTION not in (given or ""):
                raise _too_old(self.name, f"a PostgreSQL older than {_OLDEST}") from None
            raise


def check_version(connection: Connection, name: str) -> None:
    """Raise `StoreUrlError` if the server is too old. `name` is for the message."""
    version = connection.info.server_version // 10_000
    if version < _OLDEST:
        raise _too_old(name, f"PostgreSQL {version}")


def _too_old(name: str, version: str) -> StoreUrlError:
    return StoreUrlError(
        f"{name} is on {version}, but {_OLDEST} or newer is needed: only it can end the transaction of a server that"
        " hangs"
    )


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    # One type for all integers, so that a statement is prepared only once.
    adapters.register_dumper(int, Int8Dumper)
    adapters.register_loader("uuid", TextLoader)
    return adapters


_ADAPTERS: Final = _adapters()


def is_alive(connection: Connection) -> bool:
    """Whether an idle connection is open as far as this side knows, without asking the server."""
    if connection.closed:
        return False
    # An idle connection can be read only if the server has closed it or says that it will.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


class Readers:
    """Connections for reading, each used by one thread at a time."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._lock = Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection. If the block fails, it is closed."""
        connection = self._take() or self._connector.open(READ_SECONDS)
        try:
            yield connection
        except BaseException:
            close(connection)
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        close(connection)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            close(connection)

    def _take(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if is_alive(connection):
                return connection
            close(connection)


def close(connection: Connection) -> None:
    """Close a connection, whatever state it is in."""
    with suppress(psycopg.Error, OSError):
        connection.close()
