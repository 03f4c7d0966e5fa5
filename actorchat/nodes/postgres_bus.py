"""Carries notes by LISTEN and NOTIFY of PostgreSQL, on one connection and without a thread that listens."""

from __future__ import annotations

import secrets
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from random import Random, SystemRandom
from threading import Lock
from typing import Final

import psycopg
import trio
from psycopg import pq, sql

from actorchat.brokers.connection_support import first_error
from actorchat.nodes.notes import InvalidFrame, Note, Outgoing, decode_frame, encode_frame
from actorchat.nodes.reconnecting import BusUnavailable, Line
from actorchat.storage.postgres.connecting import Connection, Connector

__all__ = ["PostgresBus"]

_FRAME_BYTES: Final = 5_700
"""Bytes of notes in one NOTIFY, which takes less than 8,000 bytes of text."""

_ANSWER_SECONDS: Final = 10.0
_PING_PERIOD: Final = 15.0
"""Seconds after which an idle connection is asked whether it is there."""


class PostgresBus:
    """A `Bus` on `channel` of the database at `url`. Many notes go in one NOTIFY.

    The connection must be to the database itself or to a pooler that keeps sessions: one that pools transactions loses
    LISTEN. Raises `StoreUrlError` if `url` is no valid URL.
    """

    def __init__(self, url: str, channel: str, random: Random | None = None) -> None:
        self._connector = Connector(url)
        self._channel = channel
        self._line = Line("the bus postgres", random or SystemRandom())
        self._origin = secrets.token_bytes(8)
        self._outgoing = Outgoing()
        self._wake = trio.Event()
        self._sent = trio.Event()
        self._sent.set()

    @property
    def problem(self) -> str | None:
        return self._line.problem

    def tell(self, note: Note) -> None:
        self._outgoing.add(note)
        self._wake.set()
        if self._sent.is_set():
            self._sent = trio.Event()

    async def flush(self) -> None:
        if self._line.problem is None:
            await self._sent.wait()

    async def run(
        self, heard: Callable[[Note], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self._line.keep(lambda: self._use_connection(heard), task_status)

    async def _use_connection(self, heard: Callable[[Note], object]) -> None:
        try:
            # Without a limit of its own: each host of the URL has the time that the URL gives it.
            connection = await _in_thread(self._connect)
            try:
                answers = _Answers(connection.pgconn)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._receive, connection.pgconn, answers, heard)
                    await self._listen(connection, answers)
                    self._line.up()
                    await self._send(answers)
            finally:
                connection.close()
        except BaseException as error:
            # A connection that fails while the bus is cancelled is not to be reported any more.
            await trio.lowlevel.checkpoint_if_cancelled()
            cause = first_error(error)
            if isinstance(cause, trio.TooSlowError):
                raise BusUnavailable(f"no answer within {_ANSWER_SECONDS:.0f} s") from None
            if isinstance(cause, psycopg.Error):
                raise BusUnavailable(" ".join(str(cause).split()) or type(cause).__name__) from None
            raise
        finally:
            self._sent.set()

    def _connect(self) -> Connection:
        # No transaction is open for long here: a node that listens waits between them.
        connection = self._connector.connect(int(_ANSWER_SECONDS))
        connection.pgconn.nonblocking = 1
        return connection

    async def _listen(self, connection: Connection, answers: _Answers) -> None:
        # Not in the thread, which would wait for ever for a server that hangs.
        listen = sql.SQL("LISTEN {}").format(sql.Identifier(self._channel))
        await answers.query(b"SET application_name = 'actorchat bus'", [])
        await answers.query(listen.as_bytes(connection), [])

    async def _receive(self, pgconn: pq.abc.PGconn, answers: _Answers, heard: Callable[[Note], object]) -> None:
        while True:
            # A note that was read behind the end of an answer is only found once the answer was taken.
            answers.look()
            while (notify := pgconn.notifies()) is not None:
                self._heard(notify.extra, heard)
            await trio.lowlevel.wait_readable(pgconn.socket)
            pgconn.consume_input()

    def _heard(self, text: bytes, heard: Callable[[Note], object]) -> None:
        try:
            origin, notes = decode_frame(b64decode(text, validate=True))
        except (InvalidFrame, Base64Error):
            # Another version of the program sent it. What it told is read from storage.
            return
        if origin != self._origin:
            for note in notes:
                heard(note)

    async def _send(self, answers: _Answers) -> None:
        channel = self._channel.encode()
        while True:
            # After a failure, notes may wait that nobody tells again.
            if not self._outgoing:
                with trio.move_on_after(_PING_PERIOD):
                    await self._wake.wait()
            self._wake = trio.Event()
            if not self._outgoing:
                await answers.query(b"SELECT 1", [])
            while self._outgoing:
                frame = encode_frame(self._origin, self._outgoing.take(_FRAME_BYTES))
                await answers.query(b"SELECT pg_notify($1, $2)", [channel, b64encode(frame)])
            self._sent.set()


class _Answers:
    """Sends one query at a time, whose answer is taken when the connection is read."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self._pgconn = pgconn
        self._answered = trio.Event()
        self._answered.set()

    async def query(self, statement: bytes, parameters: list[bytes | None]) -> None:
        self._answered = trio.Event()
        self._pgconn.send_query_params(statement, parameters)
        with trio.fail_after(_ANSWER_SECONDS):
            while self._pgconn.flush():
                await trio.lowlevel.wait_writable(self._pgconn.socket)
            await self._answered.wait()

    def look(self) -> None:
        while not self._answered.is_set() and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                self._answered.set()
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))


async def _in_thread(connect: Callable[[], Connection]) -> Connection:
    """Run `connect` in a thread. If this is cancelled, a connection that is made later is closed at once."""
    lock, made = Lock(), list[Connection]()
    abandoned = False

    def work() -> None:
        connection = connect()
        with lock:
            if not abandoned:
                made.append(connection)
                return
        connection.close()

    try:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except BaseException:
        with lock:
            abandoned = True
            while made:
                made.pop().close()
        raise
    return made.pop()
