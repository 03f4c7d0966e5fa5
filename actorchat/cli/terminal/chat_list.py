"""Runs an operator's session: the chat list and the chat that is open."""

from typing import Final
from uuid import UUID

import trio

from actorchat.cli.terminal.chat_list_view import MAX_UNREAD, ChatListView, Row
from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.command_parser import InvalidInput, RunCommand, help_lines, parse_line
from actorchat.cli.terminal.drawing import other_chats_line, row_line
from actorchat.cli.terminal.event_lines import chat_of, describe_connection, describe_item
from actorchat.cli.terminal.open_chat import BackToList, ChatExit, OpenChat, QuitProgram, initial_index
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

PREVIEW_REQUESTS: Final = 4
"""How many chat histories are fetched at the same time."""

PREVIEW_RETRY_SECONDS: Final = 5.0
"""How long to wait before fetching histories again after the server could not be reached."""

MAX_CLOSED: Final = 200
DEFAULT_CLOSED: Final = 50


class ChatListSession:
    """One operator's session. Call `run` once.

    ``source`` limits the closed chats that `/closed` lists to one widget source; None lists those of all sources.
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
        self._open: OpenChat | None = None
        self._shown: Row | None = None
        self._error: ConnectionEnded | None = None
        self._unreachable = ""
        self._failed_lines = 0
        self._changed = trio.Event()
        self._loading: set[UUID] = set()

    @property
    def failed_lines(self) -> int:
        """How many lines of input failed, in the list and in the chats."""
        return self._failed_lines

    async def run(self) -> None:
        """Show the list and the chats the operator opens, until the operator quits.

        Raises ConnectionEnded if the server closed the feed for good, and ApiUnreachable if a script's input ended
        before there was a connection.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_feed, nursery.cancel_scope)
            nursery.start_soon(self._watch_connection)
            if not self._ui.scripted:
                for _ in range(PREVIEW_REQUESTS):
                    nursery.start_soon(self._keep_previews_loaded)
            await self._handle_input()
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error
        if self._unreachable:
            raise ApiUnreachable(self._unreachable)

    async def _receive_feed(self, scope: trio.CancelScope) -> None:
        try:
            async for item in self._feed:
                self._apply_item(item)
        except ConnectionEnded as error:
            self._error = error
            scope.cancel()

    async def _watch_connection(self) -> None:
        state = self._feed.state
        while True:
            self._set_view(self._view.with_connection(state, self._feed.reason))
            if state is ConnectionState.LIVE:
                # The notice may say that the server cannot be reached.
                self._set_view(self._view.with_notice(""))
            if self._open is None:
                self._ui.print_line(describe_connection(state, self._feed.reason))
            state = await self._feed.wait_state_change(state)

    async def _handle_input(self) -> None:
        while True:
            match await self._ui.next_action():
                case Left(immediately):
                    if not immediately:
                        await self._wait_first_attempt()
                    return
                case Entered(line):
                    match parse_line(line, Role.OPERATOR, in_chat=False):
                        case RunCommand("quit"):
                            return
                        case RunCommand("help"):
                            self._show_notice("\n".join(help_lines(Role.OPERATOR, in_chat=False)))
                        case RunCommand("open", number=number):
                            if await self._open_chats(number):
                                return
                        case RunCommand("closed", number=number):
                            await self._list_closed(number or DEFAULT_CLOSED)
                        case RunCommand("list"):
                            self._set_view(self._view.with_open_shown())
                            await self._print_list()
                        case InvalidInput(reason):
                            self._report_failure(reason)

    async def _open_chats(self, number: int) -> bool:
        """Open a chat, and then each chat the operator switches to. Returns whether the operator quit."""
        chat_exit: ChatExit = BackToList(number)
        while isinstance(chat_exit, BackToList) and chat_exit.number is not None:
            chat_exit = await self._open_chat(chat_exit.number)
        return isinstance(chat_exit, QuitProgram)

    async def _open_chat(self, number: int) -> ChatExit:
        row = self._view.find(number)
        if row is None:
            self._report_failure(f"there is no chat {number} in the list")
            return BackToList()
        chat = row.chat.uuid
        try:
            after = await initial_index(self._api, chat)
            async with open_room(self._url, chat, token=self._token, after=after) as room:
                self._open = OpenChat(self._ui, self._api, room, ChatView(self._me, row.chat, server=self._api.origin))
                self._shown = row
                self._set_view(self._view.with_chat_read(chat).with_notice(""))
                if row.typing is not None:
                    self._open.show_typing(TypingUpdated(row.typing, False, chat, row.chat.owner_user))
                try:
                    chat_exit = await self._open.run()
                finally:
                    self._failed_lines += self._open.failed_lines
                for text in self._open.unconfirmed_texts:
                    self._show_notice(f"perhaps not sent in chat {number}: {shorten(text, QUOTED_WIDTH)}")
                return chat_exit
        except (ConnectionEnded, ApiError, ApiUnreachable) as error:
            self._failed_lines += 1
            self._view = self._view.with_notice(f"chat {number}: {error}")
            self._ui.print_line(f"# chat {number}: {error}")
            return BackToList()
        finally:
            self._open = self._shown = None
            self._set_view(self._view.with_stale_history(chat))

    async def _list_closed(self, limit: int) -> None:
        if limit > MAX_CLOSED:
            self._report_failure(f"at most {MAX_CLOSED} closed chats can be listed")
            return
        try:
            chats = await self._api.chats(status=ChatStatus.CLOSED, source=self._source, limit=limit)
        except (ApiError, ApiUnreachable) as error:
            self._report_failure(f"cannot list the closed chats: {error}")
            return
        self._set_view(self._view.with_closed(chats))
        await self._print_list()

    async def _print_list(self) -> None:
        """Print the list for a script, with previews. A screen shows the list anyway, and previews as they arrive."""
        if not self._ui.scripted:
            return
        try:
            await self._load_previews()
        except ApiUnreachable as error:
            self._ui.print_line(f"# without previews: {error}")
        for row in self._view.sorted_rows():
            self._ui.print_line(f"# {row_line(row)}")
        if not self._view.sorted_rows():
            self._ui.print_line("# no closed chats" if self._view.showing_closed else "# no chats")

    async def _keep_previews_loaded(self) -> None:
        """Fetch missing previews whenever the list changes; several tasks run this at the same time."""
        while True:
            changed = self._changed
            try:
                await self._load_previews()
            except ApiUnreachable:
                await trio.sleep(PREVIEW_RETRY_SECONDS)
            else:
                await changed.wait()

    async def _load_previews(self) -> None:
        while (row := self._view.next_without_history(self._loading)) is not None:
            chat = row.chat.uuid
            self._loading.add(chat)
            try:
                page = await self._api.history(chat, limit=MAX_UNREAD)
            except ApiError:
                # The chat is gone, or this operator may not see it: its row stays without a preview.
                self._set_view(self._view.without_history(chat))
            else:
                updated = self._view.with_history(chat, page.messages, has_more=page.has_more)
                # Unchanged means that the row already shows a newer message than this page has.
                self._set_view(self._view.without_history(chat) if updated is self._view else updated)
            finally:
                self._loading.discard(chat)

    def _apply_item(self, item: FeedItem) -> None:
        shown = None if self._shown is None else self._shown.chat.uuid
        if self._open is not None and isinstance(item, TypingUpdated):
            self._open.show_typing(item)
        elif shown is None or chat_of(item) != shown:
            for line in describe_item(self._view, item):
                self._ui.print_line(line)
        self._set_view(self._view.after(item, shown=shown))

    async def _wait_first_attempt(self) -> None:
        """Wait until the first attempt to connect succeeded or failed."""
        state = await self._feed.wait_state_change(ConnectionState.CONNECTING)
        if state is ConnectionState.WAITING:
            self._unreachable = self._feed.reason
        elif state is ConnectionState.CLOSED:
            # `_receive_feed` gets the error and cancels this task.
            await trio.sleep_forever()

    def _report_failure(self, text: str) -> None:
        self._failed_lines += 1
        self._show_notice(text)

    def _show_notice(self, text: str) -> None:
        for line in text.split("\n"):
            self._ui.print_line(f"# {line}")
        self._set_view(self._view.with_notice(text))

    def _set_view(self, view: ChatListView) -> None:
        self._view = view
        if self._open is None:
            self._ui.show(view)
        elif self._shown is not None:
            self._open.show_other_chats(other_chats_line(view, self._shown.chat.uuid))
        self._changed.set()
        self._changed = trio.Event()
