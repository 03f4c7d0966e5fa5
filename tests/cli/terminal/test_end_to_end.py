import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.terminal.terminals import PROGRAM, ServerProcess, Terminal, server_process

pytestmark = pytest.mark.slow

SAID = re.compile(r"message (\d) of the (\w+)")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with server_process(tmp_path / "data") as running:
        yield running


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server for tests that don't kill it and ignore other chats."""
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
    """Each distinct tick that was shown beside a message, in order."""
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
    operator.wait_for("1  new", "1 unread", "is anybody there?", "type a chat's number to open it, for example 1")
    operator.enter("1")
    operator.wait_for("is anybody there?", "unassigned")
    visitor.wait_for("you: is anybody there? ✓✓ read", "online: Olga")
    ticks = [tick for tick in ticks_of(visitor, "is anybody there?") if tick != "…"]
    assert ticks == ["✓", "✓✓", "✓✓ read"]
    operator.enter("/accept")
    visitor.wait_for("with Olga · open")

    operator.type("yes, wh")
    visitor.wait_for("the operator is typing…")
    operator.enter("at is it?")
    visitor.wait_for("Olga: yes, what is it?", gone="is typing")
    operator.wait_for("you: yes, what is it? ✓✓ read")
    visitor.type("my parc")
    operator.wait_for("the visitor is typing: my parc…")
    visitor.enter("el")
    operator.wait_for(": my parcel", gone="is typing")

    operator.enter("/note a known case")
    operator.wait_for("you (note): a known case")
    operator.enter("/close")
    operator.wait_for("· closed ·")
    visitor.wait_for("· closed ·")
    assert "a known case" not in visitor.text
    assert all("a known case" not in screen for screen in visitor.seen)
    operator.enter("/back")
    operator.wait_for("1  closed")


def test_both_sides_reconnect_after_a_server_kill_without_loss_or_repeats(
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

    output = [f"message {index} of the {who}" for index in range(8) for who in ("visitor", "operator")]
    for terminal in (visitor, operator):
        terminal.wait_for(*output, gone="not connected")
        terminal.wait_until(lambda text: " …" not in text and "✓✓ read" in text)
        assert [terminal.text.count(each) for each in output] == [1] * len(output)

    dialogue = SAID.findall(visitor.text)
    assert dialogue == SAID.findall(operator.text)
    for who in ("visitor", "operator"):
        assert [index for index, author in dialogue if author == who] == list("01234567")


def test_a_returning_visitor_finds_the_same_chat(shared_server: ServerProcess, tmp_path: Path) -> None:
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
    output = "one\n//two\n/close\n/help\n"
    ended = subprocess.run(command, input=output, capture_output=True, text=True, timeout=90, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert [line for line in lines if line.startswith("[")][:2] == ["[0] you: one", "[1] you: /two"]
    assert "# live" in lines
    assert "# /quit         leave (or press Ctrl-C)" in lines


@pytest.mark.parametrize(("encoding", "printed"), [("ascii", b"\\xe9\\U0001f600"), ("latin-1", b"\xe9\\U0001f600")])
def test_without_a_terminal_any_text_is_printed_on_a_narrow_encoding(
    shared_server: ServerProcess, tmp_path: Path, encoding: str, printed: bytes
) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--state", str(tmp_path / "visitors.json")]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    output = "é😀\n".encode() + b"\xe9\n"
    ended = subprocess.run(command, input=output, capture_output=True, timeout=90, check=False, env=environment)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"[0] you: " + printed in ended.stdout


def test_with_stdin_and_stdout_closed_there_is_no_output_and_no_error(
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
    ended = subprocess.run(command, capture_output=True, timeout=90, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_operator_sees_why_there_is_no_server_and_that_it_is_tried_again() -> None:
    operator = Terminal("http://127.0.0.1:1", "--operator", "--token", BAD_TOKEN)
    operator.wait_for("the list is not loaded yet", ": connection refused; trying again")
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
    operator.wait_for("unassigned")
    server.kill()
    operator.wait_for("not connected")
    operator.enter("/note call back")
    operator.wait_for("the note was not sent: cannot reach", "> /note call back")


BAD_TOKEN = "x.eyJzdWIiOiIxIiwicm9sZSI6Im9wZXJhdG9yIiwic3JjIjpbImxrIl19.x"


@pytest.fixture
def small(shared_server: ServerProcess, tmp_path: Path) -> Iterator[Terminal]:
    """A visitor's chat in a small terminal."""
    terminal = Terminal(shared_server.url, "--state", str(tmp_path / "visitors.json"), columns=30, lines=10)
    terminal.wait_for("waiting for an operator")
    yield terminal
    terminal.kill()


def test_a_line_wider_than_the_window_hides_neither_itself_nor_the_prompt(small: Terminal) -> None:
    small.type("one two three four five six seven")
    small.wait_for("> one two three four five six\n  seven")
    assert small.cursor == (9, 7)
    small.type(" eight" * 60)
    small.wait_until(lambda text: len(lines := text.splitlines()) == 7 and lines[1].startswith("> "))
    small.enter("")
    small.wait_for(" ✓")
    small.resize(20, 8)
    small.type("again")
    small.wait_for("> again")


def test_earlier_lines_are_recalled_with_the_arrow_keys(small: Terminal) -> None:
    for line in ("first", "second", "/nonsense"):
        small.enter(line)
    small.wait_for("second ✓", "there is no command")
    for key, line in (("\x1b[A", "/nonsense"), ("\x1b[A", "second"), ("\x1b[A", "first"), ("\x1b[B", "second")):
        small.type(key)
        small.wait_for(f"\n> {line}")
    small.enter(" again")
    small.wait_for("you: second again ✓")


def test_a_text_that_was_refused_stands_in_the_input_again(small: Terminal) -> None:
    small.type("\x1b[200~" + "x" * 4001 + "\x1b[201~")
    small.wait_for("> xxx")
    small.enter("")
    small.wait_for("✗ not sent", "> xxx")
    small.type("\x7f")
    small.enter("")
    small.wait_until(lambda text: "xxx ✓" in text)


def visitor_who_wrote(server: ServerProcess, folder: Path, text: str, *more: str) -> None:
    command = [*PROGRAM, "chat", server.url, "--state", str(folder / f"{text}.json")]
    output = "\n".join((text, *more, ""))
    subprocess.run(command, input=output, capture_output=True, text=True, timeout=90, check=True)


def test_the_chat_list_previews_unread_messages_and_shows_closed_chats(server: ServerProcess, tmp_path: Path) -> None:
    visitor_who_wrote(server, tmp_path, "how much?", "is it")
    visitor_who_wrote(server, tmp_path, "goodbye", "/close")
    operator = Terminal(server.url, "--operator", "--data", str(server.data), columns=44, lines=12)
    try:
        operator.wait_for("1 unread chat ·", "2 unread  is it")
        operator.enter("/closed")
        operator.wait_for("1 closed chat", "2  closed", "goodbye", gone="is it")
        operator.enter("2")
        operator.wait_for(": goodbye", "· closed")
        operator.enter("/back")
        operator.wait_for("1 closed chat")
        operator.enter("/list")
        operator.wait_for("2 unread  is it", gone="goodbye")
        # Another operator reads the chat.
        command = [*PROGRAM, "chat", server.url, "--operator", "--data", str(server.data), "--user-id", "2"]
        with piped(command) as program:
            assert program.stdin is not None
            assert program.stdout is not None
            while "1  new" not in program.stdout.readline():
                pass
            program.stdin.write("1\n")
            program.stdin.flush()
            operator.wait_for("0 unread chats", "is it", gone="2 unread")
            program.communicate(timeout=90)
        assert program.returncode == 0
    finally:
        operator.kill()


def test_inside_a_chat_messages_of_other_chats_are_announced(
    visitor: Terminal, operator: Terminal, server: ServerProcess, tmp_path: Path
) -> None:
    visitor.enter("hello")
    operator.wait_for("1 unread")
    operator.enter("1")
    operator.wait_for(": hello", "unassigned")
    # The first chat must be read before it counts as read.
    visitor.wait_for("✓✓ read")
    visitor_who_wrote(server, tmp_path, "anybody?")
    operator.wait_for(": anybody? · /open 2")
    operator.enter("/open 2")
    operator.wait_for(": anybody?", gone=": hello")
    assert "/open" not in operator.text
    operator.enter("/back")
    operator.wait_for("2  new", "1  new")


def test_the_title_shows_a_lost_connection_instead_of_the_old_status(
    server: ServerProcess, visitor: Terminal, operator: Terminal
) -> None:
    visitor.wait_for("waiting for an operator · new")
    operator.wait_for("operators: Olga")
    server.kill()
    visitor.wait_for("waiting for an operator · disconnected")
    operator.wait_for("disconnected · the list may be out of date")
    server.start()
    visitor.wait_for("waiting for an operator · new")
    operator.wait_for("operators: Olga")


def test_a_script_lists_closed_chats_with_their_last_words(server: ServerProcess, tmp_path: Path) -> None:
    visitor_who_wrote(server, tmp_path, "goodbye", "/close")
    command = [*PROGRAM, "chat", server.url, "--operator", "--data", str(server.data)]
    ended = subprocess.run(command, input="/closed\n/list\n", capture_output=True, text=True, timeout=90, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    listed = [line for line in ended.stdout.splitlines() if "closed" in line]
    assert len(listed) == 1
    assert listed[0].startswith("#   1  closed  visitor ")
    assert listed[0].endswith("  goodbye")
    assert ended.stdout.splitlines()[-1] == "# no chats"


def test_a_script_whose_message_is_refused_fails(shared_server: ServerProcess, tmp_path: Path) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--state", str(tmp_path / "visitors.json")]
    output = f"fine\n{'x' * 5000}\n"
    ended = subprocess.run(command, input=output, capture_output=True, text=True, timeout=90, check=False)
    assert (ended.returncode, ended.stderr) == (1, "actorchat: a line of input failed\n")
    assert "[0] you: fine" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) < 200


def test_a_script_of_an_operator_hears_why_there_is_no_connection(shared_server: ServerProcess) -> None:
    for url, why in ((shared_server.url, "the token is invalid"), ("http://127.0.0.1:1", "onnection refused")):
        command = [*PROGRAM, "chat", url, "--operator", "--token", BAD_TOKEN]
        ended = subprocess.run(command, input="hi\n", capture_output=True, text=True, timeout=90, check=False)
        assert ended.returncode == 1
        assert ended.stderr.count("\n") == 1
        assert why in ended.stderr


def test_an_invalid_token_is_one_line_and_status_1(shared_server: ServerProcess) -> None:
    command = [*PROGRAM, "chat", shared_server.url, "--operator", "--token", BAD_TOKEN]
    # Its stdin stays open: the refusal ends the program.
    with piped(command) as program:
        assert program.stdin is not None
        assert program.stderr is not None
        program.wait(30)
        assert program.returncode == 1
        assert program.stderr.read() == "actorchat: the token is invalid: Invalid header padding (401)\n"


@pytest.mark.parametrize("operator", [True, False])
def test_a_source_that_the_server_does_not_have_is_named(tmp_path: Path, operator: bool) -> None:
    with server_process(tmp_path / "data", sources="shop") as server:
        who = ["--operator", "--data", str(server.data)] if operator else ["--state", str(tmp_path / "visitors.json")]
        command = [*PROGRAM, "chat", server.url, *who]
        ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=90, check=False)
    assert ended.stderr == "actorchat: there is no source 'lk'; choose a source with --source\n"
    assert ended.returncode == 1


def test_a_closed_output_pipe_ends_the_program_with_one_line(shared_server: ServerProcess, tmp_path: Path) -> None:
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
        assert program.stderr.read() == "actorchat: the reader of stdout has closed the pipe\n"


def test_a_script_sends_a_file_whose_link_opens_it(shared_server: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "my notes.txt").write_text("what I wanted to say")
    command = [*PROGRAM, "chat", shared_server.url, "--state", str(tmp_path / "visitors.json")]
    lines = f"/attach {tmp_path}/my notes.txt\n/attach {tmp_path}/missing.txt\ndone\n"
    ended = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=90, check=False)
    assert ended.stderr == "actorchat: a line of input failed\n", ended.stdout
    [link] = re.findall(r"\[0\] you:  \[my notes\.txt (http://\S+)\]", ended.stdout)
    assert httpx.get(link, trust_env=False).content == b"what I wanted to say"
    assert f"# {tmp_path}/missing.txt was not sent: No such file or directory" in ended.stdout
    assert "[1] you: done" in ended.stdout
