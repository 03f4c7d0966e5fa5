"""SIGHUP makes `actorchat serve` reload its certificate and log format, and stops nothing."""

import json
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it comes without types
import pytest
import trio
from cryptography.hazmat.primitives.serialization import NoEncryption

from actorchat.cli.settings_reload import Terminal
from tests.cli.server_process import TIMEOUT, ServerProcess, environment, open_server_process
from tests.server.server_under_test import SECRET, get_live
from tests.server.test_tls import certified

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this platform has no such signal"),
]


@asynccontextmanager
async def serving(folder: Path, **settings: object) -> AsyncIterator[ServerProcess]:
    """A server with a settings file that tests rewrite."""
    write_settings(folder, **settings)
    async with open_server_process(folder, "--port", "0", "--storage", "memory://", "--config", "c.toml") as server:
        await server.read_until("Ctrl-C stops it.")
        yield server
        assert await server.stop() == 0


def write_settings(folder: Path, **settings: object) -> None:
    (folder / "c.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))


async def reload(server: ServerProcess, words: str) -> str:
    """Send SIGHUP, and return the log up to `words`."""
    assert server.process.stderr is not None
    server.process.send_signal(signal.SIGHUP)
    logged = ""
    while words not in logged:
        data = await server.process.stderr.receive_some()
        assert data, f"it ended after {logged!r}"
        logged += data.decode()
    return logged


async def tls_stream(server: ServerProcess) -> trio.SSLStream[trio.SocketStream]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=context, https_compatible=True)


async def certificate_of(server: ServerProcess) -> bytes | None:
    stream = await tls_stream(server)
    await get_live(stream)
    found: bytes | None = stream.getpeercert(binary_form=True)
    await trio.aclose_forcefully(stream)
    return found


async def test_a_new_certificate_is_used_by_new_connections_and_old_ones_stay(tmp_path: Path) -> None:
    certified(tmp_path, NoEncryption())
    async with serving(tmp_path, tls_cert="cert.pem", tls_key="key.pem") as server:
        before = await certificate_of(server)
        stream = await tls_stream(server)
        await get_live(stream)
        certified(tmp_path, NoEncryption())
        assert "new connections use the certificate in cert.pem" in await reload(server, "the settings are reloaded")
        after = await certificate_of(server)
        assert after not in (None, before)
        await get_live(stream)
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("broken", ["garbage", "another key", "missing"])
async def test_a_bad_certificate_is_named_and_the_old_one_stays(tmp_path: Path, broken: str) -> None:
    certified(tmp_path, NoEncryption())
    async with serving(tmp_path, tls_cert="cert.pem", tls_key="key.pem") as server:
        before = await certificate_of(server)
        key = tmp_path / "key.pem"
        good = key.read_bytes()
        if broken == "another key":
            os.mkdir(tmp_path / "other")
            certified(tmp_path / "other", NoEncryption())
            os.replace(tmp_path / "other" / "key.pem", key)
        elif broken == "garbage":
            key.write_text("garbage")
        else:
            os.unlink(key)
        logged = await reload(server, "the settings are reloaded")
        assert "the certificate is not reloaded, the old one stays: tls_" in logged
        assert await certificate_of(server) == before
        key.write_bytes(good)
        logged = await reload(server, "the settings are reloaded")
        assert "not reloaded" not in logged


async def test_the_log_changes_its_format_and_what_needs_a_restart_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path, log_format="text", origins=["https://a.example"]) as server:
        write_settings(
            tmp_path, log_format="json", origins=["https://b.example"], limits={}, broker_keep=3600, secret=SECRET
        )
        (tmp_path / "c.toml").chmod(0o600)
        logged = await reload(server, "need a restart")
        lines = [json.loads(line) for line in logged.splitlines()]
        assert [line["event"] for line in lines] == [
            "the settings are reloaded",
            "these settings changed but need a restart of the server: broker_keep, origins",
        ]
        write_settings(tmp_path, log_format="text", origins=["https://a.example"])
        assert "{" not in await reload(server, "the settings are reloaded")


async def test_bad_settings_are_named_and_those_in_force_stay(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        write_settings(tmp_path, prot=1, log_format="json")
        logged = await reload(server, "did you mean port?")
        assert "reload failed, the old settings stay: prot: there is no such setting" in logged
        write_settings(tmp_path)
        assert "{" not in await reload(server, "the settings are reloaded")


async def test_a_hangup_while_it_starts_or_stops_does_not_end_it(tmp_path: Path) -> None:
    async with open_server_process(tmp_path, "--port", "0") as server:
        while not (tmp_path / "actorchat-data").exists():  # noqa: ASYNC110 - another process creates it
            # The interpreter starts first; the folder appears once the command runs.
            await trio.sleep(0.01)
        server.process.send_signal(signal.SIGHUP)
        await server.read_until("Ctrl-C stops it.")
        server.process.send_signal(signal.SIGTERM)
        await server.read_until("Stopping")
        server.process.send_signal(signal.SIGHUP)
        assert await server.process.wait() == 0


class Window:
    """A terminal with a server in it, which writes to `log`, or to the terminal itself."""

    def __init__(self, folder: Path, *, before: str = "", log: Path | None = None) -> None:
        command = f"exec {before} {sys.executable} -m actorchat serve --port 0 --storage memory://"
        into = "" if log is None else f" > {log} 2>&1"
        self.process = pexpect.spawn("sh", ["-c", command + into], cwd=folder, env=environment(), timeout=TIMEOUT)

    def close(self) -> None:
        """Close the terminal window."""
        os.close(self.process.child_fd)

    def status(self) -> int:
        """Wait for the server's end and return its exit status."""
        _, status = os.waitpid(self.process.pid, 0)
        return os.waitstatus_to_exitcode(status)


def wait_for(log: Path, words: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_it_stops_when_its_terminal_is_closed_and_not_before(tmp_path: Path) -> None:
    window = Window(tmp_path)
    window.process.expect_exact("Ctrl-C stops it.")
    os.kill(window.process.pid, signal.SIGHUP)
    window.process.expect_exact("the settings are reloaded")
    window.close()
    assert window.status() == 0


def test_under_nohup_it_outlives_its_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    window = Window(tmp_path, before="nohup", log=log)
    wait_for(log, "Ctrl-C stops it.")
    window.close()
    wait_for(log, "the settings are reloaded")
    assert "Stopping" not in log.read_text()
    os.kill(window.process.pid, signal.SIGTERM)
    assert window.status() == 0
    assert "Stopping" in log.read_text()


def test_a_process_without_a_terminal_or_without_the_signal_ends_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorchat.cli.settings_reload._has_terminal", lambda: False)
    assert not Terminal.of_this_process().was_closed()
    monkeypatch.setattr("actorchat.cli.settings_reload._has_terminal", lambda: True)
    monkeypatch.delattr(signal, "SIGHUP")
    assert not Terminal.of_this_process().stops_server
