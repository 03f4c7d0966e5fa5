"""Tells other nodes who types and who has used up much of their rate limit, and applies what they tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import UUID

import attrs
import msgspec
import trio

from actorchat.chat.elsewhere import RemotePeople, RemoteTyping
from actorchat.chat.limits import RateLimiter
from actorchat.chat.model import Identity, identity_of
from actorchat.chat.typing_throttle import SILENCE
from actorchat.nodes.notes import MOST_WHISPERED, Whisper
from actorchat.protocol import Role, User

__all__ = ["RATES", "TYPING", "Whispers"]

TYPING: Final = "typing"
RATES: Final = "rates"

TYPING_INTERVAL: Final = 0.1
"""Seconds between two whispers of typing."""

_MOST_TYPISTS: Final = 500
"""Typists who wait for the next whisper. The stops of the others are made up by the receivers."""

RATES_INTERVAL: Final = 1.0


class _Typing(msgspec.Struct, array_like=True, frozen=True):
    chat: bytes
    source: str
    listed: bool
    user: User
    text: str
    stopped: bool


class _Spent(msgspec.Struct, array_like=True, frozen=True):
    is_operator: bool
    id: int
    amount: float


_encoder: Final = msgspec.msgpack.Encoder()
_typing: Final = msgspec.msgpack.Decoder(_Typing)
_spent: Final = msgspec.msgpack.Decoder(tuple[_Spent, ...])


class Whispers:
    """Messages between nodes that go over the bus only. `show` shows typing of other nodes."""

    def __init__(
        self,
        whisper: Callable[[str, bytes], object],
        remote: RemotePeople,
        limiter: RateLimiter,
        show: Callable[[RemoteTyping], object],
    ) -> None:
        self._whisper, self._limiter, self._show = whisper, limiter, show
        self._due: dict[tuple[UUID, Identity], RemoteTyping] = {}
        self._wake = trio.Event()
        # The people who type on other nodes, and when they are taken to have stopped.
        self._typists: dict[tuple[UUID, Identity], tuple[float, RemoteTyping]] = {}
        remote.on_typing = self._typed

    def _typed(self, typing: RemoteTyping) -> None:
        key = (typing.chat, identity_of(typing.user))
        if key in self._due or len(self._due) < _MOST_TYPISTS:
            self._due.pop(key, None)
            self._due[key] = typing
            self._wake.set()

    async def run(self) -> None:
        """Whisper, and end what others do not tell the end of, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_typing)
            nursery.start_soon(self._each_second)

    async def _tell_typing(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            due, self._due = self._due, {}
            for typing in due.values():
                body = _encode(typing)
                if len(body) > MOST_WHISPERED:
                    # A long text: others are shown that somebody types, as in rooms.
                    body = _encode(attrs.evolve(typing, text=typing.text[:500]))
                if len(body) <= MOST_WHISPERED:
                    self._whisper(TYPING, body)
            await trio.sleep(TYPING_INTERVAL)

    async def _each_second(self) -> None:
        since = trio.current_time()
        while True:
            await trio.sleep(RATES_INTERVAL)
            now = trio.current_time()
            spent = [
                _Spent(identity.role is Role.OPERATOR, identity.id, amount)
                for identity, amount in self._limiter.spent(since, now)
            ]
            since = now
            for start in range(0, len(spent), 100):
                self._whisper(RATES, _encoder.encode(spent[start : start + 100]))
            for key, (until, typing) in list(self._typists.items()):
                if until <= now:
                    del self._typists[key]
                    self._show(attrs.evolve(typing, text="", stopped=True))

    def heard(self, whisper: Whisper) -> None:
        """Apply a whisper of another node."""
        try:
            if whisper.kind == TYPING:
                self._heard_typing(_typing.decode(whisper.body))
            else:
                now = trio.current_time()
                for each in _spent.decode(whisper.body):
                    identity = Identity(Role.OPERATOR if each.is_operator else Role.USER, each.id)
                    self._limiter.take_off(identity, each.amount, now)
        except msgspec.MsgspecError:
            # Another version of the program.
            return

    def _heard_typing(self, told: _Typing) -> None:
        chat = UUID(bytes=told.chat)
        typing = RemoteTyping(chat, told.source, told.listed, told.user, told.text, told.stopped)
        key = (chat, identity_of(told.user))
        if not told.stopped:
            self._typists[key] = (trio.current_time() + SILENCE, typing)
        elif self._typists.pop(key, None) is None:
            # A late or repeated stop.
            return
        self._show(typing)


def _encode(typing: RemoteTyping) -> bytes:
    told = _Typing(typing.chat.bytes, typing.source, typing.listed, typing.user, typing.text, typing.stopped)
    return _encoder.encode(told)
