"""Hands published messages to readers in the same process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from actorchat.protocol import BrokerChannel, BrokerMessage

__all__ = ["MemoryBroker"]

BUFFERED: Final = 1_000
"""Messages that wait for a reader; beyond them the relay waits, and what follows stays in storage."""


class MemoryBroker:
    """A `Broker` without a server. A message that nobody reads is gone."""

    def __init__(self) -> None:
        self._readers: dict[trio.MemorySendChannel[BrokerMessage], frozenset[BrokerChannel]] = {}

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[MemoryBroker]:
        await trio.lowlevel.checkpoint()
        yield self

    async def publish(self, messages: Sequence[BrokerMessage]) -> None:
        await trio.lowlevel.checkpoint()
        for message in messages:
            for reader, channels in tuple(self._readers.items()):
                if message.channel in channels:
                    try:
                        await reader.send(message)
                    except trio.BrokenResourceError:
                        # The reader has left.
                        continue

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def read(self, channels: frozenset[BrokerChannel]) -> AsyncIterator[trio.MemoryReceiveChannel[BrokerMessage]]:
        """Receive what is published on `channels` inside the block."""
        send, receive = trio.open_memory_channel[BrokerMessage](BUFFERED)
        self._readers[send] = channels
        try:
            with receive:
                yield receive
        finally:
            del self._readers[send]
            send.close()
