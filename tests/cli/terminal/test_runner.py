import signal
import sys
import time
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it comes without types
import pytest
import trio

from actorchat.cli.terminal import runner, session
from actorchat.cli.terminal.identity import IdentityError, VisitorTokens
from actorchat.cli.terminal.session import SessionOptions
from actorchat.client.server_urls import ServerAddress

OPTIONS = SessionOptions(
    ServerAddress.parse("http://127.0.0.1:1"), None, None, None, None, VisitorTokens(Path()), 1, ""
)
# The command module is imported here, because the test races with the imports that the command does itself.
LOADED = "from actorchat.cli import chat, main; print('loaded', flush=True); main()"


def end_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> BaseException | None:
    async def run_session(options: SessionOptions, *, operator: bool) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(runner, "run_session", run_session)
    return runner.run_terminal(OPTIONS, operator=False)


def grouped(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("", [BaseExceptionGroup("", errors)])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), grouped(KeyboardInterrupt())])
def test_an_interrupt_ends_the_program_without_an_error(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    assert end_with(monkeypatch, error) is None


def test_an_error_during_an_interrupt_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = IdentityError("damaged")
    assert end_with(monkeypatch, grouped(KeyboardInterrupt(), fault)) is fault


def test_a_bug_is_not_hidden_by_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseExceptionGroup):
        end_with(monkeypatch, grouped(KeyboardInterrupt(), LookupError()))


def test_signals_are_handled_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    survived = []

    async def run_visitor(options: SessionOptions) -> None:
        signal.raise_signal(signal.SIGINT)
        survived.append(True)
        await trio.sleep(20)
        raise AssertionError("the signal was not heard")

    monkeypatch.setattr(session, "_run_visitor", run_visitor)
    assert runner.run_terminal(OPTIONS, operator=False) is None
    assert survived


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 0.2, 0.3])
def test_an_early_interrupt_ends_without_output(delay: float) -> None:
    token = "x.eyJzdWIiOiIxIiwicm9sZSI6Im9wZXJhdG9yIiwic3JjIjpbImxrIl19.x"
    arguments = ["-c", LOADED, "chat", "http://127.0.0.1:1", "--operator", "--token", token]
    program = pexpect.spawn(sys.executable, arguments)
    program.delaybeforesend = None
    program.expect("loaded")
    # A real process, because the signal must arrive during imports.
    time.sleep(delay)
    program.send("\x03")
    program.expect(pexpect.EOF)
    program.close()
    assert program.exitstatus == 0
    assert b"Error" not in program.before
    assert b"Aborted" not in program.before
