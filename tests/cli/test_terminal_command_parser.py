import pytest

from actorchat.cli.terminal.command_parser import Do, Input, Say, Unclear, help_lines, parse_line
from actorchat.protocol.entities import Role


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello\n", Say("hello")),
        ("  hello ", Say("  hello ")),
        ("   ", Say("")),
        ("//quit", Say("/quit")),
        ("/close", Do("close")),
        ("/note  call back ", Do("note", text="call back")),
        ("/transfer 7", Do("transfer", number=7)),
        ("/back", Do("back")),
        ("12", Say("12")),
        ("/note", Unclear("it is /note TEXT")),
        ("/transfer Olga", Unclear("it is /transfer ID")),
        ("/close now", Unclear("it is /close")),
        ("/open 3", Do("open", number=3)),
    ],
)
def test_a_line_in_an_operators_chat(line: str, meaning: Input) -> None:
    assert parse_line(line, Role.OPERATOR, in_chat=True) == meaning


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("3", Do("open", number=3)),
        ("/open 3", Do("open", number=3)),
        ("/closed", Do("closed")),
        ("/closed 9", Do("closed", number=9)),
        ("/closed all", Unclear("it is /closed [N]")),
        ("/list", Do("list")),
        ("", Say("")),
        ("hello", Unclear("open a chat first: type its number")),
        ("/accept", Unclear("there is no /accept here; /help lists what there is")),
    ],
)
def test_a_line_at_the_list_of_chats(line: str, meaning: Input) -> None:
    assert parse_line(line, Role.OPERATOR, in_chat=False) == meaning


@pytest.mark.parametrize("word", ["accept", "note x", "transfer 1", "return", "back", "open 1", "closed"])
def test_a_visitor_has_no_operators_commands(word: str) -> None:
    assert isinstance(parse_line(f"/{word}", Role.USER, in_chat=True), Unclear)


def test_help_lists_every_command_there_is() -> None:
    assert [line.split()[0] for line in help_lines(Role.USER, in_chat=True)] == [
        "/close",
        "/reopen",
        "/help",
        "/quit",
        "//text",
    ]
    assert len(help_lines(Role.OPERATOR, in_chat=True)) == 11
    assert len(help_lines(Role.OPERATOR, in_chat=False)) == 5
