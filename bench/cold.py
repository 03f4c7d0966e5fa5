"""Owns the measurement of chats that are only stored: what they cost while nobody has them open, how fast one wakes."""

from __future__ import annotations

import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import httpx

from actorchat.chat.model import Policy
from actorchat.chat.operations import AddMessage, Operation, ReserveChat
from actorchat.protocol import Role, User
from actorchat.server.auth import local_token
from actorchat.storage.sqlite import SqliteStore
from actorchat.storage.store import Batch
from bench.servers import actorchat_on, resident_kib

__all__ = ["measure_cold"]

BATCH = 500
SAMPLES = 400
FIRST_VISITOR = 1 << 52


def measure_cold(chats: int) -> tuple[float, float]:
    """KiB of memory for each of `chats` stored chats; milliseconds of the first message to one, at p99, over HTTP."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with actorchat_on(folder / "empty") as (_, process):
            empty = resident_kib(process)
        stored = folder / "stored"
        stored.mkdir()
        uuids = _store(stored / "actorchat.db", chats)
        with actorchat_on(stored) as (port, process):
            full = resident_kib(process)
            milliseconds = _first_messages(
                f"http://127.0.0.1:{port}", stored, random.sample(uuids, min(SAMPLES, chats))
            )
    milliseconds.sort()
    return (full - empty) / chats, milliseconds[int(len(milliseconds) * 0.99) - 1]


def _store(path: Path, chats: int) -> list[UUID]:
    store, uuids = SqliteStore(path, Policy()), []
    for number in range(0, chats, BATCH):
        operations: list[Operation] = []
        for visitor in range(number, min(number + BATCH, chats)):
            owner = User(FIRST_VISITOR + visitor, Role.USER, "", "", f"Visitor {visitor}", "")
            uuids.append(uuid4())
            operations += [
                ReserveChat(uuids[-1], "lk", owner),
                AddMessage(uuids[-1], owner, "hello, is anybody there?"),
            ]
        store.commit(operations, Batch("bench", number + 1, int(time.time())))
    store.close()
    return uuids


def _first_messages(url: str, folder: Path, uuids: list[UUID]) -> list[float]:
    token = local_token(folder, role=Role.OPERATOR, user_id=1, sources=["lk"])
    took = []
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        client.get("/api/chats").raise_for_status()
        for uuid in uuids:
            start = time.perf_counter()
            client.post(f"/api/chats/{uuid}/messages", json={"text": "yes"}).raise_for_status()
            took.append((time.perf_counter() - start) * 1000)
    return took
