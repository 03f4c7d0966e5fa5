"""Many connections with unfinished requests neither keep new clients out nor exhaust the storage's file descriptors."""

from __future__ import annotations

import socket
import sqlite3
import sys
import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from actorchat.http.connection import STALLED_SECONDS
from actorchat.protocol import Role
from tests.system.server_process import TRANSPORTS, server_process, token

if sys.platform != "linux":
    pytest.skip("only Linux has all of 127.0.0.0/8", allow_module_level=True)

from bench.unfinished_requests import allow_open_files, newcomer, unfinished_heads

HEADS = 2_000
NEWCOMERS = 10
WAIT = 5.0
"""Seconds, half of what unfinished heads would keep a new client out. `python -m bench newcomers` judges one second."""
FEW_FILES = 256
LOCKED_SECONDS = 3.0
REOPENED_SECONDS = 10.0
OPERATOR = token(Role.OPERATOR, 1)


@pytest.fixture(autouse=True, scope="module")
def _enough_open_files() -> None:
    allow_open_files(2 * HEADS)


@pytest.mark.slow
@pytest.mark.parametrize("addresses", [1, HEADS])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_2000_unfinished_heads_keep_no_new_client_out(tmp_path: Path, transport: str, addresses: int) -> None:
    with server_process(tmp_path / "data", transport) as server:
        with unfinished_heads(server.port, HEADS, addresses=addresses) as held:
            waits = [newcomer(server.port) for _ in range(NEWCOMERS)]
        assert held.cut
        assert max(waits) <= WAIT
        assert server.log.count("have sent no complete request") == 1
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("addresses", [1, HEADS])
def test_beside_2000_unfinished_heads_few_open_files_are_enough(tmp_path: Path, addresses: int) -> None:
    with (
        server_process(tmp_path / "data", open_files=FEW_FILES) as server,
        unfinished_heads(server.port, HEADS, addresses=addresses),
    ):
        assert max(newcomer(server.port) for _ in range(NEWCOMERS)) <= WAIT
        assert "Too many open files" not in server.log
        assert server.stop() == 0


@pytest.mark.slow
def test_with_all_connections_in_use_the_database_can_be_reopened(tmp_path: Path) -> None:
    with (
        server_process(tmp_path / "data", open_files=FEW_FILES) as server,
        httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {OPERATOR}"}, timeout=30) as client,
        unfinished_heads(server.port, HEADS),
    ):
        path = f"/api/chats/{_chat(client)}/messages"
        locked = threading.Thread(target=_lock, args=(tmp_path / "data" / "actorchat.db",))
        locked.start()
        statuses = []
        while locked.is_alive():
            statuses.append(client.post(path, json={"text": "while it is locked"}).status_code)
        deadline = time.monotonic() + REOPENED_SECONDS
        while client.post(path, json={"text": "again"}).status_code != 201:
            assert time.monotonic() < deadline, server.log
        assert 503 in statuses
        assert "Too many open files" not in server.log
        assert server.stop() == 0


IDLE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
NO_BODY = b"POST /api/visitors HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{"


@pytest.mark.slow
@pytest.mark.parametrize("request_", [IDLE, NO_BODY], ids=["idle", "no body"])
def test_connections_that_wait_for_their_peers_give_way_when_no_more_may_be_open(
    tmp_path: Path, request_: bytes
) -> None:
    with server_process(tmp_path / "data", open_files=FEW_FILES) as server, ExitStack() as stack:
        for _ in range(FEW_FILES):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            peer.sendall(request_)
            assert request_ is NO_BODY or peer.recv(4_096).startswith(b"HTTP/1.1 200")
        # A peer that stalls a request may be closed a second after the server has read it.
        time.sleep(2 * STALLED_SECONDS)
        assert newcomer(server.port) <= WAIT
        assert "Traceback" not in server.log
        assert server.stop() == 0


def _chat(client: httpx.Client) -> UUID:
    visit = client.post("/api/visitors", json={"source": "lk"}, headers={"Authorization": ""}).raise_for_status().json()
    return UUID(visit["chat"]["uuid"])


def _lock(database: Path) -> None:
    """Inside the block, hold the database's write lock."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(LOCKED_SECONDS)
