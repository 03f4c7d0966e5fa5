"""Implements the UI for scripts: each line of stdin is input, and each event is a line on stdout."""

import os
import sys

import trio

from actorchat.cli.output import echo
from actorchat.cli.terminal.ui import Action, Entered, Left, Scene, UiClosed
from actorchat.cli.text import one_line


class LineUi:
    """A `TerminalUi` on stdin and stdout. A printed message counts as read at once."""

    reading_seconds: float = 0.0
    scripted = True

    def __init__(self) -> None:
        self._buffer = b""
        self._ended = False

    def show(self, scene: Scene) -> None:
        """Do nothing: `print_line` gets everything."""

    def print_line(self, line: str) -> None:
        """Print the line, cleaned; blocks while the pipe is full. Raises UiClosed if its reader is gone."""
        try:
            echo(one_line(line))
        except BrokenPipeError:
            # Python flushes stdout once more at exit, which would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise UiClosed("the reader of stdout has closed the pipe") from None

    def restore_input(self, line: str) -> None:
        """Do nothing: there is no input field, and the failure has been printed."""

    async def next_action(self) -> Action:
        """Return the next line of stdin; its end is a `Left` that waits for pending messages."""
        while b"\n" not in self._buffer and not self._ended:
            if sys.stdin is None:
                # The program was started with stdin closed.
                self._ended = True
                break
            # Not sys.stdin.readline: an abandoned thread would hold its lock, and Python would hang at exit.
            data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 65_536, abandon_on_cancel=True)
            self._buffer += data
            self._ended = not data
        line, _, self._buffer = self._buffer.partition(b"\n")
        if not line and self._ended and not self._buffer:
            return Left(immediately=False)
        return Entered(_decode(line))


def _decode(line: bytes) -> str:
    """Decode a line as UTF-8, or else with the encoding of stdin."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode(sys.stdin.encoding or "latin-1", errors="replace")
