"""Joining, resuming, catching up and sleeping in an active chat never lead to a gap or a duplicate.

Each test runs for many moments: an action happens at the nth read of storage, which then takes k more turns of the
scheduler.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from uuid import UUID

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.chat import ChatRefused, replay, room
from actorchat.chat.model import ChatState, message_status
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    ChatOperation,
    CloseChat,
    MarkMessage,
    ReopenChat,
    TransferChat,
)
from actorchat.chat.ports import Page
from actorchat.chat.publisher import PendingReplies, Publisher
from actorchat.chat.room_state import TAIL
from actorchat.chat.service import ROOM_IDLE
from actorchat.protocol import (
    ChatUpdated,
    ErrorEvent,
    GlobalUpdated,
    MarkMessageRead,
    MessageAdded,
    MessageType,
    MessageUpdated,
    OperatorUpdated,
    Profile,
    Receipts,
    Role,
    UserDisconnected,
)
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.worker_threads import InPlace
from tests.chat.harness import ChatHarness, Socket, open_chat
from tests.chat.people import ANNA, BORIS, OLGA, PETR
from tests.chat.test_crashes import plant

SLOW = -1
TURNS = (0, 1, 2, 3, 5, 8, 13, SLOW)
READS = range(1, 5)


@contextmanager
def interference(nth: int, after: bool, turns: int, act: Callable[[], object]) -> Iterator[list[int]]:
    """Call `act` before or after the nth read, which then takes `turns` more turns. Yields the list of reads."""
    whole: Callable[..., Awaitable[object]] = AsyncReader._run
    readings: list[int] = []

    async def interfere(mine: bool) -> None:
        if mine:
            act()
            if turns == SLOW:
                # A read in a thread can't be cancelled, and a crashed room is restarted before it ends.
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.5)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()

    async def run(chat_reader: AsyncReader, read: Callable[[], object]) -> object:
        readings.append(1)
        mine = len(readings) == nth
        await interfere(mine and not after)
        result = await whole(chat_reader, read)
        await interfere(mine and after)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AsyncReader, "_run", run)
        yield readings


@contextmanager
def suppress_refusals(*codes: str) -> Iterator[None]:
    try:
        yield
    except ChatRefused as refused:
        if refused.code not in codes:
            raise


@attrs.define(eq=False)
class Scene:
    """Anna's chat with Olga in the room, and the actions that may happen. `patch` is undone with the scene."""

    harness: ChatHarness
    chat: UUID
    olga: Socket
    patch: pytest.MonkeyPatch

    def message(self) -> None:
        self.olga.say("meanwhile")

    def messages(self) -> None:
        for number in range(TAIL + 10):
            self.olga.say(f"meanwhile {number}")

    def note(self) -> None:
        self.perform(AddMessage(self.chat, OLGA, "note", type=MessageType.SYSTEM, type_role=Role.OPERATOR))

    def read_by_olga(self) -> None:
        annas = [each.message for each in self.olga.recorder.got(MessageAdded) if each.message.type_role is Role.USER]
        self.olga.receiver.receive(MarkMessageRead(annas[-1].id))
        self.message()

    def read_by_anna(self) -> None:
        self.perform(MarkMessage(self.chat, ANNA, self.olga.recorder.got(MessageAdded)[51].message.id, read=True))

    def transfer(self) -> None:
        self.perform(TransferChat(self.chat, OLGA, PETR.id))

    def close(self) -> None:
        self.perform(CloseChat(self.chat, OLGA))
        self.perform(ReopenChat(self.chat, OLGA))

    def crash(self) -> None:
        plant(self.patch, Publisher, "publish", 1, times=2)
        self.messages()

    def crash_with_mark(self) -> None:
        plant(self.patch, Publisher, "publish", 1, times=2)
        self.read_by_olga()

    def crash_between_reads(self) -> None:
        plant(self.patch, PendingReplies, "settle", 2, times=2)
        self.read_by_olga()
        self.message()

    def kill(self) -> None:
        for ref in self.harness.system.live():
            if str(self.chat) in ref.name:
                ref.kill()
        self.message()

    def perform(self, operation: ChatOperation) -> None:
        self.harness.nursery.start_soon(self._perform, operation)

    async def _perform(self, operation: ChatOperation) -> None:
        # The room may be killed with the request, and the chat may be reopened before it is closed.
        with suppress_refusals("overloaded", "conflict"):
            await self.harness.chats.perform(operation)


ACTS = [
    Scene.message, Scene.messages, Scene.note, Scene.read_by_olga, Scene.read_by_anna, Scene.transfer, Scene.close,
    Scene.crash, Scene.crash_with_mark, Scene.crash_between_reads, Scene.kill,
]  # fmt: skip


async def in_every_race(
    act: Callable[[Scene], None], count: int, play: Callable[[Scene], Awaitable[list[Socket]]]
) -> None:
    """Call `play` on a new chat with `count` messages, for every moment of `act`, and check all of its sockets."""
    happened = 0
    for nth in READS:
        for after in (False, True):
            for turns in TURNS:
                # Make Trio's random order of tasks repeatable.
                trio._core._run._r.seed(f"{nth} {after} {turns}")
                async with open_chat() as harness:
                    with pytest.MonkeyPatch.context() as patch:
                        patch.setattr(replay, "PAGE", 20)
                        scene = await fill(harness, count, patch)
                        with interference(nth, after, turns, partial(act, scene)) as readings:
                            sockets = await play(scene)
                            await trio.sleep(5)
                        happened += len(readings) >= nth
                        for socket in sockets:
                            await right(harness, scene.chat, socket)
    assert happened > 2 * len(TURNS)


async def fill(harness: ChatHarness, count: int, patch: pytest.MonkeyPatch) -> Scene:
    chat = await harness.reserve()
    anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
    for number in range(count):
        (olga if number % 2 else anna).say(f"before {number}")
    await harness.settle()
    await harness.leave(anna)
    return Scene(harness, chat, olga, patch)


async def whole_history(harness: ChatHarness, chat: UUID, role: Role) -> Page:
    page = await harness.chats.chat_reader.after(chat, role, after=-1, limit=10_000)
    assert page is not None
    return page


async def right(harness: ChatHarness, chat: UUID, socket: Socket) -> None:
    """Check that the socket got every visible message once, in order, and has its current status."""
    recorder = socket.recorder
    page = await whole_history(harness, chat, recorder.user.role)
    seen: dict[int, str] = {}
    for event in recorder.events:
        if isinstance(event, MessageAdded):
            seen[event.message.message_index] = event.message.status.value
        elif isinstance(event, MessageUpdated):
            assert event.message.message_index in seen or recorder.profile is Profile.STRICT
            seen[event.message.message_index] = event.message.status.value
    indexes = recorder.indexes()
    assert recorder.closed is None
    assert indexes == [message.index for message in page.messages if message.index >= indexes[0]]
    statuses = {message.index: message_status(page.chat, message).value for message in page.messages}
    if recorder.profile is Profile.STRICT:
        assert {index: statuses[index] for index in seen} == seen
    else:
        assert_receipts(socket, page.chat)
        assert recorder.got(ChatUpdated)[-1].chat == page.chat.wire()


def assert_receipts(socket: Socket, chat: ChatState) -> None:
    last = {each.role: (each.delivered, each.read) for each in socket.recorder.got(Receipts)}
    marks = {
        Role.USER: (chat.visitor_delivered, chat.visitor_read),
        Role.OPERATOR: (chat.operators_delivered, chat.operators_read),
    }
    assert last == marks


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
async def test_a_resumed_socket_gets_everything_once_in_every_race(
    act: Callable[[Scene], None], autojump_clock: MockClock
) -> None:
    async def play(scene: Scene) -> list[Socket]:
        resumed = await scene.harness.join(scene.chat, ANNA, after=-1)
        assert resumed.recorder.indexes()[0] == 0
        return [resumed]

    await in_every_race(act, TAIL + 50, play)


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
async def test_a_socket_that_falls_behind_on_many_receipts_catches_up(
    act: Callable[[Scene], None], autojump_clock: MockClock
) -> None:
    count = TAIL + 50

    async def play(scene: Scene) -> list[Socket]:
        strict = await scene.harness.join(scene.chat, ANNA, Profile.STRICT)
        extended = await scene.harness.join(scene.chat, ANNA, after=0)
        scene.read_by_olga()
        await trio.sleep(5)
        if scene.olga.recorder.got(ErrorEvent):
            # The mark was lost with the killed room.
            scene.read_by_olga()
        # A killed room is activated by the next operation.
        scene.message()
        await trio.sleep(5)
        updated = [index for index, _ in strict.recorder.statuses() if index < count and index % 2 == 0]
        assert sorted(set(updated)) == list(range(0, count, 2))
        assert len(updated) == count // 2, "a message was updated twice for one mark"
        return [strict, extended]

    await in_every_race(act, count, play)


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
async def test_a_socket_that_leaves_during_its_replay_affects_no_other(
    act: Callable[[Scene], None], autojump_clock: MockClock
) -> None:
    async def play(scene: Scene) -> list[Socket]:
        stays = await scene.harness.join(scene.chat, ANNA, after=-1)
        for turns in (0, 2, 5):
            with trio.CancelScope() as scope:
                scene.harness.nursery.start_soon(cancel_after, turns, scope)
                await scene.harness.join(scene.chat, BORIS, after=-1)
        await trio.sleep(10)
        assert [each.user for each in stays.recorder.got(UserDisconnected)] in ([], [BORIS])
        return [stays]

    await in_every_race(act, TAIL + 50, play)


async def cancel_after(turns: int, scope: trio.CancelScope) -> None:
    for _ in range(turns):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("entrance", ["join", "resume", "perform"])
async def test_a_room_that_is_about_to_sleep_loses_nothing(entrance: str, turns: int, mock_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna = await harness.join(chat, ANNA)
        anna.say("one")
        await harness.settle()
        await harness.leave(anna)
        mock_clock.jump(6)
        await harness.settle()
        for _ in range(3):
            # A room is passivated after at most twice the idle time; `turns` covers each step of that.
            mock_clock.jump(ROOM_IDLE)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            if entrance == "perform":
                await harness.chats.perform(AddMessage(chat, OLGA, "operator"))
            else:
                again = await harness.join(chat, ANNA, after=-1 if entrance == "resume" else None)
                again.say("more")
                await harness.settle()
                assert again.recorder.texts()[-1] == "more"
                await harness.leave(again)
            mock_clock.jump(6)
            await harness.settle()
        page = await whole_history(harness, chat, Role.USER)
        texts = ["operator"] * 3 if entrance == "perform" else ["more"] * 3
        assert [message.text for message in page.messages] == ["one", *texts]


@attrs.define
class Picture:
    """The state that a console shows."""

    operators: dict[int, OperatorUpdated] = attrs.Factory(dict)
    chats: dict[UUID, ChatUpdated] = attrs.Factory(dict)
    unread: int | None = None


def picture(console: Socket) -> Picture:
    shown = Picture()
    for event in console.recorder.events:
        if isinstance(event, OperatorUpdated):
            shown.operators[event.user.id] = event
        elif isinstance(event, GlobalUpdated):
            shown.unread = event.unread_chats
        elif isinstance(event, ChatUpdated):
            shown.chats[event.chat.uuid] = event
    shown.chats = {uuid: event for uuid, event in shown.chats.items() if event.chat.status != "closed"}
    return shown


def new_chat(scene: Scene) -> None:
    async def first_message() -> None:
        state, _ = await scene.harness.chats.reserve_chat("lk", BORIS)
        await scene.harness.chats.perform(AddMessage(state.uuid, BORIS, "hello"))
        await scene.harness.chats.perform(AcceptChat(state.uuid, PETR))

    scene.harness.nursery.start_soon(first_message)


def close_for_good(scene: Scene) -> None:
    scene.perform(CloseChat(scene.chat, OLGA))


@pytest.mark.slow
@pytest.mark.parametrize("act", [*ACTS, new_chat, close_for_good])
@pytest.mark.parametrize("alone", [True, False])
async def test_a_console_that_joins_in_a_race_shows_the_same_as_a_later_one(
    act: Callable[[Scene], None], alone: bool, autojump_clock: MockClock
) -> None:
    for after in (False, True):
        for turns in (*range(14), 20, 40):
            trio._core._run._r.seed(f"{after} {turns}")
            async with open_chat() as harness:
                with pytest.MonkeyPatch.context() as patch:
                    scene = await fill(harness, 4 if act is not Scene.read_by_anna else 110, patch)
                    watching = None if alone else await harness.console(OLGA)
                    await trio.sleep(1)
                    with interference(1, after, turns, partial(act, scene)):
                        meanwhile = await harness.console(PETR)
                        await trio.sleep(5)
                    if act is Scene.kill:
                        # A killed room is activated by the next operation.
                        scene.message()
                        await trio.sleep(5)
                    afterwards = await harness.console(PETR)
                    await trio.sleep(1)
                    assert picture(meanwhile) == picture(afterwards)
                    if watching is not None:
                        assert picture(watching) == picture(afterwards)
                    indexes = [
                        each.message.message_index
                        for each in meanwhile.recorder.got(MessageAdded)
                        if each.message.chat.uuid == scene.chat
                    ]
                    assert indexes == sorted(set(indexes))


async def test_counters_of_a_source_without_consoles_reach_those_of_others(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        await harness.person(PETR, frozenset({"lk", "shop"}))
        elsewhere = await harness.console(PETR, frozenset({"shop"}))
        await harness.chats.perform(AcceptChat(await harness.reserve(), PETR))
        await trio.sleep(1)
        assert picture(elsewhere).operators[PETR.id].open_chats == 1


def take_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Make every commit and read take that many seconds."""
    whole = InPlace.run

    async def slowly(
        runner: InPlace, call: Callable[[], object], meanwhile: Callable[[], object] | None = None
    ) -> object:
        if meanwhile is not None:
            meanwhile()
        await trio.sleep(seconds)
        return await whole(runner, call)

    monkeypatch.setattr(InPlace, "run", slowly)


async def test_a_room_sleeps_only_after_its_operations_are_decided_and_sent(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as harness:
        console = await harness.console(OLGA)
        anna = await harness.join(await harness.reserve(), ANNA)
        await trio.sleep(1)
        take_time(monkeypatch, 300)
        anna.say("late")
        anna.scope.cancel()
        del anna
        await trio.sleep(400)
        gc.collect()
        monkeypatch.undo()
        with trio.fail_after(60):
            await harness.chats.drain()
        await trio.sleep(1)
        assert (console.recorder.texts(), picture(console).unread) == (["late"], 1)


async def test_a_counter_survives_a_crash_between_reply_and_broadcast(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_chat() as harness:
        console = await harness.console(PETR)
        anna = await harness.join(await harness.reserve(), ANNA)
        plant(monkeypatch, Publisher, "publish", 1, times=2)
        anna.say("hi")
        await trio.sleep(5)
        assert picture(console).unread == 1


async def test_a_room_that_recovers_page_by_page_sends_every_event(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RECOVERY_PAGE", 3)
    trio._core._run._r.seed("an order in which most transfers change something")
    async with open_chat() as harness:
        scene = await fill(harness, 2, monkeypatch)
        # All of these are in one commit.
        take_time(monkeypatch, 0.1)
        calls = plant(monkeypatch, Publisher, "publish", 1, times=2)
        # As if the room had been given up: the changes to broadcast are in storage only.
        monkeypatch.setattr(Publisher, "lacks", True)
        for number in range(16):
            scene.perform(TransferChat(scene.chat, OLGA, (PETR if number % 2 else OLGA).id))
        await trio.sleep(5)
        assert len(calls) > 3, "there is a read for each page"
        page = await whole_history(harness, scene.chat, Role.OPERATOR)
        assert scene.olga.recorder.indexes() == [message.index for message in page.messages]
