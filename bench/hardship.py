"""Owns what is measured of bad days: a socket that floods, and everybody coming back after a restart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import httpx

from bench.load import Socket, open_load
from bench.plan import Plan, Runs
from bench.servers import ACTORCHAT, OURS, actorchat_on, chat_sockets

__all__ = ["flood", "resume"]

QUIET_ROOMS = 100
QUIET_RATE = 500
"""Messages a second of all quiet rooms together: five each, half of what a user is allowed."""
FLOOD_RATE = 10_000
RESUMED = 20
"""Messages that everybody missed."""


def flood(plan: Plan) -> None:
    """100 quiet rooms of two while one socket sends 10,000 messages a second: their p99, against that without it."""
    alone = Runs("p99 of 100 quiet rooms", "ms", less=True)
    flooded = Runs("p99 beside a flood", "ms", less=True)
    for _ in plan.each("flood", [ACTORCHAT]):
        with TemporaryDirectory() as folder, actorchat_on(Path(folder), allowed=True) as (port, _):
            quiet = chat_sockets(port, Path(folder), QUIET_ROOMS, 2, 1)
            flooding = chat_sockets(port, Path(folder), 1, 2, 1)
            with open_load(port, quiet) as (load, _):
                measured = load.open_loop(rate=QUIET_RATE, seconds=plan.seconds)
                alone.add("actorchat", measured.p99_us / 1000, measured.cpu_share)
                # A connection that floods is one more load; it ends with its block.
                with open_load(port, flooding) as (torrent, _), ThreadPoolExecutor(1) as pool:
                    running = pool.submit(torrent.open_loop, rate=FLOOD_RATE, seconds=plan.seconds + 1)
                    measured = load.open_loop(rate=QUIET_RATE, seconds=plan.seconds)
                    running.result()
                flooded.add("actorchat", measured.p99_us / 1000, measured.cpu_share)
    alone.into(plan.report)
    flooded.into(plan.report)
    yardstick = (alone.case, "actorchat")
    plan.report.ask(
        "p99 of quiet rooms beside a flood, x without it", flooded.case, "actorchat", yardstick, 1.2, most=True
    )


def resume(plan: Plan) -> None:
    """10,000 sockets come back after a restart, and each resumes 20 messages: seconds until all have everything."""
    rooms, members = (10, 100) if plan.quick else (50, 200)
    runs = Runs(f"{rooms * members:,} sockets resume {RESUMED} messages each", "s", less=True)
    for _ in plan.each("resume", [OURS[1]], long=True):
        with TemporaryDirectory() as name:
            folder = Path(name)
            with actorchat_on(folder) as (port, _):
                sockets = chat_sockets(port, folder, rooms, members, 1)
                with open_load(port, sockets):
                    _say(port, sockets, members)
            with actorchat_on(folder) as (port, _):
                back = [attrs.evolve(socket, path=f"{socket.path}?after=-1") for socket in sockets]
                with open_load(port, back) as (_, connected):
                    # The visitor's message and the answers: all are for both roles.
                    if connected.deliveries != RESUMED * len(back):
                        raise RuntimeError(f"{connected.deliveries} messages came back, not {RESUMED * len(back)}")
                    runs.add("actorchat, SQLite", connected.settled, connected.cpu_share)
    runs.into(plan.report)
    plan.report.ask_value(f"{runs.case}, s", runs.case, "actorchat, SQLite", 30.0, most=True)


def _say(port: int, sockets: list[Socket], members: int) -> None:
    """The visitor of each room says what the others will have missed."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for visitor in sockets[::members]:
            chat = visitor.path.rpartition("/")[2]
            token = dict(visitor.headers)["Authorization"]
            for number in range(RESUMED):
                body = {"text": f"number {number}"}
                client.post(
                    f"/api/chats/{chat}/messages", json=body, headers={"Authorization": token}
                ).raise_for_status()
