"""Runs one open chat: sends what the user types, applies room events to the view, and marks messages as read."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.command_parser import InvalidInput, RunCommand, SendText, help_lines, parse_line
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

INITIAL_MESSAGES: Final = 200
"""How many past messages are shown when a chat is opened."""

SEND_GRACE_SECONDS: Final = 2.0
"""How long a chat that is left waits for pending messages to be stored."""

PIECE_BYTES: Final = 65_536
"""Bytes of a file that are read and sent at a time."""


async def initial_index(api: Api, chat: UUID) -> int:
    """The index after which to start showing a chat's messages. Raises what `Api.history` raises."""
    newest = (await api.history(chat, limit=1)).to_index
    return -1 if newest is None else max(newest - INITIAL_MESSAGES, -1)


async def _pieces(path: trio.Path) -> AsyncGenerator[bytes, None]:
    async with await trio.open_file(path, "rb") as file:
        while piece := await file.read(PIECE_BYTES):
            yield piece


@attrs.frozen
class QuitProgram:
    """The user quit the program."""


@attrs.frozen
class BackToList:
    """The user left the chat for the list, or for chat ``number`` of the list."""

    number: int | None = None


ChatExit = QuitProgram | BackToList


class OpenChat:
    """One open chat. Call `run` once."""

    def __init__(self, ui: TerminalUi, api: Api, room: RoomConnection, view: ChatView) -> None:
        self._ui = ui
        self._api = api
        self._room = room
        self._view = view
        self._arrived = trio.Event()
        self._changed = trio.Event()
        self._error: ConnectionEnded | None = None
        self._typing = False
        self._failed_lines = 0
        self._attaching = 0

    @property
    def failed_lines(self) -> int:
        """How many lines of input failed: refused messages and commands, and invalid input."""
        return self._failed_lines

    @property
    def unconfirmed_texts(self) -> list[str]:
        """The texts of sent messages that the server has not confirmed: they may or may not be stored."""
        return self._view.unconfirmed_texts()

    async def run(self) -> ChatExit:
        """Run the chat until the user leaves it, and return where the user went.

        Raises ConnectionEnded if the server closed the room's connection for good.
        """
        chat_exit: ChatExit = QuitProgram()
        self._show(self._view)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive_events, nursery.cancel_scope)
            nursery.start_soon(self._watch_connection)
            nursery.start_soon(self._mark_read)
            chat_exit = await self._handle_input(nursery)
            with trio.move_on_after(SEND_GRACE_SECONDS):
                await self._wait_confirmed()
            nursery.cancel_scope.cancel()
        if self._error is not None:
            raise self._error
        return chat_exit

    def show_other_chats(self, line: str) -> None:
        """Show a line about other chats; "" removes it."""
        if line != self._view.other_chats:
            self._show(attrs.evolve(self._view, other_chats=line))

    def show_typing(self, typing: TypingUpdated) -> None:
        """Show a typing event of the feed, which has the text; typing events of the room do not. Others are ignored."""
        if typing.chat_id == self._view.chat.uuid:
            self._apply_event(typing)

    async def _receive_events(self, scope: trio.CancelScope) -> None:
        try:
            async for event in self._room:
                self._apply_event(event)
                if isinstance(event, MessageAdded) and event.message == self._view.newest_from_other():
                    self._room.mark_delivered(event.message.id)
                    self._arrived.set()
        except ConnectionEnded as error:
            self._error = error
            scope.cancel()

    async def _watch_connection(self) -> None:
        state = self._room.state
        while True:
            self._show(self._view.with_connection(state, self._room.reason))
            self._ui.print_line(describe_connection(state, self._room.reason))
            state = await self._room.wait_state_change(state)

    async def _mark_read(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            await trio.sleep(self._ui.reading_seconds)
            newest = self._view.newest_from_other()
            if newest is not None:
                self._room.mark_read(newest.id)

    async def _handle_input(self, nursery: trio.Nursery) -> ChatExit:
        while True:
            match await self._ui.next_action():
                case Edited(text):
                    self._update_typing(text)
                case Left(immediately):
                    if not immediately:
                        await self._wait_confirmed()
                    return QuitProgram()
                case Entered(line):
                    match parse_line(line, self._view.me.role, in_chat=True):
                        case SendText(text) if text:
                            nursery.start_soon(self._wait_delivery, await self._send(text))
                        case RunCommand("quit"):
                            return QuitProgram()
                        case RunCommand("back"):
                            return BackToList()
                        case RunCommand("open", number=number):
                            return BackToList(number)
                        case RunCommand("attach", text=path):
                            await self._begin_attaching(path, nursery)
                        case RunCommand() as command:
                            await self._run_command(command)
                        case InvalidInput(reason):
                            self._report_failure(reason)

    async def _send(self, text: str) -> Delivery:
        delivery = await self._room.send(text)
        self._typing = False
        self._show(self._view.with_pending(delivery))
        return delivery

    async def _wait_delivery(self, delivery: Delivery) -> None:
        try:
            message = await delivery.wait()
            self._show(self._view.with_stored(delivery.client_id, message))
        except NotAdded as error:
            self._failed_lines += 1
            self._show(self._view.with_failure(error))
            self._ui.print_line(f"# not sent: {error}: {shorten(delivery.text, QUOTED_WIDTH)!r}")
            # A text that begins with a slash was typed with two.
            self._ui.restore_input(f"/{delivery.text}" if delivery.text.startswith("/") else delivery.text)
        except Undelivered:
            self._ui.print_line(f"# perhaps not sent: {shorten(delivery.text, QUOTED_WIDTH)!r}")

    async def _begin_attaching(self, path: str, nursery: trio.Nursery) -> None:
        """Send a file: before the next line of a script, or while a user with a screen goes on."""
        if self._ui.scripted:
            await self._wait_confirmed()
        self._attaching += 1
        if self._ui.scripted:
            await self._attach(path)
        else:
            nursery.start_soon(self._attach, path)

    async def _attach(self, path: str) -> None:
        try:
            found = await trio.Path(path).expanduser()
            # A missing file is reported before anything is sent.
            await found.stat()
            self._show_notice(f"sending {found.name}")
            async with aclosing(_pieces(found)) as pieces:
                attachment = await self._api.upload(pieces, found.name)
            delivery = await self._room.send("", (attachment.uuid,))
            await delivery.wait()
        except (OSError, RuntimeError) as error:
            # RuntimeError: there is no such user as in ~user.
            self._report_failure(f"{path} was not sent: {getattr(error, 'strerror', None) or error}")
        except (ApiError, ApiUnreachable, NotAdded) as error:
            self._report_failure(f"{path} was not sent: {error}")
        except Undelivered:
            self._report_failure(f"{path} was perhaps not sent")
        finally:
            self._attaching -= 1
            self._show(self._view)

    async def _wait_confirmed(self) -> None:
        while self._view.unconfirmed_texts() or self._attaching:
            await self._changed.wait()

    async def _run_command(self, command: RunCommand) -> None:
        if command.name == "help":
            for line in help_lines(self._view.me.role, in_chat=True):
                self._show_notice(line)
            return
        if self._ui.scripted:
            await self._wait_confirmed()
        try:
            await self._call_api(command)
        except (ApiError, ApiUnreachable) as error:
            if command.name != "note":
                self._report_failure(str(error))
                return
            perhaps = "perhaps " if isinstance(error, ApiUnreachable) and error.asked else ""
            self._report_failure(f"the note was {perhaps}not sent: {error}")
            self._ui.restore_input(f"/note {command.text}")

    async def _call_api(self, command: RunCommand) -> None:
        chat = self._view.chat.uuid
        calls: dict[str, Callable[[UUID], Awaitable[Chat]]] = {
            "accept": self._api.accept,
            "close": self._api.close,
            "reopen": self._api.reopen,
            "return": self._api.return_to_queue,
        }
        if command.name == "note":
            await self._api.add_note(chat, command.text)
        elif command.name == "transfer":
            await self._api.transfer(chat, command.number)
        else:
            await calls[command.name](chat)

    def _update_typing(self, text: str) -> None:
        # Commands are not shown to the other side.
        if text and not text.startswith("/"):
            self._room.update_typing(text)
            self._typing = True
        elif self._typing:
            self._room.stop_typing()
            self._typing = False

    def _apply_event(self, event: Event) -> None:
        for line in describe_event(self._view, event):
            self._ui.print_line(line)
        self._show(self._view.after(event))

    def _report_failure(self, text: str) -> None:
        self._failed_lines += 1
        self._show_notice(text)

    def _show_notice(self, text: str) -> None:
        self._show(self._view.with_notice(text))
        self._ui.print_line(f"# {text}")

    def _show(self, view: ChatView) -> None:
        self._view = view
        self._ui.show(view)
        self._changed.set()
        self._changed = trio.Event()
