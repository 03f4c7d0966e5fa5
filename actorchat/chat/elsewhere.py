"""Keeps what other nodes say of the people in rooms and at consoles, and shows it in the rooms of this node."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.chat.model import Identity, identity_of
from actorchat.protocol import Role, User

__all__ = ["CONSOLES", "Place", "RemotePeople", "RemoteTyping"]

CONSOLES: Final = UUID(int=0)
"""The place of an operator's consoles, instead of a chat."""

Place = tuple[UUID, Identity]
"""A chat, or `CONSOLES`, and somebody who is there."""

RECENT: Final = 60.0
"""Seconds for which a chat counts as used after the last person of another node has left it."""

_MOST_RECENT: Final = 10_000


@attrs.frozen
class RemoteTyping:
    """A typing event of somebody on another node."""

    chat: UUID
    source: str
    listed: bool
    user: User
    text: str
    stopped: bool


class RemotePeople:
    """The people present on other live nodes. A person may be at one place on several of them.

    `arrived(chat, user)` and `departed(chat, user)` are called for the first and the last of these nodes; `chat` is
    `CONSOLES` for an operator's consoles. `on_here(chat, user)` and `on_gone(chat, identity)` are called for the people
    of this node, whom others have to be told of, `on_typing(typing)` when one of them types.
    """

    def __init__(self) -> None:
        self.arrived: Callable[[UUID, User], object] = lambda chat, user: None
        self.departed: Callable[[UUID, User], object] = lambda chat, user: None
        self.on_here: Callable[[UUID, User], object] = lambda chat, user: None
        self.on_gone: Callable[[UUID, Identity], object] = lambda chat, identity: None
        self.on_typing: Callable[[RemoteTyping], object] = lambda typing: None
        self._nodes: dict[str, dict[Place, User]] = {}
        self._counts: Counter[Place] = Counter()
        self._chats: dict[UUID, dict[Identity, User]] = {}
        self._left: OrderedDict[UUID, float] = OrderedDict()

    def enter(self, node: str, chat: UUID, user: User) -> None:
        """`user` is at `chat` on that node."""
        place = (chat, identity_of(user))
        places = self._nodes.setdefault(node, {})
        if place in places:
            return
        places[place] = user
        self._counts[place] += 1
        if self._counts[place] == 1:
            self._chats.setdefault(chat, {})[place[1]] = user
            self.arrived(chat, user)

    def leave(self, node: str, chat: UUID, identity: Identity) -> None:
        """`identity` is not at `chat` on that node any more."""
        place = (chat, identity)
        user = self._nodes.get(node, {}).pop(place, None)
        if user is None:
            return
        self._counts[place] -= 1
        if self._counts[place]:
            return
        del self._counts[place]
        people = self._chats[chat]
        del people[identity]
        if not people:
            del self._chats[chat]
            self._remember(chat)
        self.departed(chat, user)

    def replace(self, node: str, places: Mapping[Place, User]) -> None:
        """`places` are all that are taken on that node."""
        for chat, identity in self._nodes.get(node, {}).keys() - places.keys():
            self.leave(node, chat, identity)
        for (chat, _), user in places.items():
            self.enter(node, chat, user)

    def forget(self, node: str) -> None:
        """The node is gone."""
        self.replace(node, {})
        self._nodes.pop(node, None)

    def known_at(self, node: str) -> Mapping[Place, User]:
        """The places that are taken on that node, as far as is known."""
        return self._nodes.get(node, {})

    def nodes(self) -> tuple[str, ...]:
        """The nodes of which something is known."""
        return tuple(self._nodes)

    def at(self, chat: UUID) -> tuple[User, ...]:
        """The people who are there."""
        return tuple(self._chats.get(chat, {}).values())

    def is_at(self, chat: UUID, identity: Identity) -> bool:
        """Whether that person is there."""
        return (chat, identity) in self._counts

    def renamed(self, user: User) -> tuple[UUID, ...]:
        """Keep the profile of `user`. Returns the rooms in which that person is and had another one."""
        identity = identity_of(user)
        rooms = [chat for chat, who in self._counts if who == identity and chat != CONSOLES]
        changed = tuple([chat for chat in rooms if self._chats[chat][identity] != user])
        for chat in changed:
            self._chats[chat][identity] = user
        return changed

    def has_console(self, operator_id: int) -> bool:
        """Whether another node has a console of that operator, or had one until a moment ago."""
        return (CONSOLES, Identity(Role.OPERATOR, operator_id)) in self._counts

    def uses(self, chat: UUID) -> bool:
        """Whether somebody is in that room on another node, or was until a moment ago."""
        left_at = self._left.get(chat)
        return chat in self._chats or (left_at is not None and trio.current_time() - left_at < RECENT)

    def _remember(self, chat: UUID) -> None:
        now = trio.current_time()
        self._left.pop(chat, None)
        self._left[chat] = now
        while len(self._left) > _MOST_RECENT or next(iter(self._left.values())) < now - RECENT:
            self._left.popitem(last=False)
