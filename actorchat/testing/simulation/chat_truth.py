"""Keeps all that was committed of one chat, with the earlier versions of its messages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

from actorchat.chat.model import ChatState, StoredMessage, message_status
from actorchat.protocol import User
from actorchat.testing.simulation.model import Chat, Person

__all__ = ["RANK", "ChatTruth", "FeedEvent", "Look", "Version", "person_of"]

RANK: Final = {"new": 0, "delivered": 1, "read": 2}
"""The order of a message's statuses."""

Look = tuple[str, int | None]
"""The part of `chat_updated` that is checked: the status and the operator's id."""

FeedEvent = tuple[str, str, int | None] | tuple[str, int]


def person_of(user: User) -> Person:
    return (user.role.value, user.id)


class Version(NamedTuple):
    """A message after the edit with this `number`; 0 stands for the message as it was stored."""

    number: int
    message: StoredMessage


class ChatTruth:
    """One chat as committed.

    `looks` has its look after each change that lists show. `feed` are the events that its source's feed must send.
    `announced` is the highest index that any socket got in order. `assigned_at` is when its operator got it, and
    `used_at` when it was last requested while it was reserved. `messages` are as they are now; `versions` returns all
    that a message ever was.
    """

    def __init__(self, uuid: str, model: Chat, state: ChatState) -> None:
        self.uuid = uuid
        self.model = model
        self.state = state
        self.messages: list[StoredMessage] = []
        self._edits: dict[int, list[Version]] = {}
        self.visible: dict[str, list[int]] = {role: [] for role in ("user", "operator")}
        self.looks: list[Look] = []
        self.feed: list[FeedEvent] = []
        self.announced = -1
        self.assigned_at: float = 0.0
        self.customer_waits = False
        self.used_at: float = 0.0

    @property
    def look(self) -> Look:
        return (self.state.wire().status.value, None if self.state.operator is None else self.state.operator.id)

    def versions(self, index: int) -> Sequence[Version]:
        """The message as it was stored, and after each edit and redaction."""
        return self._edits.get(index) or (Version(0, self.messages[index]),)

    def original(self, index: int) -> StoredMessage:
        return self.versions(index)[0].message

    def edited(self, message: StoredMessage, number: int) -> None:
        """Record that a message was changed by the edit with that `number`."""
        self._edits[message.index] = [*self.versions(message.index), Version(number, message)]
        self.messages[message.index] = message

    @property
    def edited_indexes(self) -> Sequence[int]:
        return tuple(self._edits)

    def next_visible(self, role: str, last: int) -> int | None:
        """The index of the first message after `last` that the role may see."""
        visible = self.visible[role]
        place = bisect_right(visible, last)
        return visible[place] if place < len(visible) else None

    def last_visible(self, role: str) -> int:
        return self.visible[role][-1] if self.visible[role] else -1

    def status(self, message: StoredMessage) -> str:
        return message_status(self.state, message).value
