"""Measures servers: each function is a case, which declares its figures and targets, and measures them.

`docs/benchmarks.md` gives the reasons for the targets.
"""

from __future__ import annotations

from functools import partial

from bench.load.generator import Load
from bench.report import Runs
from bench.run_plan import Plan
from bench.servers import (
    ACTORCHAT,
    LIMIT,
    ON_TRIO_WEBSOCKET,
    OURS,
    SQLITE,
    WITH_IDS,
    Server,
    Target,
    console_sockets,
    private_kib,
)

__all__ = ["connect", "fanout", "feed", "idle", "latency", "rooms"]

SMALL_ROOMS = 300
CONSOLES = 20
PATIENCE = 0.05
"""A server keeps up with a rate if at the end at most the messages of this many seconds have not come back."""


def fanout(plan: Plan) -> None:
    """One room of 200 with 4 writers and 2 messages in flight each, and one of 1,000 with 8 writers and 1 message."""
    shapes = ((200, 4, 2, 0.5), (1000, 8, 1, 0.75))
    runs = {}
    for members, _, _, share in shapes:
        case = f"room of {members}"
        runs[members] = plan.report.runs(case, "deliveries/s")
        plan.report.ask(f"{case}, x uWebSockets.js", case, ACTORCHAT.name, (case, "uWebSockets.js"), 1.0)
        plan.report.ask(f"{case}, SQLite x memory", case, SQLITE.name, (case, WITH_IDS.name), share)

    def measure(server: Server, target: Target) -> None:
        for members, writers, in_flight, _ in shapes:
            with plan.sockets(target, 1, members, writers) as (load, _connected):
                _count(runs[members], server, load, in_flight, plan.seconds)

    plan.measure("fanout", (*OURS, *plan.peers), measure)


def rooms(plan: Plan) -> None:
    """300 rooms of two, in which the visitor writes, with 1 and with 4 messages in flight."""
    one, four = (f"{SMALL_ROOMS} rooms of 2, {in_flight} in flight" for in_flight in (1, 4))
    runs = {1: plan.report.runs(one, "deliveries/s"), 4: plan.report.runs(four, "deliveries/s")}
    ask, ours = plan.report.ask, ACTORCHAT.name
    ask(f"{one}, x ws", one, ours, (one, "ws"), 1.0)
    ask(f"{one}, x picows", one, ours, (one, "picows"), 0.7)
    ask(f"{four}, x picows", four, ours, (four, "picows"), 1.2)
    ask(f"{four}, x uWebSockets.js", four, ours, (four, "uWebSockets.js"), 0.6)
    ask(f"{four}, SQLite x ws, which stores nothing", four, SQLITE.name, (four, "ws"), 1.0)
    ask(f"{one}, SQLite x memory", one, SQLITE.name, (one, WITH_IDS.name), 0.55)

    def measure(server: Server, target: Target) -> None:
        with plan.sockets(target, SMALL_ROOMS, 2, 1) as (load, _):
            for in_flight, each in runs.items():
                _count(each, server, load, in_flight, plan.seconds)

    plan.measure("rooms", (*OURS, *plan.peers), measure)


def connect(plan: Plan) -> None:
    """Sockets opened a second, with 64 concurrent handshakes and the server's own authentication."""
    runs = plan.report.runs("connecting", "sockets/s")
    plan.report.ask_value("connecting, sockets/s", runs.case, ACTORCHAT.name, 5_000)

    def measure(server: Server, target: Target) -> None:
        with plan.sockets(target, 10, 100 if plan.quick else 400, 1) as (_, connected):
            runs.add(server.name, connected.sockets / connected.seconds, connected.cpu_share)

    plan.measure("connect", (ACTORCHAT, *plan.peers), measure)


def idle(plan: Plan) -> None:
    """The private memory of an idle socket in rooms of 200, and of one in a room of two with its share of the room."""
    big = plan.report.runs("idle socket, rooms of 200", "KiB", less=True)
    small = plan.report.runs("idle socket, rooms of 2", "KiB", less=True)
    ask = partial(plan.report.ask_value, timed=False)
    ask("idle socket in rooms of 200, KiB", big.case, ACTORCHAT.name, 4.0, most=True)
    ask("idle socket on trio-websocket, KiB", big.case, ON_TRIO_WEBSOCKET.name, 24.0, most=True)
    ask("idle socket in rooms of 2 with its share of the room, KiB", small.case, ACTORCHAT.name, 8.0, most=True)

    def measure(runs: Runs, count: int, members: int, server: Server, target: Target) -> None:
        # The first sockets of a process pay for imports and pools, so they are not measured. They stay open, because
        # the measured sockets would reuse any memory that they give back.
        with plan.sockets(target, 5, 40, 1):
            sockets = target.rooms(count // 4 if plan.quick else count, members, 1)
            before = private_kib(target.process)
            with plan.open(target, sockets):
                runs.add(server.name, (private_kib(target.process) - before) / len(sockets))

    servers = (ACTORCHAT, ON_TRIO_WEBSOCKET, *plan.peers)
    plan.measure("idle", servers, partial(measure, big, 8, 200), partial(measure, small, 800, 2))


def latency(plan: Plan) -> None:
    """Open loop in 300 rooms of two, at half the highest rate that each server keeps up with: p50, p99 and p99.9."""
    highest = plan.report.runs("highest rate kept up with", "messages/s")
    runs = [plan.report.runs(f"latency at half that, {name}", "ms", less=True) for name in ("p50", "p99", "p99.9")]
    late = plan.report.runs("of that p99, the load's own lateness", "ms", less=True)
    case = runs[1].case
    same_rate = f"{LIMIT.name}, at actorchat's rate"
    ask = partial(plan.report.ask, case=case, who=ACTORCHAT.name, bound=2.0, most=True)
    ask("p99 at half the highest rate, x the C limit's at half of its own", yardstick=(case, LIMIT.name))
    ask("p99 at half the highest rate, x the C limit's at the same rate", yardstick=(case, same_rate))
    ours = {}

    def at(who: str, load: Load, rate: float) -> None:
        measured = load.open_loop(rate=rate, seconds=plan.seconds)
        if measured.waiting:
            raise RuntimeError(f"{measured.waiting:,} messages never came back at half the highest rate")
        figures = (measured.p50_us, measured.p99_us, measured.p999_us)
        for each, microseconds in zip(runs, figures, strict=True):
            each.add(who, microseconds / 1000, measured.cpu_share)
        late.add(who, measured.late_p99_us / 1000)

    def measure(server: Server, target: Target) -> None:
        with plan.sockets(target, SMALL_ROOMS, 2, 1) as (load, _):
            rate = _highest_rate(load, min(plan.seconds, 0.4))
            highest.add(server.name, rate)
            at(server.name, load, rate / 2)
            if server is ACTORCHAT:
                ours["rate"] = rate / 2
            if server is LIMIT and "rate" in ours:
                at(same_rate, load, ours["rate"])

    plan.measure("latency", (ACTORCHAT, SQLITE, *plan.named(LIMIT.name, "ws", "picows", "uWebSockets.js")), measure)


def feed(plan: Plan) -> None:
    """20 consoles of one source while messages are sent in 300 rooms: what the consoles get and the rooms lose."""
    alone = plan.report.runs(f"{SMALL_ROOMS} rooms, no console", "messages/s")
    watched = plan.report.runs(f"{SMALL_ROOMS} rooms, {CONSOLES} consoles", "messages/s")
    shown = plan.report.runs(f"{CONSOLES} consoles", "deliveries/s")

    def measure(consoles: int, runs: Runs, server: Server, target: Target) -> None:
        sockets = target.rooms(SMALL_ROOMS, 2, 1)
        with plan.open(target, [*sockets, *console_sockets(sockets, consoles)]) as (load, _):
            measured = load.closed_loop(in_flight=1, seconds=plan.seconds)
            runs.add(server.name, measured.messages / measured.seconds, measured.cpu_share)
            if consoles:
                shown.add(server.name, measured.to_consoles / measured.seconds, measured.cpu_share)

    plan.measure("feed", (ACTORCHAT, SQLITE), partial(measure, 0, alone), partial(measure, CONSOLES, watched))


def _count(runs: Runs, server: Server, load: Load, in_flight: int, seconds: float) -> None:
    measured = load.closed_loop(in_flight=in_flight, seconds=seconds)
    runs.add(server.name, measured.deliveries_per_second, measured.cpu_share)


def _highest_rate(load: Load, seconds: float) -> float:
    """The highest scheduled rate that the server keeps up with, found by bisection to about 6 %."""
    closed = load.closed_loop(in_flight=1, seconds=seconds)
    low, high = 0.0, 2 * closed.messages / closed.seconds
    for _ in range(5):
        rate = (low + high) / 2
        # Tried twice, in case the machine stalled.
        if _keeps_up(load, rate, seconds) or _keeps_up(load, rate, seconds):
            low = rate
        else:
            high = rate
    if not low:
        raise RuntimeError(f"the server keeps up with no rate, not even {high:,.0f} messages a second")
    return low


def _keeps_up(load: Load, rate: float, seconds: float) -> bool:
    # Messages that the generator itself sends late also count as backlog.
    return load.open_loop(rate=rate, seconds=seconds).backlog <= PATIENCE * rate
