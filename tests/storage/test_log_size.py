"""The write-ahead log grows while another program reads an old state, and shrinks afterwards."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage
from actorchat.storage import connections
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from tests.storage.sample_chat import ANN, CHAT, NOW, RESERVE
from tests.storage.test_database_files import outside_reader

USUAL = 400_000


@attrs.define
class Writing:
    store: SqliteStore
    log: Path
    batches: int = 1

    def write(self, count: int) -> None:
        """Write `count` batches of 20 KB, each a fifth of a second after the other."""
        for _ in range(count):
            self.batches += 1
            batch = Batch("w", self.batches, NOW + self.batches / 5)
            self.store.commit([AddMessage(CHAT, ANN, "x" * 20_000)], batch)

    @property
    def size(self) -> int:
        return self.log.stat().st_size


@pytest.fixture
def writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writing]:
    """A store whose log is limited to a hundredth of the usual size."""
    monkeypatch.setattr(connections, "LOG_PAGES", 80)
    monkeypatch.setattr(connections, "_LOG_BYTES", USUAL)
    monkeypatch.setattr(connections, "_LARGE_LOG", 3 * USUAL)
    with closing(SqliteStore(tmp_path / "chat.db", Policy())) as store:
        store.commit([RESERVE], Batch("w", 1, NOW))
        yield Writing(store, tmp_path / "chat.db-wal")


def test_a_log_that_grew_while_somebody_read_shrinks_in_the_next_quiet_second(
    tmp_path: Path, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    with outside_reader(tmp_path / "chat.db"):
        writing.write(100)
        writing.store.tidy()
        assert writing.size > 4 * USUAL
        (line,) = [record.getMessage() for record in caplog.records]
        assert "has grown to 1 MB: another program, such as a backup or a shell, has been" in line
    writing.store.tidy()
    assert writing.size == 0
    writing.write(1)


def test_a_log_that_grew_shrinks_under_load_too(tmp_path: Path, writing: Writing) -> None:
    with outside_reader(tmp_path / "chat.db"):
        writing.write(100)
        assert writing.size > 4 * USUAL
    writing.write(3)
    assert writing.size <= USUAL


def test_a_log_of_the_usual_size_is_kept_for_the_next_commits(writing: Writing) -> None:
    writing.write(100)
    assert 0 < writing.size <= USUAL
    before = writing.size
    writing.store.tidy()
    assert writing.size == before
