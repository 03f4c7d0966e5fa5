"""What a typed line means: something to say, or something to do."""

import re
from typing import Final

import attrs

from actorchat.protocol.entities import Role


@attrs.frozen
class Say:
    """Send this text."""

    text: str


@attrs.frozen
class Do:
    """Do what the word says; ``text`` and ``number`` are its argument, if it takes one."""

    word: str
    text: str = ""
    number: int = 0


@attrs.frozen
class Unclear:
    """The line means nothing here, and why."""

    why: str


Input = Say | Do | Unclear

_CHAT: Final = {
    "close": "end the conversation",
    "reopen": "go on with a closed conversation",
    "help": "this list",
    "quit": "leave (so does Ctrl-C)",
}
_OPERATORS_CHAT: Final = {
    "accept": "take the chat",
    "note TEXT": "a note that only operators see",
    "transfer ID": "give the chat to the operator with that id",
    "return": "give the chat back to the queue",
    "back": "to the list of chats",
    "open N": "to chat N of the list",
    **_CHAT,
}
_DESK: Final = {
    "open N": "open chat N of the list (so does N alone)",
    "closed [N]": "the closed chats, the newest 50 or N",
    "list": "the chats that are not closed",
    "help": "this list",
    "quit": "leave (so does Ctrl-C)",
}


def words_for(role: Role, *, in_chat: bool) -> dict[str, str]:
    """The commands there are, each with what it does."""
    return _CHAT if role is Role.USER else _OPERATORS_CHAT if in_chat else _DESK


def help_lines(role: Role, *, in_chat: bool) -> list[str]:
    """The commands, one a line."""
    lines = [f"/{usage:<12} {does}" for usage, does in words_for(role, in_chat=in_chat).items()]
    return [*lines, "//text        say a text that begins with /"] if in_chat else lines


def parse_line(line: str, role: Role, *, in_chat: bool) -> Input:
    """Read a line as typed; an empty one is Say("")."""
    text = line.strip("\r\n")
    bare = text.strip()
    if not in_chat and re.fullmatch(r"[0-9]{1,9}", bare):
        return Do("open", number=int(bare))
    if text.startswith("//"):
        return Say(text[1:])
    if not text.startswith("/"):
        if not in_chat and bare:
            return Unclear("open a chat first: type its number")
        return Say(text if bare else "")
    word, _, argument = bare[1:].partition(" ")
    usages = {usage.partition(" ")[0]: usage for usage in words_for(role, in_chat=in_chat)}
    if word not in usages:
        return Unclear(f"there is no /{word} here; /help lists what there is")
    return _argue(word, usages[word], argument.strip())


def _argue(word: str, usage: str, argument: str) -> Input:
    kind = usage.partition(" ")[2]
    if kind == "TEXT" and argument:
        return Do(word, text=argument)
    if kind == "[N]" and not argument:
        return Do(word)
    if kind in ("ID", "N", "[N]") and re.fullmatch(r"[0-9]{1,16}", argument):
        return Do(word, number=int(argument))
    if not kind and not argument:
        return Do(word)
    return Unclear(f"it is /{usage}")
