"""systemd learns when the server is ready, reloads and stops."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from actorchat.cli.service_manager import ServiceManager
from tests.cli.server_process import environment, open_server_process

ENDS_AND_HANGS = """
from contextlib import asynccontextmanager
import trio
from actorchat.cli import main, serve
from actorchat.server import serving
from actorchat.server.bootstrap import ServerEnded

open_server = serving.open_server

@asynccontextmanager
async def open_ended(*arguments, **options):
    async with open_server(*arguments, **options) as server:
        server._state.end(ServerEnded("its name was taken over"))
        yield server

async def hang(server):
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()

serving.open_server, serving.Server.drain, serving.DRAIN_SECONDS = open_ended, hang, 0.0
main(["serve", "--port", "0", "--storage", "memory://"])
"""
"""A server that ends by itself, and whose database hangs then."""


def notifications(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(path)
    sock.settimeout(20)
    return sock


@pytest.mark.slow
async def test_systemd_learns_of_start_reload_and_stop(tmp_path: Path) -> None:
    with notifications(str(tmp_path / "notify")) as sock:

        async def receive() -> list[str]:
            return (await trio.to_thread.run_sync(sock.recv, 4096)).decode().splitlines()

        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        options = ("--port", "0", "--storage", "memory://")
        async with open_server_process(tmp_path, *options, env=environment) as server:
            await server.read_until("Ctrl-C stops it.")
            assert await receive() == ["READY=1", f"STATUS=serves {server.url}"]
            server.process.send_signal(signal.SIGHUP)
            first, second = await receive()
            assert first == "RELOADING=1"
            assert second.startswith("MONOTONIC_USEC=")
            assert (await receive())[0] == "READY=1"
            server.process.send_signal(signal.SIGTERM)
            assert (await receive())[0] == "STOPPING=1"
            assert await server.process.wait() == 0


@pytest.mark.slow
def test_systemd_learns_that_a_server_ends_by_itself_which_does_not_hang(tmp_path: Path) -> None:
    with notifications(str(tmp_path / "notify")) as sock:
        variables = environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        ended = subprocess.run(
            [sys.executable, "-c", ENDS_AND_HANGS],
            cwd=tmp_path,
            env=variables,
            timeout=60,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 1
        assert sock.recv(4096).startswith(b"READY=1")
        assert sock.recv(4096).startswith(b"STOPPING=1")


@pytest.mark.slow
async def test_the_log_level_changes_at_run_time(tmp_path: Path) -> None:
    config = trio.Path(tmp_path / "actorchat.toml")
    await config.write_text('log_level = "warning"\nlog_format = "json"\n')
    options = ("--port", "0", "--storage", "memory://", "--config", str(config))
    with notifications(str(tmp_path / "notify")) as sock:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        async with open_server_process(tmp_path, *options, env=environment) as server:
            await trio.to_thread.run_sync(sock.recv, 4096)
            await config.write_text('log_level = "debug"\nlog_format = "json"\n')
            server.process.send_signal(signal.SIGHUP)
            await server.read_log_until("the settings are reloaded")
            assert "the server listens" not in server.log


def test_an_abstract_socket_is_reached() -> None:
    name = f"actorchat-test-{os.getpid()}"
    with notifications(f"\0{name}") as sock:
        ServiceManager(f"@{name}").stopping()
        assert sock.recv(4096).startswith(b"STOPPING=1")


def test_without_systemd_nothing_happens_and_a_missing_socket_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ServiceManager("").ready("x")
        assert not caplog.records
        ServiceManager("/nowhere/notify").ready("x")
        assert "systemd can't be notified" in caplog.text


def test_the_address_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    ServiceManager()
    assert "NOTIFY_SOCKET" not in os.environ
