"""Implements the full-screen UI with prompt_toolkit, which runs in a thread with its own asyncio event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Final

import trio
from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout import BufferControl, Dimension, FormattedTextControl, HSplit, Layout, VSplit, Window
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from actorchat.cli.terminal import drawing
from actorchat.cli.terminal.chat_view import ChatView
from actorchat.cli.terminal.drawing import Line
from actorchat.cli.terminal.ui import Action, Edited, Entered, Left, Scene
from actorchat.cli.text import fit

MAX_ACTIONS: Final = 1_000
"""How many actions are queued; further ones are dropped."""

_INPUT_HEIGHT: Final = Dimension(min=1, max=6)
"""Rows of the input field: it grows with its text up to the maximum, then scrolls."""

_PROMPT: Final = "> "

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


class ScreenUi:
    """A full-screen `TerminalUi`. A message counts as read after a second on the screen."""

    reading_seconds: float = 1.0
    scripted = False

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._actions_send, self._actions = trio.open_memory_channel[Action](MAX_ACTIONS)
        self._scene: Scene | None = None
        self._scrolled = 0
        self._stopping = False
        self._running = trio.Event()
        self._input = Buffer(
            on_text_changed=lambda buffer: self._send_to_trio(Edited(buffer.text)),
            multiline=False,
            history=InMemoryHistory(),
        )
        self._body_window = Window(FormattedTextControl(self._body, show_cursor=False))
        self._app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=_STYLE,
            full_screen=True,
            erase_when_done=True,
            before_render=self._reset_scroll_after_resize,
        )
        self._drawn_size = self._app.output.get_size()

    def show(self, scene: Scene) -> None:
        """Draw the scene soon; a scene that is replaced before it was drawn is skipped."""
        if _scene_key(self._scene) != _scene_key(scene):
            self._scrolled = 0
        self._scene = scene
        self._app.invalidate()

    def print_line(self, line: str) -> None:
        """Do nothing: `show` gets everything."""

    def restore_input(self, line: str) -> None:
        """Put the line into the input field soon, unless the field has text by then."""
        loop = self._app.loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._fill_input, line)

    async def next_action(self) -> Action:
        """Wait for the next action; an edit that was followed by another may be skipped."""
        action = await self._actions.receive()
        while isinstance(action, Edited):
            try:
                action = self._actions.receive_nowait()
            except trio.WouldBlock:
                return action
        return action

    def run_in_thread(self) -> None:
        """Take over the terminal until `stop` is called, then restore it. Blocks: call it in a thread."""
        with suppress(EOFError):
            asyncio.run(self._app.run_async(pre_run=self._started, handle_sigint=False))
        self._send_to_trio(Left(immediately=True))

    def stop(self) -> None:
        """Make `run_in_thread` return soon. May be called from any thread, and more than once."""
        self._stopping = True
        loop = self._app.loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._exit)

    async def wait_running(self) -> None:
        """Wait until the screen is drawn."""
        await self._running.wait()

    def _started(self) -> None:
        if self._stopping:
            self._app.exit()
        self._token.run_sync_soon(self._running.set)

    def _fill_input(self, line: str) -> None:
        if not self._input.text:
            self._input.document = Document(line, len(line))

    def _exit(self) -> None:
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    def _send_to_trio(self, action: Action) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._enqueue, action)

    def _enqueue(self, action: Action) -> None:
        with suppress(trio.WouldBlock):
            self._actions_send.send_nowait(action)

    def _reset_scroll_after_resize(self, _: object) -> None:
        # Lines wrap at other places now, so the scroll position means nothing any more.
        if self._drawn_size != (size := self._app.output.get_size()):
            self._drawn_size = size
            self._scrolled = 0

    def _layout(self) -> Layout:
        # The prompt has its own window, so that a long line does not scroll it out of sight.
        prompt = Window(FormattedTextControl([("class:prompt", _PROMPT)]), width=len(_PROMPT), dont_extend_width=True)
        field = Window(BufferControl(self._input), height=_INPUT_HEIGHT, wrap_lines=True, dont_extend_height=True)
        rows = [
            Window(FormattedTextControl(self._title), height=1, style="class:title"),
            self._body_window,
            Window(FormattedTextControl(self._status), dont_extend_height=True),
            VSplit([prompt, field]),
        ]
        return Layout(HSplit(rows), focused_element=field)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            line = self._input.text
            self._scrolled = 0
            self._send_to_trio(Entered(line))
            self._input.reset(append_to_history=bool(line.strip()))

        @keys.add("c-c")
        @keys.add("c-d")
        def _(event: KeyPressEvent) -> None:
            self._send_to_trio(Left(immediately=True))

        @keys.add("pageup")
        def _(event: KeyPressEvent) -> None:
            self._scroll(up=True)

        @keys.add("pagedown")
        def _(event: KeyPressEvent) -> None:
            self._scroll(up=False)

        return keys

    def _scroll(self, *, up: bool) -> None:
        # A chat starts at its end and scrolls up, the list starts at its top and scrolls down.
        away_from_start = up == isinstance(self._scene, ChatView)
        page = max(self._body_height - 1, 1)
        self._scrolled = max(self._scrolled + (page if away_from_start else -page), 0)
        if away_from_start:
            self._scrolled = min(self._scrolled, max(len(self._rows(inf)) - self._body_height, 0))

    @property
    def _width(self) -> int:
        return self._app.output.get_size().columns

    @property
    def _height(self) -> int:
        return self._app.output.get_size().rows

    @property
    def _body_height(self) -> int:
        drawn = self._body_window.render_info
        return self._height if drawn is None else drawn.window_height

    def _rows(self, needed: float) -> list[Line]:
        """The rows of the body. For a chat, only its end is drawn: at least `needed` rows, if it has as many."""
        rows: list[Line] = []
        match self._scene:
            case None:
                pass
            case ChatView() as view:
                for line in reversed(drawing.chat_lines(view)):
                    rows[:0] = drawing.wrap(line, self._width, get_cwidth)
                    if len(rows) >= needed:
                        break
            case view:
                rows = drawing.chat_list_lines(view, self._width, get_cwidth)
        return rows

    def _body(self) -> StyleAndTextTuples:
        rows = self._rows(self._height + self._scrolled)
        if isinstance(self._scene, ChatView):
            rows = rows[: len(rows) - self._scrolled]
            cursor = len(rows) - 1
        else:
            rows = rows[min(self._scrolled, max(len(rows) - 1, 0)) :]
            cursor = 0
        drawn: StyleAndTextTuples = []
        for number, row in enumerate(rows):
            # prompt_toolkit scrolls the window to the row of the cursor.
            cursor_mark = [("[SetCursorPosition]", "")] if number == cursor else []
            drawn.extend((*cursor_mark, *row, ("", "\n")))
        return drawn[:-1]

    def _title(self) -> StyleAndTextTuples:
        match self._scene:
            case None:
                title = ""
            case ChatView() as view:
                title = drawing.chat_title(view)
            case view:
                title = drawing.chat_list_title(view)
        return [("", fit(f" {title} · /help", self._width, get_cwidth))]

    def _status(self) -> StyleAndTextTuples:
        if self._scene is None:
            return []
        back = "PageDown for the newest" if isinstance(self._scene, ChatView) else "PageUp for the first"
        scrolled: list[Line] = [[("class:notice", f"scrolled · {back}")]] if self._scrolled else []
        rows: list[Line] = []
        for line in scrolled + drawing.status_lines(self._scene):
            rows.extend(drawing.wrap(line, self._width, get_cwidth))
        # At most half of the screen: the body and the input need room too.
        rows = rows[: max(self._height // 2, 1)]
        drawn: StyleAndTextTuples = []
        for row in rows:
            drawn.extend((*row, ("", "\n")))
        return drawn[:-1]


def _scene_key(scene: Scene | None) -> object:
    """Identifies the chat or list that a scene shows; the scroll position is reset when it changes."""
    match scene:
        case None:
            return None
        case ChatView(chat=chat):
            return chat.uuid
        case view:
            return view.showing_closed


@asynccontextmanager
async def open_screen() -> AsyncIterator[ScreenUi]:
    """Take over the terminal for the duration of the block and restore it at the end, also after an error."""
    ui = ScreenUi()
    async with trio.open_nursery() as nursery:
        # The thread cannot be cancelled, but after `stop` it returns as soon as it has finished drawing.
        nursery.start_soon(trio.to_thread.run_sync, ui.run_in_thread)
        try:
            await ui.wait_running()
            yield ui
        finally:
            ui.stop()
