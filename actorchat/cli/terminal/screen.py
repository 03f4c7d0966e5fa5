"""Owns the full screen: prompt_toolkit in a thread with its own event loop, spoken to from Trio.

Refuses to know chats beyond drawing their views.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, Dimension, FormattedTextControl, HSplit, Layout, Window
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.styles import Style

from actorchat.cli.terminal import drawing
from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.drawing import Line
from actorchat.cli.terminal.front import Action, Edited, Entered, Left, Scene

MAX_ACTIONS: Final = 1_000
"""Actions typed ahead; what is typed beyond them is lost with a bell."""

_PAGE: Final = 10

_STATUS_HEIGHT: Final = Dimension(min=1, max=3)
"""A reason is seldom longer, and one that ends cut off explains nothing."""

_STYLE: Final = Style.from_dict(
    {
        "title": "reverse",
        "mine": "ansicyan",
        "theirs": "ansigreen",
        "system": "ansiyellow",
        "notice": "ansibrightblack",
        "tick": "ansibrightblack",
        "tick.read": "ansiblue bold",
        "typing": "italic ansibrightblack",
        "warning": "ansiyellow bold",
        "error": "ansired",
        "unread": "bold",
        "prompt": "bold",
    }
)


class ScreenFront:
    """A full screen. What is shown for a second counts as read."""

    reading_seconds = 1.0
    scripted = False

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._actions_send, self._actions = trio.open_memory_channel[Action](MAX_ACTIONS)
        self._scene: Scene | None = None
        self._scrolled_up = 0
        self._stopping = False
        self._running = trio.Event()
        self._input = Buffer(on_text_changed=lambda buffer: self._act(Edited(buffer.text)), multiline=False)
        self._app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=_STYLE,
            full_screen=True,
            erase_when_done=True,
        )

    def show(self, scene: Scene) -> None:
        """Draw the scene soon; of several at once the latest."""
        self._scene = scene
        self._app.invalidate()

    def tell(self, line: str) -> None:
        """Nothing: everything is shown."""

    def put_back(self, line: str) -> None:
        """Put the line into the input field soon, unless something is typed there by then."""
        loop = self._app.loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._fill, line)

    async def next_action(self) -> Action:
        """What was typed; edits that a later one follows may be left out."""
        action = await self._actions.receive()
        while isinstance(action, Edited):
            try:
                action = self._actions.receive_nowait()
            except trio.WouldBlock:
                return action
        return action

    def run_in_thread(self) -> None:
        """Own the terminal until `stop`; gives it back as it was."""
        with suppress(EOFError):
            asyncio.run(self._app.run_async(pre_run=self._begin, handle_sigint=False))
        self._act(Left(in_a_hurry=True))

    def stop(self) -> None:
        """Make `run_in_thread` return soon. For any thread; twice is once."""
        self._stopping = True
        loop = self._app.loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._exit)

    async def wait_running(self) -> None:
        """Wait until the screen is drawn."""
        await self._running.wait()

    def _begin(self) -> None:
        if self._stopping:
            self._app.exit()
        self._token.run_sync_soon(self._running.set)

    def _fill(self, line: str) -> None:
        if not self._input.text:
            self._input.document = Document(line, len(line))

    def _exit(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    def _act(self, action: Action) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._take, action)

    def _take(self, action: Action) -> None:
        with suppress(trio.WouldBlock):
            self._actions_send.send_nowait(action)

    def _layout(self) -> Layout:
        field = Window(BufferControl(self._input, input_processors=[BeforeInput("> ", style="class:prompt")]), height=1)
        body = Window(FormattedTextControl(self._body, show_cursor=False), wrap_lines=True)
        rows = [
            Window(FormattedTextControl(self._title), height=1, style="class:title"),
            body,
            Window(FormattedTextControl(self._status), height=_STATUS_HEIGHT, wrap_lines=True, dont_extend_height=True),
            field,
        ]
        return Layout(HSplit(rows), focused_element=field)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            line = self._input.text
            self._scrolled_up = 0
            self._act(Entered(line))
            self._input.reset()

        @keys.add("c-c")
        @keys.add("c-d")
        def _(event: KeyPressEvent) -> None:
            self._act(Left(in_a_hurry=True))

        @keys.add("pageup")
        def _(event: KeyPressEvent) -> None:
            self._scrolled_up = min(self._scrolled_up + _PAGE, max(len(self._lines()) - 1, 0))

        @keys.add("pagedown")
        def _(event: KeyPressEvent) -> None:
            self._scrolled_up = max(self._scrolled_up - _PAGE, 0)

        return keys

    def _lines(self) -> list[Line]:
        match self._scene:
            case None:
                return []
            case ChatView() as view:
                return drawing.chat_lines(view)
            case view:
                return drawing.desk_lines(view)

    def _body(self) -> StyleAndTextTuples:
        lines = self._lines()
        drawn: StyleAndTextTuples = []
        for line in lines[: len(lines) - self._scrolled_up]:
            drawn.extend((*line, ("", "\n")))
        # A cursor on the last line makes the window scroll down to it.
        return [*drawn[:-1], ("[SetCursorPosition]", "")]

    def _title(self) -> StyleAndTextTuples:
        match self._scene:
            case None:
                title = ""
            case ChatView() as view:
                title = drawing.chat_title(view)
            case view:
                title = drawing.desk_title(view)
        return [("", f" {title} · /help")]

    def _status(self) -> StyleAndTextTuples:
        scene = self._scene
        if scene is None:
            return []
        state = drawing.connection_line(scene.connection, scene.reason)
        if state:
            return [*state]
        return [*drawing.typing_line(scene)] if isinstance(scene, ChatView) else [*drawing.desk_hint(scene)]


@asynccontextmanager
async def open_screen() -> AsyncIterator[ScreenFront]:
    """Take the terminal for the length of the block, and give it back as it was, whatever happens."""
    front = ScreenFront()
    async with trio.open_nursery() as nursery:
        # The thread cannot be cancelled, but `stop` ends it in the time one drawing takes.
        nursery.start_soon(trio.to_thread.run_sync, front.run_in_thread)
        try:
            await front.wait_running()
            yield front
        finally:
            front.stop()
