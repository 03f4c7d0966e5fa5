"""Owns what is measured of servers: one function a case, which adds its figures to the report, and its bars.

The bars are those the project set itself; `docs/benchmarks.md` says why these.
"""

from __future__ import annotations

import statistics
from functools import partial

from bench.cold import measure_cold
from bench.load import Load, Measured
from bench.plan import Plan, Runs
from bench.servers import ACTORCHAT, LIMIT, OURS, Server, Target, console_sockets, resident_kib

__all__ = ["connect", "fanout", "feed", "idle", "latency", "rooms", "storage"]

SMALL_ROOMS = 300
CONSOLES = 20


def fanout(plan: Plan) -> None:
    """One room of 200 (4 writers with 2 messages each on their way), one of 1,000 (8 x 1)."""
    shapes = [(200, 4, 2), (1000, 8, 1)]
    runs = {shape: Runs(f"room of {shape[0]}", "deliveries/s") for shape in shapes}

    def measure(server: Server, target: Target) -> None:
        for members, writers, in_flight in shapes:
            with plan.sockets(target, 1, members, writers) as (load, _):
                _count(runs[members, writers, in_flight], server, load, in_flight, plan.seconds)

    for server in plan.each("fanout", (*OURS, *plan.peers)):
        plan.try_with(server, partial(measure, server))
    for members, writers, in_flight in shapes:
        runs[members, writers, in_flight].into(plan.report)
        case = f"room of {members}"
        plan.report.ask(f"{case}, x uWebSockets.js", case, "actorchat", (case, "uWebSockets.js"), 1.0)
        share = 0.5 if members == 200 else 0.75
        plan.report.ask(f"{case}, SQLite x memory", case, "actorchat, SQLite", (case, "actorchat"), share)


def rooms(plan: Plan) -> None:
    """300 rooms of two: the visitor writes, with 1 and with 4 messages on their way."""
    runs = {in_flight: Runs(_small(in_flight), "deliveries/s") for in_flight in (1, 4)}
    for server in plan.each("rooms", (*OURS, *plan.peers)):
        plan.try_with(server, partial(_small_rooms, plan, runs, server))
    for each in runs.values():
        each.into(plan.report)
    one, four = _small(1), _small(4)
    ask = plan.report.ask
    ask(f"{one}, x ws", one, "actorchat", (one, "ws"), 1.0)
    ask(f"{one}, x picows", one, "actorchat", (one, "picows"), 0.7)
    ask(f"{four}, x picows", four, "actorchat", (four, "picows"), 1.2)
    ask(f"{four}, x uWebSockets.js", four, "actorchat", (four, "uWebSockets.js"), 0.6)
    ask(f"{four}, SQLite x ws, which stores nothing", four, "actorchat, SQLite", (four, "ws"), 1.0)
    ask(f"{one}, SQLite x memory", one, "actorchat, SQLite", (one, "actorchat"), 0.55)


def storage(plan: Plan) -> None:
    """100,000 stored chats, none open: memory, and how long the first message to one of them takes."""
    chats = 5_000 if plan.quick else 100_000
    memory = Runs("stored chats, none open", "KiB a chat", less=True)
    first = Runs("first message to a cold chat, p99", "ms", less=True)
    for server in plan.each("storage", [OURS[1]], long=True):
        kib, milliseconds = measure_cold(chats)
        memory.add(server.name, kib)
        first.add(server.name, milliseconds)
    memory.into(plan.report)
    first.into(plan.report)
    plan.report.ask_value("a stored chat that nobody has open, KiB", memory.case, OURS[1].name, 0.01, most=True)
    plan.report.ask_value("first message to a cold chat, p99 in ms", first.case, OURS[1].name, 5.0, most=True)


def connect(plan: Plan) -> None:
    """Sockets opened a second, 64 handshakes under way, with whatever authentication the server has."""
    runs = Runs("connecting", "sockets/s")

    def measure(server: Server, target: Target) -> None:
        with plan.sockets(target, 10, 100 if plan.quick else 400, 1) as (_, connected):
            runs.add(server.name, connected.sockets / connected.seconds, connected.cpu_share)

    for server in plan.each("connect", (*OURS, *plan.peers)):
        plan.try_with(server, partial(measure, server))
    runs.into(plan.report)
    plan.report.ask_value("connecting, sockets/s", "connecting", "actorchat", 5_000)


def idle(plan: Plan) -> None:
    """What an idle socket costs in resident memory, by itself in rooms of 200, and with its share of a room of two."""
    big, small = Runs("idle socket, rooms of 200", "KiB", less=True), Runs("idle socket, rooms of 2", "KiB", less=True)
    shapes = ((big, 10, 200), (small, 1000, 2))

    def measure(server: Server, target: Target) -> None:
        with plan.sockets(target, 5, 40, 1):
            # What the first sockets of a process pay for, imports and pools, is no later one's cost.
            pass
        for runs, count, members in shapes:
            sockets = target.rooms(count // 4 if plan.quick else count, members, 1)
            before = resident_kib(target.process)
            with plan.open(target, sockets):
                runs.add(server.name, (resident_kib(target.process) - before) / len(sockets))

    for server in plan.each("idle", (*OURS, *plan.peers), long=True):
        plan.try_with(server, partial(measure, server))
    big.into(plan.report)
    small.into(plan.report)
    ask = plan.report.ask_value
    ask("idle socket in rooms of 200, KiB", big.case, "actorchat", 4.0, most=True)
    ask("idle socket on trio-websocket, KiB", big.case, "actorchat on trio-websocket", 24.0, most=True)
    ask("idle socket in rooms of 2 with its share of the room, KiB", small.case, "actorchat", 8.0, most=True)


def latency(plan: Plan) -> None:
    """Open loop in 300 rooms of two, at half of what actorchat reaches at most: p50, p99 and p99.9, from when due."""
    runs = {name: Runs(f"latency at half load, {name}", "ms", less=True) for name in ("p50", "p99", "p99.9")}
    rates: list[float] = []

    def find_rate(target: Target) -> None:
        with plan.sockets(target, SMALL_ROOMS, 2, 1) as (load, _):
            measured = load.closed_loop(in_flight=4, seconds=plan.seconds)
            rates.append(measured.messages / measured.seconds / 2)

    def measure(server: Server, target: Target) -> None:
        with plan.sockets(target, SMALL_ROOMS, 2, 1) as (load, _):
            measured = load.open_loop(rate=statistics.median(rates), seconds=plan.seconds)
        if measured.waiting:
            plan.report.leave_out(f"{server.name}: {measured.waiting:,} messages never came back at this rate")
        figures = (measured.p50_us, measured.p99_us, measured.p999_us)
        for each, microseconds in zip(runs.values(), figures, strict=True):
            each.add(server.name, microseconds / 1000, measured.cpu_share)

    plan.try_with(ACTORCHAT, find_rate)
    for server in plan.each("latency", [ACTORCHAT, OURS[1], *plan.named(LIMIT.name, "ws", "picows", "uWebSockets.js")]):
        plan.try_with(server, partial(measure, server))
    for each in runs.values():
        each.into(plan.report)
    case = runs["p99"].case
    plan.report.ask("p99 at half load, x the C limit's", case, "actorchat", (case, LIMIT.name), 2.0, most=True)


def feed(plan: Plan) -> None:
    """20 consoles on the one source while 300 rooms talk: what they get, and what that costs the rooms."""
    alone = Runs("300 rooms, no console", "messages/s")
    watched = Runs(f"300 rooms, {CONSOLES} consoles", "messages/s")
    shown = Runs(f"{CONSOLES} consoles", "deliveries/s")

    def measure(server: Server, target: Target) -> None:
        sockets = target.rooms(SMALL_ROOMS, 2, 1)
        with plan.open(target, sockets) as (load, _):
            measured = load.closed_loop(in_flight=1, seconds=plan.seconds)
            alone.add(server.name, measured.messages / measured.seconds, measured.cpu_share)
        with plan.open(target, [*sockets, *console_sockets(sockets, CONSOLES)]) as (load, _):
            measured = load.closed_loop(in_flight=1, seconds=plan.seconds)
            watched.add(server.name, measured.messages / measured.seconds, measured.cpu_share)
            to_consoles = measured.deliveries - 2 * measured.messages
            shown.add(server.name, to_consoles / measured.seconds, measured.cpu_share)

    for server in plan.each("feed", OURS[:2]):
        plan.try_with(server, partial(measure, server))
    for each in (alone, watched, shown):
        each.into(plan.report)


def _small_rooms(plan: Plan, runs: dict[int, Runs], server: Server, target: Target) -> None:
    with plan.sockets(target, SMALL_ROOMS, 2, 1) as (load, _):
        for in_flight, each in runs.items():
            _count(each, server, load, in_flight, plan.seconds)


def _small(in_flight: int) -> str:
    return f"{SMALL_ROOMS} rooms of 2, {in_flight} in flight"


def _count(runs: Runs, server: Server, load: Load, in_flight: int, seconds: float) -> None:
    measured: Measured = load.closed_loop(in_flight=in_flight, seconds=seconds)
    runs.add(server.name, measured.deliveries_per_second, measured.cpu_share)
