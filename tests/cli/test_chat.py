from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from actorchat.cli.chat import chat
from actorchat.cli.terminal.session import SessionOptions
from actorchat.server.auth import ensure_secret
from tests.server.server_under_test import SECRET

NOWHERE = "http://127.0.0.1:1"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(chat, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("ftp://x",),
        (NOWHERE, "--operator"),
        (NOWHERE, "--operator", "--token", "x", "--data", "x"),
        (NOWHERE, "--user-id", "0"),
        (NOWHERE, "--user-id", "1"),
        (NOWHERE, "--name", "Olga"),
        (NOWHERE, "--data", "x"),
        (NOWHERE, "--config", "x"),
        (NOWHERE, "--operator", "--token", "x", "--config", "x"),
        (NOWHERE, "--operator", "--token", "x", "--user-id", "3"),
        (NOWHERE, "--source", "LK!"),
        (NOWHERE, "--nonsense"),
    ],
)
def test_bad_usage_exits_with_two(arguments: tuple[str, ...]) -> None:
    code, output = run(*arguments)
    assert code == 2
    assert "Usage:" in output


def test_an_invalid_source_is_named() -> None:
    assert "a source name has 1 to 64 characters out of a-z, 0-9, _ and -" in run(NOWHERE, "--source", "LK!")[1]


def test_a_visitors_token_makes_no_operator() -> None:
    code, output = run(NOWHERE, "--operator", "--token", "x.eyJzdWIiOiAiMSIsICJyb2xlIjogInVzZXIifQ.x")
    assert (code, output) == (1, "actorchat: --token is a visitor's token, but --operator needs an operator's token\n")


def test_an_operators_token_without_a_source_is_refused_and_says_what_to_do() -> None:
    code, output = run(NOWHERE, "--operator", "--token", "x.eyJzdWIiOiAiMSIsICJyb2xlIjogIm9wZXJhdG9yIn0.x")
    assert (code, output) == (
        1,
        "actorchat: --token names no widget source, so it gives access to no chats; make one that does: "
        "actorchat token --role operator --user-id 1 --source lk\n",
    )


def test_help_teaches_with_examples() -> None:
    code, output = run("--help")
    assert code == 0
    assert "actorchat chat http://127.0.0.1:8000 --operator --data ./actorchat-data" in output


def test_an_unreachable_server_is_one_line_and_status_1(tmp_path: Path) -> None:
    code, output = run(NOWHERE, "--state", str(tmp_path / "visitors.json"))
    assert code == 1
    assert output.startswith("actorchat: cannot reach http://127.0.0.1:1")
    assert output.count("\n") == 1


def test_a_folder_without_a_server_is_one_line_and_status_1(tmp_path: Path) -> None:
    code, output = run(NOWHERE, "--operator", "--data", str(tmp_path))
    assert (code, output.count("\n")) == (1, 1)
    assert "has no secret of a server" in output


def test_a_damaged_state_file_is_one_line_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "visitors.json").write_text("{")
    code, output = run(NOWHERE, "--state", str(tmp_path / "visitors.json"))
    assert (code, output.count("\n")) == (1, 1)
    assert "is damaged" in output


def test_an_operators_secret_that_is_too_short_is_one_line_and_status_1(tmp_path: Path) -> None:
    ensure_secret(tmp_path)
    next(tmp_path.iterdir()).write_text("short")
    code, output = run(NOWHERE, "--operator", "--data", str(tmp_path))
    assert (code, output.count("\n")) == (1, 1)


@pytest.mark.parametrize("place", ["environment", "settings file"])
def test_the_secret_in_the_settings_signs_an_operators_token(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[SessionOptions] = []

    async def session(options: SessionOptions, *, operator: bool) -> None:
        await trio.lowlevel.checkpoint()
        asked.append(options)

    monkeypatch.setattr("actorchat.cli.terminal.runner.run_session", session)
    given = [NOWHERE, "--operator", "--user-id", "7"]
    if place == "environment":
        monkeypatch.setenv("ACTORCHAT_SECRET", SECRET)
    else:
        config = tmp_path / "actorchat.toml"
        config.write_text(f'secret = "{SECRET}"')
        config.chmod(0o600)
        given += ["--config", str(config)]
    assert run(*given) == (0, "")
    assert [(options.secret, options.user_id) for options in asked] == [(SECRET, 7)]


def test_wrong_settings_of_an_operators_server_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORCHAT_SECRET", "short")
    code, output = run(NOWHERE, "--operator")
    assert code == 2
    assert "secret" in output
