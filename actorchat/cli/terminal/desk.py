"""Owns an operator's sitting: the list of chats, and the one that is open.

Refuses to know the terminal's kind and what happens within a chat.
"""

import trio

from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.conversation import Conversation, first_index
from actorchat.cli.terminal.desk_view import DeskView, Row
from actorchat.cli.terminal.front import Entered, Front, Left
from actorchat.cli.terminal.inputs import Do, Unclear, help_lines, parse_line
from actorchat.cli.terminal.telling import tell_connection, tell_item
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
from actorchat.protocol.entities import Role, User
from actorchat.protocol.events import TypingUpdated


class Desk:
    """One operator at their list of chats; `run` is called once."""

    def __init__(self, front: Front, api: Api, feed: FeedConnection, me: User, url: str, token: str) -> None:
        self._front = front
        self._api = api
        self._feed = feed
        self._me = me
        self._url = url
        self._token = token
        self._view = DeskView()
        self._open: Conversation | None = None
        self._shown: Row | None = None
        self._error: ConnectionEnded | None = None
        self._unreachable = ""
        self._refused = 0

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
            if self._open is None:
                self._front.tell(tell_connection(state, self._feed.reason))
            state = await self._feed.wait_state_change(state)

    async def _obey(self) -> None:
        while True:
            match await self._front.next_action():
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
                            if await self._open_chat(number):
                                return
                        case Unclear(why):
                            self._complain(why)

    async def _open_chat(self, number: int) -> bool:
        """Open a chat of the list until the operator goes back, or leaves: true."""
        row = self._view.find(number)
        if row is None:
            self._complain(f"there is no chat {number} in the list")
            return False
        chat = row.chat.uuid
        try:
            after = await first_index(self._api, chat)
            async with open_room(self._url, chat, token=self._token, after=after) as room:
                self._open = Conversation(self._front, self._api, room, ChatView(self._me, row.chat))
                self._shown = row
                self._view = self._view.opened(chat).noticed("")
                if row.typing is not None:
                    self._open.hear_typing(TypingUpdated(row.typing, False, chat, row.chat.owner_user))
                try:
                    leave = await self._open.run()
                finally:
                    self._refused += self._open.refused
                for text in self._open.unsent:
                    self._notice(f"perhaps not sent in chat {number}: {shorten(text, QUOTED_WIDTH)}")
                return leave
        except (ConnectionEnded, ApiError, ApiUnreachable) as error:
            self._refused += 1
            self._view = self._view.noticed(f"chat {number}: {error}")
            self._front.tell(f"# chat {number}: {error}")
            return False
        finally:
            self._open = self._shown = None
            self._change(self._view.opened(chat))

    def _happened(self, item: FeedItem) -> None:
        if self._open is None:
            for line in tell_item(self._view, item):
                self._front.tell(line)
        elif isinstance(item, TypingUpdated):
            self._open.hear_typing(item)
        self._change(self._view.after(item, shown=None if self._shown is None else self._shown.chat.uuid))

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
            self._front.tell(f"# {line}")
        self._change(self._view.noticed(text))

    def _change(self, view: DeskView) -> None:
        self._view = view
        if self._open is None:
            self._front.show(view)
