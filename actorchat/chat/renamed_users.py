"""Remembers recent changes of profiles, so that what rooms remember is shown with people as they are now.

Storage has everybody's profile; this is for what was read before it changed. It is bounded: a profile that is forgotten
here is shown as it was only where a room has remembered it for longer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from msgspec.structs import replace

from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of
from actorchat.protocol import Role, User

__all__ = ["RenamedUsers"]

_KEPT = 10_000


class RenamedUsers:
    """Changed profiles, in commit order, and the rooms to tell of a change. Cheap while there are no changes."""

    def __init__(self) -> None:
        self._latest: OrderedDict[tuple[Role, int], User] = OrderedDict()
        self._watching: dict[Identity, dict[Callable[[User], object], None]] = {}

    def watch(self, identity: Identity, tell: Callable[[User], object]) -> None:
        """Call `tell` with each new profile of that person, until `unwatch`."""
        self._watching.setdefault(identity, {})[tell] = None

    def unwatch(self, identity: Identity, tell: Callable[[User], object]) -> None:
        watching = self._watching[identity]
        del watching[tell]
        if not watching:
            del self._watching[identity]

    def changed(self, user: User) -> None:
        key = (user.role, user.id)
        self._latest[key] = user
        self._latest.move_to_end(key)
        if len(self._latest) > _KEPT:
            self._latest.popitem(last=False)
        for tell in self._watching.get(identity_of(user), ()):
            tell(user)

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
