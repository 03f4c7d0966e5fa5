"""systemd learns when the server is ready, reloads and stops."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from actorchat.cli.service_manager import ServiceManager
from tests.cli.server_process import open_server_process


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
