"""The log formats of a server process."""

import json
import logging
from collections.abc import Iterator

import pytest

from actorchat.server.logging_setup import configure_logging
from tests.server.logging_state import logging_restored


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with logging_restored():
        yield


def test_a_json_line_holds_everything_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("json")
    try:
        raise RuntimeError("planned")
    except RuntimeError:
        logging.getLogger("actorchat.http").exception("%s failed", "it")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["logger"]) == ("it failed", "error", "actorchat.http")
    assert "RuntimeError: planned" in line["exception"]


def test_the_text_format_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text")
    logging.getLogger("actorchat.server").info("hello %s", "there")
    written = capsys.readouterr()
    assert written.out == ""
    assert "hello there" in written.err
    assert "\x1b" not in written.err


def test_other_libraries_are_heard_when_they_warn(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("text")
    logging.getLogger("alembic").info("chatter")
    logging.getLogger("alembic").warning("trouble")
    written = capsys.readouterr().err
    assert "trouble" in written
    assert "chatter" not in written
