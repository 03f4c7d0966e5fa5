import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.terminals import PROGRAM, ServerProcess, Terminal, server_process

pytestmark = pytest.mark.slow

SAID = re.compile(r"message (\d) of the (\w+)")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for those who neither kill it nor mind others' chats."""
    with server_process(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running


@pytest.fixture
def visitor(server: ServerProcess, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(server.url, "--state", str(tmp_path / "visitors.json"))
    yield terminal
    terminal.kill()


@pytest.fixture
def operator(server: ServerProcess) -> Iterator[Terminal]:
    terminal = Terminal(server.url, "--operator", "--data", str(server.data), "--name", "Olga")
    yield terminal
    terminal.kill()


def piped(command: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def ticks_of(terminal: Terminal, text: str) -> list[str]:
    """Every tick that was seen beside a message, in order, each once."""
    ticks: list[str] = []
    for screen in terminal.seen:
        for line in screen.splitlines():
            if f"you: {text}" in line and not line.startswith("> "):
                tick = line.rpartition(text)[2].strip()
                if not ticks or ticks[-1] != tick:
                    ticks.append(tick)
    return ticks


def test_a_visitor_and_an_operator_talk_in_two_terminals(visitor: Terminal, operator: Terminal) -> None:
    operator.wait_for("operators: Olga")
    visitor.wait_for("waiting for an operator")
    visitor.enter("is anybody there?")
    visitor.wait_for("you: is anybody there? ✓")
    operator.wait_for("1  new", "1 unread", "is anybody there?", "type a chat's number to open it: 1")
    operator.enter("1")
    operator.wait_for("is anybody there?", "nobody has it")
    visitor.wait_for("you: is anybody there? ✓✓ read", "here: Olga")
    ticks = [tick for tick in ticks_of(visitor, "is anybody there?") if tick != "…"]
    assert ticks == ["✓", "✓✓", "✓✓ read"]
    operator.enter("/accept")
    visitor.wait_for("with Olga · open")

    operator.type("yes, wh")
    visitor.wait_for("the operator is writing…")
    operator.enter("at is it?")
    visitor.wait_for("Olga: yes, what is it?", gone="is writing")
    operator.wait_for("you: yes, what is it? ✓✓ read")
    visitor.type("my parc")
    operator.wait_for("the visitor is writing: my parc…")
    visitor.enter("el")
    operator.wait_for(": my parcel", gone="is writing")

    operator.enter("/note a known case")
    operator.wait_for("you (note): a known case")
    operator.enter("/close")
    operator.wait_for("· closed ·")
    visitor.wait_for("· closed ·")
    assert "a known case" not in visitor.text
    assert all("a known case" not in screen for screen in visitor.seen)
    operator.enter("/back")
    operator.wait_for("1  closed")


def test_both_come_back_after_the_server_was_killed_with_nothing_lost_or_doubled(
    server: ServerProcess, visitor: Terminal, operator: Terminal
) -> None:
    visitor.wait_for("waiting for an operator")
    visitor.enter("message 0 of the visitor")
    operator.wait_for("1 unread")
    operator.enter("1")
    operator.wait_for("message 0 of the visitor")
    operator.enter("message 0 of the operator")
    visitor.wait_for("message 0 of the operator")
    for index in range(1, 8):
        visitor.enter(f"message {index} of the visitor")
        operator.enter(f"message {index} of the operator")
        if index == 3:
            server.kill()
    visitor.wait_for("not connected")
    operator.wait_for("not connected")
    server.start()

    said = [f"message {index} of the {who}" for index in range(8) for who in ("visitor", "operator")]
    for terminal in (visitor, operator):
        terminal.wait_for(*said, gone="not connected")
        terminal.wait_until(lambda text: " …" not in text and "✓✓ read" in text)
        assert [terminal.text.count(each) for each in said] == [1] * len(said)

    dialogue = SAID.findall(visitor.text)
    assert dialogue == SAID.findall(operator.text)
    for who in ("visitor", "operator"):
        assert [index for index, author in dialogue if author == who] == list("01234567")


def test_a_visitor_who_returns_finds_the_same_chat(shared_server: ServerProcess, tmp_path: Path) -> None:
    visitor = Terminal(shared_server.url, "--state", str(tmp_path / "visitors.json"))
    visitor.enter("remember me")
    visitor.wait_for("you: remember me ✓")
    visitor.enter("/quit")
    assert visitor.wait_end() == 0
    again = Terminal(shared_server.url, "--state", str(tmp_path / "visitors.json"))
    again.wait_for("you: remember me ✓")
    again.interrupt()
    assert again.wait_end() == 0


@pytest.mark.parametrize("way", ["/quit\r", "\x03", "\x04"])
def test_leaving_gives_the_terminal_back_as_it_was(shared_server: ServerProcess, tmp_path: Path, way: str) -> None:
    visitor = Terminal(shared_server.url, "--state", str(tmp_path / "visitors.json"))
    visitor.wait_for("waiting for an operator")
    visitor.type(way)
    assert visitor.wait_end() == 0
    assert b"\x1b[?1049l" in visitor.raw_ending
    assert b"Traceback" not in visitor.raw_ending


def test_without_a_terminal_lines_are_messages_and_events_are_lines(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--state", str(tmp_path / "visitors.json")]
    said = "one\n//two\n/close\n/help\n"
    ended = subprocess.run(command, input=said, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert [line for line in lines if line.startswith("[")][:2] == ["[0] you: one", "[1] you: /two"]
    assert "# live" in lines
    assert "# /quit         leave (so does Ctrl-C)" in lines


@pytest.mark.parametrize(("encoding", "printed"), [("ascii", b"\\xe9\\U0001f600"), ("latin-1", b"\xe9\\U0001f600")])
def test_without_a_terminal_any_text_is_printed_on_a_narrow_encoding(
    shared_server: ServerProcess, tmp_path: Path, encoding: str, printed: bytes
) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--state", str(tmp_path / "visitors.json")]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    said = "é😀\n".encode() + b"\xe9\n"
    ended = subprocess.run(command, input=said, capture_output=True, timeout=30, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"[0] you: " + printed in ended.stdout


def test_with_stdin_and_stdout_closed_nothing_is_said_and_nothing_breaks(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    command = [
        "sh",
        "-c",
        '"$@" <&- >&-',
        "sh",
        *PROGRAM,
        "chat",
        shared_server.url,
        "--state",
        str(tmp_path / "v.json"),
    ]
    ended = subprocess.run(command, capture_output=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_operator_sees_why_there_is_no_server_and_that_it_is_tried_again() -> None:
    operator = Terminal("http://127.0.0.1:1", "--operator", "--token", BAD_TOKEN)
    operator.wait_for("nothing is known yet", ": connection refused; trying again")
    operator.interrupt()
    assert operator.wait_end() == 0


def test_a_reason_longer_than_the_screen_is_shown_to_its_end(shared_server: ServerProcess) -> None:
    operator = Terminal(shared_server.url.replace("http:", "https:"), "--operator", "--token", BAD_TOKEN)
    operator.wait_for("it does not seem to speak TLS", "http: or ws:; trying again")
    operator.kill()


def test_a_note_that_was_not_sent_stands_in_the_input_again(
    server: ServerProcess, visitor: Terminal, operator: Terminal
) -> None:
    visitor.enter("hello")
    operator.wait_for("1 unread")
    operator.enter("1")
    operator.wait_for("nobody has it")
    server.kill()
    operator.wait_for("not connected")
    operator.enter("/note call back")
    operator.wait_for("the note was not sent: cannot reach", "> /note call back")


BAD_TOKEN = "x.eyJzdWIiOiIxIiwicm9sZSI6Im9wZXJhdG9yIiwic3JjIjpbImxrIl19.x"


def test_a_script_whose_message_is_refused_fails(shared_server: ServerProcess, tmp_path: Path) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--state", str(tmp_path / "visitors.json")]
    said = f"fine\n{'x' * 5000}\n"
    ended = subprocess.run(command, input=said, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (1, "actorchat: a line came to nothing\n")
    assert "[0] you: fine" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) < 200


def test_a_script_of_an_operator_hears_why_there_is_no_connection(shared_server: ServerProcess) -> None:
    for url, why in ((shared_server.url, "the token is not good"), ("http://127.0.0.1:1", "onnection refused")):
        command = [*PROGRAM, "chat", url, "--operator", "--token", BAD_TOKEN]
        ended = subprocess.run(command, input="hi\n", capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert why in ended.stderr


def test_a_token_that_is_not_good_is_one_line_and_one(shared_server: ServerProcess) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--operator", "--token", BAD_TOKEN]
    # Its stdin stays open: it is the refusal that ends it.
    with piped(command) as program:
        assert program.stdin is not None
        assert program.stderr is not None
        program.wait(30)
        assert program.returncode == 1
        assert program.stderr.read() == "actorchat: the token is not good: Invalid header padding (401)\n"


@pytest.mark.parametrize("operator", [True, False])
def test_a_source_that_the_server_does_not_have_is_named(tmp_path: Path, operator: bool) -> None:
    with server_process(tmp_path / "data", sources="shop") as server:
        who = ["--operator", "--data", str(server.data)] if operator else ["--state", str(tmp_path / "visitors.json")]
        command = [*PROGRAM, "chat", server.url, *who]
        ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=30, check=False)
    assert ended.stderr == "actorchat: there is no source 'lk'; choose a source with --source\n"
    assert ended.returncode == 1


def test_a_reader_that_goes_away_ends_the_program_in_one_line(shared_server: ServerProcess, tmp_path: Path) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--state", str(tmp_path / "visitors.json")]
    with piped(command) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdin is not None
        program.stdout.readline()
        program.stdout.close()
        program.stdin.write("hello\n")
        program.stdin.flush()
        program.wait(30)
        assert program.returncode == 1
        assert program.stderr.read() == "actorchat: nobody reads the output any more\n"
