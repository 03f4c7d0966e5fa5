"""A server under load is killed and restarted: every broadcast message is stored once.

`pytest tests/system --kill-rounds=20` kills it 20 times, each after up to 5 s of load; by default it is 2 short
rounds, with each transport. Each prints the seed of its random choices; `--kill-seed` repeats them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain, cycle
from pathlib import Path
from uuid import UUID

import attrs
import pytest
import trio

from actorchat.protocol import (
    ChatStatus,
    ChatUpdated,
    Event,
    GlobalUpdated,
    MarkMessageRead,
    Message,
    MessageAdded,
    MessageNotAdded,
    MessageStatus,
    MessageType,
    OperatorUpdated,
    Receipts,
    Role,
    SendMessage,
)
from tests.system.clients import Http, Socket, open_http, open_socket
from tests.system.server_process import TRANSPORTS, ServerProcess, token

CHATS = 5
TABS = 2
"""Sockets of the visitor and of the operator in each chat: 20 in all."""

OPERATORS = 3
WINDOW = 8
REPEATED = 5
"""The number of answered messages that each socket sends again."""

CAP = 60.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    rounds: int | None = metafunc.config.getoption("--kill-rounds", None)
    seconds = 1.5 if rounds is None else 5.0
    metafunc.parametrize(("round_", "seconds"), [(number, seconds) for number in range(rounds or 2)])


@attrs.define(eq=False)
class Talker:
    """A participant of a chat, with what it has sent and received, over sockets and servers."""

    name: str
    role: Role
    token: str
    chat: UUID
    rng: random.Random
    sent: int = 0
    unanswered: dict[str, str] = attrs.Factory(dict)
    answered: dict[str, str] = attrs.Factory(dict)
    live: list[Message] = attrs.Factory(list)
    answers: list[Message] = attrs.Factory(list)
    receipts: list[Receipts] = attrs.Factory(list)
    window: trio.Semaphore = attrs.Factory(lambda: trio.Semaphore(WINDOW))
    silent: bool = False

    @property
    def last_index(self) -> int:
        return self.live[-1].message_index if self.live else -1

    @asynccontextmanager
    async def connected(self, port: int) -> AsyncIterator[Socket]:
        """Open a socket in the room, and read everything that was missed."""
        async with open_socket(port, f"/ws/chats/{self.chat}?after={self.last_index}", self.token) as socket:
            # The replay ends with `chat_updated`.
            while not isinstance(event := await socket.next(), ChatUpdated):
                self.take(event)
            yield socket

    def take(self, event: Event) -> None:
        match event:
            case MessageAdded(message=message, client_id=client_id):
                if message.message_index == self.last_index + 1:
                    self.live.append(message)
                else:
                    again = message.message_index <= self.last_index and client_id in self.unanswered
                    assert again, f"{self.name} has a gap or a duplicate at {message}"
                    self.answers.append(message)
                if client_id in self.unanswered:
                    self.answered[client_id] = self.unanswered.pop(client_id)
                    self.window.release()
            case MessageNotAdded():
                raise AssertionError(f"{self.name} was refused: {event}")
            case Receipts():
                self.receipts.append(event)
            case _:
                pass

    async def read(self, socket: Socket) -> None:
        """Read until the socket ends."""
        try:
            while True:
                event = await socket.next()
                self.take(event)
                if isinstance(event, MessageAdded) and event.message.type_role is not self.role:
                    await self._perhaps_mark(socket, event.message)
        except trio.EndOfChannel:
            return

    async def _perhaps_mark(self, socket: Socket, message: Message) -> None:
        if self.rng.random() < 0.02 and not self.silent:
            await _unless_gone(socket, MarkMessageRead(message.id))

    async def talk(self, socket: Socket) -> None:
        """Send messages, of which a few wait for their answers, until silent or the server is gone."""
        while True:
            await self.window.acquire()
            if self.silent:
                self.window.release()
                return
            self.sent += 1
            client_id = f"{self.name}-{self.sent}"
            text = f"{client_id} {'ж' * self.rng.randrange(200)}"
            self.unanswered[client_id] = text
            if not await _unless_gone(socket, SendMessage(text, client_id=client_id)):
                return

    async def fall_silent(self) -> None:
        """Send nothing more, and return when everything is answered."""
        self.silent = True
        for _ in range(WINDOW):
            await self.window.acquire()

    async def repeat(self, socket: Socket, doubtful: dict[str, str]) -> None:
        """Send these messages again, and wait for all answers."""
        self.unanswered, self.window = dict(doubtful), trio.Semaphore(WINDOW)
        for client_id, text in doubtful.items():
            await self.window.acquire()
            await socket.send(SendMessage(text, client_id=client_id))
        while self.unanswered:
            await self.window.acquire()


async def _unless_gone(socket: Socket, command: SendMessage | MarkMessageRead) -> bool:
    try:
        await socket.send(command)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return False
    return True


class Scene:
    """Chats with their participants, spread over the servers, before and after the first of these is killed."""

    def __init__(self, servers: Sequence[ServerProcess], rng: random.Random) -> None:
        self.servers = servers
        self.killed, self.living = servers[0], servers[-1]
        self.rng = rng
        self.admin = token(Role.OPERATOR, 1)
        self.talkers: list[Talker] = []
        self.shown: list[Message] = []

    async def prepare(self, http: Http) -> None:
        for number in range(CHATS):
            people = {
                Role.USER: token(Role.USER, 100 + number),
                Role.OPERATOR: token(Role.OPERATOR, 1 + number % OPERATORS),
            }
            chat = await http.reserve(people[Role.USER])
            for role, tab in ((role, tab) for role in people for tab in range(TABS)):
                rng = random.Random(self.rng.random())
                self.talkers.append(Talker(f"{number}-{role}-{tab}", role, people[role], chat, rng))

    async def load_and_kill(self, seconds: float) -> None:
        """Let all participants send, kill the server, and read everything that had arrived.

        Those of other servers stop sending then, and read their answers.
        """
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            feed = await nursery.start(self._watch)
            for talker, server in zip(self.talkers, cycle(self.servers), strict=False):
                await nursery.start(self._talk, talker, server, over)
            await trio.sleep(self.rng.uniform(0.2, seconds))
            await trio.to_thread.run_sync(self.killed.kill)
            assert await feed.gone() is not None
            over.set()

    async def _talk(
        self, talker: Talker, server: ServerProcess, over: trio.Event, *, task_status: trio.TaskStatus[None]
    ) -> None:
        async with talker.connected(server.port) as socket, trio.open_nursery() as nursery:
            task_status.started()
            nursery.start_soon(talker.talk, socket)
            if server is not self.killed:
                nursery.start_soon(self._stop, talker, over, nursery.cancel_scope)
            await talker.read(socket)
            nursery.cancel_scope.cancel()

    async def _stop(self, talker: Talker, over: trio.Event, scope: trio.CancelScope) -> None:
        """Let a participant read the answers to what it has sent, and end its socket."""
        await over.wait()
        await talker.fall_silent()
        # Marks have no answers.
        await trio.sleep(0.3)
        scope.cancel()

    async def _watch(self, *, task_status: trio.TaskStatus[Socket]) -> None:
        async with open_socket(self.killed.port, "/ws/operators", self.admin) as socket:
            task_status.started(socket)
            try:
                while True:
                    event = await socket.next()
                    if isinstance(event, MessageAdded):
                        self.shown.append(event.message)
            except trio.EndOfChannel:
                return

    async def come_back(self) -> None:
        """Resume all participants, each on another server, and repeat the messages without an answer."""
        async with trio.open_nursery() as nursery:
            for talker, server in zip(self.talkers, cycle(reversed(self.servers)), strict=False):
                nursery.start_soon(self._come_back, talker, server)

    async def _come_back(self, talker: Talker, server: ServerProcess) -> None:
        talker.silent = False
        # Some answered messages are repeated too: the answer must be the stored message.
        doubtful = {**dict(list(talker.answered.items())[-REPEATED:]), **talker.unanswered}
        async with talker.connected(server.port) as socket, trio.open_nursery() as nursery:
            nursery.start_soon(talker.read, socket)
            await talker.repeat(socket, doubtful)
            nursery.cancel_scope.cancel()

    def received(self) -> list[Message]:
        """All messages that any participant received."""
        return [*self.shown, *chain.from_iterable((*each.live, *each.answers) for each in self.talkers)]

    async def stored(self, http: Http) -> dict[UUID, list[Message]]:
        """The history of every chat, after checking that it has no gap and no duplicate."""
        chats = {talker.chat for talker in self.talkers}
        histories = {chat: await http.history(self.admin, chat) for chat in chats}
        for messages in histories.values():
            assert [message.message_index for message in messages] == list(range(len(messages)))
        everything = list(chain.from_iterable(histories.values()))
        assert max(Counter(message.id for message in everything).values(), default=1) == 1
        assert max(Counter(message.text for message in everything).values(), default=1) == 1
        return histories

    async def check_counters(self, http: Http, histories: dict[UUID, list[Message]]) -> None:
        """Check that the snapshot of a console agrees with the chats."""
        chats = await http.chats(self.admin)
        loads = {
            number: Counter(chat.status for chat in chats if chat.operator_user and chat.operator_user.id == number)
            for number in range(1, OPERATORS + 1)
        }
        unread = sum(
            any(each.type_role is Role.USER and each.status is not MessageStatus.READ for each in histories[chat.uuid])
            for chat in chats
        )
        told: dict[int, tuple[int, int]] = {}
        told_unread: int | None = None
        async with open_socket(self.living.port, "/ws/operators", self.admin) as feed:
            while told_unread is None or told.keys() != loads.keys():
                event = await feed.next()
                if isinstance(event, OperatorUpdated):
                    told[event.user.id] = event.new_chats, event.open_chats
                elif isinstance(event, GlobalUpdated):
                    told_unread = event.unread_chats
        assert told == {number: (load[ChatStatus.NEW], load[ChatStatus.OPEN]) for number, load in loads.items()}
        assert told_unread == unread


def check_received(received: list[Message], histories: dict[UUID, list[Message]]) -> None:
    """Check that every received message is stored as it was received."""
    for message in received:
        history = histories[message.chat.uuid]
        assert message.message_index < len(history), f"lost: {message}"
        stored = history[message.message_index]
        assert (stored.id, stored.text, stored.user) == (message.id, message.text, message.user)


def check_receipts(talkers: list[Talker], histories: dict[UUID, list[Message]]) -> None:
    """Check that every message received as read is stored as read."""
    for receipts in chain.from_iterable(talker.receipts for talker in talkers):
        for message in histories[receipts.chat_id][: receipts.read + 1]:
            assert message.type is MessageType.STANDARD
            assert message.type_role is receipts.role or message.status is MessageStatus.READ


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transport", "storage", "count"),
    [
        *((transport, "sqlite", 1) for transport in TRANSPORTS),
        ("reactor", "postgresql", 1),
        ("reactor", "postgresql", 2),
    ],
)
async def test_a_killed_server_keeps_every_broadcast_message_once(
    tmp_path: Path,
    transport: str,
    storage: str,
    count: int,
    round_: int,
    seconds: float,
    request: pytest.FixtureRequest,
) -> None:
    extra = {"ACTORCHAT_STORAGE": request.getfixturevalue("new_postgres")()} if storage == "postgresql" else None
    seed: int = request.config.getoption("--kill-seed", None) or random.randrange(2**32)
    print(f"round {round_}: --kill-seed={seed}")  # noqa: T201 - pytest shows it if the round fails
    servers = [ServerProcess(tmp_path / f"data{number}", transport, extra=extra) for number in range(count)]
    scene = Scene(servers, random.Random(seed))
    try:
        with trio.fail_after(CAP):
            for server in servers:
                await trio.to_thread.run_sync(server.start)
            async with open_http(servers[0].url) as http:
                await scene.prepare(http)
            await scene.load_and_kill(seconds)
            await trio.to_thread.run_sync(scene.killed.start)
            async with open_http(scene.living.url) as http:
                before = await scene.stored(http)
                check_received(scene.received(), before)
                check_receipts(scene.talkers, before)
                await scene.check_counters(http, before)
                await scene.come_back()
                after = await scene.stored(http)
                check_received(scene.received(), after)
                await scene.check_counters(http, after)
    finally:
        for server in servers:
            server.close()
    for chat, messages in before.items():
        assert [each.id for each in after[chat][: len(messages)]] == [each.id for each in messages]
    sent = sum(talker.sent for talker in scene.talkers)
    assert sum(map(len, after.values())) == sent, "every client_id is stored exactly once after the retry"
    for server in servers:
        assert "recounted" not in server.log
        assert "Traceback" not in server.log
    repeated = sum(len(talker.answers) for talker in scene.talkers)
    assert repeated
    print(f"{sent} stored, {repeated} of them repeated")  # noqa: T201 - shows the size of the round
