"""What a conversation needs from a terminal: to show, to tell, and to hear what was typed."""

from typing import Protocol

import attrs

from actorchat.cli.terminal.chat_list_view import ChatListView
from actorchat.cli.terminal.chat_view import ChatView

Scene = ChatView | ChatListView


@attrs.frozen
class Entered:
    """A line was typed and finished."""

    line: str


@attrs.frozen
class Edited:
    """This is what stands in the input field now."""

    text: str


@attrs.frozen
class Left:
    """The user wants to leave; ``in_a_hurry`` is false at the end of a script's input."""

    in_a_hurry: bool


Action = Entered | Edited | Left


class UiClosed(Exception):  # noqa: N818 - says what happened, as the terminal did nothing wrong
    """Nobody sees what is shown any more."""


class TerminalUi(Protocol):
    """A terminal. One task asks for actions; any may show and tell."""

    @property
    def reading_seconds(self) -> float:
        """How long something has to be shown before it counts as read."""
        ...

    @property
    def scripted(self) -> bool:
        """Whether nobody looks on: what is said in a line is done before the next line."""
        ...

    def show(self, scene: Scene) -> None:
        """Show this in place of what was shown; never waits."""
        ...

    def tell(self, line: str) -> None:
        """Say this once, where there is no screen to show it. Raises FrontGone."""
        ...

    def put_back(self, line: str) -> None:
        """Let the line be typed again, if there is an input field and nothing new in it; never waits."""
        ...

    async def next_action(self) -> Action:
        """Wait for what the user does next, in order; after `Left` it is `Left` for ever."""
        ...
