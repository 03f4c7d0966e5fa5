"""Compares the journal on PostgreSQL with that on SQLite: messages a second, and the processor time of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Changed, Outcome, ReserveChat
from actorchat.chat.ports import Journal
from actorchat.protocol import Role, User
from actorchat.storage import open_journal, open_store
from bench.load.generator import on_load_core, on_server_core
from bench.run_plan import Plan

__all__ = ["stores"]

CHATS: Final = 300
TEXT: Final = "Good morning, where is my parcel? " * 2
WARM_UP: Final = 0.3
"""Seconds before each measurement."""


def stores(plan: Plan) -> None:
    """PostgreSQL beside SQLite: what the journal commits in 300 chats, with 1 and 4 messages in flight in each."""
    report = plan.report
    # Imported here, because it comes with the extra `test`.
    from tests.postgres_server import PostgresServer

    flights = (1, 4)
    rates = {flight: report.runs(f"committed, {CHATS} chats, {flight} in flight", "messages/s") for flight in flights}
    costs = {
        flight: report.runs(f"processor time of that, {flight} in flight", "µs a message", less=True)
        for flight in flights
    }
    for flight in flights:
        what = f"PostgreSQL / SQLite, messages/s, {flight} in flight"
        report.ask(what, rates[flight].case, "PostgreSQL", (rates[flight].case, "SQLite"), 0.5)
    # With fsync, as every server that keeps its promises has it.
    server = PostgresServer("shared_buffers=128MB")
    try:
        with TemporaryDirectory() as name:
            with on_load_core():
                server.create()
                server.start()
            for number in plan.each_round("stores", steps=2 * len(flights)):
                for flight in flights:
                    for who, url in (
                        ("SQLite", f"sqlite:///{Path(name) / f'{number}-{flight}.db'}"),
                        ("PostgreSQL", server.new_database()),
                    ):
                        plan.step(f"stores: {who}, {flight} in flight")
                        with on_server_core():
                            rate, microseconds = trio.run(_commit, url, flight, plan.seconds)
                        rates[flight].add(who, rate)
                        costs[flight].add(who, microseconds)
    finally:
        server.close()


@attrs.define(eq=False)
class _Room:
    """Submits the next message when one is committed."""

    journal: Journal
    chat: UUID
    author: User
    committed: int = 0
    ended: bool = False
    _number: int = 0

    def say(self) -> None:
        self._number += 1
        if not self.journal.submit(AddMessage(self.chat, self.author, TEXT, client_id=str(self._number)), self):
            raise RuntimeError("the journal took no message")

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if not isinstance(outcome.decision, Changed):
                raise TypeError(f"not stored: {outcome.decision}")
            if isinstance(outcome.operation, AddMessage):
                self.committed += 1
                if not self.ended:
                    self.say()


async def _commit(url: str, flight: int, seconds: float) -> tuple[float, float]:
    """Messages per second that the journal commits, and the processor time of each in microseconds."""
    async with open_store(url, Policy()) as storage, open_journal(storage.store, storage.runner) as journal:
        rooms = [_Room(journal, UUID(int=n), User(n, Role.USER, firstname="Ann")) for n in range(1, CHATS + 1)]
        for room in rooms:
            journal.submit(ReserveChat(room.chat, "shop", room.author), room)
        await journal.barrier()
        for room in rooms:
            for _ in range(flight):
                room.say()
        await trio.sleep(WARM_UP)
        before, began, busy = _total(rooms), time.perf_counter(), time.process_time()
        await trio.sleep(seconds)
        committed = _total(rooms) - before
        rate, cost = committed / (time.perf_counter() - began), (time.process_time() - busy) / committed
        for room in rooms:
            room.ended = True
    return rate, cost * 1e6


def _total(rooms: Sequence[_Room]) -> int:
    return sum(room.committed for room in rooms)
