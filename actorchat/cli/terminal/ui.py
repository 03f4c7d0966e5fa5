"""Defines the interface of a UI (screen or script) and the user actions it reports."""

from typing import Protocol

import attrs

from actorchat.cli.terminal.chat_list_view import ChatListView
from actorchat.cli.terminal.chat_view import ChatView

Scene = ChatView | ChatListView


@attrs.frozen
class Entered:
    """The user typed a line and pressed Enter."""

    line: str


@attrs.frozen
class Edited:
    """The text in the input field changed to ``text``."""

    text: str


@attrs.frozen
class Left:
    """The user wants to leave, after pending messages are stored unless ``immediately`` is true."""

    immediately: bool


Action = Entered | Edited | Left


class UiClosed(Exception):  # noqa: N818 - says what happened, as the terminal did nothing wrong
    """The output cannot be shown any more."""


class TerminalUi(Protocol):
    """A user interface. Only one task may call `next_action`; all tasks may call the other methods."""

    @property
    def reading_seconds(self) -> float:
        """How many seconds a message has to be shown before it counts as read."""
        ...

    @property
    def scripted(self) -> bool:
        """Whether the input is a script: then each line is completed before the next one is read."""
        ...

    def show(self, scene: Scene) -> None:
        """Replace what is on the screen, if there is one. Does not block."""
        ...

    def print_line(self, line: str) -> None:
        """Print a line if there is no screen. Raises UiClosed."""
        ...

    def restore_input(self, line: str) -> None:
        """Put the line back into the input field, if there is one and it is empty. Does not block."""
        ...

    async def next_action(self) -> Action:
        """Wait for the user's next action. Actions come in order; after `Left` there are no others."""
        ...
