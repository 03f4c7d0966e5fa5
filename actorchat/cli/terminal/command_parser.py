"""Parses a line of input into text to send or a command to run."""

import re
from typing import Final

import attrs

from actorchat.protocol.entities import Role


@attrs.frozen
class SendText:
    """Send this text."""

    text: str


@attrs.frozen
class RunCommand:
    """Run the command ``name``; ``text`` or ``number`` holds its argument, if it takes one."""

    name: str
    text: str = ""
    number: int = 0


@attrs.frozen
class InvalidInput:
    """The line is not a valid command here."""

    reason: str


Input = SendText | RunCommand | InvalidInput

_VISITOR_COMMANDS: Final = {
    "attach FILE": "send a file",
    "close": "close the chat",
    "reopen": "reopen a closed chat",
    "help": "list the commands",
    "quit": "leave (or press Ctrl-C)",
}
_OPERATOR_COMMANDS: Final = {
    "accept": "accept the chat",
    "note TEXT": "write a note that only operators see",
    "transfer ID": "transfer the chat to the operator with that id",
    "return": "return the chat to the queue",
    "back": "go back to the chat list",
    "open N": "open chat N of the list",
    **_VISITOR_COMMANDS,
}
_LIST_COMMANDS: Final = {
    "open N": "open chat N of the list (or type N alone)",
    "closed [N]": "list the newest closed chats, 50 or N",
    "list": "list the chats that are not closed",
    "help": "list the commands",
    "quit": "leave (or press Ctrl-C)",
}


def commands_for(role: Role, *, in_chat: bool) -> dict[str, str]:
    """The usage and description of each command that exists for this role, in a chat or in the list."""
    return _VISITOR_COMMANDS if role is Role.USER else _OPERATOR_COMMANDS if in_chat else _LIST_COMMANDS


def help_lines(role: Role, *, in_chat: bool) -> list[str]:
    """The help text, one line for each command."""
    lines = [f"/{usage:<12} {does}" for usage, does in commands_for(role, in_chat=in_chat).items()]
    return [*lines, "//text        send a text that begins with /"] if in_chat else lines


def parse_line(line: str, role: Role, *, in_chat: bool) -> Input:
    """Parse a line as typed; a blank one is SendText("")."""
    text = line.strip("\r\n")
    stripped = text.strip()
    if not in_chat and re.fullmatch(r"[0-9]{1,9}", stripped):
        return RunCommand("open", number=int(stripped))
    if text.startswith("//"):
        return SendText(text[1:])
    if not text.startswith("/"):
        if not in_chat and stripped:
            return InvalidInput("open a chat first: type its number")
        return SendText(text if stripped else "")
    name, _, argument = stripped[1:].partition(" ")
    usages = {usage.partition(" ")[0]: usage for usage in commands_for(role, in_chat=in_chat)}
    if name not in usages:
        return InvalidInput(f"there is no command /{name} here; /help lists the commands")
    return _parse_argument(name, usages[name], argument.strip())


def _parse_argument(name: str, usage: str, argument: str) -> Input:
    kind = usage.partition(" ")[2]
    if kind in ("TEXT", "FILE") and argument:
        return RunCommand(name, text=argument)
    if kind == "[N]" and not argument:
        return RunCommand(name)
    if kind in ("ID", "N", "[N]") and re.fullmatch(r"[0-9]{1,16}", argument):
        return RunCommand(name, number=int(argument))
    if not kind and not argument:
        return RunCommand(name)
    return InvalidInput(f"usage: /{usage}")
