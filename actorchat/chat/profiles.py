"""Owns who has been renamed lately: what is shown again shows people as they are now.

Storage knows everybody's profile; this is for what rooms remember. Bounded: what is forgotten here is stale only where
a room has remembered it for longer.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec.structs import replace

from actorchat.chat.model import ChatState, StoredMessage
from actorchat.protocol import Role, User

__all__ = ["Profiles"]

_KEPT = 10_000


class Profiles:
    """Changed profiles, in commit order. Cheap while there are none."""

    def __init__(self) -> None:
        self._latest: OrderedDict[tuple[Role, int], User] = OrderedDict()

    def changed(self, user: User) -> None:
        key = (user.role, user.id)
        self._latest[key] = user
        self._latest.move_to_end(key)
        if len(self._latest) > _KEPT:
            self._latest.popitem(last=False)

    def user(self, user: User) -> User:
        """The same person, as it is now."""
        return self._latest.get((user.role, user.id), user)

    def chat(self, chat: ChatState) -> ChatState:
        """The same chat with its people as they are now."""
        if not self._latest:
            return chat
        owner = self.user(chat.owner)
        operator = None if chat.operator is None else self.user(chat.operator)
        if owner is chat.owner and operator is chat.operator:
            return chat
        return replace(chat, owner=owner, operator=operator)

    def message(self, message: StoredMessage) -> StoredMessage:
        """The same message with its author as it is now."""
        if not self._latest or message.author is None:
            return message
        author = self.user(message.author)
        return message if author is message.author else replace(message, author=author)
