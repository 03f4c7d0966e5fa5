"""Foreign text is cleaned, and any text is printed on any encoding."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from actorchat.cli import main
from actorchat.cli.errors import fail, warn
from actorchat.cli.terminal.line_ui import LineUi
from actorchat.cli.text import clean, counted, fit, one_line, shorten

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
CONTROLS = "".join(map(chr, [*range(32), *range(0x7F, 0xA0)])).replace("\t", "").replace("\n", "")
PROGRAM = (sys.executable, "-W", "error", "-m", "actorchat")


def test_text_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb\tc\n\u202ed") == "a\ufffd[2Jb c\n\ufffdd"
    assert set(clean(CONTROLS + BIDI + "\u2028\ud800")) == {"\ufffd"}
    assert one_line("a\nb\r\nc") == "a ⏎ b ⏎ c"


def test_ordinary_text_is_not_changed() -> None:
    joined = "\U0001f469\u200d\U0001f4bb \u2764\ufe0f \u0645\u06cc\u200c\u062e"
    spaces = "".join(chr(code) for code in range(0x3001) if unicodedata.category(chr(code)) == "Zs")
    for text in (joined, spaces, "20\u00a0€", "日本\u3000語"):
        assert clean(text) == text
    assert clean("co\u00adop\ufeff") == "coop"


def test_a_text_is_cut_to_the_cells_it_may_take() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"
    assert fit("日本語", 4, lambda text: 2 * len(text)) == "日…"
    assert fit("abc", 0) == ""


def test_one_is_singular() -> None:
    assert [counted(number, "unread chat") for number in (0, 1, 2, 1000)] == [
        "0 unread chats",
        "1 unread chat",
        "2 unread chats",
        "1,000 unread chats",
    ]


def test_error_messages_of_commands_are_cleaned_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    warn(["a\x1b[2J\nb"])
    with pytest.raises(SystemExit):
        fail(["c\u202ed"], 1)
    assert capsys.readouterr().err == "actorchat: warning: a\ufffd[2J ⏎ b\nactorchat: c\ufffdd\n"


def test_output_without_a_screen_is_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    LineUi().print_line("[0] Olga:  [in\x1b]0;voice.pdf\x07 https://x/\u202efdp.exe]")
    assert capsys.readouterr().out == "[0] Olga:  [in\ufffd]0;voice.pdf\ufffd https://x/\ufffdfdp.exe]\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.slow
def test_every_command_prints_on_a_narrow_encoding(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}

    def run(*arguments: str) -> bytes:
        command = [*PROGRAM, *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=90, check=False, cwd=tmp_path)
        assert b"Traceback" not in ended.stderr, ended.stderr
        return ended.stdout + ended.stderr

    document = json.loads(run("asyncapi").decode(encoding))
    assert document == json.loads(CliRunner().invoke(main, ["asyncapi"]).output)
    refused = run("token", "--role", "user", "--user-id", "1", "--data", "жар").decode(encoding)
    assert "\\u0436\\u0430\\u0440 has no secret" in refused
    assert b"Examples:" in run("chat", "--help")
