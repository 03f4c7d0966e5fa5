"""Search finds every visible message by any of its words, and nothing that the reader may not see."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actorchat.chat.model import Identity, Policy, StoredAttachment, Upload, identity_of
from actorchat.chat.operations import (
    AddMessage,
    Changed,
    CloseChat,
    EditMessage,
    ExpireChat,
    Operation,
    RecordPerson,
    RecordUpload,
    RedactMessage,
    ReserveChat,
)
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.chat.search import SearchFilter, SearchKind, are_found, words_of
from actorchat.protocol import AttachmentType, MessageType, Role, User
from actorchat.storage import search as search_module
from actorchat.storage.memory import MemoryStore
from actorchat.storage.search import StoreSearch
from actorchat.storage.search_index import SearchIndex, SearchPosition
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch, Store
from actorchat.storage.worker_threads import InPlace
from actorchat.testing import DelayedRunner

ANN: Final = User(1, Role.USER, firstname="Анна", lastname="Берёзова")
BOB: Final = User(2, Role.USER)
EVE: Final = User(1, Role.OPERATOR, firstname="Eve")
CHATS: Final = (UUID(int=1), UUID(int=2), UUID(int=3))
OWNERS: Final = (ANN, BOB, BOB)
SOURCES: Final = ("lk", "lk", "shop_2")
MESSAGES: Final = SearchKind.MESSAGES


class Searched:
    """A store with its search."""

    def __init__(self, store: Store, index: SearchIndex, database: str = "") -> None:
        self.store = store
        self.index = index
        self.search = StoreSearch(store, index, InPlace(), in_background=False, database=lambda: database)
        self._numbers = count(1)

    def do(self, *operations: Operation) -> list[Changed]:
        decided = self.store.commit(operations, Batch("test", next(self._numbers), 1_700_000_000.0))
        return [decision for decision, _ in decided if isinstance(decision, Changed)]

    def prepare(self) -> None:
        records = [RecordPerson(user, frozenset({"firstname", "lastname"})) for user in (ANN, BOB)]
        records.append(RecordPerson(EVE, frozenset({"firstname"}), frozenset({"lk"})))
        chats = zip(CHATS, SOURCES, OWNERS, strict=True)
        self.do(*records, *(ReserveChat(chat, source, owner) for chat, source, owner in chats))

    def write(self, chat: int, text: str, **fields: object) -> int:
        author = fields.pop("author", OWNERS[chat])
        [changed] = self.do(AddMessage(CHATS[chat], author, text, **fields))  # type: ignore[arg-type]
        return changed.messages[0].id

    def find(self, text: str, role: Role = Role.OPERATOR, **fields: object) -> list[int]:
        which = SearchFilter(words=tuple(words_of(text)), role=role, **fields)  # type: ignore[arg-type]
        found = trio.run(self.search.messages, which)
        return [message.id for _, message in found.messages]

    def people(self, text: str, *sources: str) -> list[User]:
        which = SearchFilter(
            words=tuple(words_of(text)), role=Role.OPERATOR, kind=SearchKind.PEOPLE, sources=frozenset(sources)
        )
        return list(trio.run(self.search.people, which).people)


@contextmanager
def searched(kind: str, folder: Path) -> Iterator[Searched]:
    with ExitStack() as stack:
        store: Store = MemoryStore(Policy()) if kind == "memory" else SqliteStore(folder / "chat.db", Policy())
        stack.callback(store.close)
        index = SearchIndex(None if kind == "memory" else folder / "search.db")
        stack.callback(index.close)
        each = Searched(store, index)
        each.prepare()
        yield each


@pytest.fixture(params=["memory", "sqlite"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Searched]:
    with searched(request.param, tmp_path) as each:
        yield each


# Latin and Russian letters on purpose.
WORDS: Final = st.text("aбвеёйжЁЯzZ9é", min_size=1, max_size=5)  # noqa: RUF001 - as the comment says
# Of ASCII, which the tokenizer of SQLite separates words at, and others.
SEPARATORS: Final = st.sampled_from([", ", "_", "\t", "\x1f", "'", '"', "\\", "\x7f", " — ", "»", "\u00a0", "\ue001"])
TEXTS: Final = st.tuples(st.lists(WORDS, min_size=1, max_size=4), SEPARATORS).map(
    lambda text: text[1].join(text[0]) + "!"
)
KINDS: Final = st.sampled_from(["visitor", "operator", "note", "to visitor"])
STEPS: Final = st.lists(
    st.tuples(st.integers(0, 2), KINDS, TEXTS, st.none() | TEXTS, st.booleans()), min_size=1, max_size=12
)


def add(each: Searched, chat: int, kind: str, text: str) -> int:
    if kind == "visitor":
        return each.write(chat, text)
    if kind == "operator":
        return each.write(chat, text, author=EVE)
    role = Role.OPERATOR if kind == "note" else Role.USER
    return each.write(chat, text, author=EVE, type=MessageType.SYSTEM, type_role=role)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@given(steps=STEPS, early=st.booleans())
@settings(deadline=None, max_examples=30)
def test_every_visible_message_is_found_by_any_of_its_words_and_no_other(
    kind: str, steps: list[tuple[int, str, str, str | None, bool]], early: bool
) -> None:
    with TemporaryDirectory() as folder, searched(kind, Path(folder)) as each:
        for chat in range(3):
            each.write(chat, "begin")
        stored: dict[int, tuple[int, str, str]] = {}
        for chat, author, text, edited, redacted in steps:
            message_id = add(each, chat, author, text)
            if early:
                each.find("a")
            by = OWNERS[chat] if author == "visitor" else EVE
            if edited is not None and author != "to visitor":
                each.do(EditMessage(CHATS[chat], by, message_id, edited))
            if redacted and author != "to visitor":
                each.do(RedactMessage(CHATS[chat], by, message_id))
                text, edited = "", None
            stored[message_id] = (chat, author, text if edited is None or author == "to visitor" else edited)
        queries = {word for _, _, text in stored.values() for word in words_of(text)}
        queries |= {word[:2] for word in queries if len(word) > 2} | {"zzzzzz"}
        readers: list[tuple[Role, dict[str, object], set[int], str]] = [
            (Role.OPERATOR, {"sources": frozenset({"lk"})}, {0, 1}, "to visitor"),
            (Role.OPERATOR, {"sources": frozenset({"lk", "shop_2"})}, {0, 1, 2}, "to visitor"),
            (Role.OPERATOR, {"sources": frozenset({"lk"}), "chats": frozenset({CHATS[1]})}, {1}, "to visitor"),
            (Role.USER, {"chats": frozenset(CHATS[1:])}, {1, 2}, "note"),
            (Role.USER, {"chats": frozenset(CHATS[:1])}, {0}, "note"),
        ]
        for role, fields, chats, hidden in readers:
            for query in sorted(queries):
                expected = [
                    message_id
                    for message_id, (chat, author, text) in stored.items()
                    if chat in chats and author != hidden and are_found([query], set(words_of(text)))
                ]
                assert each.find(query, role, limit=200, **fields) == sorted(expected, reverse=True), query


def test_words_ignore_case_marks_and_the_two_dots_of_russian() -> None:
    assert words_of("Ёлка, ЕЛКА! Йод — йогурт; café №5 x_y ﬁn") == [
        *("елка", "елка", "йод", "йогурт", "cafe", "no5", "x", "y", "fin")
    ]
    assert words_of("и й") == ["и", "й"]
    assert words_of("… — ?!") == []
    assert words_of("x" * 99) == words_of(f"{'x' * 99} …") == ["x" * 64]


@given(st.text("".join(map(chr, range(1, 128))) + "АаБбЕеЁёЙйИиЯя"))
def test_plain_texts_are_folded_as_all_others_are(text: str) -> None:
    # The last character makes a text of any kind of it.
    assert words_of(text) == words_of(f"{text} …")


@pytest.mark.parametrize("letters", ["ab", "\u0436\u0437", "\u00e9\u00e8"])
def test_words_are_found_whatever_separates_them(letters: str, tmp_path: Path) -> None:
    with searched("sqlite", tmp_path) as each:
        separators = [chr(code) for code in range(1, 128) if not chr(code).isalnum()] + ["\u00bb", "\u00a0", "\ue001"]
        ids = [each.write(0, f"{letters * 2}{separator}{letters * 3}") for separator in separators]
        for word in words_of(f"{letters * 2} {letters * 3}"):
            assert each.find(word, limit=200) == ids[::-1]


def test_a_person_who_is_known_at_one_source_is_found_at_the_next_as_well(each: Searched) -> None:
    each.write(1, "hello")
    assert (each.people("2", "lk"), each.people("2", "shop_2")) == ([BOB], [])
    each.write(2, "hello")
    assert (each.people("2", "lk"), each.people("2", "shop_2")) == ([BOB], [BOB])


def test_all_words_have_to_be_in_the_message_in_any_order(each: Searched) -> None:
    both = each.write(0, "Где мой заказ номер 1017?")
    each.write(0, "Где доставка?")
    assert each.find("заказ где") == [both]
    assert each.find("зак 10") == [both]
    assert each.find("аказ") == []
    assert each.find('" OR * NOT заказ"') == []


def test_a_search_goes_on_where_the_page_before_ended(each: Searched) -> None:
    ids = [each.write(number % 2, f"order {number}") for number in range(7)]
    seen: list[int] = []
    before: int | None = None
    while True:
        which = SearchFilter(words=("order",), role=Role.OPERATOR, before=before, limit=3)
        page = trio.run(each.search.messages, which)
        seen += [message.id for _, message in page.messages]
        before = page.next
        if before is None:
            break
    assert seen == ids[::-1]


def test_files_are_found_by_their_names_until_they_are_redacted(each: Searched) -> None:
    file = StoredAttachment(UUID(int=9), AttachmentType.FILE, "Счёт 2026.pdf", "pdf", 5)
    each.do(RecordUpload(Upload(file, identity_of(ANN), "lk", "application/pdf", 1_700_000_000)))
    message_id = each.write(0, "here", attachments=(file.uuid,))
    assert each.find("счет pdf", kind=SearchKind.FILES) == [message_id]
    assert each.find("счет", kind=MESSAGES) == []
    assert each.find("here", kind=SearchKind.FILES) == []
    each.do(RedactMessage(CHATS[0], ANN, message_id))
    assert each.find("счет pdf", kind=SearchKind.FILES) == []


def test_people_are_found_by_names_and_id_at_their_sources_only(each: Searched) -> None:
    assert each.people("анна", "lk") == []
    each.write(0, "hello")
    assert each.people("берез анна", "lk") == [ANN]
    assert each.people("1", "lk") == [EVE, ANN] or each.people("1", "lk") == [ANN, EVE]
    assert each.people("анна", "shop_2") == []
    assert each.people("eve", "shop_2") == []
    renamed = User(1, Role.USER, firstname="Инна")
    each.do(RecordPerson(renamed, frozenset({"firstname", "lastname"})))
    each.search.person_changed([renamed])
    assert each.people("анна", "lk") == []
    assert [user.firstname for user in each.people("инна", "lk")] == ["Инна"]
    assert each.people("2", "lk") == []
    each.write(2, "hello")
    assert each.people("2", "shop_2") == [BOB]


def reopened(each: Searched, path: Path) -> Searched:
    each.index.close()
    return Searched(each.store, SearchIndex(path))


@pytest.mark.parametrize("damage", ["missing", "garbage", "half", "table"])
def test_a_lost_or_damaged_index_is_built_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "search.db"
    with searched("sqlite", tmp_path) as each:
        ids = [each.write(0, f"order {number}") for number in range(50)]
        assert each.find("order", limit=200) == ids[::-1]
        each.index.close()
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        elif damage == "garbage":
            path.write_bytes(b"garbage" * 1_000)
        elif damage == "half":
            path.write_bytes(content[: len(content) // 2])
        else:
            with sqlite3.connect(path) as connection:
                connection.execute("DROP TABLE people")
            connection.close()
        again = reopened(each, path)
        for _ in range(3):
            try:
                found = again.find("order", limit=200)
                break
            except StorageUnavailable:
                continue
        assert found == ids[::-1]
        again.index.close()


def test_an_index_that_is_ahead_of_a_restored_database_is_built_again(tmp_path: Path) -> None:
    for folder in (tmp_path / "old", tmp_path / "new"):
        folder.mkdir()
    with searched("sqlite", tmp_path / "old") as old, searched("sqlite", tmp_path / "new") as new:
        for number in range(5):
            old.write(0, f"lost {number}")
        assert len(old.find("lost")) == 5
        old.index.close()
        new.write(0, "restored")
        again = Searched(new.store, SearchIndex(tmp_path / "old" / "search.db"))
        assert again.find("lost") == []
        assert len(again.find("restored")) == 1
        again.index.close()


def test_an_index_of_another_database_is_built_again(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    with searched("sqlite", tmp_path) as each:
        message_id = each.write(0, "order")
        each.index.open(0)
        each.index.put(SearchPosition(message_id), ())
    with searched("sqlite", tmp_path) as each:
        assert each.find("order") == []
        each.index.close()
        again = Searched(each.store, SearchIndex(path), "another")
        assert again.find("order") == [message_id]
        again.index.close()


def test_removed_words_are_not_left_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "search.db"
    with searched("sqlite", tmp_path) as each:
        secret = each.write(0, "geheimnis")
        for number in range(3_000):
            each.write(0, f"message number {number}")
            if number % 500 == 0:
                each.find("message")
        each.do(RedactMessage(CHATS[0], ANN, secret))
        assert each.find("geheimnis") == []
        each.index.close()
        assert path.stat().st_mode & 0o077 == 0
        assert b"geheimnis" not in path.read_bytes()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(words, 'row')")
            assert connection.execute("SELECT term FROM terms WHERE term LIKE 'geh%'").fetchall() == []
        connection.close()


@pytest.mark.parametrize("busy", [True, False])
async def test_the_background_task_takes_a_tenth_of_the_time_while_operations_are_committed(
    busy: bool, tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "STEP", 10)
    with searched("sqlite", tmp_path) as each:
        steps: list[float] = []
        operations = count()

        def taken() -> float:
            steps.append(trio.current_time())
            return 0.02

        search = StoreSearch(each.store, each.index, DelayedRunner(InPlace(), taken), in_background=True)
        which = SearchFilter(words=("order",), role=Role.USER)
        each.index.open(0)
        for number in range(95):
            each.write(0, f"order {number}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search.run, lambda: next(operations) if busy else 0)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        assert len(each.index.messages(which, 10**9, 999)) == 95
        assert each.index.is_known(Identity(Role.USER, 1))
        pauses = {round(after - before, 6) for before, after in pairwise(steps)}
        assert (len(steps), pauses) == (10, {0.2 if busy else 0.02})


async def test_the_background_task_reads_what_many_commits_have_added_in_one_step(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    with searched("sqlite", tmp_path) as each:
        reads = 0

        def taken() -> float:
            nonlocal reads
            reads += 1
            return 0.0

        search = StoreSearch(each.store, each.index, DelayedRunner(InPlace(), taken), in_background=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search.run, lambda: 0)
            await trio.sleep(10)
            before = reads
            for number in range(9):
                each.write(0, f"order {number}")
                search.changed()
                await trio.sleep(0.1)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert reads == before + 1


async def test_a_search_finds_what_was_committed_just_before_it_in_any_number(tmp_path: Path) -> None:
    with searched("sqlite", tmp_path) as each:
        search = StoreSearch(each.store, each.index, InPlace(), in_background=True)
        which = SearchFilter(words=("order",), role=Role.OPERATOR, limit=3_000)
        for _ in range(2):
            each.do(*(AddMessage(CHATS[0], ANN, "order") for _ in range(1_200)))
        assert len((await search.messages(which)).messages) == 2_400


def test_deleted_chats_leave_the_index_and_the_file(tmp_path: Path) -> None:
    with searched("sqlite", tmp_path) as each:
        each.write(0, "Rumpelstilzchen")
        kept = each.write(1, "Rumpelstilzchen stays")
        each.find("stays")
        record = AuditEntry(1_700_000_000, "retention", AuditAction.RETENTION, None, {})
        each.do(CloseChat(CHATS[0], EVE))
        assert each.people("Берёзова", "lk") == [ANN]
        assert each.index.messages(SearchFilter(words=("rumpelstilzchen",), role=Role.OPERATOR), 2**53, 9) == [kept, 1]
        each.do(ExpireChat(CHATS[0], 1_700_000_000.0, False, record))
        assert each.find("Rumpelstilzchen") == [kept]
        assert each.index.messages(SearchFilter(words=("rumpelstilzchen",), role=Role.OPERATOR), 2**53, 9) == [kept]
        assert each.people("Берёзова", "lk") == []
        # An index that is built again doesn't get them back.
        each.index.reset()
        again = Searched(each.store, each.index)
        assert again.find("Rumpelstilzchen") == [kept]
        each.do(CloseChat(CHATS[1], EVE), AddMessage(CHATS[2], BOB, "other"))
        each.do(ExpireChat(CHATS[1], 1_700_000_000.0, False, record))
        assert again.find("Rumpelstilzchen") == []
    assert b"rumpel" not in (tmp_path / "search.db").read_bytes().lower()
    assert b"rumpel" not in (tmp_path / "chat.db").read_bytes().lower()
