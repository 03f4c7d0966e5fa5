"""A person's websockets without the client library: they may be strict, send without waiting, and send wrong frames."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Final

import attrs
import trio

from actorchat.testing import RawPeer
from actorchat.testing.simulation.sockets import ClientStream, dial
from actorchat.testing.simulation.wrong_frames import WRONG

if TYPE_CHECKING:
    from actorchat.testing.simulation.people import Person

__all__ = ["RawSockets"]

_WRONG: Final = tuple(WRONG)
_BROKEN: Final = (OSError, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel)


class _Peer(RawPeer):
    """A peer that several tasks may send with: a lock keeps their frames apart."""

    def __init__(self, stream: ClientStream) -> None:
        super().__init__(stream)
        self._end_of_stream = stream.end
        self._lock = trio.Lock()

    async def send_frame(self, opcode: int, payload: bytes = b"") -> None:
        async with self._lock:
            whole = False
            try:
                await super().send_frame(opcode, payload)
                whole = True
            finally:
                if not whole:
                    # After half a frame the server would misread everything else.
                    self._end_of_stream.close()


@attrs.define(eq=False)
class _Raw:
    chat: str
    peer: _Peer
    extended: bool
    ids: list[int] = attrs.field(factory=list)


class RawSockets:
    """The raw sockets of one person, at most two at a time."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._world = person.world
        self._open: list[_Raw] = []

    @property
    def handlers(self) -> Mapping[str, Callable[[int, int, int], Awaitable[None]]]:
        return {"raw": self._open_raw, "raw_send": self._send, "wrong": self._send_wrong}

    def extended_in(self, chat: str) -> RawPeer | None:
        """Return an open socket with the extended profile in that room, or None."""
        return next((raw.peer for raw in self._open if raw.chat == chat and raw.extended), None)

    async def _open_raw(self, a: int, b: int, c: int) -> None:
        person = self._person
        chat = person.chat(a)
        if chat is not None and len(self._open) < 2:
            after = person.known[chat] if c % 2 else None
            person.nursery.start_soon(self._hold, chat, b % 3 == 0, after)

    async def _hold(self, chat: str, extended: bool, after: int | None) -> None:
        raw = None
        try:
            with trio.fail_after(15) as opening:
                stream = await dial(self._world.network, "chat.test", 8_000)
                peer = _Peer(stream)
                target = f"/ws/chats/{chat}" + ("" if after is None else f"?after={after}")
                profile = "actorchat.v1.ext" if extended else "actorchat.v1"
                head = await peer.handshake(target, (profile, f"bearer.{self._person.current}"))
                if not head.startswith(b"HTTP/1.1 101"):
                    await trio.aclose_forcefully(stream)
                    return
                raw = _Raw(chat, peer, extended)
                self._open.append(raw)
                opening.deadline = inf
                try:
                    await self._read(raw)
                finally:
                    await trio.aclose_forcefully(stream)
        except _BROKEN:
            pass
        finally:
            if raw is not None:
                self._open.remove(raw)

    async def _read(self, raw: _Raw) -> None:
        known = self._person.known
        while True:
            event = json.loads(await raw.peer.receive())
            if event["type"] == "message_added":
                message = event["data"]["message"]
                raw.ids.append(message["id"])
                known[raw.chat] = max(known[raw.chat], message["message_index"])

    async def _send(self, a: int, b: int, c: int) -> None:
        """Send up to ten commands at once, without waiting for answers."""
        if not self._open:
            return
        raw, person = self._open[a % len(self._open)], self._person
        try:
            with trio.move_on_after(2):
                for n in range(1 + b % 10):
                    if (c + n) % 3 == 0 and raw.ids:
                        kind = "mark_message_read" if n % 2 else "mark_message_delivered"
                        data: dict[str, object] = {"message_id": raw.ids[-1]}
                    else:
                        kind, text = "send_message", person.next_text()
                        data = {"text": text, "attachments": []}
                        if (c + n) % 4:
                            data["client_id"] = f"{text}-raw"
                    await raw.peer.send_text(json.dumps({"type": kind, "data": data}))
        except _BROKEN:
            return

    async def _send_wrong(self, a: int, b: int, c: int) -> None:
        """Send up to four wrong frames in a row."""
        if not self._open:
            return
        raw = self._open[a % len(self._open)]
        try:
            with trio.move_on_after(2):
                for n in range(1 + b % 4):
                    payload = _WRONG[(c + 7 * n) % len(_WRONG)]
                    await (raw.peer.send_binary(b"\x00\x01") if c % 10 == n else raw.peer.send_text(payload))
        except _BROKEN:
            return
