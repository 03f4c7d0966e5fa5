"""Restarts several servers on one PostgreSQL database one by one, and measures how long their clients are away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Final
from uuid import UUID

import attrs
import httpx
import trio

from actorchat.client import ConnectionState, RoomConnection, open_room
from actorchat.protocol import MessageAdded, Role, User
from actorchat.server.auth import Tokens
from actorchat.testing.checker.node import SECRET, NodeProcess
from actorchat.testing.checker.proxies import Proxy, any_of

__all__ = ["Restarted", "check", "restart_nodes"]

PAUSE: Final = 0.1
"""Seconds from the answer to a client's message until its next one."""

READY_SECONDS: Final = 60.0
SETTLE_SECONDS: Final = 30.0
"""How long after the restart all clients may take to have everything."""


@attrs.frozen
class Restarted:
    """The restart took `seconds`. `longest_away`: of the clients, from the end of a socket until the next one."""

    seconds: float
    longest_away: float
    messages: int
    reconnects: int


async def restart_nodes(storage: str, folder: Path, *, pairs: int, nodes: int = 3, seed: int = 0) -> Restarted:
    """Restart the nodes while the visitor and the operator of `pairs` chats write.

    Raises RuntimeError if a client gets a message not at all, twice or out of order, or is never away: then there was
    nothing to measure.
    """
    random = Random(seed)
    running = [NodeProcess(f"node-{number}", storage, folder / f"node-{number}", ()) for number in range(nodes)]
    balancer = Proxy(any_of(random, lambda: [node.port for node in running if node.serving]))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(balancer.run)
            for node in running:
                await nursery.start(node.proxy.run)
                # One after the other: the first one makes the tables.
                await _start(node)
            restarted = await _restart(running, balancer.port, pairs, random)
            nursery.cancel_scope.cancel()
    finally:
        for node in running:
            node.kill()
    return restarted


async def _start(node: NodeProcess) -> None:
    await node.start()
    url = f"http://127.0.0.1:{node.port}/health/ready"
    async with httpx.AsyncClient(trust_env=False) as client:
        with trio.fail_after(READY_SECONDS):
            while (await client.get(url)).status_code != 200:  # noqa: ASYNC110 - of another process
                await trio.sleep(0.05)


async def _restart(running: Sequence[NodeProcess], port: int, pairs: int, random: Random) -> Restarted:
    url = f"http://127.0.0.1:{port}"
    stop = trio.Event()
    clients = await _make_clients(url, pairs, random, stop)
    async with trio.open_nursery() as nursery:
        for client in clients:
            await nursery.start(client.run, url)
        began = trio.current_time()
        for node in running:
            await node.stop()
            await _start(node)
        seconds = trio.current_time() - began
        stop.set()
        await _settle(lambda: all(client.answered for client in clients), "not all messages are answered")
        by_chat: dict[UUID, list[str]] = {}
        for client in clients:
            by_chat.setdefault(client.chat, []).extend(client.sent)
        for client in clients:
            await _settle(partial(client.has_seen, by_chat[client.chat]), f"{client.name} has not seen all messages")
            check(client.name, client.sent, client.seen)
            if not client.reconnects:
                raise RuntimeError(f"{client.name} kept its socket while all servers were restarted")
        nursery.cancel_scope.cancel()
    return Restarted(
        seconds,
        max(client.longest_away for client in clients),
        sum(len(client.sent) for client in clients),
        sum(client.reconnects for client in clients),
    )


async def _make_clients(url: str, pairs: int, random: Random, stop: trio.Event) -> list[_Client]:
    tokens = Tokens(SECRET)
    clients: list[_Client] = []
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
        for number in range(pairs):
            visitor = tokens.issue(User(100 + number, Role.USER, firstname=f"Visitor {number}"), ("lk",), 3_600)
            operator = tokens.issue(User(1 + number, Role.OPERATOR, firstname=f"Operator {number}"), ("lk",), 3_600)
            headers = {"Authorization": f"Bearer {visitor}"}
            answer = (await http.post("/api/visitors", json={"source": "lk"}, headers=headers)).raise_for_status()
            chat = UUID(answer.json()["chat"]["uuid"])
            for name, token in ((f"visitor {number}", visitor), (f"operator {number}", operator)):
                clients.append(_Client(name, token, chat, Random(random.random()), stop))
    return clients


async def _settle(condition: Callable[[], bool], problem: str) -> None:
    with trio.move_on_after(SETTLE_SECONDS):
        while not condition():  # noqa: ASYNC110 - of what clients have seen
            await trio.sleep(0.05)
        return
    raise RuntimeError(f"{problem} {SETTLE_SECONDS:.0f} s after a rolling restart")


@attrs.define(eq=False)
class _Client:
    """Writes one message after the answer to the other, and notes what it sees and how long it has no socket."""

    name: str
    token: str
    chat: UUID
    random: Random
    stop: trio.Event
    sent: list[str] = attrs.Factory(list)
    seen: list[tuple[int, str]] = attrs.Factory(list)
    answered: bool = False
    reconnects: int = 0
    longest_away: float = 0.0

    async def run(self, url: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with (
            open_room(url, self.chat, token=self.token, after=-1, random=self.random) as room,
            trio.open_nursery() as nursery,
        ):
            await room.wait_live()
            task_status.started()
            nursery.start_soon(self._watch, room)
            nursery.start_soon(self._write, room)
            async for event in room:
                if isinstance(event, MessageAdded):
                    self.seen.append((event.message.message_index, event.message.text))

    async def _watch(self, room: RoomConnection) -> None:
        while True:
            await room.wait_state_change(ConnectionState.LIVE)
            gone = trio.current_time()
            await room.wait_live()
            self.reconnects += 1
            self.longest_away = max(self.longest_away, trio.current_time() - gone)

    async def _write(self, room: RoomConnection) -> None:
        while not self.stop.is_set():
            text = f"{self.name}: {len(self.sent)}"
            self.sent.append(text)
            await (await room.send(text)).wait()
            await trio.sleep(PAUSE)
        self.answered = True

    def has_seen(self, texts: Sequence[str]) -> bool:
        return {text for _, text in self.seen}.issuperset(texts)


def check(name: str, sent: Sequence[str], seen: Sequence[tuple[int, str]]) -> None:
    """Raise RuntimeError unless the client saw every index once, in order, and each text that it sent once."""
    indexes = [index for index, _ in seen]
    if indexes != list(range(len(indexes))):
        raise RuntimeError(f"{name} saw messages twice, or not in order: {indexes}")
    texts = Counter(text for _, text in seen)
    if wrong := [text for text in sent if texts[text] != 1]:
        raise RuntimeError(f"{name} saw {len(wrong)} of its messages not exactly once: {wrong[:3]}")
