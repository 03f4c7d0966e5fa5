"""The SQLite store: failures, other writers, and the use of indexes."""

import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID

import attrs
import pytest

from actorchat.chat.model import Policy, SourceCounters, Stage
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    CloseChat,
    Operation,
    RecordPerson,
    Refused,
    RefuseMessage,
    ReserveChat,
    Unchanged,
)
from actorchat.chat.ports import ChatFilter, StorageUnavailable
from actorchat.protocol import Role
from actorchat.storage import sql_writer, startup_repair
from actorchat.storage.connections import connect
from actorchat.storage.sql_reads import SqlReads
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.statements import Statements
from actorchat.storage.store import Batch, CommitInDoubt, DecisionAndCounters, StoreUrlError
from tests.storage.failing_disk import Disk
from tests.storage.sample_chat import ANN, CHAT, EVE, NOW, RESERVE, all_messages, say


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def store(tmp_path: Path, disk: Disk) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "chat.db", Policy(), disk.connect)) as store:
        store.commit([RESERVE, say("first")], batch(1))
        yield store


LIMITED = Refused("rate_limited", "")


def batch(number: int) -> Batch:
    return Batch("test", number, NOW)


def codes(decided: list[DecisionAndCounters]) -> list[str | None]:
    return [decision.code if isinstance(decision, Refused) else None for decision, _ in decided]


def texts(store: SqliteStore) -> list[str]:
    return [message.text for message in all_messages(store)]


def test_a_value_that_sqlite_refuses_is_refused_alone(store: SqliteStore) -> None:
    surrogate = AddMessage(CHAT, ANN, "\ud800", client_id="bad")
    huge = RecordPerson(type(ANN)(2**70, Role.USER), frozenset())
    same = say("b")
    decided = store.commit([say("a"), surrogate, huge, same, same, AcceptChat(CHAT, EVE)], batch(2))
    assert codes(decided) == [None, "malformed", "malformed", None, None, None]
    assert isinstance(decided[4][0], Unchanged)
    assert texts(store) == ["first", "a", "b"]
    chat = store.chat(CHAT)
    assert chat is not None
    assert (chat.rev, chat.next_index, chat.operator) == (4, 3, EVE)
    assert store.recover(batch(2))
    assert codes(store.commit([surrogate], batch(3))) == ["malformed"]
    assert store.chat(CHAT) == chat
    assert isinstance(store.commit([say("c")], batch(4))[0][0], Changed)


def test_a_batch_without_changes_does_not_wait_for_the_disk(store: SqliteStore, disk: Disk) -> None:
    assert codes(store.commit([say("a")], batch(2))) == [None]
    commits: list[str] = []
    disk.after = lambda sql: commits.append(sql) if sql == "COMMIT" else None
    repeats: list[Operation] = [say("a"), RefuseMessage(say("a"), LIMITED), RefuseMessage(say("new"), LIMITED)]
    assert codes(store.commit(repeats, batch(3))) == [None, None, "rate_limited"]
    assert not commits
    assert not store.recover(batch(3))
    assert codes(store.commit([say("b")], batch(4))) == [None]
    assert (texts(store), len(commits)) == (["first", "a", "b"], 2)


def test_a_failed_store_tells_which_keys_are_new_and_looks_up_the_others(store: SqliteStore, disk: Disk) -> None:
    assert codes(store.commit([say("a")], batch(2))) == [None]

    def fail(sql: str) -> None:
        if sql.startswith("BEGIN"):
            raise sqlite3.OperationalError("disk I/O error")

    disk.before = fail
    with pytest.raises(StorageUnavailable):
        store.commit([say("b")], batch(3))
    refusals = [RefuseMessage(say(text), LIMITED) for text in "ab"]
    assert [store.is_new(refusal) for refusal in refusals] == [False, True]
    assert codes(store.look_up(refusals)) == [None, "rate_limited"]
    disk.before = lambda sql: None
    store.recover(batch(3))
    assert [store.is_new(refusal) for refusal in refusals] == [False, True]


def test_after_an_outage_a_new_log_is_not_taken_for_a_foreign_one(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "chat.db", Policy())) as store, ExitStack() as files:
        store.commit([RESERVE, say("first")], batch(1))
        # Failing reads and writes close their connections.
        store._connections.close_writer()
        store._connections._close_idle()
        assert not (tmp_path / "chat.db-wal").exists()
        for number in range(4):
            # Use up the free inode, so that the new log gets another one.
            files.enter_context((tmp_path / str(number)).open("w"))
        assert store.chat(CHAT) is not None
        assert store.recover(batch(1))
        assert codes(store.commit([say("b")], batch(2))) == [None]


def test_a_full_disk_is_an_outage_that_ends_when_there_is_room(store: SqliteStore, disk: Disk) -> None:
    disk.setup = lambda connection: connection.execute("PRAGMA max_page_count = 1")
    disk.writers[-1].execute("PRAGMA max_page_count = 1")
    long = AddMessage(CHAT, ANN, "x" * 50_000)
    for number in (2, 3):
        with pytest.raises(StorageUnavailable, match="full"):
            store.commit([long], batch(number))
    assert texts(store) == ["first"]
    disk.setup = lambda connection: connection.execute("PRAGMA max_page_count = 100000")
    assert not store.recover(batch(3))
    decided = store.commit([long], batch(4))
    assert isinstance(decided[0][0], Changed)
    assert decided[0][0].chat.rev == 2


def test_a_database_that_became_read_only_is_an_outage_and_still_read(store: SqliteStore, disk: Disk) -> None:
    disk.writers[-1].execute("PRAGMA query_only = 1")
    disk.setup = lambda connection: connection.execute("PRAGMA query_only = 1")
    with pytest.raises(StorageUnavailable, match="readonly"):
        store.commit([say("no")], batch(2))
    with pytest.raises(StorageUnavailable, match="readonly"):
        store.recover(batch(2))
    assert texts(store) == ["first"]


def test_a_locked_database_is_an_outage_until_it_is_released(store: SqliteStore, disk: Disk, tmp_path: Path) -> None:
    disk.writers[-1].execute("PRAGMA busy_timeout = 0")
    disk.setup = lambda connection: connection.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(tmp_path / "chat.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            store.commit([say("no")], batch(2))
        with pytest.raises(StorageUnavailable, match="locked"):
            store.recover(batch(2))
        other.execute("ROLLBACK")
        assert not store.recover(batch(2))
    assert codes(store.commit([say("yes")], batch(3))) == [None]


def test_a_key_that_was_stored_in_doubt_is_never_taken_for_new(store: SqliteStore, disk: Disk) -> None:
    def fail(sql: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    disk.after = lambda sql: fail(sql) if sql == "COMMIT" else None
    with pytest.raises(CommitInDoubt):
        store.commit([say("doubt")], batch(2))
    disk.after = lambda sql: None
    assert store.recover(batch(2))
    disk.before = fail
    with pytest.raises(StorageUnavailable):
        store.commit([say("next")], batch(3))
    assert not store.is_new(RefuseMessage(say("doubt"), LIMITED))


@pytest.mark.parametrize("durable", [True, False])
def test_a_failed_commit_is_uncertain_until_recovery(store: SqliteStore, disk: Disk, durable: bool) -> None:
    def fail(sql: str) -> None:
        if sql == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")

    setattr(disk, "after" if durable else "before", fail)
    with pytest.raises(CommitInDoubt) as caught:
        store.commit([say("doubt")], batch(2))
    [(decision, counters)] = caught.value.decided
    assert isinstance(decision, Changed)
    assert counters == ()
    disk.after = disk.before = lambda sql: None
    assert store.recover(batch(2)) is durable
    assert texts(store) == (["first", "doubt"] if durable else ["first"])
    again = store.commit([say("doubt")], batch(3))[0][0]
    assert isinstance(again, Unchanged if durable else Changed)


def test_what_a_failed_commit_left_in_the_log_is_written_over_before_it_is_refused(
    store: SqliteStore, disk: Disk
) -> None:
    written: list[str] = []
    disk.before = written.append
    assert not store.recover(batch(9))
    assert any(sql.startswith("INSERT INTO writers") for sql in written)
    assert written[-1] == "COMMIT"
    fences = disk.writers[-1].execute("SELECT fences FROM writers").fetchall()
    assert store.recover(batch(1))
    assert disk.writers[-1].execute("SELECT fences FROM writers").fetchall() > fences


@pytest.mark.parametrize("statement", ["INSERT INTO messages", "UPDATE chats", "SELECT messages", "BEGIN"])
def test_an_error_anywhere_in_a_batch_leaves_nothing_of_it(store: SqliteStore, disk: Disk, statement: str) -> None:
    def fail(sql: str) -> None:
        if sql.startswith(statement):
            raise sqlite3.OperationalError("disk I/O error")

    disk.before = fail
    with pytest.raises(StorageUnavailable):
        store.commit([say("x"), say("y"), AddMessage(CHAT, EVE, "z", client_id="z")], batch(2))
    disk.before = lambda sql: None
    assert texts(store) == ["first"]
    decided = store.commit([say("x")], batch(3))
    assert isinstance(decided[0][0], Changed)
    assert (decided[0][0].chat.rev, decided[0][0].messages[0].id) == (2, 2)


def test_each_commit_is_synced_to_the_write_ahead_log(store: SqliteStore, disk: Disk) -> None:
    def pragma(name: str) -> object:
        return disk.writers[-1].execute(f"PRAGMA {name}").fetchone()[0]

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("wal_autocheckpoint")) == ("wal", 2, 10_000)


def test_two_stores_on_one_file_decide_on_what_the_other_wrote(store: SqliteStore, tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "chat.db", Policy())) as other:
        for number in range(2, 12):
            for writer, one in (("test", store), ("other", other)):
                [(decision, _)] = one.commit([say(f"{writer} {number}")], Batch(writer, number, NOW))
                assert isinstance(decision, Changed)
        assert isinstance(other.commit([say("first")], Batch("other", 12, NOW))[0][0], Unchanged)
        assert codes(store.commit([AcceptChat(CHAT, EVE)], batch(12))) == [None]
        assert codes(other.commit([AcceptChat(CHAT, attrs.evolve(EVE, id=2))], Batch("other", 13, NOW))) == [
            "not_owner"
        ]
        assert other.recover(Batch("other", 13, NOW))
        assert store.recover(batch(12))
    messages = all_messages(store)
    assert [message.index for message in messages] == list(range(21))
    assert len({message.id for message in messages}) == 21


def test_an_uninterrupted_writer_reads_nothing_again(store: SqliteStore, disk: Disk) -> None:
    store.commit([say("warm"), AcceptChat(CHAT, EVE)], batch(2))
    executed: list[str] = []
    disk.before = executed.append
    answer = AddMessage(CHAT, EVE, "hot", client_id="e1")
    for number in range(3, 6):
        store.commit([say(f"hot {number}"), answer], batch(number))
    # Eve's keys are read once, and the message of a repeated key each time.
    selects = [sql for sql in executed if sql.startswith("SELECT")]
    assert len([sql for sql in selects if "json_each" in sql]) == 1
    assert len(selects) == 3


def test_rows_that_fell_out_of_the_cache_are_read_again(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorchat.storage.row_cache._MAX_CACHED", 0)
    monkeypatch.setattr(sql_writer, "_MAX_MARKABLE", 0)
    for number in range(2, 6):
        decided = store.commit([say(str(number)), say("first")], batch(number))
        assert [type(decision) for decision, _ in decided] == [Changed, Unchanged]
    assert texts(store) == ["first", "2", "3", "4", "5"]


def test_wrong_counters_are_corrected_at_the_start_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    with closing(SqliteStore(path, Policy())) as store:
        store.commit([RESERVE, say("x"), AcceptChat(CHAT, EVE)], batch(1))
        right = store.feed_snapshot(["shop"], 1), store.operators(None)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE source_counters SET unread_chats = 7")
        connection.execute("DELETE FROM operator_counters")
        connection.execute("INSERT INTO operator_counters VALUES (99, 1, 1, 5)")
    with closing(SqliteStore(path, Policy())) as store:
        assert store.corrected_counters == 3
        assert store.feed_snapshot(["shop"], 1).counters == (SourceCounters("shop", 1, 2),)
        assert store.operators(None) == right[1]
    assert "recounted" in caplog.text


def test_a_start_counts_every_chat_though_it_reads_them_by_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_repair, "_PAGE", 2)
    path = tmp_path / "chat.db"
    chats = [UUID(int=number) for number in range(5)]
    with closing(SqliteStore(path, Policy())) as store:
        for number, chat in enumerate(chats):
            owner = attrs.evolve(ANN, id=100 + number)
            store.commit([ReserveChat(chat, "shop", owner), AddMessage(chat, EVE, "x")], batch(number))
    with closing(SqliteStore(path, Policy(idle_timeout=5))) as store:
        assert store.corrected_counters == 0
        assert set(store.due(NOW + 5, 9)) == set(chats)


def test_due_times_follow_the_policy_that_the_store_is_opened_with(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    for policy, due in ((Policy(), ()), (Policy(idle_timeout=5), (CHAT,)), (Policy(), ())):
        with closing(SqliteStore(path, policy)) as store:
            store.commit([RESERVE, say("x"), AddMessage(CHAT, EVE, "y")], batch(1))
            assert store.due(NOW + 5, 9) == due


def test_due_times_that_were_stored_under_an_older_meaning_are_recomputed(tmp_path: Path) -> None:
    path, answered, policy = tmp_path / "chat.db", UUID(int=2), Policy(idle_timeout=5)
    with closing(SqliteStore(path, policy)) as store:
        other = attrs.evolve(ANN, id=2)
        store.commit(
            [RESERVE, say("x"), ReserveChat(answered, "shop", other), AddMessage(answered, EVE, "y")], batch(1)
        )
    with closing(sqlite3.connect(path)) as connection, connection:
        # In the first schema a chat that waits for an answer was due to be closed.
        connection.execute("UPDATE chats SET due_at = last_activity + 5")
        connection.execute("UPDATE settings SET value = '5 0' WHERE name = 'timers'")
    with closing(SqliteStore(path, policy)) as store:
        assert store.due(NOW + 1_000, 9) == (answered,)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 100])
def test_a_file_that_is_not_a_database_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreUrlError, match="not an SQLite database"):
        SqliteStore(path, Policy())
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "told"),
    [("missing/chat.db", "missing does not exist: name a file in an existing folder"), (".", "a file is needed there")],
)
def test_a_path_that_can_not_be_a_file_is_named_with_what_to_do(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(StoreUrlError, match=told):
        SqliteStore(tmp_path / name, Policy())


def test_only_the_owner_may_read_the_files(store: SqliteStore, tmp_path: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("chat.db*")}
    assert modes == {0o600}


def test_a_damaged_table_is_unavailable_to_read(store: SqliteStore, disk: Disk) -> None:
    disk.writers[-1].execute("DROP TABLE people")
    with pytest.raises(StorageUnavailable, match="no such table"):
        store.chats(ChatFilter())


def test_every_statement_reads_through_an_index_or_a_key(store: SqliteStore, disk: Disk) -> None:
    wrong = []
    for name, sql in vars(Statements()).items():
        if not isinstance(sql, str) or name in ("all_operator_counters", "all_source_counters"):
            continue
        plan = disk.writers[-1].execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")).fetchall()
        steps = [step for *_, step in plan]
        wrong += [
            (name, step) for step in steps if step.startswith(("SCAN chats", "SCAN messages")) and "INDEX" not in step
        ]
    assert wrong == []


@pytest.mark.parametrize("sources", [None, frozenset({"lk"})])
@pytest.mark.parametrize("stages", [(Stage.OPEN,), (Stage.NEW,), (Stage.NEW, Stage.OPEN)])
def test_lists_of_active_chats_read_no_closed_ones(
    disk: Disk, store: SqliteStore, stages: tuple[Stage, ...], sources: frozenset[str] | None
) -> None:
    sql = Statements().filtered_chats(ChatFilter(stages=frozenset(stages), sources=sources, operator_id=7))
    plan = disk.writers[-1].execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?")).fetchall()
    assert any("INDEX chats_active" in step for *_, step in plan)
    assert not any(step.startswith("SCAN chats") and "INDEX" not in step for *_, step in plan)


def test_summaries_read_the_last_word_of_closed_chats_only_if_there_are_any(tmp_path: Path, store: SqliteStore) -> None:
    asked: list[str] = []

    class Noting(sqlite3.Cursor):
        def execute(self, sql: str, parameters: Sequence[object] = (), /) -> "Noting":  # type: ignore[override]
            asked.append(sql)
            super().execute(sql, parameters)
            return self

    def ask() -> bool:
        asked.clear()
        with closing(connect(tmp_path / "chat.db", read_only=True)) as connection:
            statements = Statements()
            reads = SqlReads(connection.cursor(Noting), statements, NOW, lambda chat, error: None)
            [found] = reads.summaries([CHAT])
        assert found.last is not None
        return statements.last_told in asked

    assert not ask()
    store.commit([RecordPerson(EVE, frozenset({"shop"})), AcceptChat(CHAT, EVE), CloseChat(CHAT, EVE)], batch(2))
    assert ask()
