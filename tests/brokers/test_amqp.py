"""The AMQP adapter against a broker that does what RabbitMQ does only when it is low on memory or disk."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from pamqp import base, commands, frame, header

from actorchat.brokers import BrokerUnavailable, open_broker, open_tail, parse_broker_url
from actorchat.protocol import BrokerChannel, BrokerMessage

CAP = 10.0


class ScriptedServer:
    """Accepts one connection, counts what is published, and confirms it unless `confirms` is false."""

    def __init__(self) -> None:
        self.published = 0
        self.confirms = True
        self._stream: trio.SocketStream

    async def send(self, channel: int, *methods: base.Frame) -> None:
        await self._stream.send_all(b"".join(frame.marshal(method, channel) for method in methods))

    async def serve(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        received = b""
        try:
            async for data in stream:
                received += data
                if received.startswith(b"AMQP"):
                    received = received[8:]
                    await self.send(0, commands.Connection.Start())
                while len(received) >= 7 and len(received) >= int.from_bytes(received[3:7], "big") + 8:
                    size, _, got = frame.unmarshal(received)
                    received = received[size:]
                    await self._answer(got)
        except trio.BrokenResourceError:
            return

    async def _answer(self, got: object) -> None:
        match got:
            case commands.Connection.StartOk():
                await self.send(0, commands.Connection.Tune(2_047, 131_072, 60))
            case commands.Connection.Open():
                await self.send(0, commands.Connection.OpenOk())
            case commands.Channel.Open():
                await self.send(1, commands.Channel.OpenOk())
            case commands.Confirm.Select():
                await self.send(1, commands.Confirm.SelectOk())
            case commands.Exchange.Declare():
                await self.send(1, commands.Exchange.DeclareOk())
            case commands.Queue.Declare():
                await self.send(1, commands.Queue.DeclareOk("q", 0, 0))
            case commands.Queue.Bind():
                await self.send(1, commands.Queue.BindOk())
            case commands.Basic.Consume():
                await self.send(1, commands.Basic.ConsumeOk("c"))
            case header.ContentHeader():
                self.published += 1
                if self.confirms:
                    await self.send(1, commands.Basic.Ack(self.published))
            case _:
                return


@asynccontextmanager
async def scripted_server() -> AsyncIterator[tuple[ScriptedServer, str]]:
    server = ScriptedServer()
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server, f"amqp://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


def message(number: int) -> BrokerMessage:
    return BrokerMessage(BrokerChannel.MESSAGE, "shop", f"chat/{number}/1", b"{}")


async def test_a_broker_that_was_low_on_memory_between_two_messages_gets_both() -> None:
    with trio.fail_after(CAP):
        async with scripted_server() as (server, url), open_broker(parse_broker_url(url)).connect() as connection:
            await connection.publish([message(1)])
            await server.send(0, commands.Connection.Blocked("low on memory"), commands.Connection.Unblocked())
            await trio.sleep(0.1)
            await connection.publish([message(2)])
            assert server.published == 2


async def test_a_message_that_was_not_confirmed_does_not_count_as_published() -> None:
    with trio.fail_after(CAP):
        async with scripted_server() as (server, url), open_broker(parse_broker_url(url)).connect() as connection:
            server.confirms = False

            async def alarm() -> None:
                await trio.sleep(0.1)
                await server.send(0, commands.Connection.Blocked("low on memory"), commands.Connection.Unblocked())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(alarm)
                with pytest.raises(BrokerUnavailable):
                    await connection.publish([message(1)])


async def test_a_watcher_notices_a_broker_that_says_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorchat.brokers.amqp._HEARTBEAT", 1)
    with trio.fail_after(CAP):
        async with scripted_server() as (_, url):
            with pytest.raises(BrokerUnavailable, match="it said nothing for 2 s"):
                await open_tail(parse_broker_url(url)).follow(list(BrokerChannel), lambda _: None)
