"""Checks that a broker adapter keeps its promises: every implementation passes `check_broker`."""

# ruff: noqa: S101 - assertions are what a conformance suite is made of

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol

import trio

from actorchat.brokers import Broker
from actorchat.protocol import BrokerChannel, BrokerMessage

__all__ = ["BrokerReader", "check_broker"]

CAP: Final = 20.0
"""Seconds that one check may take."""


class BrokerReader(Protocol):
    """Another program that reads one channel from its beginning: from before anything was published there."""

    async def read(self, count: int) -> Sequence[BrokerMessage]:
        """The next `count` messages, repeats included. Waits until they are there."""


OpenReader = Callable[[BrokerChannel], AbstractAsyncContextManager[BrokerReader]]


async def check_broker(broker: Broker, open_reader: OpenReader) -> None:
    """Prove that `broker` does what `actorchat.brokers.Broker` promises, as another program sees it.

    `open_reader(channel)` opens a program that reads what is published from then on. It must not use the adapter to
    connect to the broker. Raises AssertionError.
    """
    for check in (_check_round_trip, _check_order, _check_channels, _check_cancelling, _check_reconnecting):
        with trio.fail_after(CAP):
            await check(broker, open_reader)


def _messages(name: str, count: int, channel: BrokerChannel = BrokerChannel.MESSAGE) -> list[BrokerMessage]:
    return [
        BrokerMessage(channel, "shop", f"{name}/{number}", b'{"text":"' + b"x" * (number % 50) + b'"}')
        for number in range(count)
    ]


async def _check_round_trip(broker: Broker, open_reader: OpenReader) -> None:
    """Bodies and headers arrive byte for byte: text in any script, and bodies of many frames."""
    texts = ("", "\N{GREEK SMALL LETTER ALPHA}\N{GRINNING FACE}", '"quoted"\\\n\r\t', "y" * 300_000)
    messages = [
        BrokerMessage(BrokerChannel.MESSAGE, f"source_{number}-x", f"chat/{number}/1", text.encode())
        for number, text in enumerate(texts)
        if text
    ]
    async with open_reader(BrokerChannel.MESSAGE) as reader, broker.connect() as connection:
        await connection.publish(messages)
        assert list(await reader.read(len(messages))) == messages
        await connection.ping()


async def _check_order(broker: Broker, open_reader: OpenReader) -> None:
    """Messages arrive in the order in which they were published, over several calls and over a new connection."""
    messages = _messages("order", 1_500)
    async with open_reader(BrokerChannel.MESSAGE) as reader:
        for start in range(0, len(messages), 500):
            async with broker.connect() as connection:
                await connection.publish(messages[start : start + 250])
                await connection.publish([])
                await connection.publish(messages[start + 250 : start + 500])
            assert list(await reader.read(500)) == messages[start : start + 500]


async def _check_channels(broker: Broker, open_reader: OpenReader) -> None:
    """Each channel has its own readers."""
    for channel in BrokerChannel:
        messages = _messages(channel.value, 3, channel)
        async with open_reader(channel) as reader, broker.connect() as connection:
            for other in BrokerChannel:
                await connection.publish(messages if other is channel else _messages("other", 1, other))
            assert list(await reader.read(3)) == messages


async def _check_cancelling(broker: Broker, open_reader: OpenReader) -> None:
    """A cancelled publish ends soon and leaves the broker usable; any part of it may have arrived, in order."""
    messages = _messages("cancelled", 2_000)
    async with open_reader(BrokerChannel.MESSAGE) as reader:
        for _ in range(5):
            with trio.move_on_after(0.01):
                async with broker.connect() as connection:
                    await connection.publish(messages)
        [last] = _messages("after", 1)
        arrived: list[BrokerMessage] = []
        async with broker.connect() as connection, trio.open_nursery() as nursery:
            nursery.start_soon(connection.publish, [last])
            while not arrived or arrived[-1] != last:
                arrived += await reader.read(1)
        expected = 0
        for message in arrived[:-1]:
            number = int(message.id.rpartition("/")[2])
            assert number in (0, expected), (number, expected)
            expected = number + 1


async def _check_reconnecting(broker: Broker, open_reader: OpenReader) -> None:
    """Several connections at once, each opened and closed without a trace."""
    async with open_reader(BrokerChannel.CHAT) as reader, trio.open_nursery() as nursery:

        async def publish_alone(number: int) -> None:
            async with broker.connect() as connection:
                await connection.publish(_messages(f"alone-{number}", 1, BrokerChannel.CHAT))

        for number in range(5):
            nursery.start_soon(publish_alone, number)
        arrived = await reader.read(5)
        assert {message.id for message in arrived} == {f"alone-{number}/0" for number in range(5)}
