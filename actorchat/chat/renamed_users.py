"""Remembers recently changed profiles, so that chats and messages in memory are shown with current profiles.

Storage always has the current profiles; this is for what was read earlier. The number of profiles is bounded: after
very many changes, a room may show an old profile until it reads the chat again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from msgspec.structs import replace

from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of
from actorchat.protocol import Role, User

__all__ = ["RenamedUsers"]

_MAX_PROFILES = 10_000


class RenamedUsers:
    """The changed profiles, in commit order, and the callbacks of the rooms to notify."""

    def __init__(self) -> None:
        self._latest: OrderedDict[tuple[Role, int], User] = OrderedDict()
        self._watchers: dict[Identity, dict[Callable[[User], object], None]] = {}

    def watch(self, identity: Identity, notify: Callable[[User], object]) -> None:
        """Call `notify` with each new profile of that user, until `unwatch`."""
        self._watchers.setdefault(identity, {})[notify] = None

    def unwatch(self, identity: Identity, notify: Callable[[User], object]) -> None:
        watchers = self._watchers[identity]
        del watchers[notify]
        if not watchers:
            del self._watchers[identity]

    def changed(self, user: User) -> None:
        key = (user.role, user.id)
        self._latest[key] = user
        self._latest.move_to_end(key)
        if len(self._latest) > _MAX_PROFILES:
            self._latest.popitem(last=False)
        for notify in self._watchers.get(identity_of(user), ()):
            notify(user)

    def user(self, user: User) -> User:
        """The same user with the current profile."""
        return self._latest.get((user.role, user.id), user)

    def chat(self, chat: ChatState) -> ChatState:
        """The same chat with the current profiles of its owner and operator."""
        if not self._latest:
            return chat
        owner = self.user(chat.owner)
        operator = None if chat.operator is None else self.user(chat.operator)
        if owner is chat.owner and operator is chat.operator:
            return chat
        return replace(chat, owner=owner, operator=operator)

    def message(self, message: StoredMessage) -> StoredMessage:
        """The same message with the current profile of its author."""
        if not self._latest or message.author is None:
            return message
        author = self.user(message.author)
        return message if author is message.author else replace(message, author=author)
