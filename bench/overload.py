"""Measures overload: a flooding socket, mass reconnects after a restart, unfinished requests and stalled readers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import httpx

from bench.http_clients import http_clients
from bench.load.generator import Socket, on_load_core, open_load
from bench.run_plan import Plan
from bench.servers import ACTORCHAT, SQLITE, actorchat_on, chat_sockets, private_kib
from bench.stalled_readers import history_requests, peak_kib, replay_requests, say_a_lot, stalled_readers
from bench.unfinished_requests import allow_open_files, newcomer, unfinished_heads

__all__ = ["flood", "http_load", "newcomers", "resume", "stalled"]

QUIET_ROOMS = 100
QUIET_RATE = 500
"""Messages a second of all quiet rooms together: five for each room, half of a user's rate limit."""
FLOOD_RATE = 10_000
ENOUGH = 0.95
"""The share of the intended flood that must have been sent for the result to count."""
FLOOD_SECONDS = 6.0
"""Long enough for 3,000 messages in quiet rooms: the p99 of fewer is a handful, and shows the disk's worst moments."""
RESUMED = 20
"""The number of messages that each socket has missed."""
STALLED = 300
STALLED_PER_SECOND = 100
CLOSING_SECONDS = 1.5
"""Seconds in which the server finishes its work for readers that are gone."""
HEADS = 2_000
NEWCOMERS = 20
IDLE_CONNECTIONS = 1_000
SLOW_HEADS = 200
SIGN_INS = 33
"""Sign-ins at once: one whose password is being checked, and as many as may wait for that."""


def flood(plan: Plan) -> None:
    """100 quiet rooms of two while one socket sends 10,000 messages a second: their p99, against that without it."""
    report = plan.report
    alone = report.runs(f"p99 of {QUIET_ROOMS} quiet rooms", "ms", less=True)
    flooded = report.runs("p99 beside a flood", "ms", less=True)
    sent = report.runs("flood, sent", "messages/s")
    refused = report.runs("flood, answered as refused", "messages/s")
    who = ACTORCHAT.name
    seconds = 2 * plan.seconds if plan.quick else FLOOD_SECONDS
    report.ask(f"{alone.case}, flooded x not", flooded.case, who, (alone.case, who), 1.2, most=True)
    for _ in plan.each_round("flood", steps=2):
        # One process makes both loads, so that they disturb each other in both cases. In the case without a flood the
        # generator floods itself: only the server's work differs.
        for runs in (alone, flooded):
            plan.step(f"flood: {runs.case}")
            with TemporaryDirectory() as name, actorchat_on(Path(name), allowed=True) as (port, _):
                sockets = chat_sockets(port, Path(name), QUIET_ROOMS, 2, 1)
                if runs is flooded:
                    writer, reader = chat_sockets(port, Path(name), 1, 2, 1)
                    # The flooded room is not one of the quiet rooms, so its messages are not measured.
                    sockets += [attrs.evolve(writer, role="floods"), attrs.evolve(reader, role="console")]
                with open_load(port, sockets, sink=runs is alone) as (load, _):
                    measured = load.open_loop(rate=QUIET_RATE, seconds=seconds, flood=FLOOD_RATE)
            if measured.waiting:
                raise RuntimeError(f"{measured.waiting:,} messages of quiet rooms never came back")
            runs.add(who, measured.p99_us / 1000, measured.cpu_share)
            rate = measured.flooded / measured.seconds
            if rate < ENOUGH * FLOOD_RATE:
                raise RuntimeError(f"only {rate:,.0f} messages a second of the flood were sent")
            if runs is flooded:
                sent.add(who, rate)
                refused.add(who, measured.refused / measured.seconds)


def resume(plan: Plan) -> None:
    """10,000 sockets reconnect after a restart and resume 20 messages each: seconds until all have everything."""
    rooms, members = (10, 100) if plan.quick else (50, 200)
    runs = plan.report.runs(f"{rooms * members:,} sockets resume {RESUMED} messages each", "s", less=True)
    plan.report.ask_value(f"{runs.case}, s", runs.case, SQLITE.name, 30.0, most=True)
    for _ in plan.each_round("resume", steps=2, long=True):
        with TemporaryDirectory() as name:
            folder = Path(name)
            plan.step(f"resume: writing what {rooms * members:,} sockets will have missed")
            with actorchat_on(folder) as (port, _):
                sockets = chat_sockets(port, folder, rooms, members, 1)
                _say(port, sockets, members)
            plan.step(f"resume: {rooms * members:,} sockets reconnect")
            with actorchat_on(folder) as (port, _):
                back = [attrs.evolve(socket, path=f"{socket.path}?after=-1") for socket in sockets]
                with open_load(port, back) as (_, connected):
                    # All resumed messages are for both roles.
                    if connected.deliveries != RESUMED * len(back):
                        raise RuntimeError(f"{connected.deliveries} messages came back, not {RESUMED * len(back)}")
                    runs.add(SQLITE.name, connected.settled, connected.cpu_share)


def newcomers(plan: Plan) -> None:
    """20 new clients beside 2,000 unfinished requests from one address, and from 2,000 addresses: the longest wait."""
    allow_open_files(2 * HEADS)
    for addresses in (1, HEADS):
        case = f"longest wait of a newcomer beside {HEADS:,} unfinished requests of {addresses:,} addresses"
        runs = plan.report.runs(case, "s", less=True)
        plan.report.ask_value(f"{case}, s", case, SQLITE.name, 1.0, most=True)
        for _ in plan.each_round("newcomers", long=True):
            with (
                TemporaryDirectory() as name,
                actorchat_on(Path(name)) as (port, _),
                unfinished_heads(port, HEADS, addresses=addresses),
            ):
                runs.add(SQLITE.name, max(newcomer(port) for _ in range(NEWCOMERS)))


def stalled(plan: Plan) -> None:
    """300 sockets that resume 6 MB, then 300 HTTP clients that request it, and read nothing: memory and p99."""
    report, who = plan.report, SQLITE.name
    count, seconds = (100, 2 * plan.seconds) if plan.quick else (STALLED, FLOOD_SECONDS)
    for kind, requests in (("replay", replay_requests), ("HTTP", history_requests)):
        memory = report.runs(f"stalled reader, {kind}", "KiB", less=True)
        closing = report.runs(f"the same while {count} are closed at once, {kind}", "KiB", less=True)
        alone = report.runs(f"p99 of {QUIET_ROOMS} quiet rooms before {count} stalled readers, {kind}", "ms", less=True)
        beside = report.runs(f"p99 while they come and stay, {kind}", "ms", less=True)
        for each in (memory, closing):
            report.ask_value(f"{each.case}, KiB", each.case, who, 256.0, most=True)
        report.ask(
            f"p99 beside stalled readers, {kind}, x without", beside.case, who, (alone.case, who), 1.2, most=True
        )
        for _ in plan.each_round(f"stalled, {kind}", steps=3):
            plan.step(f"stalled, {kind}: writing a long history")
            with TemporaryDirectory() as name, actorchat_on(Path(name)) as (port, process):
                folder = Path(name)
                asked = requests(port, folder, say_a_lot(port), count)
                with open_load(port, chat_sockets(port, folder, QUIET_ROOMS, 2, 1)) as (load, _):
                    plan.step(f"stalled, {kind}: quiet rooms alone")
                    measured = load.open_loop(rate=QUIET_RATE, seconds=seconds)
                    alone.add(who, measured.p99_us / 1000, measured.cpu_share)
                    before = private_kib(process)
                    plan.step(f"stalled, {kind}: {count} readers come")
                    with stalled_readers(port, asked, per_second=STALLED_PER_SECOND) as readers:
                        measured = load.open_loop(rate=QUIET_RATE, seconds=seconds)
                        beside.add(who, measured.p99_us / 1000, measured.cpu_share)
                        if len(readers.opened) < count:
                            raise RuntimeError(f"only {len(readers.opened)} readers came: {readers.failure}")
                        memory.add(who, (private_kib(process) - before) / count)
                        readers.close()
                        closing.add(who, (peak_kib(process, CLOSING_SECONDS) - before) / count)


def http_load(plan: Plan) -> None:
    """1,000 idle HTTP connections, 200 slow heads and sign-ins without end: p99 of 100 rooms without and with them."""
    report, who = plan.report, SQLITE.name
    seconds = 2 * plan.seconds if plan.quick else FLOOD_SECONDS
    loads: dict[str, dict[str, int]] = {
        "alone": {},
        f"beside {IDLE_CONNECTIONS:,} idle connections": {"idle": IDLE_CONNECTIONS},
        f"beside {SLOW_HEADS} slow heads": {"slow": SLOW_HEADS},
        "beside sign-ins": {"logins": SIGN_INS},
        "beside all of them": {"idle": IDLE_CONNECTIONS, "slow": SLOW_HEADS, "logins": SIGN_INS},
    }
    runs = {name: report.runs(f"p99 of {QUIET_ROOMS} quiet rooms {name}", "ms", less=True) for name in loads}
    checked = report.runs("passwords checked meanwhile", "passwords/s")
    alone, *_, everything = runs.values()
    report.ask(f"{everything.case}, x alone", everything.case, who, (alone.case, who), 1.2, most=True)
    allow_open_files(2 * (IDLE_CONNECTIONS + SLOW_HEADS + SIGN_INS))
    for number in plan.each_round("http-load", steps=len(loads)):
        with (
            TemporaryDirectory() as name,
            actorchat_on(Path(name)) as (port, _),
            open_load(port, chat_sockets(port, Path(name), QUIET_ROOMS, 2, 1)) as (load, _),
            on_load_core(),
        ):
            # Backwards in every other round: what changes with time affects all of them alike.
            for what in list(loads)[:: -1 if number % 2 else 1]:
                plan.step(f"http-load: {what}")
                with http_clients(port, **loads[what]) as clients:
                    before = clients.checked
                    measured = load.open_loop(rate=QUIET_RATE, seconds=seconds)
                    if measured.waiting:
                        raise RuntimeError(f"{measured.waiting:,} messages of quiet rooms never came back")
                    runs[what].add(who, measured.p99_us / 1000, measured.cpu_share)
                    if "logins" in loads[what]:
                        checked.add(f"{who}, {what}", (clients.checked - before) / measured.seconds)


def _say(port: int, sockets: list[Socket], members: int) -> None:
    """Write the messages that the sockets of each room will have missed, as the room's visitor."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for visitor in sockets[::members]:
            chat = visitor.path.rpartition("/")[2]
            token = dict(visitor.headers)["Authorization"]
            for number in range(RESUMED):
                body = {"text": f"number {number}"}
                client.post(
                    f"/api/chats/{chat}/messages", json=body, headers={"Authorization": token}
                ).raise_for_status()
