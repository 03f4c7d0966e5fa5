"""Two operators race for one chat in a thousand schedules; all outcomes agree with the order of the commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from uuid import UUID

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import ChatRefused
from actorchat.chat.model import Policy
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    Operation,
    RecordPerson,
    Refused,
    ReopenChat,
    ReturnChat,
    TransferChat,
)
from actorchat.protocol import Profile, Role, User
from actorchat.storage import Batch, DecisionAndCounters, InPlace, Store
from actorchat.storage.memory import MemoryStore
from actorchat.storage.postgres.store import PostgresStore
from actorchat.testing._store_faults import CommitFault, DelayedRunner, FaultyStore
from actorchat.testing.simulation.model import Answer, Commit, Json, Model, Person, Refusal
from tests.system.virtual_time_chat import ClientSession, VirtualTimeChat, open_virtual_time_chat

OPERATORS = [User(id=1, role=Role.OPERATOR, firstname="Olga"), User(id=2, role=Role.OPERATOR, firstname="Petr")]
LK = frozenset({"lk"})
NOT_TAKEN = {"overloaded", "storage_unavailable"}
BLOCKS, SCHEDULES = 50, 20


@attrs.define(eq=False)
class Ledger:
    """Records each committed operation with its decision and the time of its batch, in order."""

    entries: list[tuple[Operation, DecisionAndCounters, float]] = attrs.Factory(list)
    stores: list[Store] = attrs.Factory(list)

    def around(self, store: Store) -> Store:
        assert isinstance(store, MemoryStore | PostgresStore)
        if store in self.stores:
            # Two nodes share it.
            return store
        self.stores.append(store)
        whole, entries = store.commit, self.entries

        def commit(operations: Sequence[Operation], batch: Batch) -> list[DecisionAndCounters]:
            decided = whole(operations, batch)
            entries.extend((operation, each, batch.now) for operation, each in zip(operations, decided, strict=True))
            return decided

        store.commit = commit  # type: ignore[method-assign]  # observes the commits of this store
        return store


@attrs.define(eq=False)
class Race:
    """One block of schedules on one chat service."""

    rng: Random
    chat_driver: VirtualTimeChat
    ledger: Ledger
    model: Model
    consoles: list[ClientSession]
    rough: bool = False
    """Whether commits may fail just now."""
    answered: dict[int, tuple[ChatOperation, str | None]] = attrs.Factory(dict)
    sent: dict[str, ClientSession] = attrs.Factory(dict)
    shown: dict[ClientSession, tuple[dict[int, Json], int | None]] = attrs.Factory(dict)
    replayed: int = 0

    async def schedule(self, number: int) -> None:
        owner = User(id=100 + number, role=Role.USER, firstname=f"V{number}")
        await self.chat_driver.chats.people.record(RecordPerson(owner, frozenset({"firstname"})))
        self.model.person(("user", owner.id), owner.firstname)
        state, _ = await self.chat_driver.chats.reserve_chat("lk", owner)
        self.model.reserve(state.uuid, "lk", ("user", owner.id))
        tabs = [await self.chat_driver.join(state.uuid, user, Profile.EXTENDED) for user in (owner, *OPERATORS)]
        tabs.append(await self.chat_driver.join(state.uuid, owner, Profile.STRICT))
        for console in self.consoles:
            self._look(console, console.take())
        for tab in tabs:
            tab.take()
        self.rough = True
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for tab in tabs[:3]:
                    nursery.start_soon(self._hurry, nursery, tab)
            await trio.sleep(5)
        assert not any(tab.in_flight for tab in tabs)
        self.rough = False
        await self._judge(state.uuid, tabs)
        for tab in tabs:
            await self.chat_driver.leave(tab)

    async def _hurry(self, nursery: trio.Nursery, tab: ClientSession) -> None:
        assert tab.chat is not None
        for _ in range(self.rng.randint(2, 5)):
            for _ in range(self.rng.choice([0, 0, 1, 3, 9])):
                await trio.lowlevel.checkpoint()
            if self.rng.random() < 0.2:
                await trio.sleep(self.rng.random() / 20)
            if tab.user.role is Role.USER or self.rng.random() < 0.35:
                text = f"text {len(self.sent)}"
                self.sent[text] = tab
                tab.say("send_message", text=text, attachments=[])
            else:
                nursery.start_soon(self._perform, self._operation(tab.chat, tab.user))

    def _operation(self, chat: UUID, by: User) -> ChatOperation:
        make = self.rng.choice([AcceptChat, AcceptChat, CloseChat, ReopenChat, ReturnChat, TransferChat, TransferChat])
        return TransferChat(chat, by, self.rng.choice(OPERATORS).id) if make is TransferChat else make(chat, by)

    async def _perform(self, operation: ChatOperation) -> None:
        try:
            await self.chat_driver.next_chats().perform(operation)
        except ChatRefused as error:
            code: str | None = error.code
        else:
            code = None
        assert id(operation) not in self.answered
        self.answered[id(operation)] = (operation, code)

    # Checks after the race

    async def _judge(self, chat: UUID, tabs: list[ClientSession]) -> None:
        frames = {tab: tab.take() for tab in [*tabs, *self.consoles]}
        refused: dict[str, str] = {}
        for tab in tabs:
            for frame in frames[tab]:
                if frame["type"] == "message_not_added":
                    text = frame["data"]["text"]
                    assert text not in refused
                    assert self.sent[text] is tab
                    refused[text] = frame["data"]["code"]
        commits, stored, performed = self._replay(refused)
        assert all(code in NOT_TAKEN for text, code in refused.items() if text not in stored)
        theirs = {text for text, tab in self.sent.items() if tab in tabs}
        assert theirs == stored | refused.keys()
        for key, (_, code) in self.answered.items():
            assert key in performed or code in NOT_TAKEN, code
        self.answered.clear()
        for tab in tabs:
            extended = tab.profile is Profile.EXTENDED
            who = (tab.user.role.value, tab.user.id)
            expected = [event for commit in commits for event in self.model.room_events(commit, who, extended)]
            assert told(frames[tab]) == expected
        for console in self.consoles:
            assert told(frames[console]) == [event for commit in commits for event in self.model.feed_events(commit)]
        state = await self.chat_driver.chats.chat_reader.chat(chat)
        expected_chat = self.model.chats[chat]
        assert state is not None
        operator = None if state.operator is None else ("operator", state.operator.id)
        assert (state.stage.value, operator, state.next_index) == (
            expected_chat.stage, expected_chat.operator, len(expected_chat.messages),
        )  # fmt: skip
        for console in self.consoles:
            self._look(console, frames[console])
        await self._judge_counters()

    def _replay(self, refused: dict[str, str]) -> tuple[list[Commit], set[str], set[int]]:
        """Apply the committed order to the model. Returns also which sends and requests it contains."""
        commits, stored, performed = list[Commit](), set[str](), set[int]()
        for operation, (decision, _), now in self.ledger.entries[self.replayed :]:
            answer = self._again(operation, now)
            if answer is None:
                continue
            code = decision.code if isinstance(decision, Refused) else None
            assert code == (answer.code if isinstance(answer, Refusal) else None), operation
            assert isinstance(decision, Changed) == isinstance(answer, Commit), operation
            if isinstance(answer, Commit):
                commits.append(answer)
            if isinstance(operation, AddMessage):
                assert operation.text not in stored
                stored.add(operation.text)
                assert refused.get(operation.text) == code
            else:
                performed.add(id(operation))
                assert self.answered[id(operation)][1] == code
        self.replayed = len(self.ledger.entries)
        return commits, stored, performed

    def _again(self, operation: Operation, now: float) -> Answer | None:
        model = self.model
        match operation:
            case AddMessage(chat=chat, author=user, text=text):
                return model.send(model.chats[chat], person(user), text, now)
            case AcceptChat(chat=chat, by=user):
                return model.accept(model.chats[chat], person(user))
            case CloseChat(chat=chat, by=user):
                return model.close(model.chats[chat], person(user), now)
            case ReopenChat(chat=chat, by=user):
                return model.reopen(model.chats[chat], person(user), now)
            case ReturnChat(chat=chat, by=user):
                return model.give_back(model.chats[chat], person(user), now)
            case TransferChat(chat=chat, by=user, to=to):
                return model.transfer(model.chats[chat], person(user), ("operator", to), now)
            case _:
                return None

    async def _judge_counters(self) -> None:
        """Check the events of the consoles, and the snapshot of a new one, against the model."""
        expected = {who[1]: self.model.operator_wire(who) for who in self.model.operators(LK)}
        fresh = await self.chat_driver.console(OPERATORS[0], Profile.EXTENDED, LK)
        self._look(fresh, fresh.take())
        for console in (fresh, *self.consoles):
            assert self.shown[console] == (expected, self.model.unread(LK))
        await self.chat_driver.leave(fresh)
        del self.shown[fresh]

    def _look(self, console: ClientSession, frames: list[Json]) -> None:
        operators, unread = self.shown.get(console, ({}, None))
        for frame in frames:
            if frame["type"] == "operator_updated":
                operators[frame["data"]["user"]["id"]] = frame["data"]
            elif frame["type"] == "global_updated":
                unread = frame["data"]["unread_chats"]
        self.shown[console] = (operators, unread)


def person(user: User) -> Person:
    return user.role.value, user.id


def told(frames: list[Json]) -> list[Json]:
    """The frames without ids, refusals and counters."""
    events = []
    for frame in frames:
        if frame["type"] == "message_added":
            message = {name: value for name, value in frame["data"]["message"].items() if name != "id"}
            events.append({"type": "message_added", "data": {**frame["data"], "message": message}})
        elif frame["type"] == "chat_updated":
            events.append(frame)
    return events


@pytest.mark.slow
def test_two_operators_in_one_chat_agree_with_the_model_in_1000_schedules() -> None:
    for block in range(BLOCKS):
        run_block(block)


@pytest.mark.slow
def test_two_operators_on_postgresql_agree_with_the_model(new_postgres: Callable[[], str]) -> None:
    # Not every fifth, whose faults are those of a store that also stores batches which change nothing.
    for block in (1, 2):
        run_block(block, new_postgres())


@pytest.mark.slow
def test_two_operators_on_two_nodes_agree_with_the_model_while_commits_fail() -> None:
    # Every fifth has faults.
    for block in (2, 5):
        run_block(block, nodes=2)


@pytest.mark.slow
def test_two_operators_on_two_nodes_with_postgresql_agree_with_the_model(new_postgres: Callable[[], str]) -> None:
    for block in (1, 2):
        run_block(block, new_postgres(), nodes=2)


def run_block(seed: int, url: str = "memory://", nodes: int = 1) -> None:
    """Run `SCHEDULES` schedules, which depend on the seed only."""
    rng, ledger = Random(seed), Ledger()
    trio._core._run._r.seed(seed)  # the order in which Trio runs tasks is part of the schedule
    race: Race | None = None

    def faults() -> Iterator[CommitFault | None]:
        while True:
            failing = seed % 5 == 0 and race is not None and race.rough and rng.random() < 0.1
            yield rng.choice(list(CommitFault)) if failing else None

    async def main() -> None:
        nonlocal race
        delays = rng.choice([[0.0], [0.0, 0.001], [0.0, 0.001, 0.03]])
        capacity, load = rng.choice([10_000, 10_000, 3]), rng.choice([0, 0, 3])
        async with open_virtual_time_chat(
            MockClock(),
            None,
            url=url,
            policy=Policy(capacity=load),
            # In place, because this clock does not wait for threads.
            wrap_runner=lambda _: DelayedRunner(InPlace(), lambda: rng.choice(delays)),
            wrap_store=lambda store: FaultyStore(ledger.around(store), faults(), away_for=1),
            capacity=capacity,
            nodes=nodes,
        ) as chat_driver:
            model = Model(capacity=load)
            consoles = []
            for user in OPERATORS:
                await chat_driver.chats.people.record(RecordPerson(user, frozenset({"firstname"}), LK))
                model.person(person(user), user.firstname, LK)
                consoles.append(await chat_driver.console(user, Profile.EXTENDED, LK))
                model.open_console(person(user))
            await trio.sleep(1)
            race = Race(rng, chat_driver, ledger, model, consoles)
            for number in range(SCHEDULES):
                try:
                    await race.schedule(number)
                except BaseException as error:
                    error.add_note(f"run_block({seed}), schedule {number}")
                    raise
            with trio.fail_after(60):
                await chat_driver.drain()

    trio.run(main, clock=MockClock(autojump_threshold=0))
