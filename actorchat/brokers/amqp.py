"""Publishes over AMQP 0-9-1, as RabbitMQ speaks it: a durable topic exchange for each channel, with confirms."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from math import inf
from typing import Final, TypeVar

import trio
from pamqp import base, body, commands, exceptions, frame, header, heartbeat
from pamqp.common import FieldTable
from pamqp.frame import FrameTypes

from actorchat.brokers.connection_support import CONNECT_SECONDS, reason_of, tls_context
from actorchat.brokers.ports import BrokerUnavailable
from actorchat.brokers.urls import BrokerUrl
from actorchat.protocol import ACTORCHAT_ID_HEADER, WIDGET_SOURCE_HEADER, BrokerChannel, BrokerMessage

__all__ = ["AmqpBroker"]

T = TypeVar("T", bound=base.Frame | header.ContentHeader | body.ContentBody)

_PROTOCOL: Final = b"AMQP\x00\x00\x09\x01"
_READ_BYTES: Final = 65_536
_HEARTBEAT: Final = 20
"""In seconds. Heartbeats are sent twice as often. A broker that sends nothing for twice this time counts as gone."""

_FRAME_HEAD: Final = 7
_FRAME_OVERHEAD: Final = 8
_DEFAULT_FRAME: Final = 131_072
_CHANNEL: Final = 1
_ACCESS_REFUSED: Final = 403

_CAPABILITIES: Final[FieldTable] = {
    "authentication_failure_close": True,
    "connection.blocked": True,
    "publisher_confirms": True,
}


class AmqpBroker:
    """A `Broker` that publishes to the exchanges `<prefix>chat`, `operators`, `message` and `global`."""

    def __init__(self, url: BrokerUrl) -> None:
        self._url = url

    async def follow(self, channels: Collection[BrokerChannel], take: Callable[[BrokerMessage], object]) -> None:
        """Call `take` with each message that is published on `channels` from now on, until cancelled.

        Raises `BrokerUnavailable`.
        """
        async with self._opened() as connection, trio.open_nursery() as nursery:
            nursery.start_soon(connection.keep_alive)
            failure: BrokerUnavailable | None = None
            try:
                await connection.follow(channels, take)
            except BrokerUnavailable as error:
                # Raised again below: from within the nursery it would come out in an exception group.
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[_AmqpConnection]:
        url = self._url
        stream: trio.abc.Stream | None = None
        try:
            try:
                with trio.fail_after(CONNECT_SECONDS):
                    stream = await trio.open_tcp_stream(url.host, url.port)
                    if url.tls:
                        stream = trio.SSLStream(stream, tls_context(url.ca), server_hostname=url.host)
                    connection = _AmqpConnection(stream, url)
                    await connection.open()
            except trio.TooSlowError:
                raise BrokerUnavailable(f"no answer within {CONNECT_SECONDS:.0f} s") from None
            except (OSError, ssl.SSLError, trio.BrokenResourceError) as error:
                raise BrokerUnavailable(reason_of(error)) from None
            yield connection
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[_AmqpConnection]:
        async with self._opened() as connection:
            failure: BaseException | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.read)
                nursery.start_soon(connection.keep_alive)
                try:
                    yield connection
                except BaseException as error:
                    # Raised again below: from within the nursery it would come out in an exception group.
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            await connection.close()


class _AmqpConnection:
    """One connection with one channel. `_failure` says why it can't be used any more."""

    def __init__(self, stream: trio.abc.Stream, url: BrokerUrl) -> None:
        self._stream = stream
        self._url = url
        self._received = bytearray()
        self._sending = trio.Lock()
        self._frame_max = _DEFAULT_FRAME
        self._heartbeat = 0
        self._published = self._confirmed = 0
        self._out_of_order: set[int] = set()
        self._progress = trio.lowlevel.ParkingLot()
        self._publishing = trio.CancelScope()
        self._failure: str | None = None
        self._blocked = ""
        # Half of what it costs to encode a message.
        self._publish_frame = lru_cache(1_024)(_publish_frame)

    async def open(self) -> None:
        """Authenticate, open the virtual host and a channel with confirms, declare the exchanges."""
        url = self._url
        await self._stream.send_all(_PROTOCOL)
        await self._expect(commands.Connection.Start)
        user = "guest" if url.username is None else url.username
        password = "guest" if url.password is None else url.password
        await self._send(
            0,
            commands.Connection.StartOk(
                client_properties={"product": "actorchat", "capabilities": _CAPABILITIES},
                mechanism="PLAIN",
                response=f"\0{user}\0{password}",
                locale="en_US",
            ),
        )
        tune = await self._expect(commands.Connection.Tune)
        self._frame_max = min(tune.frame_max or _DEFAULT_FRAME, _DEFAULT_FRAME)
        self._heartbeat = min(tune.heartbeat or _HEARTBEAT, _HEARTBEAT)
        await self._send(
            0,
            commands.Connection.TuneOk(
                channel_max=tune.channel_max, frame_max=self._frame_max, heartbeat=self._heartbeat
            ),
        )
        await self._send(0, commands.Connection.Open(virtual_host=url.path or "/"))
        await self._expect(commands.Connection.OpenOk)
        await self._send(_CHANNEL, commands.Channel.Open())
        await self._expect(commands.Channel.OpenOk)
        await self._send(_CHANNEL, commands.Confirm.Select())
        await self._expect(commands.Confirm.SelectOk)
        for channel in BrokerChannel:
            await self._send(
                _CHANNEL,
                commands.Exchange.Declare(exchange=url.prefix + channel.value, exchange_type="topic", durable=True),
            )
            await self._expect(commands.Exchange.DeclareOk)

    async def publish(self, messages: Sequence[BrokerMessage]) -> None:
        data = bytearray()
        for message in messages:
            data += self._encoded(message)
        self._check()
        self._published += len(messages)
        last = self._published
        # Cancelled if the connection fails, or if the broker reports that it stopped reading (Connection.Blocked).
        with trio.CancelScope() as scope:
            self._publishing = scope
            try:
                async with self._sending:
                    await self._stream.send_all(data)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise BrokerUnavailable(self._failure or reason_of(error)) from None
            while self._confirmed < last and not scope.cancel_called:
                await self._progress.park()
        if self._confirmed < last:
            self._check()
            # The broker reads again by now, but may have received only a part.
            raise BrokerUnavailable("it took nothing for a moment")

    async def follow(self, channels: Collection[BrokerChannel], take: Callable[[BrokerMessage], object]) -> None:
        """Consume from a queue of its own, which ends with the connection."""
        try:
            await self._send(_CHANNEL, commands.Queue.Declare(exclusive=True, auto_delete=True))
            queue = (await self._expect(commands.Queue.DeclareOk)).queue or ""
            exchanges = {self._url.prefix + channel.value: channel for channel in channels}
            for exchange in exchanges:
                await self._send(_CHANNEL, commands.Queue.Bind(queue=queue, exchange=exchange, routing_key="#"))
                await self._expect(commands.Queue.BindOk)
            await self._send(_CHANNEL, commands.Basic.Consume(queue=queue, no_ack=True, exclusive=True))
            await self._expect(commands.Basic.ConsumeOk)
            while True:
                delivery = await self._expect(commands.Basic.Deliver)
                content = await self._expect(header.ContentHeader)
                received = bytearray()
                while len(received) < content.body_size:
                    received += (await self._expect(body.ContentBody)).value
                headers = content.properties.headers or {}
                source, id_ = headers.get(WIDGET_SOURCE_HEADER), headers.get(ACTORCHAT_ID_HEADER)
                if isinstance(source, str) and isinstance(id_, str):
                    take(BrokerMessage(exchanges[delivery.exchange], source, id_, bytes(received)))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise BrokerUnavailable(reason_of(error)) from None

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()

    async def read(self) -> None:
        """Handle what the broker sends, until the connection fails or the broker reports an error."""
        try:
            while self._failure is None:
                _, received = await self._next()
                self._take(received)
        except BrokerUnavailable as error:
            self._fail(str(error))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._fail(reason_of(error))

    async def keep_alive(self) -> None:
        """Send heartbeats."""
        beat = frame.marshal(heartbeat.Heartbeat(), 0)
        while True:
            await trio.sleep(self._heartbeat / 2)
            try:
                async with self._sending:
                    await self._stream.send_all(beat)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._fail(reason_of(error))
                return

    async def close(self) -> None:
        """Send Connection.Close, unless the connection has failed."""
        if self._failure is not None:
            return
        with trio.move_on_after(1):
            try:
                await self._send(
                    0, commands.Connection.Close(reply_code=200, reply_text="bye", class_id=0, method_id=0)
                )
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    def _take(self, received: FrameTypes) -> None:
        match received:
            case commands.Basic.Ack():
                self._confirm(received.delivery_tag or 0, multiple=bool(received.multiple))
            case commands.Basic.Nack():
                self._fail("it refused messages, as a queue does whose limit is reached")
            case commands.Connection.Blocked():
                self._blocked = received.reason or "it is low on memory or disk"
                self._publishing.cancel()
            case commands.Connection.Unblocked():
                self._blocked = ""
            case commands.Connection.Close() | commands.Channel.Close():
                self._fail(_refusal(received))
            case _:
                # Mostly heartbeats.
                return

    def _confirm(self, tag: int, *, multiple: bool) -> None:
        if multiple:
            self._confirmed = max(self._confirmed, tag)
        else:
            self._out_of_order.add(tag)
        while self._confirmed + 1 in self._out_of_order:
            self._confirmed += 1
        self._out_of_order = {tag for tag in self._out_of_order if tag > self._confirmed}
        self._progress.unpark_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise BrokerUnavailable(self._failure)
        if self._blocked:
            raise BrokerUnavailable(f"it takes nothing now: {self._blocked}")

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
        self._publishing.cancel()

    def _encoded(self, message: BrokerMessage) -> bytes:
        properties = commands.Basic.Properties(
            content_type="application/json",
            headers=dict(message.headers),
            delivery_mode=2,
            message_id=message.id,
            app_id="actorchat",
        )
        parts = [
            self._publish_frame(self._url.prefix + message.channel.value, message.source),
            frame.marshal(header.ContentHeader(body_size=len(message.body), properties=properties), _CHANNEL),
        ]
        most = self._frame_max - _FRAME_OVERHEAD
        parts += [
            frame.marshal(body.ContentBody(message.body[start : start + most]), _CHANNEL)
            for start in range(0, len(message.body), most)
        ]
        return b"".join(parts)

    async def _send(self, channel: int, method: base.Frame) -> None:
        async with self._sending:
            await self._stream.send_all(frame.marshal(method, channel))

    async def _expect(self, answer: type[T]) -> T:
        """Return the next method, which must be an `answer`. Heartbeats are skipped."""
        while True:
            _, received = await self._next()
            if isinstance(received, answer):
                return received
            if isinstance(received, commands.Connection.Close | commands.Channel.Close):
                raise BrokerUnavailable(_refusal(received))
            if not isinstance(received, heartbeat.Heartbeat):
                raise BrokerUnavailable(f"it does not speak AMQP 0-9-1 as expected: {received.name}")

    async def _next(self) -> tuple[int, FrameTypes]:
        """The next frame."""
        while True:
            if len(self._received) >= _FRAME_HEAD and (frame_ := self._whole_frame()) is not None:
                return frame_
            data: bytes | bytearray = b""
            # Heartbeats begin when the broker has agreed to them.
            with trio.move_on_after(2 * self._heartbeat or inf) as scope:
                data = await self._stream.receive_some(_READ_BYTES)
            if scope.cancelled_caught:
                raise BrokerUnavailable(f"it said nothing for {2 * self._heartbeat} s")
            if not data:
                raise BrokerUnavailable("it closed the connection")
            self._received += data

    def _whole_frame(self) -> tuple[int, FrameTypes] | None:
        received = self._received
        if received.startswith(b"AMQP"):
            raise BrokerUnavailable("it speaks another version of AMQP; expected 0-9-1")
        size = int.from_bytes(received[3:7], "big") + _FRAME_OVERHEAD
        if size > self._frame_max:
            raise BrokerUnavailable("it does not speak AMQP")
        if len(received) < size:
            return None
        try:
            _, channel, unmarshalled = frame.unmarshal(bytes(received[:size]))
        except exceptions.UnmarshalingException:
            raise BrokerUnavailable("it does not speak AMQP") from None
        del received[:size]
        return channel, unmarshalled


def _publish_frame(exchange: str, routing_key: str) -> bytes:
    return frame.marshal(commands.Basic.Publish(exchange=exchange, routing_key=routing_key), _CHANNEL)


def _refusal(close: commands.Connection.Close | commands.Channel.Close) -> str:
    if close.reply_code == _ACCESS_REFUSED and "Login" in close.reply_text:
        return "it refuses the user name or password"
    return close.reply_text or f"it closed with {close.reply_code}"
