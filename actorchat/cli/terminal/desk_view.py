"""Owns what the list of an operator's chats shows, as a value, and how each event of the feed changes it.

Refuses to know terminals, sockets and clocks.
"""

from typing import Final
from uuid import UUID

import attrs

from actorchat.client import ConnectionState, FeedItem, SnapshotBegins
from actorchat.protocol.entities import Chat, ChatStatus, Message, Role
from actorchat.protocol.events import ChatUpdated, GlobalUpdated, MessageAdded, OperatorUpdated, TypingUpdated

MAX_ROWS: Final = 1_000
"""The longest quiet rows beyond this leave the list."""

_ORDER: Final = {ChatStatus.NEW: 0, ChatStatus.OPEN: 1, ChatStatus.CLOSED: 2}


@attrs.frozen
class Row:
    """One chat in the list; ``number`` is its name here and stays, ``unread`` counts what came since it was open.

    ``typing`` is what the visitor writes now, None if nothing.
    """

    number: int
    chat: Chat
    activity: int = 0
    unread: int = 0
    last: Message | None = None
    typing: str | None = None


@attrs.frozen
class DeskView:
    """All chats that the feed told of, by id, with the operators and how many chats wait for an answer."""

    rows: dict[UUID, Row] = attrs.field(factory=dict)
    operators: dict[int, OperatorUpdated] = attrs.field(factory=dict)
    unread_chats: int = 0
    connection: ConnectionState = ConnectionState.CONNECTING
    reason: str = ""
    notice: str = ""
    numbers: dict[UUID, int] = attrs.field(factory=dict)
    clock: int = 0

    def sorted_rows(self) -> list[Row]:
        """New chats first, then open ones, closed last; within them the latest activity first."""
        return sorted(self.rows.values(), key=lambda row: (_ORDER[row.chat.status], -row.activity))

    def find(self, number: int) -> Row | None:
        """The row of that number."""
        return next((row for row in self.rows.values() if row.number == number), None)

    def opened(self, chat: UUID) -> "DeskView":
        """With that chat's messages seen."""
        row = self.rows.get(chat)
        return self if row is None else self._put(attrs.evolve(row, unread=0))

    def noticed(self, text: str) -> "DeskView":
        """With a line of the terminal's own."""
        return attrs.evolve(self, notice=text)

    def connected(self, connection: ConnectionState, reason: str) -> "DeskView":
        """With the connection in that state."""
        return attrs.evolve(self, connection=connection, reason=reason)

    def after(self, item: FeedItem, *, shown: UUID | None = None) -> "DeskView":
        """What the list shows once this happened; ``shown`` is the chat on the screen, which has no unread."""
        match item:
            case SnapshotBegins():
                return attrs.evolve(self, rows={}, operators={})
            case ChatUpdated(chat):
                return self._chat(chat)
            case MessageAdded(message):
                return self._message(message, shown)
            case TypingUpdated(text=text, stopped=stopped, chat_id=chat_id, user=user):
                row = self.rows.get(chat_id)
                if row is None or user.role is not Role.USER:
                    return self
                return self._put(attrs.evolve(row, typing=None if stopped else text))
            case OperatorUpdated(user=user):
                return attrs.evolve(self, operators={**self.operators, user.id: item})
            case GlobalUpdated(unread_chats):
                return attrs.evolve(self, unread_chats=unread_chats)
            case _:
                return self

    def _chat(self, chat: Chat) -> "DeskView":
        row = self.rows.get(chat.uuid)
        if row is not None:
            return self._put(attrs.evolve(row, chat=chat))
        number = self.numbers.get(chat.uuid, len(self.numbers) + 1)
        numbered = attrs.evolve(self, numbers={**self.numbers, chat.uuid: number}, clock=self.clock + 1)
        return numbered._put(Row(number, chat, activity=numbered.clock))

    def _message(self, message: Message, shown: UUID | None) -> "DeskView":
        with_chat = self._chat(message.chat)
        row = with_chat.rows[message.chat.uuid]
        visitors = message.type_role is Role.USER
        unread = row.unread + 1 if visitors and message.chat.uuid != shown else 0
        ticked = attrs.evolve(with_chat, clock=with_chat.clock + 1)
        return ticked._put(
            attrs.evolve(
                row,
                activity=ticked.clock,
                unread=unread,
                last=message,
                typing=None if visitors else row.typing,
            )
        )

    def _put(self, row: Row) -> "DeskView":
        rows = {**self.rows, row.chat.uuid: row}
        if len(rows) > MAX_ROWS:
            quietest = min(rows.values(), key=lambda each: each.activity)
            del rows[quietest.chat.uuid]
        return attrs.evolve(self, rows=rows)
