"""A damaged page of the database: only the chats with rows on it are affected."""

import logging
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from actorchat.chat.model import Policy
from actorchat.chat.operations import AcceptChat, AddMessage, Decision, Operation, Refused, ReserveChat, Undecided
from actorchat.chat.ports import ChatFilter, StorageDamaged, StorageUnavailable
from actorchat.protocol import User
from actorchat.storage.journal import open_journal
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from actorchat.storage.worker_threads import InPlace
from tests.chat.people import OLGA
from tests.storage.failing_disk import Disk
from tests.storage.sample_chat import ANN, CHAT, NOW, RESERVE, OutcomeRecorder

BOB = User(2, ANN.role, firstname="Bob")
HEALTHY = UUID(int=2)
MARK = "the page of this text will be damaged "


def say(chat: UUID, author: User, text: str) -> AddMessage:
    return AddMessage(chat, author, text, client_id=text[-20:])


def fill(path: Path) -> None:
    """Store a chat whose messages fill whole pages, and a second chat."""
    with closing(SqliteStore(path, Policy())) as store:
        store.commit([RESERVE, *(say(CHAT, ANN, MARK * 40 + str(number)) for number in range(60))], Batch("w", 1, NOW))
        store.commit([ReserveChat(HEALTHY, "shop", BOB), say(HEALTHY, BOB, "hello")], Batch("w", 2, NOW))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def damage(path: Path) -> None:
    """Overwrite the header of the page that holds the middle of the first chat's messages."""
    with closing(sqlite3.connect(path)) as connection:
        [(size,)] = connection.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    at = content.find((MARK * 2 + "").encode(), len(content) // 2 - size)
    start = at // size * size
    content[start : start + 16] = b"\xff" * 16
    path.write_bytes(content)


def codes(store: SqliteStore, number: int, *operations: AddMessage) -> list[str | None]:
    decided = store.commit(operations, Batch("w", number, NOW))
    return [code(decision) for decision, _ in decided]


def code(decision: Decision) -> str | None:
    if isinstance(decision, Undecided):
        return "undecided"
    return decision.code if isinstance(decision, Refused) else None


def test_a_damaged_page_affects_its_chat_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat.db"
    fill(path)
    damage(path)
    with closing(SqliteStore(path, Policy())) as store, caplog.at_level(logging.ERROR):
        sick, well = say(CHAT, ANN, "are you there?"), say(HEALTHY, BOB, "how are you?")
        # The damaged page has the rows that show whether the key is known.
        assert codes(store, 3, well, sick) == [None, "undecided"]
        assert codes(store, 4, sick, AddMessage(CHAT, ANN, "without a key")) == ["undecided", "storage_unavailable"]
        assert codes(store, 5, say(HEALTHY, BOB, "fine")) == [None]
        page = store.since(HEALTHY, rev=0, limit=10)
        assert page is not None
        assert [message.text for message in page.messages] == ["hello", "how are you?", "fine"]
    [record] = [record for record in caplog.records if "damaged" in record.getMessage()]
    assert str(CHAT) in record.getMessage()


DAMAGES = {
    "a stage that there is not": "UPDATE chats SET stage = 'gone' WHERE source = 'sick'",
    "an index that is no number": "UPDATE chats SET next_index = 'x' WHERE source = 'sick'",
    "a name that is no text": "UPDATE people SET firstname = CAST(x'ff' AS TEXT) WHERE id = 7",
    "a message of no type": "UPDATE messages SET type = 'odd' WHERE author_id = 7",
}
SICK = UUID(int=3)
CAROL = User(7, ANN.role, firstname="Carol")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_corrupt_row_affects_its_chat_only(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat.db"
    with closing(SqliteStore(path, Policy())) as store, caplog.at_level(logging.ERROR):
        store.commit([RESERVE, ReserveChat(SICK, "sick", CAROL), say(SICK, CAROL, "hello")], Batch("w", 1, NOW))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(damage)
            connection.commit()
        again = say(SICK, CAROL, "hello")
        batch: list[Operation] = [say(CHAT, ANN, "well"), again, AddMessage(SICK, CAROL, "more")]
        decided = [code(decision) for decision, _ in store.commit(batch, Batch("w", 2, NOW))]
        assert decided == [None, "undecided", "storage_unavailable"]
        assert codes(store, 3, say(CHAT, ANN, "still well")) == [None]
        snapshot = store.feed_snapshot({"shop", "sick"}, 100) if "people" not in damage else None
        assert snapshot is None or CHAT in [chat.uuid for chat in snapshot.chats]
    assert sum(f"chat {SICK} can't be stored" in record.getMessage() for record in caplog.records) == 1


MANY = [UUID(int=1_000 + number) for number in range(200)]
TIMERS = Policy(answer_timeout=60)


def open_many(path: Path, *, reserved_only: bool = False) -> None:
    """Chats of which an operator has each, enough for several pages; or reserved ones."""
    people = [User(1_000 + number, ANN.role, firstname="x" * 50) for number in range(len(MANY))]
    operations: list[Operation] = []
    for chat, person in zip(MANY, people, strict=True):
        operations.append(ReserveChat(chat, "shop", person))
        if not reserved_only:
            operations += [say(chat, person, "hello"), AcceptChat(chat, OLGA)]
    with closing(SqliteStore(path, TIMERS)) as store:
        store.commit(operations, Batch("w", 1, NOW))


def damage_chats(path: Path) -> None:
    """Overwrite the header of the page that holds the row of the chat in the middle."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(size,)] = connection.execute("PRAGMA page_size")
    content = bytearray(path.read_bytes())
    # Find the page of the table, where the source follows the UUID, and not the page of the index.
    start = content.index(MANY[100].hex.encode() + b"shop") // size * size
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)


def check_left_out(found: Sequence[UUID], caplog: pytest.LogCaptureFixture) -> None:
    assert 100 < len(found) < 200
    assert MANY[100] not in found
    assert set(found) <= set(MANY)
    lines = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(lines) == 200 - len(found)
    assert all("chat.db is damaged" in line and "Restore a backup" in line for line in lines)


def test_consoles_are_shown_all_chats_but_those_on_a_damaged_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    open_many(path)
    with closing(SqliteStore(path, TIMERS)) as store, caplog.at_level(logging.ERROR):
        damage_chats(path)
        snapshot = store.feed_snapshot({"shop"}, 500)
        shown = [chat.uuid for chat in snapshot.chats]
        assert shown == [chat for chat in MANY if chat in shown]
        assert [counters.unread_chats for counters in snapshot.counters] == [200]
    check_left_out(shown, caplog)


def test_timers_run_in_all_chats_but_those_on_a_damaged_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat.db"
    open_many(path)
    with closing(SqliteStore(path, TIMERS)) as store, caplog.at_level(logging.ERROR):
        damage_chats(path)
        due = store.due(NOW + 100, 200)
        assert store.due(NOW + 100, 7) == due[:7]
        assert store.due(NOW + 10, 200) == ()
    check_left_out(due, caplog)


def test_all_unused_chats_expire_but_those_on_a_damaged_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat.db"
    open_many(path, reserved_only=True)
    with closing(SqliteStore(path, TIMERS)) as store, caplog.at_level(logging.ERROR):
        damage_chats(path)
        unused = store.unused(NOW + 100, 200)
    check_left_out(unused, caplog)


def test_a_damaged_page_of_chats_does_not_keep_the_store_from_opening(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    open_many(path)
    damage_chats(path)
    with caplog.at_level(logging.ERROR), closing(SqliteStore(path, TIMERS)) as store:
        shown = [chat.uuid for chat in store.feed_snapshot({"shop"}, 500).chats]
        healthy = AddMessage(shown[0], User(MANY.index(shown[0]) + 1_000, ANN.role), "more")
        damaged = AddMessage(MANY[100], User(1_100, ANN.role), "more")
        assert codes(store, 2, healthy, damaged) == [None, "storage_unavailable"]
    check_left_out(shown, caplog)


def test_a_list_over_a_damaged_page_says_what_is_damaged_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    open_many(path)
    with closing(SqliteStore(path, TIMERS)) as store:
        damage_chats(path)
        with pytest.raises(StorageDamaged, match=r"chat\.db is damaged \(.*malformed\): restore a backup"):
            store.chats(ChatFilter(limit=200))


def read_error() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_READ, "SQLITE_IOERR_READ"
    return error


def test_a_page_that_the_disk_fails_to_read_stops_no_other_chat(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, disk = tmp_path / "chat.db", Disk()
    fill(path)
    attempts: list[str] = []

    def reading(sql: str, parameters: object) -> None:
        if CHAT.hex in str(parameters):
            attempts.append(sql)
            raise read_error()

    with closing(SqliteStore(path, Policy(), disk.connect)) as store, caplog.at_level(logging.ERROR):
        disk.reading = reading
        sick, well = AddMessage(CHAT, ANN, "are you there?"), say(HEALTHY, BOB, "how are you?")
        assert codes(store, 3, well, sick) == [None, "storage_unavailable"]
        tried = len(attempts)
        assert codes(store, 4, sick, say(HEALTHY, BOB, "fine")) == ["storage_unavailable", None]
        assert len(attempts) == tried
        disk.reading = lambda sql, parameters: None
        [(decision, _)] = store.commit([sick], Batch("w", 5, NOW + 11))
        assert code(decision) is None
    [record] = [record for record in caplog.records if str(CHAT) in record.getMessage()]
    assert f"the disk fails to read a part of {path} (disk I/O error). Check the disk" in record.getMessage()


def test_a_disk_that_fails_to_read_many_chats_is_away(tmp_path: Path) -> None:
    path, disk = tmp_path / "chat.db", Disk()
    open_many(path)

    def reading(sql: str, parameters: object) -> None:
        if any(chat.hex in str(parameters) for chat in MANY):
            raise read_error()

    with closing(SqliteStore(path, TIMERS, disk.connect)) as store:
        disk.reading = reading
        batch = [AddMessage(chat, User(1_000 + number, ANN.role), "hi") for number, chat in enumerate(MANY)]
        with pytest.raises(StorageUnavailable, match="disk I/O error"):
            store.commit(batch, Batch("w", 2, NOW))


async def test_damage_in_one_chat_does_not_stop_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat.db"
    fill(path)
    damage(path)
    with closing(SqliteStore(path, Policy())) as store, caplog.at_level(logging.ERROR):
        async with open_journal(store, InPlace(), clock=lambda: NOW) as journal:
            well, sick = OutcomeRecorder(), OutcomeRecorder()
            for number in range(20):
                journal.submit(say(CHAT, ANN, f"sick {number}"), sick)
                journal.submit(say(HEALTHY, BOB, f"well {number}"), well)
                await journal.barrier()
                assert not journal.statistics().away
            assert well.codes == [None] * 20
            assert sick.decisions == [Undecided("a part of the database that this needs is damaged")] * 20
            assert journal.statistics().outages == 0
    assert len(caplog.records) == 1
