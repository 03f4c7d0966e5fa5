"""Makes the summaries of chats that lists and consoles show, and tracks which operators view which chat."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from actorchat.chat.model import Identity, identity_of
from actorchat.chat.ports import SummaryRecord
from actorchat.protocol import MAX_SUMMARY_CHARS, ChatSummary, LastMessage, User, wire_time

__all__ = ["Viewers", "summary_of"]


class Viewers:
    """The operators that have a room open, with the number of their sockets. `profile` returns a user as shown now."""

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


def summary_of(record: SummaryRecord, viewers: tuple[User, ...]) -> ChatSummary:
    """The summary on the wire."""
    chat, message = record.chat, record.last
    last = None
    if message is not None:
        author = message.author
        last = LastMessage(
            text=message.text[:MAX_SUMMARY_CHARS],
            role=None if author is None else author.role,
            name="" if author is None else f"{author.firstname} {author.lastname}".strip(),
            type=message.type,
            send_time=wire_time(message.time),
        )
    return ChatSummary(
        chat=chat.wire(),
        last=last,
        unread=record.unread,
        waiting_since=None if chat.awaiting_since is None else wire_time(chat.awaiting_since),
        activity=wire_time(chat.last_activity),
        created=wire_time(record.created),
        tags=record.tags,
        viewers=viewers,
    )
