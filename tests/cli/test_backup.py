"""The commands backup and restore: what they print, and their exit status."""

import os
import re
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from actorchat.cli import main
from actorchat.cli.progress import file_size
from actorchat.server.serving import open_server
from actorchat.server.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder inside the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ACTORCHAT_")]:
        monkeypatch.delenv(name)

    async def start() -> None:
        async with open_server(Settings(data=tmp_path / "data", port=None)):
            pass

    trio.run(start)
    return tmp_path / "data"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="actorchat")


def test_a_backup_is_made_checked_and_restored(data: Path) -> None:
    made = run("backup", "b.tar", "--data", "data")
    assert (made.exit_code, made.stderr) == (0, "")
    assert re.fullmatch(r"b\.tar: 0 chats, 0 messages, 0 files, \d+\.\d KiB, checked\n", made.output)
    checked = run("restore", "b.tar", "--check")
    assert checked.exit_code == 0
    assert checked.output.startswith("b.tar is complete: 0 chats, 0 messages, made 20")
    refused = run("restore", "b.tar", "--data", "data")
    assert (refused.exit_code, "exists: restore into an empty folder" in refused.stderr) == (1, True)
    restored = run("restore", "b.tar", "--data", "data", "--force")
    assert restored.exit_code == 0
    assert f"What was there before is in {data}/before-restore-" in restored.output


def test_a_backup_without_a_secret_says_so(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "secret").unlink()
    made = run("backup", "b.tar", "--data", "data")
    assert made.stderr == "actorchat: warning: the backup has no secret: keep the one of the settings with it\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backup", "b.tar", "--data", "nowhere"), "does not exist: is --data the folder of the server?"),
        (("backup", "missing/b.tar", "--data", "data"), "missing does not exist"),
        (("backup", ".", "--data", "data"), "is a folder: name a file in it"),
        (("restore", "missing.tar", "--data", "new"), "missing.tar can't be read: No such file"),
        (("restore", "data/secret", "--data", "new"), "data/secret is not a backup of actorchat"),
        (("restore", "data/secret", "--check"), "data/secret is not a backup of actorchat"),
    ],
)
def test_a_failure_is_one_line_and_leaves_nothing(data: Path, arguments: tuple[str, ...], words: str) -> None:
    ended = run(*arguments)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert [path.name for path in data.parent.iterdir()] == ["data"]


def test_a_wrong_setting_is_reported_as_one() -> None:
    assert run("backup", "b.tar", "--storage", "mysql://x").exit_code == 2


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 bytes"), (1023, "1,023 bytes"), (1536, "1.5 KiB"), (5 * 2**40, "5.0 TiB")]
)
def test_sizes_are_shown_in_the_unit_that_fits(size: int, shown: str) -> None:
    assert file_size(size) == shown
