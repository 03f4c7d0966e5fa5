"""Checks that several writers, each with a store of its own, may commit to one database at the same time."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from threading import Thread
from typing import Final
from uuid import UUID

import attrs

from actorchat.chat.model import Identity, OperatorCounters, Policy, SourceCounters, contribution, identity_of
from actorchat.chat.operations import Changed, MarkMessage, Operation, PersonRecorded, RecordPerson, ReserveChat
from actorchat.chat.ports import ChatFilter, StorageUnavailable
from actorchat.protocol import Role
from actorchat.storage.store import Batch, CommitInDoubt, DecisionAndCounters, Store
from actorchat.testing._store_writer import ANN, BOB, EVE, FAY, NOW, SHOP, OpenStore, random_operations

__all__ = ["check_many_writers"]

_PEOPLE: Final = (ANN, BOB, EVE, FAY)
_CHATS: Final = tuple(UUID(int=n) for n in range(1, 6))
_MOST_TRIES: Final = 200


def check_many_writers(
    open_store: OpenStore,
    disturb: Callable[[], object] | None = None,
    *,
    writers: int = 3,
    batches: int = 60,
    seed: int = 0,
    policy: Policy | None = None,
) -> None:
    """Let `writers` threads commit random operations on a few chats, and check that storage and decisions agree.

    `open_store` opens the same storage each time. `disturb` is called again and again meanwhile: it may break
    connections. Raises AssertionError.
    """
    policy = policy or Policy()
    with ExitStack() as stack:
        stores = [stack.enter_context(open_store(policy)) for _ in range(writers)]
        first = _Writer(stores[0], "first", seed)
        first.commit(
            [
                *(
                    RecordPerson(user, frozenset(), frozenset({SHOP}) if user.role is Role.OPERATOR else frozenset())
                    for user in _PEOPLE
                ),
                *(ReserveChat(chat, f"{SHOP}{chat.int}", (ANN, BOB)[chat.int % 2]) for chat in _CHATS),
            ]
        )
        all_writers = [_Writer(store, f"writer {n}", seed + n) for n, store in enumerate(stores, 1)]
        threads = [Thread(target=each.run, args=(batches,)) for each in all_writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.02)
                if disturb is not None and thread.is_alive():
                    disturb()
        for each in all_writers:
            if each.failure is not None:
                raise AssertionError(f"a writer failed: {each.failure!r}") from each.failure
        decided = [entry for each in (first, *all_writers) for entry in each.decided]
        _check_chats(stores[0], decided)
        _check_counters(stores[0], decided)
        _check_people(stores[0], decided)
    with open_store(policy) as store:
        assert store.corrected_counters == 0, "the counters are the sum of what the chats contribute"


@attrs.define(eq=False)
class _Writer:
    """Commits as a journal does: what is in doubt is decided by `recover`."""

    store: Store
    name: str
    seed: int
    decided: list[DecisionAndCounters] = attrs.Factory(list)
    failure: BaseException | None = None
    _number: int = 0

    def run(self, batches: int) -> None:
        chance = random.Random(self.seed)  # noqa: S311 - seeded, to be repeatable
        operations = self._operations(chance)
        try:
            for _ in range(batches):
                self.commit([next(operations) for _ in range(chance.randrange(1, 12))])
        except BaseException as error:  # reported by the thread that waits
            self.failure = error

    def commit(self, operations: Sequence[Operation]) -> None:
        self._number += 1
        batch = Batch(self.name, self._number, NOW + self._number)
        try:
            self.decided += self.store.commit(operations, batch)
        except CommitInDoubt as doubt:
            if self._recover(batch):
                self.decided += doubt.decided
        except StorageUnavailable:
            assert not self._recover(batch), "a batch that was not committed is stored"

    def _recover(self, batch: Batch) -> bool:
        for _ in range(_MOST_TRIES):
            try:
                return self.store.recover(batch)
            except StorageUnavailable:
                continue
        raise AssertionError("storage did not come back")

    def _operations(self, chance: random.Random) -> Iterator[Operation]:
        """Random operations without deletions, which begin a chat's revisions anew."""
        ids: list[tuple[UUID, int]] = []
        for operation in random_operations(self.seed, 10**6):
            for decision, _ in self.decided[-20:]:
                if isinstance(decision, Changed):
                    ids += [(decision.chat.uuid, message.id) for message in decision.messages]
            del ids[:-50]
            if isinstance(operation, MarkMessage) and ids:
                chat, id_ = chance.choice(ids)
                yield MarkMessage(chat, operation.reader, id_, operation.read)
            elif isinstance(operation, RecordPerson):
                # Each writer adds memberships of its own, so that a lost one is seen.
                yield attrs.evolve(operation, sources=frozenset({f"{self.name} {chance.randrange(9)}"}), until=NOW * 2)
            elif type(operation).__name__ not in {"ExpireChat", "ReserveChat"}:
                yield operation


def _check_chats(store: Store, decided: Sequence[DecisionAndCounters]) -> None:
    """Revisions are dense and no two commits got the same; what was decided is stored, once."""
    changes = [decision for decision, _ in decided if isinstance(decision, Changed)]
    revisions: dict[UUID, list[int]] = defaultdict(list)
    messages: dict[UUID, dict[int, object]] = defaultdict(dict)
    ids: Counter[int] = Counter()
    for change in changes:
        revisions[change.chat.uuid].append(change.chat.rev)
        for message in change.messages:
            ids[message.id] += 1
            assert message.index not in messages[change.chat.uuid], "an index was given twice"
            messages[change.chat.uuid][message.index] = (message.id, message.text, message.client_id)
    assert not [id_ for id_, times in ids.items() if times > 1], "an id was given twice"
    for chat in _CHATS:
        state, page = store.chat(chat), store.since(chat, rev=0, limit=10**6)
        assert state is not None
        assert page is not None
        # The reservation has revision 0.
        assert sorted(revisions[chat]) == list(range(len(revisions[chat]))), "revisions have gaps or repeat"
        assert state.rev == len(revisions[chat]) - 1
        stored = {message.index: (message.id, message.text, message.client_id) for message in page.messages}
        assert list(stored) == list(range(state.next_index))
        assert stored == messages[chat]
        used = Counter(
            (message.author, message.client_id) for message in page.messages if message.client_id is not None
        )
        assert not [key for key, times in used.items() if times > 1], "a client_id was stored twice"


def _check_counters(store: Store, decided: Sequence[DecisionAndCounters]) -> None:
    """Each change of a counter has a revision of its own, without gaps, and the last one is the sum of the chats."""
    seen: dict[object, dict[int, OperatorCounters | SourceCounters]] = defaultdict(dict)
    for _, counters in decided:
        for one in counters:
            key = one.operator_id if isinstance(one, OperatorCounters) else one.source
            assert one.rev not in seen[key], f"{one} has the revision of {seen[key][one.rev]}"
            seen[key][one.rev] = one
    for counted, found in seen.items():
        assert sorted(found) == list(range(1, len(found) + 1)), f"the counters of {counted} have gaps"
    shares = [contribution(chat) for chat in store.chats(ChatFilter(limit=1_000)).chats]
    for record in store.operators(None):
        id_ = record.person.user.id
        theirs = [share for share in shares if share.operator_id == id_]
        expected = (sum(share.new for share in theirs), sum(share.open for share in theirs))
        assert (record.counters.new_chats, record.counters.open_chats) == expected
        assert record.counters == seen[id_].get(record.counters.rev, record.counters)


def _check_people(store: Store, decided: Sequence[DecisionAndCounters]) -> None:
    """No writer has overwritten what another one has recorded of a person."""
    sources: dict[Identity, set[str]] = defaultdict(set)
    for decision, _ in decided:
        if isinstance(decision, PersonRecorded):
            sources[identity_of(decision.person.user)].update(decision.person.memberships)
    assert sources
    for identity, known in sources.items():
        person = store.person(identity)
        assert person is not None
        assert known <= set(person.memberships), "a membership was lost"
