import pytest

from actorchat.cli.terminal.command_parser import Input, InvalidInput, RunCommand, SendText, help_lines, parse_line
from actorchat.protocol.entities import Role


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("hello\n", SendText("hello")),
        ("  hello ", SendText("  hello ")),
        ("   ", SendText("")),
        ("//quit", SendText("/quit")),
        ("/close", RunCommand("close")),
        ("/note  call back ", RunCommand("note", text="call back")),
        ("/transfer 7", RunCommand("transfer", number=7)),
        ("/back", RunCommand("back")),
        ("12", SendText("12")),
        ("/note", InvalidInput("usage: /note TEXT")),
        ("/transfer Olga", InvalidInput("usage: /transfer ID")),
        ("/close now", InvalidInput("usage: /close")),
        ("/open 3", RunCommand("open", number=3)),
        ("/attach  my photo.png ", RunCommand("attach", text="my photo.png")),
        ("/attach", InvalidInput("usage: /attach FILE")),
    ],
)
def test_a_line_in_an_operators_chat(line: str, meaning: Input) -> None:
    assert parse_line(line, Role.OPERATOR, in_chat=True) == meaning


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("3", RunCommand("open", number=3)),
        ("/open 3", RunCommand("open", number=3)),
        ("/closed", RunCommand("closed")),
        ("/closed 9", RunCommand("closed", number=9)),
        ("/closed all", InvalidInput("usage: /closed [N]")),
        ("/list", RunCommand("list")),
        ("", SendText("")),
        ("hello", InvalidInput("open a chat first: type its number")),
        ("/accept", InvalidInput("there is no command /accept here; /help lists the commands")),
    ],
)
def test_a_line_at_the_list_of_chats(line: str, meaning: Input) -> None:
    assert parse_line(line, Role.OPERATOR, in_chat=False) == meaning


@pytest.mark.parametrize("word", ["accept", "note x", "transfer 1", "return", "back", "open 1", "closed"])
def test_a_visitor_has_no_operators_commands(word: str) -> None:
    assert isinstance(parse_line(f"/{word}", Role.USER, in_chat=True), InvalidInput)


def test_help_lists_every_command_there_is() -> None:
    assert [line.split()[0] for line in help_lines(Role.USER, in_chat=True)] == [
        "/attach",
        "/close",
        "/reopen",
        "/help",
        "/quit",
        "//text",
    ]
    assert len(help_lines(Role.OPERATOR, in_chat=True)) == 12
    assert len(help_lines(Role.OPERATOR, in_chat=False)) == 5
