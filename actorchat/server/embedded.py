"""Owns sockets of the program that a server is embedded in: people who need no token, over the memory transport.

Refuses to know how the server is composed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from math import inf
from uuid import UUID

import trio

from actorchat.chat.service import ChatService
from actorchat.protocol import (
    CloseCode,
    Command,
    Event,
    MarkMessageRead,
    Profile,
    Role,
    SendMessage,
    UnknownType,
    User,
)
from actorchat.server.auth import FOREIGN_IDS, PROFILE, Claims, is_storable
from actorchat.server.user_cache import UserCache
from actorchat.transports.memory import MemoryConnection, MemoryTransport
from actorchat.transports.ports import Admission, FeedTarget, RoomTarget

__all__ = ["EmbeddedSockets", "LocalSocket"]


class LocalSocket(trio.abc.AsyncResource):
    """A room's or feed's socket within this process. Iterating gives its events until it ends.

    Who does not iterate is a slow reader, and is closed with 1013. `chat` is None on a feed.
    """

    def __init__(self, connection: MemoryConnection, user: User, chat: UUID | None) -> None:
        self.connection = connection
        self.user = user
        self.chat = chat

    @property
    def close_code(self) -> int | None:
        """None while open; 1006 if it ended without a Close."""
        return self.connection.close_code

    async def send(self, command: Command) -> None:
        """Waits while the server does not read. Raises BrokenResourceError after the end."""
        await self.connection.send(command)

    async def send_message(self, text: str, client_id: str | None = None) -> None:
        """As `send`; what comes of it is the `MessageAdded` or `MessageNotAdded` that follows."""
        await self.send(SendMessage(text, client_id=client_id))

    async def mark_read(self, message_id: int) -> None:
        """Mark the other side's messages up to this one as read. Waits and raises as `send` does.

        The result is a `Receipts` or `MessageUpdated` event; a mark that changes nothing has none.
        """
        await self.send(MarkMessageRead(message_id))

    def __aiter__(self) -> AsyncIterator[Event | UnknownType]:
        return self

    async def __anext__(self) -> Event | UnknownType:
        return await self.connection.__anext__()

    async def aclose(self, code: int = CloseCode.DONE) -> None:
        """Close after all that was sent was taken."""
        await self.connection.aclose(code)


class EmbeddedSockets:
    """Opens sockets for people whom the embedding program vouches for. Raises ChatRefused, StorageUnavailable.

    A `User` brings a profile with it; fields that are empty keep what is stored.
    """

    def __init__(self, chats: ChatService, people: UserCache, transport: MemoryTransport) -> None:
        self._chats = chats
        self._people = people
        self._transport = transport

    async def visitor(self, source: str, user: User | int | None, after: int | None, profile: Profile) -> LocalSocket:
        known = await self._people.new_visitor() if user is None else await self.known(user, Role.USER)
        chat, _ = await self._chats.reserve_chat(source, known)
        return self._connect(known, profile, RoomTarget(chat.uuid, after))

    async def operator(
        self, operator: User | int, sources: Collection[str], chat: UUID, after: int | None, profile: Profile
    ) -> LocalSocket:
        known = await self.known(operator, Role.OPERATOR, sources)
        return self._connect(known, profile, RoomTarget(chat, after))

    async def feed(self, operator: User | int, sources: Collection[str], profile: Profile) -> LocalSocket:
        known = await self.known(operator, Role.OPERATOR, sources)
        return self._connect(known, profile, FeedTarget(frozenset(sources)))

    async def known(self, user: User | int, role: Role, sources: Collection[str] = ()) -> User:
        """The stored profile of somebody whom the embedding program vouches for. ValueError for another role.

        ValueError also for a name or an avatar that no database or socket can take.
        """
        user = User(user, role) if isinstance(user, int) else user
        if user.role is not role:
            raise ValueError(f"expected somebody with the role {role}, got {user}")
        if user.id >= FOREIGN_IDS and not (role is Role.USER and await self._people.is_known(user)):
            raise ValueError(f"ids from 2^52 on are for anonymous visitors, whom the server numbers; got {user.id}")
        claimed = frozenset(name for name in PROFILE if getattr(user, name))
        for name in sorted(claimed):
            if not is_storable(getattr(user, name)):
                raise ValueError(f"{name} holds a NUL or half of a surrogate pair")
        record = await self._people.record(Claims(user, claimed, frozenset(sources), inf))
        return record.user

    def _connect(self, user: User, profile: Profile, target: RoomTarget | FeedTarget) -> LocalSocket:
        admission = Admission(user=user, profile=profile, target=target, peer="memory")
        connection = self._transport.connect(admission)
        return LocalSocket(connection, user, target.chat if isinstance(target, RoomTarget) else None)
