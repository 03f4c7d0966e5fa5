"""Opens in-process sockets for the program that embeds the server, over the memory transport and without tokens."""

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
from actorchat.server.auth import FIRST_ANONYMOUS_ID, PROFILE, Claims, is_storable
from actorchat.server.user_cache import UserCache
from actorchat.transports.memory import MemoryConnection, MemoryTransport
from actorchat.transports.ports import Admission, FeedTarget, RoomTarget

__all__ = ["EmbeddedSockets", "LocalSocket"]


class LocalSocket(trio.abc.AsyncResource):
    """A socket to a room or a feed within this process. Iterating yields its events until it ends.

    A program that does not iterate is a slow reader: its socket is closed with 1013. `chat` is None on a feed.
    """

    def __init__(self, connection: MemoryConnection, user: User, chat: UUID | None) -> None:
        self.connection = connection
        self.user = user
        self.chat = chat

    @property
    def close_code(self) -> int | None:
        """The close code, None while the socket is open; 1006 if it ended without a close frame."""
        return self.connection.close_code

    async def send(self, command: Command) -> None:
        """Send a command. Waits while the server does not read. Raises BrokenResourceError if the socket is closed."""
        await self.connection.send(command)

    async def send_message(self, text: str, client_id: str | None = None) -> None:
        """Send a message. The server answers with `MessageAdded` or `MessageNotAdded`. Raises as `send` does."""
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
        """Close the socket once the server has read everything that was sent."""
        await self.connection.aclose(code)


class EmbeddedSockets:
    """Opens sockets for users whom the embedding program has authenticated.

    The profile of a given `User` is stored; empty fields keep their stored value. All methods raise ChatRefused,
    StorageUnavailable, and ValueError for an id that is not allowed.
    """

    def __init__(self, chats: ChatService, users: UserCache, transport: MemoryTransport) -> None:
        self._chats = chats
        self._users = users
        self._transport = transport

    async def visitor(self, source: str, user: User | int | None, after: int | None, profile: Profile) -> LocalSocket:
        stored = await self._users.new_visitor() if user is None else await self.record(user, Role.USER)
        chat, _ = await self._chats.reserve_chat(source, stored)
        return self._connect(stored, profile, RoomTarget(chat.uuid, after))

    async def operator(
        self,
        operator: User | int,
        sources: Collection[str],
        chat: UUID,
        after: int | None,
        profile: Profile,
        *,
        quiet: bool,
    ) -> LocalSocket:
        stored = await self.record(operator, Role.OPERATOR, sources)
        return self._connect(stored, profile, RoomTarget(chat, after, quiet))

    async def feed(self, operator: User | int, sources: Collection[str], profile: Profile) -> LocalSocket:
        stored = await self.record(operator, Role.OPERATOR, sources)
        return self._connect(stored, profile, FeedTarget(frozenset(sources)))

    async def record(self, user: User | int, role: Role, sources: Collection[str] = ()) -> User:
        """Store the user's profile and sources, and return the stored profile.

        Raises ValueError for a user with another role, and for a profile that contains NUL or a lone surrogate.
        """
        user = User(user, role) if isinstance(user, int) else user
        if user.role is not role:
            raise ValueError(f"expected a user with the role {role}, got {user}")
        if user.id >= FIRST_ANONYMOUS_ID and not (role is Role.USER and await self._users.is_known(user)):
            raise ValueError(f"the server assigns ids from 2^52 on to anonymous visitors; expected less, got {user.id}")
        claimed = frozenset(name for name in PROFILE if getattr(user, name))
        for name in sorted(claimed):
            if not is_storable(getattr(user, name)):
                raise ValueError(f"{name} contains NUL or a lone surrogate")
        record = await self._users.record(Claims(user, claimed, frozenset(sources), inf))
        return record.user

    def _connect(self, user: User, profile: Profile, target: RoomTarget | FeedTarget) -> LocalSocket:
        admission = Admission(user=user, profile=profile, target=target, peer="memory")
        connection = self._transport.connect(admission)
        return LocalSocket(connection, user, target.chat if isinstance(target, RoomTarget) else None)
