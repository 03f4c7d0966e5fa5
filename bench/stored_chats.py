"""Measures stored chats that nobody has open: their memory, and how fast the first message to one is delivered."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import attrs

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Operation, ReserveChat
from actorchat.protocol import Role, User
from actorchat.server.auth import local_token
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from bench.load.generator import on_load_core
from bench.run_plan import Plan
from bench.servers import SQLITE, actorchat_on, private_kib

__all__ = ["storage"]

BATCH = 500
SAMPLES = 400
FEW = 10_000
"""The number of chats to compare with: enough to fill every cache."""
NOTHING = 0.02
"""The target in KiB: less than the smallest Python object and a reference to it."""
STILL = 2.0
"""Seconds without a change in memory before it is measured: at its start a server reads the open chats."""
READ = 1 << 16
FIRST_VISITOR = 1 << 52


def storage(plan: Plan) -> None:
    """100,000 stored chats, none open: memory, and the time until the first message to one is broadcast."""
    chats = 20_000 if plan.quick else 100_000
    more = chats - FEW
    memory = plan.report.runs(f"{chats:,} stored chats against {FEW:,}, none open", "KiB a chat", less=True)
    first = plan.report.runs("first message to a cold chat, p99", "ms", less=True)
    second = plan.report.runs("second message to it, p99", "ms", less=True)
    who, noise = SQLITE.name, f"noise: two servers with {FEW:,}"
    ask = plan.report.ask_value
    ask(
        "a stored chat that nobody has open, KiB",
        memory.case,
        who,
        NOTHING,
        most=True,
        noise=(memory.case, noise),
        timed=False,
    )
    ask("first message to a cold chat, p99 in ms", first.case, who, 5.0, most=True)
    with TemporaryDirectory() as name:
        few, full = Path(name) / "few", Path(name) / "full"
        plan.tell(f"storage: writing {FEW:,} and {chats:,} chats")
        _store(few, FEW, plan.rounds)
        to_wake = _store(full, chats, plan.rounds)
        for number in plan.each_round("storage", steps=4):
            plan.step(f"storage: memory with {FEW:,} chats")
            without = _idle_kib(few)
            plan.step(f"storage: memory with {FEW:,} chats, again")
            memory.add(noise, abs(_idle_kib(few) - without) / more)
            plan.step(f"storage: memory with {chats:,} chats")
            with actorchat_on(full) as (port, process):
                memory.add(who, (private_kib(process, still=STILL) - without) / more)
                plan.step("storage: first messages to cold chats")
                with on_load_core(), _open_talk(port, full, _source(number)) as talk:
                    for runs in (first, second):
                        milliseconds, busy = talk.say_in_each(to_wake[number])
                        runs.add(who, sorted(milliseconds)[int(len(milliseconds) * 0.99) - 1], busy)


def _idle_kib(folder: Path) -> int:
    with actorchat_on(folder) as (_, process):
        return private_kib(process, still=STILL)


def _source(number: int) -> str:
    """The source of the chats of this round, so that its feed shows no others."""
    return f"round-{number}"


def _store(folder: Path, chats: int, rounds: int) -> list[list[tuple[UUID, int]]]:
    """Store `chats` chats. Returns for each round the chats that it opens, spread over all, with their visitors."""
    waking = random.sample(range(chats), min(SAMPLES * rounds, chats))
    round_of = {number: at % rounds for at, number in enumerate(waking)}
    to_wake: list[list[tuple[UUID, int]]] = [[] for _ in range(rounds)]
    with actorchat_on(folder):
        # The first start creates the schema, which must not count as a cost of the chats.
        pass
    store = SqliteStore(folder / "actorchat.db", Policy())
    for start in range(0, chats, BATCH):
        operations: list[Operation] = []
        for number in range(start, min(start + BATCH, chats)):
            uuid, owner = uuid4(), User(FIRST_VISITOR + number, Role.USER, "", "", f"Visitor {number}", "")
            waked = round_of.get(number)
            if waked is not None:
                to_wake[waked].append((uuid, owner.id))
            source = "lk" if waked is None else _source(waked)
            operations += [ReserveChat(uuid, source, owner), AddMessage(uuid, owner, "hello, is anybody there?")]
        store.commit(operations, Batch("bench", start + 1, int(time.time())))
    store.close()
    return to_wake


@attrs.frozen
class _Talk:
    """Two plain sockets, for HTTP and for the feed, so that the client adds almost nothing to the times."""

    api: socket.socket
    feed: socket.socket
    folder: Path
    source: str

    def say_in_each(self, chats: Sequence[tuple[UUID, int]]) -> tuple[list[float], float]:
        """The milliseconds from each visitor's request to its event on the feed, and this client's share of a core."""
        milliseconds, busy = [], 0.0
        for uuid, visitor in chats:
            token = local_token(self.folder, role=Role.USER, user_id=visitor, sources=[self.source])
            text = f"yes, at {time.monotonic_ns()}"
            body = f'{{"text": "{text}"}}'
            request = _request(
                f"POST /api/chats/{uuid}/messages",
                f"Authorization: Bearer {token}",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
            )
            began, cpu = time.perf_counter(), time.thread_time()
            self.api.sendall(request + body.encode())
            _read_until(self.feed, text.encode())
            milliseconds.append((time.perf_counter() - began) * 1000)
            busy += time.thread_time() - cpu
            _read_until(self.api, text.encode())
        return milliseconds, busy / (sum(milliseconds) / 1000)


@contextmanager
def _open_talk(port: int, folder: Path, source: str) -> Iterator[_Talk]:
    with ExitStack() as stack:
        api, feed = (stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(2))
        api.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        token = local_token(folder, role=Role.OPERATOR, user_id=1, sources=[source])
        feed.sendall(
            _request(
                f"GET /ws/operators?source={source}",
                f"Authorization: Bearer {token}",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            )
        )
        _read_until(feed, b"HTTP/1.1 101")
        # The feed sends the existing chats first, and then nothing.
        feed.settimeout(0.5)
        with suppress(TimeoutError):
            while feed.recv(READ):
                pass
        feed.settimeout(10)
        yield _Talk(api, feed, folder, source)


def _request(line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


def _read_until(stream: socket.socket, wanted: bytes) -> None:
    got = b""
    while wanted not in got:
        more = stream.recv(READ)
        # No other answer follows an HTTP error.
        if not more or got.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
            raise RuntimeError(f"the server sent {got[-300:]!r} instead of {wanted!r}")
        got += more
