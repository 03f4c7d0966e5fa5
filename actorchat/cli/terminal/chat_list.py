"""An operator's session: the list of chats, and the one that is open."""

from typing import Final
from uuid import UUID

import trio

from actorchat.cli.terminal.chat_list_view import UNREAD_SHOWN, ChatListView, Row
from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.command_parser import Do, Unclear, help_lines, parse_line
from actorchat.cli.terminal.conversation import Conversation, Departure, GoBack, Leave, first_index
from actorchat.cli.terminal.drawing import elsewhere_line, row_line
from actorchat.cli.terminal.event_lines import chat_of, describe_connection, describe_item
from actorchat.cli.terminal.ui import Entered, Left, TerminalUi
from actorchat.cli.text import QUOTED_WIDTH, shorten
from actorchat.client import (
    Api,
    ApiError,
    ApiUnreachable,
    ConnectionEnded,
    ConnectionState,
    FeedConnection,
    FeedItem,
    open_room,
)
from actorchat.protocol.entities import ChatStatus, Role, User
from actorchat.protocol.events import TypingUpdated

PREVIEWS_AT_ONCE: Final = 4
"""Histories of chats read at the same time."""

PREVIEW_RETRY_SECONDS: Final = 5.0
"""After a failure, before a history is read again."""

MOST_CLOSED: Final = 200
DEFAULT_CLOSED: Final = 50


class ChatListSession:
    """One operator at their list of chats; `run` is called once.

    ``source`` is the only source of which chats are shown, None for all of the operator's.
    """

    def __init__(
        self, ui: TerminalUi, api: Api, feed: FeedConnection, me: User, url: str, token: str, source: str | None = None
    ) -> None:
        self._ui = ui
        self._api = api
        self._feed = feed
        self._me = me
        self._url = url
        self._token = token
        self._source = source
        self._view = ChatListView()
        self._open: Conversation | None = None
        self._shown: Row | None = None
        self._error: ConnectionEnded | None = None
        self._unreachable = ""
        self._refused = 0
        self._changed = trio.Event()
        self._reading: set[UUID] = set()

    @property
    def refused(self) -> int:
        """How many lines came to nothing, in the list and in the chats."""
        return self._refused

    async def run(self) -> None:
        """Sit until the operator leaves.

        Raises ConnectionEnded when the server ended the feed for good, and ApiUnreachable for a script that
        ended without a connection.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            nursery.start_soon(self._watch_connection)
            if not self._ui.scripted:
                for _ in range(PREVIEWS_AT_ONCE):
                    nursery.start_soon(self._read_histories)
            await self._obey()
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error
        if self._unreachable:
            raise ApiUnreachable(self._unreachable)

    async def _listen(self, scope: trio.CancelScope) -> None:
        try:
            async for item in self._feed:
                self._happened(item)
        except ConnectionEnded as error:
            self._error = error
            scope.cancel()

    async def _watch_connection(self) -> None:
        state = self._feed.state
        while True:
            self._change(self._view.connected(state, self._feed.reason))
            if state is ConnectionState.LIVE:
                # A notice of what could not be reached is out of date.
                self._change(self._view.noticed(""))
            if self._open is None:
                self._ui.tell(describe_connection(state, self._feed.reason))
            state = await self._feed.wait_state_change(state)

    async def _obey(self) -> None:
        while True:
            match await self._ui.next_action():
                case Left(in_a_hurry):
                    if not in_a_hurry:
                        await self._wait_first_state()
                    return
                case Entered(line):
                    match parse_line(line, Role.OPERATOR, in_chat=False):
                        case Do("quit"):
                            return
                        case Do("help"):
                            self._notice("\n".join(help_lines(Role.OPERATOR, in_chat=False)))
                        case Do("open", number=number):
                            if await self._visit(number):
                                return
                        case Do("closed", number=number):
                            await self._list_closed(number or DEFAULT_CLOSED)
                        case Do("list"):
                            self._change(self._view.showing_open())
                            await self._tell_list()
                        case Unclear(why):
                            self._complain(why)

    async def _visit(self, number: int) -> bool:
        """Open chats of the list, one after the other, until the operator goes back to it; true if they leave."""
        departure: Departure = GoBack(number)
        while isinstance(departure, GoBack) and departure.number is not None:
            departure = await self._open_chat(departure.number)
        return isinstance(departure, Leave)

    async def _open_chat(self, number: int) -> Departure:
        row = self._view.find(number)
        if row is None:
            self._complain(f"there is no chat {number} in the list")
            return GoBack()
        chat = row.chat.uuid
        try:
            after = await first_index(self._api, chat)
            async with open_room(self._url, chat, token=self._token, after=after) as room:
                self._open = Conversation(self._ui, self._api, room, ChatView(self._me, row.chat))
                self._shown = row
                self._change(self._view.opened(chat).noticed(""))
                if row.typing is not None:
                    self._open.hear_typing(TypingUpdated(row.typing, False, chat, row.chat.owner_user))
                try:
                    departure = await self._open.run()
                finally:
                    self._refused += self._open.refused
                for text in self._open.unsent:
                    self._notice(f"perhaps not sent in chat {number}: {shorten(text, QUOTED_WIDTH)}")
                return departure
        except (ConnectionEnded, ApiError, ApiUnreachable) as error:
            self._refused += 1
            self._view = self._view.noticed(f"chat {number}: {error}")
            self._ui.tell(f"# chat {number}: {error}")
            return GoBack()
        finally:
            self._open = self._shown = None
            self._change(self._view.left(chat))

    async def _list_closed(self, limit: int) -> None:
        if limit > MOST_CLOSED:
            self._complain(f"at most {MOST_CLOSED} closed chats can be listed")
            return
        try:
            chats = await self._api.chats(status=ChatStatus.CLOSED, source=self._source, limit=limit)
        except (ApiError, ApiUnreachable) as error:
            self._complain(f"the closed chats can't be listed: {error}")
            return
        self._change(self._view.with_closed(chats))
        await self._tell_list()

    async def _tell_list(self) -> None:
        """Say what the list shows, for a script: on a screen it is seen, and previews come as they are read."""
        if not self._ui.scripted:
            return
        try:
            await self._read_unknown()
        except ApiUnreachable as error:
            self._ui.tell(f"# without previews: {error}")
        for row in self._view.sorted_rows():
            self._ui.tell(f"# {row_line(row)}")
        if not self._view.sorted_rows():
            self._ui.tell("# no closed chats" if self._view.showing_closed else "# no chats")

    async def _read_histories(self) -> None:
        """Read the newest messages of chats in the list, as long as there are any of which they are not known."""
        while True:
            changed = self._changed
            try:
                await self._read_unknown()
            except ApiUnreachable:
                await trio.sleep(PREVIEW_RETRY_SECONDS)
            else:
                await changed.wait()

    async def _read_unknown(self) -> None:
        while (row := self._view.next_unknown(self._reading)) is not None:
            chat = row.chat.uuid
            self._reading.add(chat)
            try:
                page = await self._api.history(chat, limit=UNREAD_SHOWN)
            except ApiError:
                # It is gone, or not for this operator to see: the row stays without a preview.
                self._change(self._view.without_history(chat))
            else:
                known = self._view.with_history(chat, page.messages, has_more=page.has_more)
                # What came meanwhile is newer than the page: the row has that.
                self._change(self._view.without_history(chat) if known is self._view else known)
            finally:
                self._reading.discard(chat)

    def _happened(self, item: FeedItem) -> None:
        shown = None if self._shown is None else self._shown.chat.uuid
        if self._open is not None and isinstance(item, TypingUpdated):
            self._open.hear_typing(item)
        elif shown is None or chat_of(item) != shown:
            for line in describe_item(self._view, item):
                self._ui.tell(line)
        self._change(self._view.after(item, shown=shown))

    async def _wait_first_state(self) -> None:
        state = await self._feed.wait_state_change(ConnectionState.CONNECTING)
        if state is ConnectionState.WAITING:
            self._unreachable = self._feed.reason
        elif state is ConnectionState.CLOSED:
            # The end is read from the feed, and it cancels this.
            await trio.sleep_forever()

    def _complain(self, text: str) -> None:
        self._refused += 1
        self._notice(text)

    def _notice(self, text: str) -> None:
        for line in text.split("\n"):
            self._ui.tell(f"# {line}")
        self._change(self._view.noticed(text))

    def _change(self, view: ChatListView) -> None:
        self._view = view
        if self._open is None:
            self._ui.show(view)
        elif self._shown is not None:
            self._open.show_elsewhere(elsewhere_line(view, self._shown.chat.uuid))
        self._changed.set()
        self._changed = trio.Event()
