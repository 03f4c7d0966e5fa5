"""Runs the real chat service, without transports, under a virtual clock, and checks its frames' schemas."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain
from typing import Any, TypeVar
from uuid import UUID

import attrs
import trio
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]  # it ships no types
from trio.testing import MockClock, wait_all_tasks_blocked

from actorchat.actors import ActorSystem, open_system
from actorchat.blobs.links import SignedLinks
from actorchat.chat import ChatService, Limits, open_chats, settle_dead_letter
from actorchat.chat.commands import FeedReceiver, RoomReceiver
from actorchat.chat.model import Policy
from actorchat.nodes import MemoryBus
from actorchat.nodes.node import Node, NodeState
from actorchat.protocol import Frames, Malformed, Profile, UnknownType, User, asyncapi_document, decode_command
from actorchat.storage import InPlace, Runner, Store, open_journal, open_store
from actorchat.storage.async_log import AsyncNodeLog
from actorchat.storage.async_reader import AsyncReader
from actorchat.storage.journal import Journal
from actorchat.storage.memory import MemoryStore
from actorchat.storage.postgres.store import PostgresStore
from tests.nodes.memory_tables import MemoryTables

T = TypeVar("T")
Json = dict[str, Any]


class FrameValidator:
    """Checks frames against the AsyncAPI document, each distinct frame once."""

    def __init__(self) -> None:
        # Any: JSON of every shape
        self._document: Any = asyncapi_document()
        self._validators: dict[str, Draft202012Validator] = {}
        self._good: set[tuple[bytes, str, Profile]] = set()

    def check(self, payload: bytes, channel: str, profile: Profile) -> None:
        """Raise unless a socket of `profile` may get `payload` on `channel`, with its keys in order."""
        if (payload, channel, profile) in self._good:
            return
        frame = json.loads(payload)
        messages = self._document["components"]["messages"]
        references = [each["$ref"] for each in self._document["channels"][channel]["messages"].values()]
        allowed = [messages[reference.rpartition("/")[2]] for reference in references]
        (message,) = [each for each in allowed if each["name"] == frame["type"]]
        strict = profile is Profile.STRICT
        assert not (strict and message.get("x-profile") == "extended"), frame
        self._validator(frame["type"]).validate(frame)
        self._in_order(frame, message["payload"], strict)
        self._good.add((payload, channel, profile))

    def _validator(self, name: str) -> Draft202012Validator:
        if name not in self._validators:
            schema = {**self._document, "$ref": f"#/components/messages/{name}/payload"}
            self._validators[name] = Draft202012Validator(schema, format_checker=FormatChecker())
        return self._validators[name]

    def _in_order(self, value: object, schema: Json, strict: bool) -> None:
        """Check that all keys are in the schema and in its order, and that a strict socket gets no extended ones."""
        while "$ref" in schema:
            schema = self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        schemas = schema.get("anyOf", [schema])
        if isinstance(value, list):
            for each in value:
                self._in_order(each, schemas[0]["items"], strict)
        elif isinstance(value, dict):
            (schema,) = [each for each in schemas if each.get("type") != "null"]
            if "$ref" in schema:
                self._in_order(value, schema, strict)
                return
            properties = schema["properties"]
            assert list(value) == [name for name in properties if name in value], (list(value), list(properties))
            for name, each in value.items():
                assert not (strict and properties[name].get("x-profile") == "extended"), name
                self._in_order(each, properties[name], strict)


@attrs.define(eq=False)
class ClientSession:
    """A session in the room of `chat`, or on the feed if that is None. `frames` came since the last `take`."""

    user: User
    profile: Profile
    document: FrameValidator | None
    chat: UUID | None = None
    sources: frozenset[str] = frozenset()
    node: int = 0
    closed: int | None = None
    in_flight: int = 0
    frames: list[Json] = attrs.Factory(list)
    buffered_bytes: int = 0
    peer: str = ""
    receiver: RoomReceiver | FeedReceiver | None = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    left: trio.Event = attrs.Factory(trio.Event)

    def push(self, frames: Frames) -> None:
        assert self.closed is None, "nothing follows a close"
        channel = "operators" if self.chat is None else "chat"
        for payload in frames.payloads():
            if self.document is not None:
                self.document.check(payload, channel, self.profile)
            self.frames.append(json.loads(payload))

    def close(self, code: int, reason: str = "") -> None:
        self.closed = self.closed or code

    async def wait_drained(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.closed is None

    def operation_done(self, flooding: bool = False) -> None:
        self.in_flight -= 1
        assert self.in_flight >= 0, "a frame was answered twice"

    def take(self) -> list[Json]:
        frames, self.frames = self.frames, []
        return frames

    def raw(self, payload: bytes | str) -> None:
        """Handle a frame from the client, as a transport's session does."""
        assert self.receiver is not None
        try:
            command = decode_command(payload, self.profile)
        except Malformed as fault:
            self.receiver.malformed(fault)
            return
        if isinstance(command, UnknownType):
            self.receiver.receive(command)
            return
        # Answers may come before `receive` returns, as in a real session.
        self.in_flight += 1
        if not self.receiver.receive(command):
            self.in_flight -= 1

    def say(self, type_: str, **data: object) -> None:
        self.raw(json.dumps({"type": type_, "data": data}))


class CountingRunner:
    """Counts the calls that run in threads, which `wait_all_tasks_blocked` can't see."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._running = 0
        self._idle = trio.Event()

    async def run(self, call: Callable[[], T], meanwhile: Callable[[], object] | None = None) -> T:
        self._running += 1
        try:
            return await self._runner.run(call, meanwhile)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
                self._idle = trio.Event()

    async def wait_idle(self) -> bool:
        """Wait until no call runs. Returns true if none was running."""
        if not self._running:
            return True
        await self._idle.wait()
        return False


@attrs.frozen(eq=False)
class VirtualNode:
    """One chat service. Its calls of storage run in `runner`."""

    chats: ChatService
    system: ActorSystem
    journal: Journal
    runner: CountingRunner


@attrs.define(eq=False)
class VirtualTimeChat:
    """The chat service, its clock, and the means to join it. With several nodes, each use goes to the next of them."""

    nodes: list[VirtualNode]
    clock: MockClock
    nursery: trio.Nursery
    document: FrameValidator | None
    _uses: int = 0

    @property
    def chats(self) -> ChatService:
        return self.nodes[0].chats

    @property
    def system(self) -> ActorSystem:
        return self.nodes[0].system

    @property
    def journal(self) -> Journal:
        return self.nodes[0].journal

    def next_chats(self) -> ChatService:
        """The chat service of the next node."""
        return self.nodes[self._next_node()].chats

    def _next_node(self) -> int:
        self._uses += 1
        return self._uses % len(self.nodes)

    async def drain(self) -> None:
        for node in self.nodes:
            await node.chats.drain()

    async def settle(self) -> None:
        """Wait until nothing more can happen before the clock moves."""
        while True:
            await wait_all_tasks_blocked()
            if all([await node.runner.wait_idle() for node in self.nodes]):
                return

    async def join(self, chat: UUID, user: User, profile: Profile, after: int | None = None) -> ClientSession:
        tab = ClientSession(user, profile, self.document, chat, node=self._next_node())
        await self.nursery.start(self._hold, tab, self.nodes[tab.node].chats.joining.room(tab, chat, after))
        return tab

    async def console(self, user: User, profile: Profile, sources: frozenset[str]) -> ClientSession:
        tab = ClientSession(user, profile, self.document, None, sources, self._next_node())
        await self.nursery.start(self._hold, tab, self.nodes[tab.node].chats.joining.feed(tab, sources))
        return tab

    async def leave(self, tab: ClientSession) -> None:
        tab.scope.cancel()
        await tab.left.wait()

    @staticmethod
    async def _hold(tab: ClientSession, joining: Any, task_status: trio.TaskStatus[None]) -> None:
        with tab.scope:
            tab.receiver = await joining
            try:
                task_status.started()
                await trio.sleep_forever()
            finally:
                tab.receiver.leave()
        tab.left.set()

    def kill_room(self, chat: UUID) -> None:
        """Kill the room's actor. The next event in the room activates a new one."""
        for ref in chain.from_iterable(node.system.live() for node in self.nodes):
            if str(chat) in ref.name:
                ref.kill()


@asynccontextmanager
async def open_virtual_time_chat(
    clock: MockClock,
    document: FrameValidator | None,
    *,
    url: str = "memory://",
    policy: Policy | None = None,
    limits: Limits | None = None,
    wrap_runner: Callable[[Runner], Runner] | None = None,
    wrap_store: Callable[[Store], Store] | None = None,
    capacity: int = 10_000,
    nodes: int = 1,
) -> AsyncIterator[VirtualTimeChat]:
    """Open the chat service. `document`, unless it is None, checks every frame.

    `wrap_runner` can delay commits and reads; `wrap_store` can observe commits and make them fail. Several `nodes` are
    on one database, `memory://` or PostgreSQL, and on one bus.
    """
    policy = policy or Policy()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        memory = MemoryStore(policy, nodes=True)
        bus, tables = MemoryBus(), MemoryTables(trio.current_time)

        async def open_node(number: int) -> VirtualNode:
            stored: Store = memory
            in_threads: Runner = InPlace()
            if nodes == 1 or url != "memory://":
                storage = await stack.enter_async_context(open_store(url, policy))
                stored, in_threads = storage.store, storage.runner
            store = stored if wrap_store is None else wrap_store(stored)
            runner = CountingRunner(in_threads if wrap_runner is None else wrap_runner(in_threads))
            node: Node | None = None
            writer = f"writer-{number}"
            if nodes > 1:
                assert isinstance(stored, MemoryStore | PostgresStore)
                state, log = NodeState(f"node-{number}", "1.0"), AsyncNodeLog(stored, runner)
                node = Node(state, writer, log=log, tables=tables, runner=InPlace(), bus=bus.join())
                await node.begin()
            journal = await stack.enter_async_context(
                open_journal(
                    store,
                    runner,
                    capacity=capacity,
                    clock=trio.current_time,
                    writer=writer,
                    committed=None if node is None else node.committed,
                )
            )
            system = await stack.enter_async_context(open_system(on_dead_letter=settle_dead_letter))
            chats = await stack.enter_async_context(
                open_chats(
                    system=system,
                    journal=journal,
                    chat_reader=AsyncReader(store, runner),
                    policy=policy,
                    limits=limits or Limits(messages_per_second=0),
                    links=SignedLinks(b"a key of tests", trio.current_time, seconds=600),
                    clock=trio.current_time,
                    elsewhere=node,
                )
            )
            if node is not None and chats.remote is not None:
                await nursery.start(node.run, chats, chats.remote)
            return VirtualNode(chats, system, journal, runner)

        opened = [await open_node(number) for number in range(nodes)]
        sessions = await stack.enter_async_context(trio.open_nursery())
        yield VirtualTimeChat(opened, clock, sessions, document)
        sessions.cancel_scope.cancel()
