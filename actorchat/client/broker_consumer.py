"""Reads what a server publishes to Redis streams, as a member of a consumer group, without repeats."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import trio

from actorchat.client.backoff import Backoff
from actorchat.client.errors import ConsumerRefused
from actorchat.protocol import ACTORCHAT_ID_HEADER, WIDGET_SOURCE_HEADER, BrokerChannel, BrokerMessage

if TYPE_CHECKING:
    import coredis

__all__ = ["BrokerConsumer", "open_broker_consumer"]

_log: Final = logging.getLogger("actorchat.client")

_PAGE: Final = 100
"""Entries that are read at a time."""

_BLOCK_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 20.0
_CLAIM_PERIOD: Final = 30.0
_CLAIM_IDLE: Final = 60.0
"""Seconds after which an entry that another consumer of the group took, and did not finish, is taken over."""


class BrokerConsumer:
    """An async iterator of a channel's messages, made by `open_broker_consumer`.

    Asking for the next message acknowledges the one before it. A message whose processing failed, or that was the
    current one when the block was left, is delivered again, to this consumer or to another one of the group.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._send, self._receive = trio.open_memory_channel[_Delivery](0)
        # The delivery of the message that the reader is processing.
        self._current: _Delivery | None = None
        self._failure: Exception | None = None

    def __aiter__(self) -> BrokerConsumer:
        return self

    async def __anext__(self) -> BrokerMessage:
        """Acknowledge the message before and return the next one, waiting for it.

        Raises `ConsumerRefused` if the broker refuses the login or the group.
        """
        if self._current is not None:
            self._current.finished.set()
        try:
            self._current = await self._receive.receive()
        except trio.EndOfChannel:
            raise (self._failure or StopAsyncIteration) from None
        return self._current.entry.message

    async def _run(self) -> None:
        """Read, deliver and acknowledge until cancelled; reconnect when the broker is away."""
        backoff = Backoff(SystemRandom())
        delivered: _Delivery | None = None
        with self._send:
            while True:
                try:
                    async with self._stream.connect() as connection:
                        await connection.join_group()
                        backoff.reset()
                        if delivered is not None:
                            await connection.acknowledge(delivered.entry)
                            delivered = None
                        while True:
                            for entry in await connection.next_entries():
                                if await connection.is_finished(entry):
                                    continue
                                delivery = _Delivery(entry)
                                await self._send.send(delivery)
                                delivered = delivery
                                await delivered.finished.wait()
                                await connection.acknowledge(entry)
                                delivered = None
                except _Unavailable as error:
                    delay = backoff.next_delay()
                    _log.warning("%s is unavailable, next attempt in %.1f s: %s", self._stream.name, delay, error)
                    if delivered is not None:
                        # It is acknowledged after the reconnect, which therefore waits until the reader has finished.
                        await delivered.finished.wait()
                    await trio.sleep(delay)
                except ConsumerRefused as error:
                    self._failure = error
                    return


class _Unavailable(Exception):  # noqa: N818 - a state of the broker
    """The connection is lost, or the broker answers with a temporary error."""


@attrs.frozen
class _Entry:
    identifier: str | bytes
    message: BrokerMessage


@attrs.frozen(eq=False)
class _Delivery:
    """An entry passed to the reader. `finished` is set when the reader asks for the next one."""

    entry: _Entry
    finished: trio.Event = attrs.Factory(trio.Event)


@attrs.frozen(kw_only=True)
class _Stream:
    """Where to read: a stream of a broker, and the group."""

    url: str = attrs.field(repr=False)
    name: str
    key: str
    channel: BrokerChannel
    group: str
    consumer: str
    from_start: bool
    remember: float
    ca: str | None

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_Connection]:
        import coredis
        from coredis.exceptions import RedisError
        from coredis.retry import NoRetryPolicy

        parts = urlsplit(self.url)
        client = coredis.Redis(
            parts.hostname,
            parts.port or 6379,
            int(parts.path.strip("/") or 0),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            ssl_context=ssl.create_default_context(cafile=self.ca) if parts.scheme == "rediss" else None,
            connect_timeout=10,
            stream_timeout=_ANSWER_SECONDS,
            verify_version=False,
            retry_policy=NoRetryPolicy(),
        )
        try:
            async with client:
                yield _Connection(client, self)
        except ExceptionGroup as group:
            # The client runs its tasks in a nursery, which wraps errors in a group.
            error: Exception = group
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            if not isinstance(error, RedisError | OSError):
                raise error from None
            raise _translated(error, self.name) from None
        except (RedisError, OSError) as error:
            raise _translated(error, self.name) from None


class _Connection:
    def __init__(self, client: coredis.Redis[bytes], stream: _Stream) -> None:
        self._client = client
        self._stream = stream
        self._claimed_at = trio.current_time()
        self._after: str | bytes = "0"

    async def join_group(self) -> None:
        from coredis.exceptions import StreamDuplicateConsumerGroupError

        stream = self._stream
        try:
            start = "0" if stream.from_start else "$"
            await self._client.xgroup_create(stream.key, stream.group, start, mkstream=True)
        except StreamDuplicateConsumerGroupError:
            return

    async def next_entries(self) -> Sequence[_Entry]:
        """Return entries that this consumer did not finish, then new ones, and those that others did not finish.

        Waits a moment for new entries; empty if there are none.
        """
        stream, client = self._stream, self._client
        if trio.current_time() - self._claimed_at >= _CLAIM_PERIOD:
            self._claimed_at = trio.current_time()
            idle = int(_CLAIM_IDLE * 1_000)
            claimed = await client.xautoclaim(stream.key, stream.group, stream.consumer, idle, "0", _PAGE)
            return await self._messages(claimed[1])
        block = int(_BLOCK_SECONDS * 1_000) if self._after == ">" else None
        found = await client.xreadgroup(stream.group, stream.consumer, {stream.key: self._after}, _PAGE, block)
        entries = [entry for each in (found or {}).values() for entry in each]
        if self._after != ">":
            self._after = entries[-1].identifier if entries else ">"
        return await self._messages(entries)

    # Any: coredis types entries in several ways.
    async def _messages(self, entries: Sequence[Any]) -> Sequence[_Entry]:
        """Return those that are messages, and acknowledge the others."""
        messages: list[_Entry] = []
        for each in entries:
            entry = _entry(each, self._stream.channel)
            if entry is None:
                await self._client.xack(self._stream.key, self._stream.group, [each.identifier])
            else:
                messages.append(entry)
        return messages

    async def is_finished(self, entry: _Entry) -> bool:
        """Whether the group has already finished a message with this id. If so, acknowledge the entry.

        Call this just before the entry is delivered: another consumer may have taken it over since it was read.
        """
        if not await self._client.exists([self._seen(entry)]):
            return False
        await self._client.xack(self._stream.key, self._stream.group, [entry.identifier])
        return True

    async def acknowledge(self, entry: _Entry) -> None:
        """Finish an entry, and remember its id, in one transaction."""
        stream = self._stream
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xack(stream.key, stream.group, [entry.identifier])
            pipeline.set(self._seen(entry), b"", ex=max(1, int(stream.remember)))

    def _seen(self, entry: _Entry) -> str:
        return f"{self._stream.key}:{self._stream.group}:{entry.message.id}"


def _entry(entry: Any, channel: BrokerChannel) -> _Entry | None:
    """Parse an entry. None if it is not a server's message, or was deleted by `maxlen` before it was finished."""
    try:
        fields = {_text(key): value for key, value in (entry.field_values or {}).items()}
        body, source, id_ = fields["body"], _text(fields[WIDGET_SOURCE_HEADER]), _text(fields[ACTORCHAT_ID_HEADER])
    except (KeyError, UnicodeDecodeError):
        return None
    return _Entry(
        entry.identifier, BrokerMessage(channel, source, id_, body.encode() if isinstance(body, str) else body)
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _translated(error: Exception, name: str) -> Exception:
    from coredis.exceptions import AuthenticationError, AuthorizationError, WrongTypeError

    if isinstance(error, AuthenticationError | AuthorizationError | WrongTypeError):
        return ConsumerRefused(f"{name} refuses: {error}")
    return _Unavailable(" ".join(str(error).split()) or type(error).__name__)


@asynccontextmanager
async def open_broker_consumer(
    url: str,
    channel: BrokerChannel | str,
    *,
    group: str,
    consumer: str = "1",
    from_start: bool = False,
    remember: float = 86_400.0,
) -> AsyncIterator[BrokerConsumer]:
    """Read `channel` of the Redis or Valkey at `url` as `consumer` of `group`. You choose both names.

    A group keeps its position across reconnects and restarts. A new group begins with what is published from now on or,
    with `from_start`, with the oldest entry in the stream. Messages whose `Actorchat-Id` the group has finished within
    the last `remember` seconds are left out. A single consumer in a group gets each chat's messages in commit order.
    Several consumers share the messages, and may process those of one chat out of order.

    `url` is the one in the server's settings, with its `prefix` and `ca` if it has them. Lost connections are reopened.
    Raises ValueError for another kind of URL or an unknown channel, and RuntimeError if coredis is not installed.
    """
    try:
        import coredis  # noqa: F401 - only to see that it is there
    except ImportError:
        raise RuntimeError('Redis needs a library: type pip install "actorchat[redis]"') from None
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("expected redis://host or rediss://host")
    if query.get("format", ["plain"]) != ["plain"]:
        raise ValueError("entries in another format than plain are not read here")
    [prefix], [ca] = query.get("prefix", [""]), query.get("ca", [None])
    stream = _Stream(
        url=url,
        name=f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}",
        key=prefix + BrokerChannel(channel).value,
        channel=BrokerChannel(channel),
        group=group,
        consumer=consumer,
        from_start=from_start,
        remember=remember,
        ca=ca,
    )
    made = BrokerConsumer(stream)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made._run)
        try:
            yield made
        except BaseException as error:
            # Raised again below: from within the nursery it would come out in an exception group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
