"""Visitors and operators that write, and consoles that watch, through any server; each notes what it has seen."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final
from uuid import UUID

import attrs
import trio
import trio_websocket

from actorchat.protocol import (
    Chat,
    ChatUpdated,
    Event,
    MessageAdded,
    MessageNotAdded,
    Profile,
    SendMessage,
    UnknownType,
    UserConnected,
    UserDisconnected,
    decode_event,
    encode_command,
)

__all__ = ["Console", "Person", "Place", "Violation"]

Place = Callable[[], tuple[str, int] | None]
"""The name and the port of a server that accepts clients, None if there is none now."""

SILENCE: Final = 8.0
"""Seconds without an event after which a client that waits for one connects again."""

_PAUSE: Final = (0.02, 0.3)
"""Seconds before a client connects again, at least and at most."""

_MOST_NOTED: Final = 60

_LATER: Final = ("storage_unavailable", "overloaded", "draining")
"""Refusals after which a message is sent again."""

_ENDED: Final = (
    trio_websocket.ConnectionClosed,
    trio_websocket.HandshakeError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)


class Violation(Exception):  # noqa: N818 - a result
    """A client saw what it must not see. `client` is who."""

    def __init__(self, client: Person | Console, text: str) -> None:
        super().__init__(f"{client.name}: {text}")
        self.client: Person | Console = client


class _UntilItEnds:
    """A block that is left when its socket has ended, however that is reported."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if isinstance(error, BaseExceptionGroup):
            return error.split(_ENDED)[1] is None
        return isinstance(error, _ENDED)


@asynccontextmanager
async def open_websocket(port: int, path: str, token: str) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    headers = [(b"Authorization", f"Bearer {token}".encode())]
    # The stream is closed here, whatever becomes of the handshake.
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
        with trio.fail_after(SILENCE):
            websocket = await trio_websocket.wrap_client_stream(
                nursery, stream, "127.0.0.1", path, subprotocols=[Profile.EXTENDED.value], extra_headers=headers
            )
        try:
            yield websocket
        finally:
            nursery.cancel_scope.cancel()


async def receive(websocket: trio_websocket.WebSocketConnection) -> Event | UnknownType:
    return decode_event(await websocket.get_message())


class _Notes:
    """The last things that happened to a client, as lines with the seconds of the check."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines: deque[str] = deque(maxlen=_MOST_NOTED)

    def add(self, text: str) -> None:
        self._lines.append(f"{self._clock():9.3f} {text}")

    @property
    def lines(self) -> list[str]:
        return list(self._lines)


@attrs.define(eq=False)
class Person:
    """Writes in `chat`, one message after the answer to the other, and reads all of them.

    It stops after `most` messages, or when `stop_writing` is set. `seen` has the texts that it got, by their indexes,
    in the order in which they came. `waiting` has what is not answered yet, `repeats` how often each message of its own
    was sent, and `given_up` what was refused and not sent again, so that it must not be stored. `present` are the ids
    of those whom its socket says to be in the chat.
    """

    name: str
    token: str
    chat: UUID
    random: Random
    stop_writing: trio.Event
    clock: Callable[[], float]
    most: int | None = None
    seen: dict[int, str] = attrs.Factory(dict)
    last: int = -1
    sent: list[str] = attrs.Factory(list)
    waiting: dict[str, str] = attrs.Factory(dict)
    repeats: Counter[str | None] = attrs.Factory(Counter)
    given_up: list[str] = attrs.Factory(list)
    present: set[int] = attrs.Factory(set)
    connects: int = 0
    refusals: int = 0
    resent: int = 0
    answered: trio.Event = attrs.Factory(trio.Event)
    notes: _Notes = attrs.field(init=False)
    _written: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.notes = _Notes(self.clock)

    @property
    def done(self) -> bool:
        """Whether it has written everything, and everything is answered."""
        return not self._writes and not self.waiting

    @property
    def _writes(self) -> bool:
        return not self.stop_writing.is_set() and (self.most is None or self._written < self.most)

    def has_seen(self, index: int) -> bool:
        return self.last >= index

    async def run(self, place: Place) -> None:
        """Write and read through any server, connecting again when a socket ends, until cancelled."""
        while True:
            found = place()
            if found is not None:
                name, port = found
                with _UntilItEnds():
                    path = f"/ws/chats/{self.chat}?after={self.last}"
                    async with open_websocket(port, path, self.token) as websocket, trio.open_nursery() as nursery:
                        self.connects += 1
                        self.present.clear()
                        self.notes.add(f"connected to {name} after message {self.last}")
                        nursery.start_soon(self._write, websocket, nursery.cancel_scope)
                        await self._read(websocket)
                        nursery.cancel_scope.cancel()
            await trio.sleep(self.random.uniform(*_PAUSE))

    async def _read(self, websocket: trio_websocket.WebSocketConnection) -> None:
        with _UntilItEnds():
            while True:
                with trio.move_on_after(SILENCE) as limit:
                    event = await receive(websocket)
                if limit.cancelled_caught:
                    if self.waiting:
                        return
                    continue
                self.take(event)

    def take(self, event: Event | UnknownType) -> None:
        """Note an event of its socket. Raises `Violation`."""
        match event:
            case MessageAdded(message=message, client_id=client_id):
                index = message.message_index
                self.notes.add(f"got message {index}: {message.text!r}")
                if index == self.last + 1:
                    self.last = index
                    self.seen[index] = message.text
                elif self.repeats[client_id] and self.seen.get(index) == message.text:
                    # The answer to the same message, sent again before it was known to be stored.
                    self.repeats[client_id] -= 1
                elif self.repeats[client_id] > 1 and index > self.last and client_id in self.waiting:
                    # The same, while messages before it are still read. It comes once more behind them.
                    self.repeats[client_id] -= 1
                else:
                    raise Violation(self, f"message {index} came twice, or out of order, after {self.last}")
                if client_id is not None and self.waiting.pop(client_id, None) is not None:
                    self.answered.set()
            case MessageNotAdded(code=code, client_id=client_id):
                self.notes.add(f"{client_id} was refused: {code}")
                self.refusals += 1
                if client_id in self.waiting:
                    self._refused(client_id, code)
                self.answered.set()
            case UserConnected(user=user):
                self.present.add(user.id)
            case UserDisconnected(user=user):
                self.present.discard(user.id)
            case _:
                pass

    def _refused(self, client_id: str, code: str) -> None:
        if code not in _LATER:
            raise Violation(self, f"{client_id} was refused with {code}")
        # What was sent twice may be stored although one of both is refused.
        if self.repeats[client_id] == 1 and self.random.random() < 0.5:
            text = self.waiting.pop(client_id)
            self.given_up.append(text)
            self.sent.remove(text)

    async def _write(self, websocket: trio_websocket.WebSocketConnection, scope: trio.CancelScope) -> None:
        with _UntilItEnds():
            while True:
                if not self.waiting and self._writes:
                    client_id = f"{self.name}-{self._written}"
                    self._written += 1
                    self.waiting[client_id] = f"{client_id} {'ж' * self.random.randrange(60)}"
                    self.sent.append(self.waiting[client_id])
                self.answered = trio.Event()
                for client_id, text in list(self.waiting.items()):
                    self.resent += bool(self.repeats[client_id])
                    self.repeats[client_id] += 1
                    self.notes.add(f"sends {client_id}")
                    await websocket.send_message(encode_command(SendMessage(text, client_id=client_id)).decode())
                if self.waiting:
                    await self.answered.wait()
                    # Also the pause before a refused message is sent again.
                    await trio.sleep(self.random.expovariate(20))
                else:
                    await trio.sleep(0.05)
        scope.cancel()


@attrs.define(eq=False)
class Console:
    """Reads an operator's feed, and notes the newest state of each chat and each chat's messages of one connection.

    `newest` has the newest message of each chat that its last connection has shown.
    """

    name: str
    token: str
    random: Random
    clock: Callable[[], float]
    chats: dict[UUID, Chat] = attrs.Factory(dict)
    newest: dict[UUID, int] = attrs.Factory(dict)
    shown: int = 0
    connects: int = 0
    notes: _Notes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.notes = _Notes(self.clock)

    def shows(self, chat: UUID, index: int) -> bool:
        """Whether it shows the chat up to that message, or has not been sent any since it connected last."""
        return self.newest.get(chat, index) >= index

    async def run(self, place: Place) -> None:
        """Read through any server, connecting again when a socket ends, until cancelled."""
        while True:
            found = place()
            if found is not None:
                name, port = found
                with _UntilItEnds():
                    async with open_websocket(port, "/ws/operators", self.token) as websocket:
                        self.connects += 1
                        self.notes.add(f"connected to {name}")
                        # What came while it was away is not sent again: it asks for the messages of a chat.
                        self.newest.clear()
                        # The newest message of each chat of which this connection was told, -1 if there was none yet.
                        seen: dict[UUID, int] = {}
                        while True:
                            self.take(await receive(websocket), seen)
            await trio.sleep(self.random.uniform(*_PAUSE))

    def take(self, event: Event | UnknownType, seen: dict[UUID, int]) -> None:
        """Note an event. `seen` has the newest message of each chat of this connection. Raises `Violation`."""
        match event:
            case ChatUpdated(chat=chat):
                self.chats[chat.uuid] = chat
                if seen.setdefault(chat.uuid, -1) < 0:
                    self.notes.add(f"is told of chat {chat.uuid}")
            case MessageAdded(message=message):
                uuid, index = message.chat.uuid, message.message_index
                before = seen.get(uuid)
                self.notes.add(f"got message {index} of {uuid}: {message.text!r}")
                if before is None:
                    raise Violation(self, f"message {index} of {uuid} came before the chat")
                if index <= before or (before >= 0 and index > before + 1):
                    raise Violation(self, f"message {index} of {uuid} came after {before}")
                seen[uuid] = self.newest[uuid] = index
                self.shown += 1
            case _:
                pass
