"""Publishes to NATS with JetStream: a stream for each channel, with a subject for each widget source."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any, Final, TypeVar

import msgspec
import trio

from actorchat.brokers import nats_protocol
from actorchat.brokers.connection_support import CONNECT_SECONDS, answered_within, reason_of, tls_context
from actorchat.brokers.nats_credentials import credentials
from actorchat.brokers.nats_protocol import Delivery, NatsParser, Pinged, Ponged, Problem, Received, ServerInfo
from actorchat.brokers.ports import BrokerUnavailable
from actorchat.brokers.urls import BrokerUrl
from actorchat.protocol import ACTORCHAT_ID_HEADER, WIDGET_SOURCE_HEADER, BrokerChannel, BrokerMessage

__all__ = ["NatsBroker"]

T = TypeVar("T", ServerInfo, Ponged)

_READ_BYTES: Final = 65_536
_PING_PERIOD: Final = 10.0
"""Seconds after which a server that is only read from, and has sent no message, is asked whether it is there."""

_MOST_FOLLOWED: Final = 1_000
"""Messages that wait to be taken; beyond them nothing is read."""

_ANSWERS: Final = "1"
"""The subscription to answers; those that follow channels have the channels' names."""

_NOBODY_LISTENS: Final = 503
_NO_JETSTREAM: Final = frozenset({10_039, 10_076})
_WRONG_LAST_ID: Final = 10_070
_NOT_IN_STREAM_NAMES: Final = re.compile(r"[.:]")


class NatsBroker:
    """A `Broker` that publishes to the subjects `<prefix>chat.<source>`, `operators`, `message` and `global`."""

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url

    async def follow(self, channels: Collection[BrokerChannel], take: Callable[[BrokerMessage], object]) -> None:
        """Call `take` with each message that is published on `channels` from now on, until cancelled.

        Raises `BrokerUnavailable`.
        """
        async with self._opened() as connection:
            await connection.follow(channels, take)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_NatsConnection]:
        async with self._opened() as connection:
            with answered_within(CONNECT_SECONDS):
                await connection.find_streams()
            yield connection

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[_NatsConnection]:
        url = self._url
        stream: trio.abc.Stream | None = None
        try:
            try:
                with answered_within(CONNECT_SECONDS):
                    stream = await trio.open_tcp_stream(url.host, url.port)
                    connection = _NatsConnection(stream, url)
                    # The greeting is never encrypted.
                    info = await connection.greeting()
                    if url.tls:
                        stream = trio.SSLStream(stream, tls_context(url.ca), server_hostname=url.host)
                        connection = _NatsConnection(stream, url)
                    await connection.open(info)
            except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
                raise BrokerUnavailable(reason_of(error)) from None
            failure: BaseException | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.read)
                try:
                    yield connection
                except BaseException as error:
                    # Raised again below: from within the nursery it would come out in an exception group.
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)


class _NatsConnection:
    """One connection. `_failure` says why it can't be used any more."""

    def __init__(self, stream: trio.abc.Stream, url: BrokerUrl) -> None:
        self._stream = stream
        self._url = url
        self._parser = NatsParser()
        self._sending = trio.Lock()
        self._inbox = f"_INBOX.{token_hex(11)}"
        # The answers to the last publish or request, by number. An answer that has not arrived yet is None.
        self._answers: dict[int, Delivery | None] = {}
        self._missing = self._next_number = 0
        self._pinged = self._ponged = 0
        self._progress = trio.lowlevel.ParkingLot()
        self._failed = trio.CancelScope()
        self._failure: str | None = None
        self._streams: dict[BrokerChannel, str] = {}
        self._max_payload = 0
        self._take, self._followed = trio.open_memory_channel[Delivery](_MOST_FOLLOWED)

    async def greeting(self) -> ServerInfo:
        """Receive the server's greeting. Raises `BrokerUnavailable` if the server can't be used as the URL says."""
        info = await self._expect(ServerInfo)
        if self._url.tls and not (info.tls_required or info.tls_available):
            raise BrokerUnavailable("it offers no TLS: write nats:// in its URL if it needs none")
        if info.tls_required and not self._url.tls:
            raise BrokerUnavailable("it requires TLS: write tls:// in its URL")
        if not info.has_headers:
            raise BrokerUnavailable("it knows no headers: NATS 2.2 or later is needed")
        return info

    async def open(self, info: ServerInfo) -> None:
        """Authenticate, and subscribe to answers."""
        self._max_payload = info.max_payload
        offered = credentials(self._url, info.nonce)
        options: dict[str, object] = {
            "verbose": False,
            "pedantic": False,
            "tls_required": self._url.tls,
            "name": "actorchat",
            "lang": "python-trio",
            "version": "1",
            "protocol": 1,
            "headers": True,
            "no_responders": True,
            **offered,
        }
        subscribe = f"SUB {self._inbox}.* {_ANSWERS}\r\n".encode()
        await self._stream.send_all(nats_protocol.connect(options) + subscribe + nats_protocol.PING)
        try:
            await self._expect(Ponged)
        except BrokerUnavailable as error:
            if "Authorization" not in str(error):
                raise
            if info.auth_required and not offered:
                raise BrokerUnavailable("it asks for credentials, and its URL has none") from None
            raise BrokerUnavailable("it refuses the user name, password, token or credentials") from None

    async def find_streams(self) -> None:
        """Find the stream of each channel, and make those that are missing."""
        for channel in BrokerChannel:
            subjects = f"{self._url.prefix}{channel.value}.*"
            found = await self._ask("STREAM.NAMES", {"subject": subjects})
            names = found.get("streams") or [await self._make_stream(channel, subjects)]
            self._streams[channel] = names[0]

    async def publish(self, messages: Sequence[BrokerMessage]) -> None:
        rest: Sequence[BrokerMessage] = messages
        while rest:
            # If another program has added to one of the streams, the messages after that are sent again.
            rest = await self._publish(rest)

    async def ping(self) -> None:
        self._pinged += 1
        number = self._pinged
        await self._send(nats_protocol.PING)
        while self._ponged < number:
            await self._parked()

    async def follow(self, channels: Collection[BrokerChannel], take: Callable[[BrokerMessage], object]) -> None:
        """Subscribe without JetStream, which stores nothing and takes nothing away."""
        by_name = {channel.value: channel for channel in channels}
        for name in by_name:
            await self._send(f"SUB {self._url.prefix}{name}.* {name}\r\n".encode())
        while True:
            silent = True
            with trio.move_on_after(_PING_PERIOD), trio.CancelScope() as self._failed:
                self._check()
                async for delivery in self._followed:
                    silent = False
                    source, id_ = (delivery.headers.get(name) for name in (WIDGET_SOURCE_HEADER, ACTORCHAT_ID_HEADER))
                    if source is not None and id_ is not None:
                        take(BrokerMessage(by_name[delivery.sid], source, id_, delivery.body))
            # Not while messages wait to be taken: the answer is behind them.
            if silent:
                with answered_within(_PING_PERIOD):
                    await self.ping()

    async def read(self) -> None:
        """Handle what the server sends, until the connection fails or the server reports an error."""
        try:
            while self._failure is None:
                for received in self._parser:
                    await self._received(received)
                await self._receive()
        except BrokerUnavailable as error:
            self._fail(str(error))
        except ValueError:
            self._fail("it does not speak the protocol of NATS")
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._fail(reason_of(error))

    async def _received(self, received: Received) -> None:
        match received:
            case Delivery(sid="1"):
                self._answered(received)
            case Delivery():
                await self._take.send(received)
            case Pinged():
                async with self._sending:
                    await self._stream.send_all(nats_protocol.PONG)
            case Ponged():
                self._ponged += 1
                self._progress.unpark_all()
            case Problem():
                self._fail(_words(received.text))
            case ServerInfo():
                self._max_payload = received.max_payload

    def _answered(self, answer: Delivery) -> None:
        number = int(answer.subject.rpartition(".")[2])
        # Late answers to a cancelled call are ignored.
        if self._answers.get(number, answer) is None:
            self._answers[number] = answer
            self._missing -= 1
            if not self._missing:
                self._progress.unpark_all()

    async def _publish(self, messages: Sequence[BrokerMessage]) -> Sequence[BrokerMessage]:
        """Publish `messages` at once. Returns those that have to be published again.

        Each message names the id that the stream's last message must have. Otherwise, if one is refused because the
        disk is full for a moment or the stream gets another leader, later ones would be stored before it.
        """
        last: dict[str, str] = {}
        data = bytearray()
        first = self._next_number
        for number, message in enumerate(messages, first):
            stream = self._streams[message.channel]
            headers = {**message.headers, "Content-Type": "application/json", "Nats-Msg-Id": message.id}
            if stream in last:
                headers["Nats-Expected-Last-Msg-Id"] = last[stream]
            last[stream] = message.id
            data += self._encoded(
                f"{self._url.prefix}{message.channel.value}.{message.source}", number, headers, message
            )
        answers = await self._answers_to(data, len(messages))
        again: list[BrokerMessage] = []
        interrupted: set[str] = set()
        for message, answer in zip(messages, answers, strict=True):
            error = _error_in(answer)
            if error is None:
                continue
            stream = self._streams[message.channel]
            if stream not in interrupted and error.get("err_code") != _WRONG_LAST_ID:
                raise BrokerUnavailable(_refusal(error, f"no stream takes what is sent to {message.channel.value}"))
            interrupted.add(stream)
            again.append(message)
        return again

    def _encoded(self, subject: str, number: int, headers: Mapping[str, str], message: BrokerMessage) -> bytes:
        encoded = nats_protocol.publish(subject, f"{self._inbox}.{number}", headers, message.body)
        # The server would close the connection. The protocol lines don't count towards the limit, but are short.
        if len(encoded) > self._max_payload:
            raise BrokerUnavailable(
                f"a message of {len(encoded):,} bytes is larger than its max_payload, {self._max_payload:,} bytes"
            )
        return encoded

    # Any: JSON of any shape.
    async def _ask(self, what: str, question: Mapping[str, object]) -> dict[str, Any]:
        """Ask JetStream. Raises `BrokerUnavailable` if it refuses."""
        reply = f"{self._inbox}.{self._next_number}"
        data = nats_protocol.publish(f"$JS.API.{what}", reply, {}, msgspec.json.encode(question))
        [answer] = await self._answers_to(data, 1)
        error = _error_in(answer)
        if error is not None:
            raise BrokerUnavailable(_refusal(error, "JetStream is not enabled"))
        # Any: see above.
        decoded: dict[str, Any] = msgspec.json.decode(answer.body)
        return decoded

    async def _make_stream(self, channel: BrokerChannel, subjects: str) -> str:
        name = _NOT_IN_STREAM_NAMES.sub("_", self._url.prefix) + channel.value
        config = {
            "name": name,
            "subjects": [subjects],
            "retention": "limits",
            "discard": "old",
            "max_msgs": self._url.maxlen,
            "storage": "file",
            "num_replicas": 1,
            "description": "Published by actorchat",
        }
        try:
            await self._ask(f"STREAM.CREATE.{name}", config)
        except BrokerUnavailable as error:
            raise BrokerUnavailable(f"the stream {name} can't be made: {error}") from None
        return name

    async def _answers_to(self, data: bytes | bytearray, count: int) -> list[Delivery]:
        """Send `data`, which asks for `count` answers at the next numbers."""
        numbers = range(self._next_number, self._next_number + count)
        self._next_number += count
        self._answers = dict.fromkeys(numbers)
        self._missing = count
        await self._send(data)
        while self._missing:
            await self._parked()
        return [answer for answer in self._answers.values() if answer is not None]

    async def _send(self, data: bytes | bytearray) -> None:
        """Send `data`. Raises `BrokerUnavailable` as soon as the connection fails."""
        self._check()
        try:
            with trio.CancelScope() as self._failed:
                async with self._sending:
                    await self._stream.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokerUnavailable(self._failure or reason_of(error)) from None
        self._check()

    async def _parked(self) -> None:
        """Return when something was received. Raises `BrokerUnavailable` if the connection has failed."""
        self._check()
        await self._progress.park()
        self._check()

    async def _receive(self) -> None:
        data = await self._stream.receive_some(_READ_BYTES)
        if not data:
            raise BrokerUnavailable("it closed the connection")
        self._parser.feed(data)

    async def _expect(self, answer: type[T]) -> T:
        """Return the next item from the server, which must be an `answer`. Only for use before `read` runs."""
        try:
            while True:
                for received in self._parser:
                    if isinstance(received, answer):
                        return received
                    if isinstance(received, Problem):
                        raise BrokerUnavailable(_words(received.text))
                await self._receive()
        except ValueError:
            raise BrokerUnavailable("it does not speak the protocol of NATS") from None

    def _check(self) -> None:
        if self._failure is not None:
            raise BrokerUnavailable(self._failure)

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
        self._failed.cancel()
        self._progress.unpark_all()


# Any: JSON of any shape.
def _error_in(answer: Delivery) -> dict[str, Any] | None:
    """The error in an answer of JetStream, None if the answer is not an error."""
    if answer.status:
        return {"status": answer.status}
    if b'"error"' not in answer.body:
        return None
    decoded = msgspec.json.decode(answer.body)
    error = decoded.get("error") if isinstance(decoded, dict) else None
    return error if isinstance(error, dict) else None


def _refusal(error: Mapping[str, Any], unheard: str) -> str:
    """Describe the error of a request. `unheard` is the text for a subject without subscribers."""
    if error.get("status") == _NOBODY_LISTENS:
        return unheard
    if error.get("err_code") in _NO_JETSTREAM:
        return "JetStream is not enabled for the account of this user"
    return f"it refuses: {error.get('description') or error}"


def _words(problem: str) -> str:
    """Describe an error that the server has reported."""
    if problem.startswith("Permissions Violation"):
        return f"the user may not do that: {problem}"
    return f"it says: {problem}"
