"""Reads the summaries of chats that lists and consoles show, and tracks which operators view which chat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from uuid import UUID

from actorchat.chat.elsewhere import RemotePeople
from actorchat.chat.model import Identity, identity_of
from actorchat.chat.ports import ChatReader, StorageDamaged, SummaryRecord
from actorchat.chat.rules import CLOSING_TEXTS
from actorchat.protocol import MAX_SUMMARY_CHARS, ChatSummary, Closing, LastMessage, Role, User, wire_time

__all__ = ["Summaries", "Viewers"]


class Viewers:
    """Counts the sockets of operators in each room. `profile` returns a user as shown now."""

    def __init__(self, profile: Callable[[User], User]) -> None:
        self._profile = profile
        self._sockets: dict[UUID, dict[Identity, tuple[User, int]]] = {}

    def enter(self, chat: UUID, user: User) -> bool:
        """Count one socket. True if it is the user's first one in this room."""
        viewers = self._sockets.setdefault(chat, {})
        _, count = viewers.get(identity_of(user), (user, 0))
        viewers[identity_of(user)] = (user, count + 1)
        return not count

    def leave(self, chat: UUID, user: User) -> bool:
        """Stop counting a socket. True if it was the user's last one in this room."""
        viewers = self._sockets[chat]
        first, count = viewers.pop(identity_of(user))
        if count > 1:
            viewers[identity_of(user)] = (first, count - 1)
        elif not viewers:
            del self._sockets[chat]
        return count == 1

    def of(self, chat: UUID) -> tuple[User, ...]:
        """The viewers of a chat, by id."""
        viewers = self._sockets.get(chat)
        if viewers is None:
            return ()
        return tuple(sorted((self._profile(user) for user, _ in viewers.values()), key=lambda user: user.id))


class Summaries:
    """Reads the summaries of chats. `viewers` are the operators on this node; `profile` returns a user as shown now.

    `remote` are the people on other nodes, None if there are none.
    """

    def __init__(
        self,
        chat_reader: ChatReader,
        viewers: Viewers,
        profile: Callable[[User], User],
        remote: RemotePeople | None,
    ) -> None:
        self._chat_reader = chat_reader
        self._viewers = viewers
        self._profile = profile
        self._remote = remote

    async def read(self, chats: Sequence[UUID]) -> tuple[ChatSummary, ...]:
        """The summaries of `chats`, in that order, without reserved and unknown ones. Raises `StorageUnavailable`."""
        try:
            records = await self._chat_reader.summaries(chats)
        except StorageDamaged:
            found: list[SummaryRecord] = []
            for chat in chats:
                # The summaries of the other chats are shown although this one can't be read.
                with suppress(StorageDamaged):
                    found.extend(await self._chat_reader.summaries((chat,)))
            records = tuple(found)
        known = {record.chat.uuid: record for record in records}
        return tuple(_summary(known[chat], self._viewers_of(chat)) for chat in chats if chat in known)

    def _viewers_of(self, chat: UUID) -> tuple[User, ...]:
        here = self._viewers.of(chat)
        if self._remote is None:
            return here
        ids = {user.id for user in here}
        remote = [user for user in self._remote.at(chat) if user.role is Role.OPERATOR and user.id not in ids]
        return tuple(sorted((*here, *map(self._profile, remote)), key=lambda user: user.id))


def _summary(record: SummaryRecord, viewers: tuple[User, ...]) -> ChatSummary:
    """The summary on the wire."""
    chat, message, told = record.chat, record.last, record.told
    last = closed = None
    if message is not None:
        author = message.author
        last = LastMessage(
            text=message.text[:MAX_SUMMARY_CHARS],
            role=None if author is None else author.role,
            name="" if author is None else f"{author.firstname} {author.lastname}".strip(),
            type=message.type,
            send_time=wire_time(message.time),
        )
    if told is not None and told.text in CLOSING_TEXTS:
        closed = Closing(told.author, wire_time(told.time))
    return ChatSummary(
        chat=chat.wire(),
        last=last,
        unread=record.unread,
        waiting_since=None if chat.awaiting_since is None else wire_time(chat.awaiting_since),
        activity=wire_time(chat.last_activity),
        created=wire_time(record.created),
        tags=record.tags,
        viewers=viewers,
        closed=closed,
    )
