"""One chat on the terminal: between what is typed, what is shown, and the room."""

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.command_parser import Do, Say, Unclear, help_lines, parse_line
from actorchat.cli.terminal.event_lines import describe_connection, describe_event
from actorchat.cli.terminal.ui import Edited, Entered, Left, TerminalUi
from actorchat.cli.text import QUOTED_WIDTH, shorten
from actorchat.client import (
    Api,
    ApiError,
    ApiUnreachable,
    ConnectionEnded,
    Delivery,
    NotAdded,
    RoomConnection,
    Undelivered,
)
from actorchat.protocol.entities import Chat
from actorchat.protocol.events import Event, MessageAdded, TypingUpdated

SHOWN_AT_FIRST: Final = 200
"""Messages of the past that an opened chat shows."""

LAST_WORDS_SECONDS: Final = 2.0
"""Who leaves waits this long for what was just said to be stored."""


async def first_index(api: Api, chat: UUID) -> int:
    """After which message an opened chat begins; raises as `Api.history` does."""
    newest = (await api.history(chat, limit=1)).to_index
    return -1 if newest is None else max(newest - SHOWN_AT_FIRST, -1)


@attrs.frozen
class Leave:
    """The user leaves the program."""


@attrs.frozen
class GoBack:
    """The user goes back to the list, or to chat ``number`` of it."""

    number: int | None = None


Departure = Leave | GoBack


class Conversation:
    """One open chat; `run` is called once."""

    def __init__(self, ui: TerminalUi, api: Api, room: RoomConnection, view: ChatView) -> None:
        self._ui = ui
        self._api = api
        self._room = room
        self._view = view
        self._arrived = trio.Event()
        self._changed = trio.Event()
        self._error: ConnectionEnded | None = None
        self._typing = False
        self._refused = 0

    @property
    def refused(self) -> int:
        """How many lines came to nothing: messages and commands that were refused, and what was unclear."""
        return self._refused

    @property
    def unsent(self) -> list[str]:
        """What was said and is, as far as is known, not stored."""
        return self._view.unsent()

    async def run(self) -> Departure:
        """Talk until the user leaves; returns where to.

        Raises ConnectionEnded when the server ended the room for good.
        """
        departure: Departure = Leave()
        self._show(self._view)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            nursery.start_soon(self._watch_connection)
            nursery.start_soon(self._mark_read)
            departure = await self._obey(nursery)
            with trio.move_on_after(LAST_WORDS_SECONDS):
                await self._wait_sent()
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error
        return departure

    def show_elsewhere(self, line: str) -> None:
        """Show a line about other chats; empty, nothing."""
        if line != self._view.elsewhere:
            self._show(attrs.evolve(self._view, elsewhere=line))

    def hear_typing(self, typing: TypingUpdated) -> None:
        """Take what the feed knows of the visitor's typing: there it comes with its text."""
        if typing.chat_id == self._view.chat.uuid:
            self._happened(typing)

    async def _listen(self, scope: trio.CancelScope) -> None:
        try:
            async for event in self._room:
                self._happened(event)
                if isinstance(event, MessageAdded) and event.message == self._view.newest_from_other():
                    self._room.mark_delivered(event.message.id)
                    self._arrived.set()
        except ConnectionEnded as error:
            self._error = error
            scope.cancel()

    async def _watch_connection(self) -> None:
        state = self._room.state
        while True:
            self._show(self._view.connected(state, self._room.reason))
            self._ui.tell(describe_connection(state, self._room.reason))
            state = await self._room.wait_state_change(state)

    async def _mark_read(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            await trio.sleep(self._ui.reading_seconds)
            newest = self._view.newest_from_other()
            if newest is not None:
                self._room.mark_read(newest.id)

    async def _obey(self, nursery: trio.Nursery) -> Departure:
        while True:
            match await self._ui.next_action():
                case Edited(text):
                    self._edited(text)
                case Left(in_a_hurry):
                    if not in_a_hurry:
                        await self._wait_sent()
                    return Leave()
                case Entered(line):
                    match parse_line(line, self._view.me.role, in_chat=True):
                        case Say(text) if text:
                            nursery.start_soon(self._follow, await self._send(text))
                        case Do("quit"):
                            return Leave()
                        case Do("back"):
                            return GoBack()
                        case Do("open", number=number):
                            return GoBack(number)
                        case Do() as deed:
                            await self._do(deed)
                        case Unclear(why):
                            self._complain(why)

    async def _send(self, text: str) -> Delivery:
        delivery = await self._room.send(text)
        self._typing = False
        self._show(self._view.sent(delivery))
        return delivery

    async def _follow(self, delivery: Delivery) -> None:
        try:
            message = await delivery.wait()
            self._show(self._view.stored(delivery.client_id, message))
        except NotAdded as error:
            self._refused += 1
            self._show(self._view.failed(error))
            self._ui.tell(f"# not sent: {error}: {shorten(delivery.text, QUOTED_WIDTH)!r}")
            # What begins with a slash was typed with two.
            self._ui.put_back(f"/{delivery.text}" if delivery.text.startswith("/") else delivery.text)
        except Undelivered:
            self._ui.tell(f"# perhaps not sent: {shorten(delivery.text, QUOTED_WIDTH)!r}")

    async def _wait_sent(self) -> None:
        while self._view.unsent():
            await self._changed.wait()

    async def _do(self, deed: Do) -> None:
        if deed.word == "help":
            for line in help_lines(self._view.me.role, in_chat=True):
                self._notice(line)
            return
        if self._ui.scripted:
            await self._wait_sent()
        try:
            await self._call(deed)
        except (ApiError, ApiUnreachable) as error:
            if deed.word != "note":
                self._complain(str(error))
                return
            perhaps = "perhaps " if isinstance(error, ApiUnreachable) and error.asked else ""
            self._complain(f"the note was {perhaps}not sent: {error}")
            self._ui.put_back(f"/note {deed.text}")

    async def _call(self, deed: Do) -> None:
        chat = self._view.chat.uuid
        verbs: dict[str, Callable[[UUID], Awaitable[Chat]]] = {
            "accept": self._api.accept,
            "close": self._api.close,
            "reopen": self._api.reopen,
            "return": self._api.return_to_queue,
        }
        if deed.word == "note":
            await self._api.add_note(chat, deed.text)
        elif deed.word == "transfer":
            await self._api.transfer(chat, deed.number)
        else:
            await verbs[deed.word](chat)

    def _edited(self, text: str) -> None:
        # A command is nobody else's business.
        if text and not text.startswith("/"):
            self._room.update_typing(text)
            self._typing = True
        elif self._typing:
            self._room.stop_typing()
            self._typing = False

    def _happened(self, event: Event) -> None:
        for line in describe_event(self._view, event):
            self._ui.tell(line)
        self._show(self._view.after(event))

    def _complain(self, text: str) -> None:
        self._refused += 1
        self._notice(text)

    def _notice(self, text: str) -> None:
        self._show(self._view.noticed(text))
        self._ui.tell(f"# {text}")

    def _show(self, view: ChatView) -> None:
        self._view = view
        self._ui.show(view)
        self._changed.set()
        self._changed = trio.Event()
