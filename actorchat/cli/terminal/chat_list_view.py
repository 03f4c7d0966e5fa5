"""What the list of an operator's chats shows, as a value, and how each event of the feed changes it."""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

import attrs

from actorchat.client import ConnectionState, FeedItem, SnapshotBegins
from actorchat.protocol.entities import Chat, ChatStatus, Message, MessageStatus, MessageType, Role
from actorchat.protocol.events import ChatUpdated, GlobalUpdated, MessageAdded, OperatorUpdated, TypingUpdated

MAX_ROWS: Final = 1_000
"""The longest quiet rows beyond this leave the list."""

MAX_PREVIEWS: Final = 200
"""Of so many rows, the first of the list, the last messages are read when nothing else tells them."""

UNREAD_SHOWN: Final = 20
"""Of unread messages that were there before, so many are counted."""

_ORDER: Final = {ChatStatus.NEW: 0, ChatStatus.OPEN: 1, ChatStatus.CLOSED: 2}


@attrs.frozen
class Row:
    """One chat in the list; ``number`` is its name here and stays.

    ``unread`` counts messages of the visitor that no operator has read, ``more_unread`` says that there are more.
    ``typing`` is what the visitor writes now, None if nothing. ``is_known``: the chat's history was read, and not only
    what came since the list began. ``asked_for``: the chat is here because closed chats were asked for.
    """

    number: int
    chat: Chat
    activity: int = 0
    unread: int = 0
    more_unread: bool = False
    last: Message | None = None
    typing: str | None = None
    is_known: bool = False
    asked_for: bool = False


@attrs.frozen
class ChatListView:
    """All chats that the feed told of, by id, with the operators and how many chats have unread messages.

    ``closed`` are the closed chats that were asked for, newest first; the list shows them while ``showing_closed``.
    """

    rows: dict[UUID, Row] = attrs.field(factory=dict)
    operators: dict[int, OperatorUpdated] = attrs.field(factory=dict)
    unread_chats: int = 0
    connection: ConnectionState = ConnectionState.CONNECTING
    reason: str = ""
    notice: str = ""
    numbers: dict[UUID, int] = attrs.field(factory=dict)
    clock: int = 0
    closed: tuple[UUID, ...] = ()
    showing_closed: bool = False

    def sorted_rows(self) -> list[Row]:
        """New chats first, then open ones, closed last; within them the latest activity first. Or the closed ones."""
        if self.showing_closed:
            return [self.rows[chat] for chat in self.closed if chat in self.rows]
        listed = [row for row in self.rows.values() if not row.asked_for]
        return sorted(listed, key=lambda row: (_ORDER[row.chat.status], -row.activity))

    def unread_rows(self, shown: UUID | None = None) -> list[Row]:
        """Rows with unread messages, the latest activity first, without the chat ``shown``. No closed chat counts."""
        unread = [
            row
            for row in self.rows.values()
            if row.unread and row.chat.uuid != shown and row.chat.status is not ChatStatus.CLOSED
        ]
        return sorted(unread, key=lambda row: -row.activity)

    def next_unknown(self, busy: Collection[UUID]) -> Row | None:
        """The first row of the list of which the history should be read, and is not being read."""
        for row in self.sorted_rows()[:MAX_PREVIEWS]:
            if not row.is_known and row.chat.uuid not in busy:
                return row
        return None

    def find(self, number: int) -> Row | None:
        """The row of that number."""
        return next((row for row in self.rows.values() if row.number == number), None)

    def opened(self, chat: UUID) -> "ChatListView":
        """With that chat's messages seen."""
        row = self.rows.get(chat)
        return self if row is None else self._put(attrs.evolve(row, unread=0, more_unread=False))

    def with_history(self, chat: UUID, messages: Sequence[Message], *, has_more: bool) -> "ChatListView":
        """With the newest messages of that chat, as its history has them; ``has_more``: there are older ones.

        A page that is older than what has come meanwhile changes nothing: its row stays unknown.
        """
        row = self.rows.get(chat)
        if row is None:
            return self
        if row.last is not None and row.last.message_index > max((each.message_index for each in messages), default=-1):
            return self
        said = [each for each in messages if each.type is MessageType.STANDARD]
        visitors = [each for each in said if each.type_role is Role.USER]
        unread = sum(each.status is not MessageStatus.READ for each in visitors)
        return self._put(
            attrs.evolve(
                row,
                last=said[-1] if said else row.last,
                unread=unread,
                # Reading is a watermark: with the oldest of the page read, all before it are.
                more_unread=has_more and bool(visitors) and unread == len(visitors),
                is_known=True,
            )
        )

    def without_history(self, chat: UUID) -> "ChatListView":
        """With nothing more to be known of that chat."""
        row = self.rows.get(chat)
        return self if row is None else self._put(attrs.evolve(row, is_known=True))

    def with_closed(self, chats: Sequence[Chat]) -> "ChatListView":
        """Showing these closed chats."""
        view = attrs.evolve(self, closed=tuple(chat.uuid for chat in chats), showing_closed=True, notice="")
        for chat in chats:
            if chat.uuid not in view.rows:
                view = view._numbered(chat)._put_new(chat, asked_for=True)
        return view

    def showing_open(self) -> "ChatListView":
        """Showing the chats of the feed again."""
        rows = {chat: row for chat, row in self.rows.items() if not row.asked_for}
        return attrs.evolve(self, rows=rows, closed=(), showing_closed=False, notice="")

    def left(self, chat: UUID) -> "ChatListView":
        """With that chat's history to be read again: not all that was shown may have been read."""
        row = self.rows.get(chat)
        return self if row is None else self._put(attrs.evolve(row, is_known=False))

    def noticed(self, text: str) -> "ChatListView":
        """With a line of the terminal's own."""
        return attrs.evolve(self, notice=text)

    def connected(self, connection: ConnectionState, reason: str) -> "ChatListView":
        """With the connection in that state."""
        return attrs.evolve(self, connection=connection, reason=reason)

    def after(self, item: FeedItem, *, shown: UUID | None = None) -> "ChatListView":
        """What the list shows once this happened; ``shown`` is the chat on the screen, which has no unread."""
        match item:
            case SnapshotBegins():
                asked_for = {chat: row for chat, row in self.rows.items() if row.asked_for}
                return attrs.evolve(self, rows=asked_for, operators={})
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
                told = attrs.evolve(self, unread_chats=unread_chats)
                # The feed says how many chats others have read, but not which.
                return told._doubting_unread(shown) if unread_chats < len(told.unread_rows()) else told
            case _:
                return self

    def _chat(self, chat: Chat) -> "ChatListView":
        row = self.rows.get(chat.uuid)
        if row is not None:
            asked_for = row.asked_for and chat.status is ChatStatus.CLOSED
            return self._put(attrs.evolve(row, chat=chat, asked_for=asked_for))
        return self._numbered(chat)._put_new(chat)

    def _numbered(self, chat: Chat) -> "ChatListView":
        number = self.numbers.get(chat.uuid, len(self.numbers) + 1)
        return attrs.evolve(self, numbers={**self.numbers, chat.uuid: number}, clock=self.clock + 1)

    def _put_new(self, chat: Chat, *, asked_for: bool = False) -> "ChatListView":
        return self._put(Row(self.numbers[chat.uuid], chat, activity=self.clock, asked_for=asked_for))

    def _message(self, message: Message, shown: UUID | None) -> "ChatListView":
        with_chat = self._chat(message.chat)
        row = with_chat.rows[message.chat.uuid]
        visitors = message.type_role is Role.USER
        is_shown = message.chat.uuid == shown
        ticked = attrs.evolve(with_chat, clock=with_chat.clock + 1)
        return ticked._put(
            attrs.evolve(
                row,
                activity=ticked.clock,
                # An answer marks nothing as read.
                unread=0 if is_shown else row.unread + visitors,
                more_unread=row.more_unread and not is_shown,
                last=message,
                typing=None if visitors else row.typing,
                # The first message of a chat is all of its history.
                is_known=row.is_known or message.message_index == 0,
            )
        )

    def _doubting_unread(self, shown: UUID | None) -> "ChatListView":
        view = self
        for row in self.unread_rows(shown)[:MAX_PREVIEWS]:
            view = view._put(attrs.evolve(row, is_known=False))
        return view

    def _put(self, row: Row) -> "ChatListView":
        rows = {**self.rows, row.chat.uuid: row}
        if len(rows) > MAX_ROWS:
            quietest = min(rows.values(), key=lambda each: each.activity)
            del rows[quietest.chat.uuid]
        return attrs.evolve(self, rows=rows)
