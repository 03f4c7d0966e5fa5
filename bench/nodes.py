"""Measures two servers on one PostgreSQL database: their rates, what the way to the other one adds, and a restart."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import attrs
import trio

from bench.load.bare_sockets import drain, open_bare_socket, text_frame
from bench.load.generator import Socket, on_load_core, open_load
from bench.report import Report, Runs
from bench.rolling_restart import restart_nodes
from bench.run_plan import Plan
from bench.servers import actorchat_on, chat_sockets

__all__ = ["nodes"]

CHATS: Final = 200
"""Chats whose visitor and operator both write while the rates are measured."""

WATCHED: Final = 20
"""Chats of which each has a reader on both nodes while the latency is measured."""

RATE: Final = 100
"""Messages per second in these chats together."""

WARM: Final = 0.5
"""Seconds of that load that are not counted."""

ROUND_SECONDS: Final = 75.0
"""There is no second round if the first one took longer, so that a busy machine does not need minutes more."""

BUSES: Final = ("postgres", "redis", "none")
ONE, SAME, OWN = "one node", "two nodes, the same chats", "two nodes, own chats"
TEXT: Final = re.compile(rb'"text": ?"(\d{9,})"')


def nodes(plan: Plan) -> None:
    """Nodes: rates of one and two, the way to the other node with and without a bus, and a rolling restart of three."""
    # Imported here, because they come with the extra `test`.
    from tests.brokers.servers import Valkey
    from tests.postgres_server import PostgresServer

    report = plan.report
    chats = CHATS // 4 if plan.quick else CHATS
    rates = report.runs(f"{chats} chats of two writers on PostgreSQL", "messages/s")
    report.ask("two nodes, messages/s, the same chats x own chats", rates.case, SAME, (rates.case, OWN), 0.45)
    delivery = _Delivery.declare(report)
    away = report.runs("rolling restart of three, longest time that a client was away", "s", less=True)
    restart = report.runs("the restart itself", "s", less=True)
    report.ask_value(f"{away.case}, s", away.case, "actorchat", 2.0, most=True)
    seconds = 2 * plan.seconds if plan.quick else max(3.0, plan.seconds)
    # With fsync, as every server that keeps its promises has it.
    server = PostgresServer("shared_buffers=128MB")
    try:
        with on_load_core():
            server.create()
            server.start()
        began = time.monotonic()
        for number in plan.each_round("nodes", steps=7, long=True):
            if number and time.monotonic() - began > ROUND_SECONDS:
                plan.tell("nodes: one round only, because this machine is slow")
                break
            with TemporaryDirectory() as name:
                folder = Path(name)
                with _two_nodes(folder / "postgres", server.new_database(), "postgres") as two:
                    for who, rate in _measure_rates(plan, two, chats):
                        rates.add(who, rate)
                    plan.step("nodes: latency, bus postgres")
                    delivery.measure(two, "postgres", seconds)
                (folder / "valkey").mkdir()
                valkey = Valkey(folder / "valkey")
                try:
                    with on_load_core():
                        valkey.start()
                    with _two_nodes(folder / "redis", server.new_database(), valkey.url) as two:
                        plan.step("nodes: latency, bus redis")
                        delivery.measure(two, "redis", seconds)
                        plan.step("nodes: latency, the bus away")
                        valkey.kill()
                        delivery.measure(two, "none", seconds)
                finally:
                    valkey.kill()
                plan.step("nodes: rolling restart of three")
                pairs = 3 if plan.quick else 10
                restarted = trio.run(partial(restart_nodes, server.new_database(), folder, pairs=pairs, seed=number))
                away.add("actorchat", restarted.longest_away)
                restart.add("actorchat", restarted.seconds)
    finally:
        server.close()


@attrs.frozen
class _TwoNodes:
    """Their ports, and a folder with the secret that both have."""

    ports: tuple[int, int]
    folder: Path

    def sockets(self, count: int, members: int) -> list[Socket]:
        """`count` new chats: in each a socket of the visitor, then those of an operator."""
        return chat_sockets(self.ports[0], self.folder, count, members, 1)


@contextmanager
def _two_nodes(folder: Path, storage: str, bus: str) -> Iterator[_TwoNodes]:
    folder.mkdir()
    options = ("--storage", storage, "--bus", bus)
    one, two = folder / "one", folder / "two"
    with ExitStack() as stack:
        first, _ = stack.enter_context(actorchat_on(one, *options))
        two.mkdir()
        shutil.copy(one / "secret", two / "secret")
        second, _ = stack.enter_context(actorchat_on(two, *options))
        yield _TwoNodes((first, second), one)


def _measure_rates(plan: Plan, two: _TwoNodes, chats: int) -> Iterator[tuple[str, float]]:
    """The same chats and writers each time: only the nodes to which these connect differ."""
    sockets = [attrs.evolve(socket, role="writes") for socket in two.sockets(chats, 2)]
    half = len(sockets) // 4 * 2
    placed = {ONE: (sockets,), SAME: (sockets[::2], sockets[1::2]), OWN: (sockets[:half], sockets[half:])}
    for who, sides in placed.items():
        plan.step(f"nodes: {who}")
        yield who, _rate(two.ports, sides, plan.seconds)


def _rate(ports: Sequence[int], sides: Sequence[Sequence[Socket]], seconds: float) -> float:
    """Messages per second, of all sides together, while each writer has one in flight."""
    with ExitStack() as stack:
        loads = [
            stack.enter_context(open_load(port, side, ids=True))[0]
            for port, side in zip(ports, sides, strict=False)  # one side uses the first node only
        ]
        threads = stack.enter_context(ThreadPoolExecutor(len(loads)))
        measured = threads.map(lambda load: load.closed_loop(in_flight=1, seconds=seconds), loads)
        return sum((each.messages / each.seconds for each in measured), 0.0)


@attrs.frozen
class _Delivery:
    """The figures of deliveries on the writer's own node and on the other one."""

    own: dict[float, Runs]
    other: dict[float, Runs]
    added: Runs

    @classmethod
    def declare(cls, report: Report) -> _Delivery:
        own, other = (
            {share: report.runs(f"delivery on {where}, p{share * 100:.0f}", "ms", less=True) for share in (0.5, 0.99)}
            for where in ("the own node", "the other node")
        )
        added = report.runs("what the other node adds to the own p50", "ms", less=True)
        for bus in ("postgres", "redis"):
            report.ask_value(f"{added.case}, {_who(bus)}, ms", added.case, _who(bus), 3.0, most=True)
        late = other[0.99].case
        report.ask_value(f"{late}, {_who('none')}, ms", late, _who("none"), 1_500.0, most=True)
        return cls(own, other, added)

    def measure(self, two: _TwoNodes, bus: str, seconds: float) -> None:
        with on_load_core():
            sockets = two.sockets(WATCHED, 2)
            own, other, busy = trio.run(_send_and_read, two.ports, sockets, seconds)
        for share in (0.5, 0.99):
            self.own[share].add(_who(bus), _quantile(own, share), busy)
            self.other[share].add(_who(bus), _quantile(other, share), busy)
        self.added.add(_who(bus), _quantile(other, 0.5) - _quantile(own, 0.5))


def _who(bus: str) -> str:
    return "the bus away" if bus == "none" else f"bus {bus}"


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


@attrs.define(eq=False)
class _Reader:
    """Notes how many milliseconds after it was due each message came."""

    counted_from: int
    late: dict[int, float] = attrs.Factory(dict)
    _rest: bytes = b""

    def take(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._rest += data
        end = 0
        for found in TEXT.finditer(self._rest):
            end, due = found.end(), int(found[1])
            if due >= self.counted_from:
                # Other events repeat the text of a message.
                self.late.setdefault(due, (now - due) / 1e6)
        # A text may be cut in two.
        self._rest = self._rest[max(end, len(self._rest) - 64) :]


async def _send_and_read(
    ports: tuple[int, int], sockets: Sequence[Socket], seconds: float
) -> tuple[list[float], list[float], float]:
    """The milliseconds from when each message is due until it is on the own and on the other node's socket.

    The last figure is this process's share of its core.
    """
    writers, readers = sockets[::2], sockets[1::2]
    count, warming = int(RATE * seconds), int(RATE * WARM)
    with trio.fail_after(seconds + 60):
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            streams = [await stack.enter_async_context(await open_bare_socket(ports[0], each)) for each in writers]
            watching = [
                [await stack.enter_async_context(await open_bare_socket(port, each)) for each in readers]
                for port in ports
            ]
            # Times are counted from when a message is due, so that a late sender hides nothing.
            begun = time.monotonic_ns() + 500_000_000
            due = [begun + number * 1_000_000_000 // RATE for number in range(warming + count)]
            sides = [[_Reader(due[warming]) for _ in side] for side in watching]
            for stream in streams:
                nursery.start_soon(drain, stream)
            for side, notes in zip(watching, sides, strict=True):
                for stream, reader in zip(side, notes, strict=True):
                    nursery.start_soon(_read, stream, reader)
            busy = time.process_time()
            for number, moment in enumerate(due):
                await trio.sleep(max(0, moment - time.monotonic_ns()) / 1e9)
                text = b'{"type":"send_message","data":{"text":"%d"}}' % moment
                await streams[number % len(streams)].send_all(text_frame(text))
            share = (time.process_time() - busy) / (time.monotonic_ns() - begun) * 1e9
            while any(sum(len(reader.late) for reader in side) < count for side in sides):  # noqa: ASYNC110 - of all readers
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    own, other = ([late for reader in side for late in reader.late.values()] for side in sides)
    return own, other, share


async def _read(stream: trio.SocketStream, reader: _Reader) -> None:
    async for data in stream:
        reader.take(bytes(data))
