"""Publishes to Redis or Valkey: a stream for each channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import coredis
import coredis.exceptions
import msgspec
import trio
from coredis import PureToken
from coredis.retry import NoRetryPolicy

from actorchat.brokers.connection_support import CONNECT_SECONDS, first_error, reason_of, tls_context
from actorchat.brokers.ports import BrokerUnavailable
from actorchat.brokers.urls import BrokerUrl
from actorchat.protocol import ACTORCHAT_ID_HEADER, WIDGET_SOURCE_HEADER, BrokerChannel, BrokerMessage

__all__ = ["RedisBroker"]

_ANSWER_SECONDS: Final = 20.0
_BLOCK_MILLISECONDS: Final = 5_000
_PAGE: Final = 100
_IN_PIPELINE: Final = "of pipeline caused error: "


class RedisBroker:
    """A `Broker` that adds to the streams `<prefix>chat`, `operators`, `message` and `global`."""

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url

    async def follow(self, channels: Collection[BrokerChannel], take: Callable[[BrokerMessage], object]) -> None:
        """Call `take` with each message that is published on `channels` from now on, until cancelled.

        Raises `BrokerUnavailable`.
        """
        names = {self._url.prefix + channel.value: channel for channel in channels}
        async with self.connect() as connection:
            await connection.follow(names, take)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_RedisConnection]:
        try:
            async with self._client() as client:
                connection = _RedisConnection(client, self._url)
                await connection.check_streams()
                yield connection
        except ExceptionGroup as group:
            # The client runs its tasks in a nursery, which wraps errors in a group.
            raise await _failure(first_error(group)) from None
        except (coredis.exceptions.RedisError, OSError) as error:
            raise await _failure(error) from None

    def _client(self) -> coredis.Redis[bytes]:
        url = self._url
        return coredis.Redis(
            url.host,
            url.port,
            int(url.path or 0),
            username=url.username,
            password=url.password,
            ssl_context=tls_context(url.ca) if url.tls else None,
            connect_timeout=CONNECT_SECONDS,
            stream_timeout=_ANSWER_SECONDS,
            max_connections=1,
            client_name="actorchat",
            verify_version=False,
            # The relay itself tries again, from the last entry that the broker has confirmed.
            retry_policy=NoRetryPolicy(),
        )


class _RedisConnection:
    def __init__(self, client: coredis.Redis[bytes], url: BrokerUrl) -> None:
        self._client = client
        self._url = url

    async def check_streams(self) -> None:
        """Raise `BrokerUnavailable` if a stream's name is taken by something else.

        A transaction does the other commands of a batch even if one meets such a key, so they would be repeated with
        each attempt.
        """
        for channel in BrokerChannel:
            name = self._url.prefix + channel.value
            try:
                await self._client.xlen(name)
            except coredis.exceptions.AuthorizationError:
                # The user may only add. Then the first attempt to publish fails.
                return
            except coredis.exceptions.WrongTypeError:
                raise BrokerUnavailable(
                    f"its key {name} is not a stream: rename or delete it, or set a prefix in the broker's URL"
                ) from None

    async def publish(self, messages: Sequence[BrokerMessage]) -> None:
        url = self._url
        try:
            # In a transaction: if a message is refused, no later one may be accepted before it.
            async with self._client.pipeline(transaction=True) as pipeline:
                for message in messages:
                    pipeline.xadd(
                        url.prefix + message.channel.value,
                        _faststream(message) if url.faststream else {"body": message.body, **message.headers},
                        trim_strategy=PureToken.MAXLEN,
                        trim_operator=PureToken.APPROXIMATELY,
                        threshold=url.maxlen,
                    )
        except (coredis.exceptions.RedisError, OSError) as error:
            raise await _failure(error) from None

    async def follow(self, names: Mapping[str, BrokerChannel], take: Callable[[BrokerMessage], object]) -> None:
        after: dict[Any, Any] = {}
        for name in names:
            newest = await self._client.xrevrange(name, count=1)
            after[name] = newest[0].identifier if newest else "0"
        while True:
            found = await self._client.xread(after, count=_PAGE, block=_BLOCK_MILLISECONDS)
            for key, entries in (found or {}).items():
                name = _text(key)
                for entry in entries:
                    after[name] = entry.identifier
                    message = _message(names[name], entry.field_values)
                    if message is not None:
                        take(message)

    async def ping(self) -> None:
        try:
            await self._client.ping()
        except (coredis.exceptions.RedisError, OSError) as error:
            raise await _failure(error) from None


# Any: coredis gives keys and values of many types.
def _message(channel: BrokerChannel, values: Any) -> BrokerMessage | None:
    """The message in an entry of either format, None if actorchat didn't write it."""
    try:
        fields: dict[str, Any] = {_text(key): value for key, value in values.items()}
        if "__data__" in fields:
            envelope = msgspec.json.decode(fields["__data__"])
            fields = {**envelope["headers"], "body": envelope["data"]}
        body = fields["body"]
        source, id_ = _text(fields[WIDGET_SOURCE_HEADER]), _text(fields[ACTORCHAT_ID_HEADER])
        return BrokerMessage(channel, source, id_, body.encode() if isinstance(body, str) else body)
    except (LookupError, TypeError, ValueError):
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


# Any: coredis takes keys and values of many types.
def _faststream(message: BrokerMessage) -> dict[Any, Any]:
    """The one field that FastStream reads, with the headers in it."""
    headers = {**message.headers, "content-type": "application/json", "correlation_id": message.id}
    return {"__data__": msgspec.json.encode({"data": message.body.decode(), "headers": headers})}


async def _failure(error: BaseException) -> BaseException:
    """Return the error to raise for `error`.

    Raises Cancelled if that is the cause: the client reports a cancellation as a lost connection.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    return _translated(error)


def _translated(error: BaseException) -> BaseException:
    if not isinstance(error, coredis.exceptions.RedisError | OSError):
        return error
    if isinstance(error, coredis.exceptions.AuthenticationRequiredError):
        return BrokerUnavailable("it asks for a password, and its URL has none")
    if isinstance(error, coredis.exceptions.AuthenticationFailureError):
        return BrokerUnavailable("it refuses the user name or password")
    if isinstance(error, coredis.exceptions.AuthorizationError):
        return BrokerUnavailable("the user may not do that: it has to be allowed PING, HELLO, MULTI, EXEC and XADD")
    # An error in a pipeline quotes the command, and with it what people wrote.
    return BrokerUnavailable(reason_of(error).rpartition(_IN_PIPELINE)[2])
