"""Each commit leaves one row in the log, in its own transaction, as long as there is a broker."""

import logging
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import cast
from uuid import UUID

import pytest

from actorchat.chat.commit_log import LoggedCommit, TooOld, Trimmed, decode_commit
from actorchat.chat.model import Identity, Policy, Stage
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    CloseChat,
    MarkMessage,
    Operation,
    RecordPerson,
    RefreshPeople,
    SetOnline,
)
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import MessageType, Role, User
from actorchat.storage.memory import MemoryStore
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch, CommitInDoubt
from actorchat.testing import random_operations
from tests.storage.failing_disk import Disk
from tests.storage.sample_chat import ANN, CHAT, EVE, NOW, RESERVE

LoggingStore = MemoryStore | SqliteStore | PostgresStore
NONE = TooOld(0, 0, 0)
Open = Callable[[Collection[str]], LoggingStore]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "memory":
        return lambda brokers: MemoryStore(Policy(), brokers=brokers)
    if request.param == "postgresql":
        url = request.getfixturevalue("new_postgres")()
        return lambda brokers: PostgresStore(url, Policy(), brokers=brokers)
    return lambda brokers: SqliteStore(tmp_path / "chat.db", Policy(), brokers=brokers)


class Writer:
    """Commits batches to a store."""

    def __init__(self, store: LoggingStore) -> None:
        self.store = store
        self._numbers = count(1)

    def __call__(self, *operations: Operation, now: float = NOW) -> None:
        self.store.commit(operations, Batch("writer", next(self._numbers), now))


@contextmanager
def writing(open_store: Open, brokers: Collection[str] = ("a",)) -> Iterator[Writer]:
    with closing(open_store(brokers)) as store:
        write = Writer(store)
        write(RecordPerson(ANN, frozenset()), RecordPerson(EVE, frozenset(), frozenset({"shop"})), RESERVE)
        yield write


def commits(store: LoggingStore, after: int = 0) -> list[LoggedCommit]:
    return [decode_commit(entry.payload) for entry in store.entries(after, 1_000_000)]


def comparable(commit: LoggedCommit) -> object:
    """The commit with people in the place of their keys."""
    user = commit.users.get
    return (
        [
            (
                *(change.chat, change.source, change.stage, user(change.owner), user(change.operator), change.rev),
                change.changed,
                [(each.id, each.index, each.is_system, each.text, user(each.author)) for each in change.messages],
            )
            for change in commit.changes
        ],
        [(user(each.user), each.sources, each.is_online, each.new_chats, each.open_chats) for each in commit.operators],
        commit.sources,
    )


def newest(store: LoggingStore) -> int:
    return max((entry.seq for entry in store.entries(0, 1_000_000)), default=0)


def test_a_batch_is_one_entry_with_its_changes_in_order(open_store: Open) -> None:
    with writing(open_store) as write:
        before = newest(write.store)
        write(AddMessage(CHAT, ANN, "hello"), AcceptChat(CHAT, EVE), AddMessage(CHAT, EVE, "good day"))
        [commit] = commits(write.store, before)
        assert {(each.chat, each.source, commit.users[each.owner]) for each in commit.changes} == {
            (CHAT.bytes, "shop", ANN)
        }
        shown = [
            (each.stage, commit.users.get(each.operator), each.rev, each.changed, [m.text for m in each.messages])
            for each in commit.changes
        ]
        assert shown == [
            (Stage.NEW, None, 1, True, ["hello"]),
            (Stage.OPEN, EVE, 2, True, []),
            (Stage.OPEN, EVE, 3, False, ["good day"]),
        ]
        assert [(each.is_online, each.new_chats, each.open_chats) for each in commit.operators] == [(False, 0, 1)]
        assert [(each.source, each.unread_chats) for each in commit.sources] == [("shop", 1)]


def test_system_messages_say_for_whom_they_are(open_store: Open) -> None:
    with writing(open_store) as write:
        write(AddMessage(CHAT, ANN, "hello"))
        before = newest(write.store)
        write(AddMessage(CHAT, EVE, "note", type=MessageType.SYSTEM, type_role=Role.OPERATOR), CloseChat(CHAT, EVE))
        [commit] = commits(write.store, before)
        messages = [message for change in commit.changes for message in change.messages]
        assert [(each.is_system, each.for_operators) for each in messages] == [(True, True), (True, False)]


def test_receipts_and_reservations_leave_no_entry(open_store: Open) -> None:
    with writing(open_store) as write:
        before = newest(write.store)
        write(AddMessage(CHAT, EVE, "hello"))
        message_id = commits(write.store, before)[0].changes[0].messages[0].id
        after = newest(write.store)
        write(MarkMessage(CHAT, ANN, message_id, True), RESERVE)
        if isinstance(write.store, PostgresStore):
            # Other servers show receipts. Brokers are shown nothing.
            [commit] = commits(write.store, after)
            assert [(each.changed, each.messages) for each in commit.changes] == [(False, ())]
        else:
            assert newest(write.store) == after


def test_an_operator_is_logged_only_if_consoles_are_shown_a_change(open_store: Open) -> None:
    with writing(open_store) as write:
        [first] = commits(write.store)
        assert [(first.users[each.user].id, each.sources) for each in first.operators] == [(EVE.id, ("shop",))]
        before = newest(write.store)
        write(RecordPerson(EVE, frozenset(), frozenset({"shop"}), token="another", until=NOW + 60))
        assert not any(commit.operators for commit in commits(write.store, before))
        before = newest(write.store)
        write(SetOnline(EVE.id, True))
        [online] = commits(write.store, before)
        assert [each.is_online for each in online.operators] == [True]


def test_profiles_are_those_of_the_commit(open_store: Open) -> None:
    with writing(open_store) as write:
        before = newest(write.store)
        write(
            AddMessage(CHAT, ANN, "as Ann"),
            RecordPerson(User(ANN.id, Role.USER, firstname="Anna"), frozenset({"firstname"}), token="t", until=NOW + 9),
            RefreshPeople(CHAT),
        )
        [commit] = commits(write.store, before)
        names = [commit.users[change.owner].firstname for change in commit.changes]
        assert names == ["Ann", "Anna"]


def test_a_new_broker_begins_behind_what_is_logged(open_store: Open) -> None:
    with writing(open_store) as write:
        assert write.store.positions() == {"a": 0}
        seen = newest(write.store)
        assert seen
        if not isinstance(write.store, MemoryStore):
            write.store.close()
            with closing(open_store(("a", "b"))) as store:
                assert store.positions() == {"a": 0, "b": seen}
            with closing(open_store(("b",))) as store:
                assert store.positions() == {"b": seen}


def test_entries_go_when_every_broker_has_them_but_no_number_comes_twice(open_store: Open) -> None:
    with writing(open_store, ("a", "b")) as write:
        for text in "xyz":
            write(AddMessage(CHAT, ANN, text))
        seqs = [entry.seq for entry in write.store.entries(0, 1_000_000)]
        assert write.store.record_relayed({"a": seqs[-1]}, NONE).deleted == 0
        write.store.record_relayed({"b": seqs[1]}, NONE)
        assert [entry.seq for entry in write.store.entries(0, 1_000_000)] == seqs[2:]
        write.store.record_relayed({"b": seqs[-1]}, NONE)
        write(AddMessage(CHAT, ANN, "next"))
        assert newest(write.store) == seqs[-1] + 1
        assert write.store.positions() == {"a": seqs[-1], "b": seqs[-1]}


def test_entries_that_are_too_old_go_and_are_counted_as_lost(open_store: Open) -> None:
    with writing(open_store) as write:
        for age, text in ((3, "x"), (2, "y"), (1, "z")):
            write(AddMessage(CHAT, ANN, text), now=NOW + 100 - age)
        last = newest(write.store)
        assert write.store.record_relayed({}, TooOld(0, last, NOW + 98)) == Trimmed(2, 2, last)
        assert [commit.changes[0].messages[0].text for commit in commits(write.store)] == ["y", "z"]
        assert write.store.record_relayed({}, TooOld(0, last - 2, NOW + 99)) == Trimmed(0, 0, last)
        assert write.store.record_relayed({}, TooOld(last - 1, 0, 0)) == Trimmed(1, 1, last)


def test_an_entry_from_a_wrong_clock_takes_no_older_ones_with_it(open_store: Open) -> None:
    with writing(open_store) as write:
        write(AddMessage(CHAT, ANN, "x"), now=NOW + 100)
        write(AddMessage(CHAT, ANN, "y"), now=NOW - 1_000_000)
        last = newest(write.store)
        trimmed = write.store.record_relayed({}, TooOld(1, last, NOW + 50))
        assert (trimmed.deleted, trimmed.lost) == (1, 1)
        assert [commit.changes[0].messages[0].text for commit in commits(write.store)] == ["x", "y"]


def test_every_start_has_a_higher_epoch_also_from_a_restored_backup(tmp_path: Path) -> None:
    path, backup, now = tmp_path / "chat.db", tmp_path / "backup.db", [NOW]

    def run(text: str) -> int:
        with writing(
            lambda brokers: SqliteStore(path, Policy(), clock=lambda: now[0], brokers=brokers), ("a",)
        ) as write:
            write(AddMessage(CHAT, ANN, text))
            return commits(write.store)[-1].epoch

    first = run("x")
    path.rename(backup)
    backup.replace(path)
    second = run("y")
    assert first < second
    backup.write_bytes(path.read_bytes())
    # The clock stands still, and then steps back.
    third = run("z")
    now[0] -= 10_000
    assert second < third < run("late")
    now[0] += 20_000
    lost = run("lost")
    backup.replace(path)
    now[0] += 1
    assert run("after the restore") > lost
    with closing(SqliteStore(path, Policy(), brokers=("a",))) as store:
        # What was logged before keeps the epoch that it was published with.
        assert [commit.epoch for commit in commits(store)][:2] == [first, first]


def test_changed_brokers_are_named_in_the_log_with_what_they_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "chat.db"
    with writing(lambda brokers: SqliteStore(path, Policy(), brokers=brokers), ("redis://old",)) as write:
        write(AddMessage(CHAT, ANN, "x"), now=NOW)
        write(AddMessage(CHAT, ANN, "y"), now=NOW)
    caplog.clear()
    SqliteStore(path, Policy(), brokers=("redis://new",)).close()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "redis://old is no longer a message broker in the settings: 3 commits that it has not confirmed are not"
            " published to it any more",
        ),
        ("INFO", "redis://new is a new message broker: it gets what is committed from now on"),
    ]
    caplog.clear()
    SqliteStore(path, Policy(), brokers=("redis://new",)).close()
    assert not caplog.records
    SqliteStore(path, Policy()).close()
    [line] = caplog.messages
    assert line == "redis://new is no longer a message broker in the settings: it had confirmed everything"


def test_a_position_behind_the_end_of_the_log_is_set_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "chat.db"
    with writing(lambda brokers: SqliteStore(path, Policy(), brokers=brokers)) as write:
        end = newest(write.store)
        write.store.record_relayed({"a": end + 10}, NONE)
    with closing(SqliteStore(path, Policy(), brokers=("a",))) as store:
        assert store.positions() == {"a": end}
    assert "the commit log ends before the position of a" in caplog.text


def test_entries_are_read_by_size_and_at_least_one(open_store: Open) -> None:
    with writing(open_store) as write:
        for text in "xyz":
            write(AddMessage(CHAT, ANN, text))
        assert len(write.store.entries(0, 1)) == 1
        assert len(write.store.entries(1, 1)) == 1
        assert len(write.store.entries(0, 1_000_000)) == 4


def test_without_a_broker_nothing_is_logged_and_an_older_log_is_forgotten(tmp_path: Path) -> None:
    with writing(lambda brokers: SqliteStore(tmp_path / "chat.db", Policy(), brokers=brokers)) as write:
        write(AddMessage(CHAT, ANN, "secret"))
        last = newest(write.store)
    with closing(SqliteStore(tmp_path / "chat.db", Policy())) as store:
        store.commit([AddMessage(CHAT, ANN, "x")], Batch("other", 1, NOW))
        assert [(entry.seq, entry.payload) for entry in store.entries(0, 1_000_000)] == [(last, b"")]
        assert store.positions() == {}


def test_a_commit_in_doubt_has_its_entry_exactly_if_it_is_stored(tmp_path: Path) -> None:
    disk = Disk()
    fail = {"before": False, "after": False}

    def at(moment: str) -> Callable[[str], None]:
        def look(sql: str) -> None:
            if sql == "COMMIT" and fail[moment]:
                fail[moment] = False
                raise sqlite3.OperationalError("as planned")

        return look

    disk.before, disk.after = at("before"), at("after")
    with closing(SqliteStore(tmp_path / "chat.db", Policy(), disk.connect, brokers=("a",))) as store:
        store.commit([RESERVE], Batch("writer", 1, NOW))
        for number, moment in ((2, "before"), (3, "after")):
            fail[moment] = True
            batch = Batch("writer", number, NOW)
            with pytest.raises(CommitInDoubt):
                store.commit([AddMessage(CHAT, ANN, str(number))], batch)
            with pytest.raises(StorageUnavailable):
                store.record_relayed({"a": 1}, NONE)
            assert store.recover(batch) is (moment == "after")
        texts = [message.text for commit in commits(store) for each in commit.changes for message in each.messages]
        assert texts == ["3"]


@pytest.mark.slow
def test_both_stores_log_the_same_of_any_operations(tmp_path: Path) -> None:
    stores: list[LoggingStore] = [
        MemoryStore(Policy(), brokers=("a",)),
        SqliteStore(tmp_path / "chat.db", Policy(), brokers=("a",)),
    ]
    for store in stores:
        write = Writer(store)
        operations = list(random_operations(7, 400))
        for start in range(0, len(operations), 5):
            write(*operations[start : start + 5], now=NOW + start)
    memory, sqlite = (list(map(comparable, commits(store))) for store in stores)
    assert memory == sqlite
    changes = [(UUID(bytes=change.chat), change) for commit in commits(stores[1]) for change in commit.changes]
    assert changes
    for store in stores:
        for uuid, change in changes:
            chat = store.chat(uuid)
            assert chat is None or chat.rev >= change.rev
    assert cast("SqliteStore", stores[1]).person(Identity(Role.OPERATOR, EVE.id)) is not None
    stores[1].close()
