"""Owns the terminal that is none: a line out for each event, a line in for each message.

Refuses to know what the lines say.
"""

import os
import sys

import trio

from actorchat.cli.terminal.front import Action, Entered, FrontGone, Left, Scene


class PlainFront:
    """Lines from stdin, lines to stdout; what is printed counts as read at once."""

    reading_seconds = 0.0
    scripted = True

    def __init__(self) -> None:
        self._rest = b""
        self._ended = False

    def show(self, scene: Scene) -> None:
        """Nothing: everything is told."""

    def tell(self, line: str) -> None:
        """Print the line; a reader that is slow is waited for. Raises FrontGone."""
        try:
            print(line, flush=True)
        except BrokenPipeError:
            # What is left in the stream would be written once more, and fail once more, at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise FrontGone("nobody reads the output any more") from None

    def put_back(self, line: str) -> None:
        """Nothing: a line that was read is gone, and its writer is told."""

    async def next_action(self) -> Action:
        """The next line of stdin; its end lets what was said arrive first."""
        while b"\n" not in self._rest and not self._ended:
            # os.read, for a thread left behind in sys.stdin would hold its lock when the program ends.
            data = await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 65_536, abandon_on_cancel=True)
            self._rest += data
            self._ended = not data
        line, _, self._rest = self._rest.partition(b"\n")
        if not line and self._ended and not self._rest:
            return Left(in_a_hurry=False)
        return Entered(line.decode(errors="replace"))
