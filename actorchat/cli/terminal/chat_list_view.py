"""Models what an operator's chat list shows, and how each event of the feed changes it."""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

import attrs

from actorchat.client import ConnectionState, FeedItem, SnapshotBegins
from actorchat.protocol.entities import Chat, ChatStatus, Message, MessageStatus, MessageType, Role
from actorchat.protocol.events import ChatUpdated, GlobalUpdated, MessageAdded, OperatorUpdated, TypingUpdated

MAX_ROWS: Final = 1_000
"""Above this, the row without activity for the longest time is dropped."""

MAX_PREVIEWS: Final = 200
"""How many rows from the top of the list get a preview of their last message from the server's history."""

MAX_UNREAD: Final = 20
"""How many messages of a chat's history are searched for unread ones; beyond, the count gets a plus sign."""

_ORDER: Final = {ChatStatus.NEW: 0, ChatStatus.OPEN: 1, ChatStatus.CLOSED: 2}


@attrs.frozen
class Row:
    """One chat in the list. ``number`` is what the operator types to open it; it never changes.

    ``activity`` orders the rows: the highest had the latest message. ``unread`` counts messages of the visitor that no
    operator has read; ``more_unread`` means there are more than were counted. ``typing`` is what the visitor is
    typing, None if nothing. ``history_loaded`` is false as long as the history should still be fetched.
    ``from_closed_list`` marks a chat that is known only from `/closed`.
    """

    number: int
    chat: Chat
    activity: int = 0
    unread: int = 0
    more_unread: bool = False
    last: Message | None = None
    typing: str | None = None
    history_loaded: bool = False
    from_closed_list: bool = False


@attrs.frozen
class ChatListView:
    """All chats received from the feed, by id, the operators by id, and the number of unread chats.

    ``numbers`` remembers the numbers of chats that left the list. ``clock`` counts events and gives rows their
    ``activity``. ``closed`` are the chats that `/closed` listed, newest first; while ``showing_closed`` the list shows
    only them.
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
        """The rows to show: new chats, then open, then closed, each latest activity first; or what `/closed` listed."""
        if self.showing_closed:
            return [self.rows[chat] for chat in self.closed if chat in self.rows]
        listed = [row for row in self.rows.values() if not row.from_closed_list]
        return sorted(listed, key=lambda row: (_ORDER[row.chat.status], -row.activity))

    def unread_rows(self, shown: UUID | None = None) -> list[Row]:
        """Rows with unread messages, latest activity first, without closed chats and without the chat ``shown``."""
        unread = [
            row
            for row in self.rows.values()
            if row.unread and row.chat.uuid != shown and row.chat.status is not ChatStatus.CLOSED
        ]
        return sorted(unread, key=lambda row: -row.activity)

    def next_without_history(self, loading: Collection[UUID]) -> Row | None:
        """The first row whose history should be fetched and is not in ``loading``."""
        for row in self.sorted_rows()[:MAX_PREVIEWS]:
            if not row.history_loaded and row.chat.uuid not in loading:
                return row
        return None

    def find(self, number: int) -> Row | None:
        """The row with that number."""
        return next((row for row in self.rows.values() if row.number == number), None)

    def with_chat_read(self, chat: UUID) -> "ChatListView":
        """Return the view with all messages of that chat read."""
        row = self.rows.get(chat)
        return self if row is None else self._put(attrs.evolve(row, unread=0, more_unread=False))

    def with_history(self, chat: UUID, messages: Sequence[Message], *, has_more: bool) -> "ChatListView":
        """Return the view after the newest messages of a chat were fetched; ``has_more`` means there are older ones.

        Returns this same view if the row already shows a newer message than ``messages`` has.
        """
        row = self.rows.get(chat)
        if row is None:
            return self
        if row.last is not None and row.last.message_index > max((each.message_index for each in messages), default=-1):
            return self
        standard = [each for each in messages if each.type is MessageType.STANDARD]
        from_visitor = [each for each in standard if each.type_role is Role.USER]
        unread = sum(each.status is not MessageStatus.READ for each in from_visitor)
        return self._put(
            attrs.evolve(
                row,
                last=standard[-1] if standard else row.last,
                unread=unread,
                # Messages are read in order, so older ones are unread only if all of these are.
                more_unread=has_more and bool(from_visitor) and unread == len(from_visitor),
                history_loaded=True,
            )
        )

    def without_history(self, chat: UUID) -> "ChatListView":
        """Return the view with that chat's history marked as loaded, so that it is not fetched again."""
        row = self.rows.get(chat)
        return self if row is None else self._put(attrs.evolve(row, history_loaded=True))

    def with_closed(self, chats: Sequence[Chat]) -> "ChatListView":
        """Return the view that shows these closed chats instead of the feed's chats."""
        view = attrs.evolve(self, closed=tuple(chat.uuid for chat in chats), showing_closed=True, notice="")
        for chat in chats:
            if chat.uuid not in view.rows:
                view = view._with_number(chat)._put_new(chat, from_closed_list=True)
        return view

    def with_open_shown(self) -> "ChatListView":
        """Return the view that shows the chats of the feed again."""
        rows = {chat: row for chat, row in self.rows.items() if not row.from_closed_list}
        return attrs.evolve(self, rows=rows, closed=(), showing_closed=False, notice="")

    def with_stale_history(self, chat: UUID) -> "ChatListView":
        """Return the view with that chat's history to be fetched again, because some messages may still be unread."""
        row = self.rows.get(chat)
        return self if row is None else self._put(attrs.evolve(row, history_loaded=False))

    def with_notice(self, text: str) -> "ChatListView":
        """Return the view with a notice from the program below the list; "" removes it."""
        return attrs.evolve(self, notice=text)

    def with_connection(self, connection: ConnectionState, reason: str) -> "ChatListView":
        """Return the view with a new connection state; ``reason`` is why the last connection was lost."""
        return attrs.evolve(self, connection=connection, reason=reason)

    def after(self, item: FeedItem, *, shown: UUID | None = None) -> "ChatListView":
        """Return the view after an item of the feed; ``shown`` is the open chat, whose messages count as read."""
        match item:
            case SnapshotBegins():
                kept = {chat: row for chat, row in self.rows.items() if row.from_closed_list}
                return attrs.evolve(self, rows=kept, operators={})
            case ChatUpdated(chat):
                return self._with_chat(chat)
            case MessageAdded(message):
                return self._with_message(message, shown)
            case TypingUpdated(text=text, stopped=stopped, chat_id=chat_id, user=user):
                row = self.rows.get(chat_id)
                if row is None or user.role is not Role.USER:
                    return self
                return self._put(attrs.evolve(row, typing=None if stopped else text))
            case OperatorUpdated(user=user):
                return attrs.evolve(self, operators={**self.operators, user.id: item})
            case GlobalUpdated(unread_chats):
                updated = attrs.evolve(self, unread_chats=unread_chats)
                # Other operators read some of these chats; the feed does not say which, so fetch their histories.
                return updated._with_unread_stale(shown) if unread_chats < len(updated.unread_rows()) else updated
            case _:
                return self

    def _with_chat(self, chat: Chat) -> "ChatListView":
        row = self.rows.get(chat.uuid)
        if row is not None:
            from_closed_list = row.from_closed_list and chat.status is ChatStatus.CLOSED
            return self._put(attrs.evolve(row, chat=chat, from_closed_list=from_closed_list))
        return self._with_number(chat)._put_new(chat)

    def _with_number(self, chat: Chat) -> "ChatListView":
        number = self.numbers.get(chat.uuid, len(self.numbers) + 1)
        return attrs.evolve(self, numbers={**self.numbers, chat.uuid: number}, clock=self.clock + 1)

    def _put_new(self, chat: Chat, *, from_closed_list: bool = False) -> "ChatListView":
        return self._put(Row(self.numbers[chat.uuid], chat, activity=self.clock, from_closed_list=from_closed_list))

    def _with_message(self, message: Message, shown: UUID | None) -> "ChatListView":
        with_chat = self._with_chat(message.chat)
        row = with_chat.rows[message.chat.uuid]
        from_visitor = message.type_role is Role.USER
        is_shown = message.chat.uuid == shown
        advanced = attrs.evolve(with_chat, clock=with_chat.clock + 1)
        return advanced._put(
            attrs.evolve(
                row,
                activity=advanced.clock,
                # An operator's message does not mark the visitor's messages as read.
                unread=0 if is_shown else row.unread + from_visitor,
                more_unread=row.more_unread and not is_shown,
                last=message,
                typing=None if from_visitor else row.typing,
                # The first message of a chat is its whole history.
                history_loaded=row.history_loaded or message.message_index == 0,
            )
        )

    def _with_unread_stale(self, shown: UUID | None) -> "ChatListView":
        view = self
        for row in self.unread_rows(shown)[:MAX_PREVIEWS]:
            view = view._put(attrs.evolve(row, history_loaded=False))
        return view

    def _put(self, row: Row) -> "ChatListView":
        rows = {**self.rows, row.chat.uuid: row}
        if len(rows) > MAX_ROWS:
            quietest = min(rows.values(), key=lambda each: each.activity)
            del rows[quietest.chat.uuid]
        return attrs.evolve(self, rows=rows)
