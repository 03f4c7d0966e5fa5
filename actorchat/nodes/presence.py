"""Tells other nodes who is in rooms and at consoles here, and keeps what they tell.

Changes are whispered over the bus at once, and stored many at a time. Each change of a node's presence has a number. A
node that knows another number than the stored one reads everybody of that other node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

import attrs
import msgspec
import trio

from actorchat.chat.elsewhere import Place, RemotePeople
from actorchat.chat.model import Identity, identity_of
from actorchat.chat.ports import ChatReader, StorageUnavailable
from actorchat.nodes.notes import MOST_WHISPERED, Whisper
from actorchat.nodes.registry import Registry
from actorchat.nodes.tables import NodeRow
from actorchat.protocol import Role, User

__all__ = ["KIND", "Presence"]

KIND: Final = "presence"

WRITE_INTERVAL: Final = 0.05
"""Seconds between two writes of changes."""

RETRY: Final = 0.5
"""Seconds before storage is used again after a failure."""


class _Change(msgspec.Struct, array_like=True, frozen=True):
    """Somebody came (`user` is who) or went (None)."""

    chat: bytes
    is_operator: bool
    id: int
    user: User | None


class _Changes(msgspec.Struct, array_like=True, frozen=True):
    """The changes after which a node's presence has this `number`; it was one less before."""

    number: int
    changes: tuple[_Change, ...]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Changes)
_MOST_CHANGES: Final = 8
"""Changes in one whisper: names and avatars are long at most."""


@attrs.define
class _Seen:
    """How far another node's presence is known: up to which number, under which registration."""

    epoch: int
    number: int


class Presence:
    """The presence of one node and what it knows of the others', which it gives to `remote`."""

    def __init__(
        self, registry: Registry, whisper: Callable[[str, bytes], object], remote: RemotePeople, chat_reader: ChatReader
    ) -> None:
        self._registry = registry
        self._whisper = whisper
        self._remote = remote
        self._chat_reader = chat_reader
        self._here: dict[Place, User] = {}
        self._came: dict[Place, User] = {}
        self._went: set[Place] = set()
        self._number = 0
        self._seen: dict[str, _Seen] = {}
        self._stale: dict[str, NodeRow] = {}
        self._wake = trio.Event()
        self._read = trio.Event()
        remote.on_here, remote.on_gone = self._arrived, self._departed

    def _arrived(self, chat: UUID, user: User) -> None:
        place = (chat, identity_of(user))
        self._here[place] = self._came[place] = user
        self._went.discard(place)
        self._wake.set()

    def _departed(self, chat: UUID, identity: Identity) -> None:
        place = (chat, identity)
        if self._here.pop(place, None) is not None:
            self._came.pop(place, None)
            self._went.add(place)
            self._wake.set()

    def registered(self) -> None:
        """The node is registered anew, and its stored presence is empty."""
        self._number = 0
        self._came, self._went = dict(self._here), set()
        self._wake.set()

    async def run(self) -> None:
        """Tell and store changes, and read those of other nodes that no whisper told, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell)
            nursery.start_soon(self._read_stale)

    async def _tell(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            epoch, came, went = self._registry.epoch, self._came, self._went
            self._came, self._went = {}, set()
            self._whisper_changes(came, went)
            registry = self._registry
            put = partial(registry.tables.put_presence, registry.name, epoch, self._number, [*came], [*went])
            try:
                await registry.runner.run(put)
            except StorageUnavailable:
                # What has changed since then is newer.
                self._came = {place: user for place, user in came.items() if place in self._here} | self._came
                self._went |= {place for place in went if place not in self._here}
                self._wake.set()
                await trio.sleep(RETRY)
            await trio.sleep(WRITE_INTERVAL)

    def _whisper_changes(self, came: dict[Place, User], went: set[Place]) -> None:
        changes = [_Change(chat.bytes, who.role is Role.OPERATOR, who.id, user) for (chat, who), user in came.items()]
        changes += [_Change(chat.bytes, who.role is Role.OPERATOR, who.id, None) for chat, who in sorted(went, key=str)]
        for start in range(0, len(changes), _MOST_CHANGES):
            self._number += 1
            body = _encoder.encode(_Changes(self._number, tuple(changes[start : start + _MOST_CHANGES])))
            if len(body) <= MOST_WHISPERED:
                # Otherwise the others find another number than theirs.
                self._whisper(KIND, body)

    def heard(self, whisper: Whisper) -> None:
        """Another node has whispered changes of its presence."""
        seen = self._seen.get(whisper.node)
        try:
            told = _decoder.decode(whisper.body)
        except msgspec.MsgspecError:
            # Another version of the program. Its presence is read.
            return
        if seen is None or seen.epoch != whisper.epoch or told.number != seen.number + 1:
            return
        seen.number = told.number
        for change in told.changes:
            chat = UUID(bytes=change.chat)
            if change.user is not None:
                self._remote.enter(whisper.node, chat, change.user)
            else:
                role = Role.OPERATOR if change.is_operator else Role.USER
                self._remote.leave(whisper.node, chat, Identity(role, change.id))

    def look(self, rows: Sequence[NodeRow]) -> None:
        """Compare what is known with the rows of the other nodes."""
        living = {row.node: row for row in rows if row.alive}
        for node in self._seen.keys() - living.keys():
            del self._seen[node]
            self._remote.forget(node)
        self._stale = {node: row for node, row in living.items() if not self._knows(row)}
        if self._stale:
            self._read.set()

    def _knows(self, row: NodeRow) -> bool:
        seen = self._seen.get(row.node)
        return seen is not None and seen.epoch == row.epoch and seen.number >= row.presence

    async def _read_stale(self) -> None:
        while True:
            await self._read.wait()
            self._read = trio.Event()
            for row in tuple(self._stale.values()):
                try:
                    await self._read_presence(row)
                except StorageUnavailable:
                    # The next look finds it again.
                    break

    async def _read_presence(self, row: NodeRow) -> None:
        registry = self._registry
        number, places = await registry.runner.run(partial(registry.tables.presence_of, row.node))
        known = self._remote.known_at(row.node)
        unknown = {place[1] for place in places if place not in known}
        records = await self._chat_reader.people(unknown) if unknown else ()
        read = {identity_of(record.user): record.user for record in records}
        users = {place: known.get(place) or read.get(place[1]) or User(place[1].id, place[1].role) for place in places}
        seen = self._seen.get(row.node)
        if seen is not None and seen.epoch == row.epoch and seen.number > number:
            # Whispers that came meanwhile are newer.
            return
        self._seen[row.node] = _Seen(row.epoch, number)
        self._remote.replace(row.node, users)
