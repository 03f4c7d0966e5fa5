"""Opens the real chat service without transports, with sessions that record what they get."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from actorchat.actors import ActorSystem, open_system
from actorchat.blobs.links import SignedLinks
from actorchat.chat import ChatService, Limits, open_chats, settle_dead_letter
from actorchat.chat.commands import FeedReceiver, RoomReceiver
from actorchat.chat.model import ChatState, Policy
from actorchat.chat.operations import RecordPerson
from actorchat.protocol import (
    Event,
    Frames,
    MessageAdded,
    MessageUpdated,
    Profile,
    SendMessage,
    UnknownType,
    User,
    decode_event,
)
from actorchat.storage import open_journal, open_store
from actorchat.storage.store import Store
from tests.chat.people import ANNA, OLGA, PETR

E = TypeVar("E")
SOURCES = frozenset({"lk"})
LINKS = SignedLinks(b"a key of tests", lambda: 0.0, seconds=600)


class RecordingSession:
    """A session that is never slow, and records every frame."""

    def __init__(self, user: User, profile: Profile = Profile.EXTENDED) -> None:
        self.user, self.profile = user, profile
        self.peer = "192.0.2.7"
        self.buffered_bytes = 0
        self.closed: int | None = None
        self.payloads: list[bytes] = []
        self.done = 0

    def push(self, frames: Frames) -> None:
        if self.closed is None:
            self.payloads.extend(frames.payloads())

    def close(self, code: int, reason: str = "") -> None:
        if self.closed is None:
            self.closed = code

    async def wait_drained(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.closed is None

    def operation_done(self, flooding: bool = False) -> None:
        self.done += 1

    @property
    def events(self) -> list[Event]:
        events = [decode_event(payload) for payload in self.payloads]
        assert not any(isinstance(event, UnknownType) for event in events)
        return [event for event in events if not isinstance(event, UnknownType)]

    def take(self) -> list[Event]:
        """Return and forget the events so far."""
        events = self.events
        self.payloads.clear()
        return events

    def got(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def texts(self) -> list[str]:
        return [event.message.text for event in self.got(MessageAdded)]

    def indexes(self) -> list[int]:
        return [event.message.message_index for event in self.got(MessageAdded)]

    def statuses(self) -> list[tuple[int, str]]:
        return [(each.message.message_index, each.message.status.value) for each in self.got(MessageUpdated)]

    def types(self) -> list[Any]:
        return [json.loads(payload)["type"] for payload in self.payloads]


@attrs.define
class Socket:
    """A recording session that has joined a room or a feed, and the receiver of its commands."""

    recorder: RecordingSession
    receiver: RoomReceiver | FeedReceiver
    scope: trio.CancelScope

    def say(self, text: str, client_id: str | None = None) -> None:
        self.receiver.receive(SendMessage(text, (), client_id))


@attrs.define
class ChatHarness:
    system: ActorSystem
    chats: ChatService
    nursery: trio.Nursery

    async def person(self, user: User, sources: frozenset[str] = SOURCES) -> User:
        claims = frozenset({"firstname"})
        return (await self.chats.people.record(RecordPerson(user, claims, sources))).user

    async def reserve(self, owner: User = ANNA) -> UUID:
        chat, _ = await self.chats.reserve_chat("lk", owner)
        return chat.uuid

    async def state(self, chat: UUID) -> ChatState:
        state = await self.chats.chat_reader.chat(chat)
        assert state is not None
        return state

    async def join(
        self, chat: UUID, user: User, profile: Profile = Profile.EXTENDED, after: int | None = None
    ) -> Socket:
        recorder = RecordingSession(user, profile)
        socket: Socket = await self.nursery.start(self._hold, recorder, self._enter(recorder, chat, after))
        return socket

    async def _enter(self, recorder: RecordingSession, chat: UUID, after: int | None) -> RoomReceiver:
        """Join as the websocket routes do: at once if the room is open, and otherwise after waiting."""
        try:
            return self.chats.joining.room_nowait(recorder, chat, after)
        except trio.WouldBlock:
            return await self.chats.joining.room(recorder, chat, after)

    async def console(
        self, user: User, sources: frozenset[str] = SOURCES, profile: Profile = Profile.EXTENDED
    ) -> Socket:
        recorder = RecordingSession(user, profile)
        socket: Socket = await self.nursery.start(self._hold, recorder, self.chats.joining.feed(recorder, sources))
        return socket

    async def _hold(self, recorder: RecordingSession, joining: Any, task_status: trio.TaskStatus[Socket]) -> None:
        with trio.CancelScope() as scope:
            receiver = await joining
            try:
                task_status.started(Socket(recorder, receiver, scope))
                await trio.sleep_forever()
            finally:
                receiver.leave()

    async def leave(self, socket: Socket) -> None:
        socket.scope.cancel()
        await self.settle()

    async def settle(self) -> None:
        await wait_all_tasks_blocked()


@asynccontextmanager
async def open_chat(
    policy: Policy | None = None,
    limits: Limits | None = None,
    store: str = "memory://",
    faults: Callable[[Store], Store] = lambda store: store,
    capacity: int = 10_000,
) -> AsyncIterator[ChatHarness]:
    policy = policy or Policy()
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_store(store, policy))
        journal = await stack.enter_async_context(
            open_journal(faults(storage.store), storage.runner, capacity=capacity, clock=trio.current_time)
        )
        system = await stack.enter_async_context(open_system(on_dead_letter=settle_dead_letter))
        chats = await stack.enter_async_context(
            open_chats(
                system=system,
                journal=journal,
                chat_reader=storage.chat_reader,
                policy=policy,
                limits=limits or Limits(messages_per_second=0),
                links=LINKS,
                clock=trio.current_time,
            )
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        harness = ChatHarness(system, chats, nursery)
        for operator in (OLGA, PETR):
            await harness.person(operator)
        await harness.person(ANNA, frozenset())
        yield harness
        nursery.cancel_scope.cancel()
