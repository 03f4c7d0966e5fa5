"""Carries notes by publish and subscribe of Redis or Valkey."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any, Final

import coredis
import coredis.exceptions
import trio
from coredis.response.types import PubSubMessage
from coredis.retry import NoRetryPolicy

from actorchat.brokers.connection_support import CONNECT_SECONDS, first_error, reason_of, tls_context
from actorchat.brokers.urls import BrokerUrl
from actorchat.nodes.notes import InvalidFrame, Note, Outgoing, decode_frame, encode_frame
from actorchat.nodes.reconnecting import BusUnavailable, Line

__all__ = ["RedisBus"]

_FRAME_BYTES: Final = 262_144
_ANSWER_SECONDS: Final = 10.0
_PING_PERIOD: Final = 5.0
"""Seconds after which an idle connection is asked whether it is there."""


class RedisBus:
    """A `Bus` on `channel` of the server at `url`. Many notes go in one message."""

    def __init__(self, url: BrokerUrl, channel: str, random: Random | None = None) -> None:
        self._url = url
        self._channel = channel
        self._line = Line(f"the bus {url.name}", random or SystemRandom())
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
            async with self._client() as client, self._subscribed(client, heard):
                self._line.up()
                await self._send(client)
        except BaseException as error:
            # The client reports a cancellation as a lost connection, and wraps errors in groups.
            await trio.lowlevel.checkpoint_if_cancelled()
            cause = first_error(error)
            if isinstance(cause, trio.TooSlowError):
                raise BusUnavailable(f"no answer within {_ANSWER_SECONDS:.0f} s") from None
            if isinstance(cause, coredis.exceptions.RedisError | OSError | trio.ClosedResourceError):
                raise BusUnavailable(reason_of(cause)) from None
            raise
        finally:
            self._sent.set()

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
            max_connections=2,
            client_name="actorchat-bus",
            verify_version=False,
            retry_policy=NoRetryPolicy(),
        )

    def _subscribed(self, client: coredis.Redis[bytes], heard: Callable[[Note], object]) -> Any:  # Any: of the client
        def arrived(message: PubSubMessage) -> None:
            data = message["data"]
            if isinstance(data, bytes):
                self._heard(data, heard)

        return client.pubsub(
            channel_handlers={self._channel: arrived},
            retry_policy=NoRetryPolicy(),
            subscription_timeout=_ANSWER_SECONDS,
            max_idle_seconds=_PING_PERIOD,
        )

    def _heard(self, frame: bytes, heard: Callable[[Note], object]) -> None:
        try:
            origin, notes = decode_frame(frame)
        except InvalidFrame:
            # Another version of the program sent it. What it told is read from storage.
            return
        if origin != self._origin:
            for note in notes:
                heard(note)

    async def _send(self, client: coredis.Redis[bytes]) -> None:
        while True:
            # After a failure, notes may wait that nobody tells again.
            if not self._outgoing:
                with trio.move_on_after(_PING_PERIOD):
                    await self._wake.wait()
            self._wake = trio.Event()
            with trio.fail_after(_ANSWER_SECONDS):
                if not self._outgoing:
                    await client.ping()
            while self._outgoing:
                frame = encode_frame(self._origin, self._outgoing.take(_FRAME_BYTES))
                with trio.fail_after(_ANSWER_SECONDS):
                    await client.publish(self._channel, frame)
            self._sent.set()
