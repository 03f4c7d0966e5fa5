"""The log says to other nodes everything that the committing node shows of a batch."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count, islice
from uuid import UUID

import attrs
import pytest
from msgspec.structs import replace

from actorchat.brokers.message_builder import MessageBuilder
from actorchat.chat.accounts import Account, AddAccount, SignOut
from actorchat.chat.blocks import AddBlock, Block
from actorchat.chat.commit_log import LogEntry
from actorchat.chat.documents import ChangeDocument, DocumentKey, DocumentKind
from actorchat.chat.model import Identity, Policy
from actorchat.chat.node_commits import NodeCommit, NodeCommitReader
from actorchat.chat.operations import (
    AddMessage,
    Changed,
    Counters,
    EditMessage,
    ExpireChat,
    HandedOver,
    MarkMessage,
    Operation,
    RecordPerson,
    RedactMessage,
    SetTags,
)
from actorchat.protocol import Role, User
from actorchat.storage.memory import MemoryStore
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.store import Batch
from actorchat.testing import random_operations
from tests.chat.harness import LINKS
from tests.storage.sample_chat import ANN, CHAT, EVE, NOW, RESERVE


class Writer:
    """Commits batches to a store as one node."""

    def __init__(self, store: MemoryStore | PostgresStore, name: str = "writer") -> None:
        self.store, self.name = store, name
        self._numbers = count(1)

    def __call__(self, *operations: Operation, now: float = NOW) -> list[tuple[Changed, Counters]]:
        """Commit one batch, and return what its node would show."""
        decided = self.store.commit(operations, Batch(self.name, next(self._numbers), now))
        each: list[tuple[object, Counters]] = []
        for decision, counters in decided:
            each += decision.counted(counters) if isinstance(decision, HandedOver) else [(decision, counters)]
        return [
            (replace(decision, removed=()), counters)
            for decision, counters in each
            if isinstance(decision, Changed) and decision.chat.rev
        ]


@pytest.fixture(params=["memory", "postgresql"])
def write(request: pytest.FixtureRequest) -> Iterator[Writer]:
    store: MemoryStore | PostgresStore
    if request.param == "memory":
        store = MemoryStore(Policy(), nodes=True)
    else:
        store = PostgresStore(request.getfixturevalue("new_postgres")(), Policy())
    with closing(store):
        write = Writer(store)
        write(RecordPerson(ANN, frozenset()), RecordPerson(EVE, frozenset(), frozenset({"shop"})), RESERVE)
        yield write


def logged(write: Writer) -> list[NodeCommit]:
    reader = NodeCommitReader()
    return [reader.read(batch.payload) for batch in write.store.batches(write.name, after=0, upto=10**9, limit=10**9)]


def operations(seed: int) -> Iterator[Operation]:
    """Random operations, with edits, tags and marks of messages that exist between them."""
    for number, operation in enumerate(random_operations(seed, 300)):
        yield operation
        chat = UUID(int=1 + number % 5)
        message = 1 + number % 60
        if number % 7 == 0:
            yield EditMessage(chat, ANN, message, f"edit {number}")
            yield SetTags(chat, (f"tag-{number}",))
        if number % 11 == 0:
            yield RedactMessage(chat, EVE, message, moderates=True)
            yield MarkMessage(chat, EVE, message, read=True)


def batched(found: Iterator[Operation]) -> Iterator[list[Operation]]:
    while batch := list(islice(found, 7)):
        yield batch


@pytest.mark.parametrize("seed", range(20))
def test_nodes_read_of_any_batch_what_its_own_node_shows(seed: int) -> None:
    write = Writer(MemoryStore(Policy(capacity=3), nodes=True))
    shown = [change for batch in batched(operations(seed)) for change in write(*batch, now=NOW + seed)]
    assert len(shown) > 30
    assert [change for commit in logged(write) for change in commit.changes] == shown


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_nodes_on_postgresql_read_what_its_own_node_shows(seed: int, new_postgres: Callable[[], str]) -> None:
    with closing(PostgresStore(new_postgres(), Policy(capacity=3 * (seed % 2)))) as store:
        write = Writer(store)
        shown = [change for batch in batched(operations(seed)) for change in write(*batch, now=NOW + seed)]
        assert len(shown) > 30
        assert [change for commit in logged(write) for change in commit.changes] == shown


def test_brokers_are_told_the_same_whether_or_not_nodes_read_the_log() -> None:
    alone, among_nodes = (MemoryStore(Policy(), lambda: NOW, ("a",), nodes=nodes) for nodes in (False, True))
    published = []
    for store in (alone, among_nodes):
        write = Writer(store)
        for number, batch in enumerate(batched(operations(4))):
            write(*batch, now=NOW + number)
        builder = MessageBuilder(LINKS, lambda entry, error: pytest.fail(str(error)))
        # The entries have other numbers, because receipts are not logged for brokers alone.
        entries = [LogEntry(int(entry.time), entry.time, entry.payload) for entry in store.entries(0, 10**9)]
        published.append([message for entry in entries for message in builder.add(entry)] + builder.flush())
    assert published[0]
    assert published[0] == published[1]


def test_a_sign_out_is_told_with_the_person(write: Writer) -> None:
    write(SignOut(ANN, NOW + 1.0))
    write(RecordPerson(attrs.evolve(ANN, firstname="Anne"), frozenset({"firstname"})))
    signed_out, renamed = logged(write)[-2:]
    ann = Identity(Role.USER, ANN.id)
    assert (signed_out.people, signed_out.signed_out) == ((ann,), frozenset({ann}))
    assert (renamed.people, renamed.signed_out) == ((ann,), frozenset())


def test_accounts_blocks_widgets_and_removed_chats_are_told(write: Writer) -> None:
    write(AddAccount(Account(id=71, login="fay"), User(71, Role.OPERATOR)))
    write(AddBlock(Block(id=0, user=ANN.id, by=EVE.id, created=NOW)))
    write(ChangeDocument(DocumentKey(DocumentKind.WIDGET, "shop"), lambda _: "{}"))
    write(ExpireChat(CHAT, NOW + 10, in_use=False))
    account_added, blocked, widget, removed = logged(write)[-4:]
    assert (account_added.accounts, account_added.blocks) == (True, False)
    assert (blocked.accounts, blocked.blocks) == (False, True)
    assert widget.widgets == ("shop",)
    assert removed.removed == (CHAT,)


def test_pages_that_visitors_view_are_told_to_no_node(write: Writer) -> None:
    before = len(logged(write))
    write(ChangeDocument(DocumentKey(DocumentKind.VISIT, "1"), lambda _: "{}"))
    assert len(logged(write)) == before


def test_each_batch_names_the_logged_one_before_it(write: Writer) -> None:
    write(AddMessage(CHAT, ANN, "one"))
    write(MarkMessage(CHAT, ANN, 99, read=True))  # changes nothing
    write(AddMessage(CHAT, ANN, "two"))
    rows = write.store.batches(write.name, after=1, upto=9, limit=9)
    assert [(row.number, row.previous) for row in rows] == [(2, 1), (4, 2)]
    assert write.store.newest_batches() == {write.name: 4}
    assert write.store.last_logged() == rows[-1]


def test_batches_are_read_by_writer_and_in_pages(write: Writer) -> None:
    other = Writer(write.store, "other")
    for number in range(5):
        write(AddMessage(CHAT, ANN, f"{number}"))
        other(AddMessage(CHAT, ANN, f"other {number}"))
    assert [row.number for row in write.store.batches("writer", after=2, upto=5, limit=2)] == [3, 4]
    assert [row.number for row in write.store.batches("other", after=3, upto=9, limit=9)] == [4, 5]
    assert write.store.batches("nobody", after=0, upto=9, limit=9) == []


def test_a_page_of_batches_ends_when_it_has_enough_bytes_and_is_never_empty(write: Writer) -> None:
    for number in range(4):
        write(AddMessage(CHAT, ANN, f"{number}" * 1_000))
    sizes = [len(row.payload) for row in write.store.batches(write.name, after=1, upto=9, limit=9)]
    assert len(sizes) == 4
    for size, numbers in ((1, [2]), (sizes[0], [2]), (sizes[0] + 1, [2, 3]), (sum(sizes), [2, 3, 4, 5])):
        page = write.store.batches(write.name, after=1, upto=9, limit=9, size=size)
        assert [row.number for row in page] == numbers
