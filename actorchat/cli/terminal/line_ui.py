"""A terminal without a screen, for scripts: a line on stdout for each event, a line of stdin for each message."""

import os
import sys

import trio

from actorchat.cli.output import echo
from actorchat.cli.terminal.ui import Action, Entered, Left, Scene, UiClosed
from actorchat.cli.text import one_line


class LineUi:
    """Lines from stdin, lines to stdout; what is printed counts as read at once."""

    reading_seconds: float = 0.0
    scripted = True

    def __init__(self) -> None:
        self._rest = b""
        self._ended = False

    def show(self, scene: Scene) -> None:
        """Nothing: everything is told."""

    def tell(self, line: str) -> None:
        """Print the line, cleaned; a reader that is slow is waited for. Raises FrontGone."""
        try:
            echo(one_line(line))
        except BrokenPipeError:
            # What is left in the stream would be written once more, and fail once more, at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise UiClosed("nobody reads the output any more") from None

    def put_back(self, line: str) -> None:
        """Nothing: a line that was read is gone, and its writer is told."""

    async def next_action(self) -> Action:
        """The next line of stdin; its end lets what was said arrive first."""
        while b"\n" not in self._rest and not self._ended:
            if sys.stdin is None:
                # Closed by whoever started the program.
                self._ended = True
                break
            # os.read, for a thread left behind in sys.stdin would hold its lock when the program ends.
            data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 65_536, abandon_on_cancel=True)
            self._rest += data
            self._ended = not data
        line, _, self._rest = self._rest.partition(b"\n")
        if not line and self._ended and not self._rest:
            return Left(in_a_hurry=False)
        return Entered(_decode(line))


def _decode(line: bytes) -> str:
    """A line of stdin: UTF-8, else in the encoding of the locale."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode(sys.stdin.encoding or "latin-1", errors="replace")
