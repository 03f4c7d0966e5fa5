"""`actorchat serve` in a process: its output, its signals and its exit status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped] # it has no types
import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.cli.server_process import environment, open_server_process
from tests.server.server_under_test import SECRET, websocket

FREE = ("--port", "0")


def run(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actorchat", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(env), capture_output=True, text=True, timeout=90, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("storage", [(), ("--storage", "memory://")], ids=["sqlite", "memory"])
async def test_serve_drains_on_sigterm_and_exits_with_0(tmp_path: Path, storage: tuple[str, ...]) -> None:
    async with open_server_process(tmp_path, *FREE, *storage) as server:
        await server.read_until("Ctrl-C stops it.")
        assert f"actorchat chat {server.url}\n" in server.output
        assert (tmp_path / "actorchat-data" / "secret").exists()
        assert f"--operator --data {tmp_path}/actorchat-data\n" in server.output
        async with httpx.AsyncClient(base_url=server.url) as http:
            visit = (await http.post("/api/visitors", json={"source": "lk"})).json()
            path = f"/ws/chats/{visit['chat']['uuid']}"
            async with websocket(server.port, path, visit["token"]) as member:
                await member.get_message()
                server.process.send_signal(signal.SIGTERM)
                with pytest.raises(ConnectionClosed) as closed:
                    await member.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1001
        assert await server.process.wait() == 0
        assert await server.rest_of_stderr() == ""


@pytest.mark.slow
async def test_the_page_and_the_console_are_printed_with_one_code_that_the_page_itself_does_not_have(
    tmp_path: Path,
) -> None:
    async with open_server_process(tmp_path, *FREE) as server:
        await server.read_until("Ctrl-C stops it.")
        page, code = re.findall(
            rf"{server.url}/#sign-in=(\S+)\n.*{server.url}/console#sign-in=(\S+)", server.output, re.S
        )[0]
        assert page == code
        async with httpx.AsyncClient(base_url=server.url) as http:
            # A client on this machine may be a proxy that says nothing of the one behind it.
            assert "sign-in=" not in (await http.get("/")).text
            answers = [(await http.post("/api/login/once", json={"code": code})).status_code for _ in range(2)]
        assert answers == [200, 401]


@pytest.mark.slow
@pytest.mark.parametrize("where", [">&-", "> /dev/full"], ids=["closed", "full"])
def test_a_document_that_can_not_be_printed_is_one_line_and_status_1(tmp_path: Path, where: str) -> None:
    command = ["sh", "-c", f'"$0" -m actorchat asyncapi {where}', sys.executable]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("actorchat: ")


@pytest.mark.slow
async def test_an_answered_message_is_stored_after_a_restart(tmp_path: Path) -> None:
    async with open_server_process(tmp_path, *FREE) as server:
        await server.read_until("Ctrl-C stops it.")
        async with httpx.AsyncClient(base_url=server.url) as http:
            visit = (await http.post("/api/visitors", json={"source": "lk"})).json()
            bearer = {"Authorization": f"Bearer {visit['token']}"}
            path = f"/api/chats/{visit['chat']['uuid']}/messages"
            sent = (await http.post(path, json={"text": "hello"}, headers=bearer)).json()
        assert await server.stop(signal.SIGINT) == 0
    async with open_server_process(tmp_path, *FREE) as server:
        await server.read_until("Ctrl-C stops it.")
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert (await http.get(path, headers=bearer)).json()["messages"] == [sent]


@pytest.mark.slow
async def test_a_body_that_never_comes_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with open_server_process(tmp_path, *FREE, "--storage", "memory://") as server:
        await server.read_until("Ctrl-C stops it.")
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(b"POST /api/visitors HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            async with httpx.AsyncClient(base_url=server.url) as http:
                await http.get("/health/live")
            with trio.fail_after(5):
                assert await server.stop() == 0
            answer = await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"draining" in answer


@pytest.mark.slow
async def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    async with open_server_process(tmp_path, *FREE, "--storage", "memory://") as server:
        await server.read_until("Ctrl-C stops it.")
        async with httpx.AsyncClient(base_url=server.url) as http:
            visit = (await http.post("/api/visitors", json={"source": "lk"})).json()
        host, _, port = server.url.removeprefix("http://").partition(":")
        # The drain waits for this socket, which never answers the Close.
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            request = (
                f"GET /ws/chats/{visit['chat']['uuid']} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
                f"Authorization: Bearer {visit['token']}\r\n\r\n"
            )
            await stream.send_all(request.encode())
            await stream.receive_some()
            server.process.send_signal(signal.SIGINT)
            await server.read_until("Stopping")
            assert await server.stop(signal.SIGINT) == -signal.SIGINT


@pytest.mark.slow
def test_a_port_in_use_is_one_line_and_status_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run(tmp_path, "serve", "--port", port)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"actorchat: 127.0.0.1:{port} is in use: another program listens on it; choose another port with --port\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("data", ["actorchat-data", "deep/down/data"])
@pytest.mark.parametrize("fault", ["port", "storage", "settings"])
def test_a_failed_start_leaves_no_folder_and_no_secret(tmp_path: Path, data: str, fault: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = {
            "port": ["--port", str(taken.getsockname()[1])],
            "storage": [*FREE, "--storage", "sqlite:///file/chat.db"],
            "settings": [*FREE, "--tls-cert", "none.pem", "--tls-key", "none.pem"],
        }
        ended = run(tmp_path, "serve", "--data", data, *options[fault])
    assert ended.returncode in (1, 2), ended.stderr
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.slow
def test_a_failed_start_keeps_a_folder_and_a_secret_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret").write_text(SECRET)
    (tmp_path / "data" / "secret").chmod(0o600)
    ended = run(tmp_path, "serve", "--data", "data", *FREE, "--storage", "sqlite:///data/secret/chat.db")
    assert ended.returncode == 1
    assert (tmp_path / "data" / "secret").read_text() == SECRET
    assert os.listdir(tmp_path / "data") == ["secret"]


@pytest.mark.slow
async def test_a_second_server_on_the_same_data_fails_until_the_first_is_killed(
    tmp_path: Path,
) -> None:
    async with open_server_process(tmp_path, *FREE) as first:
        await first.read_until("Ctrl-C stops it.")
        async with open_server_process(tmp_path, *FREE) as second:
            output = await second.rest_of_stderr()
            assert await second.process.wait() == 1
        assert "another server uses" in output
        assert "stop it or choose another --data" in output
        assert len(output.splitlines()) == 1
        await first.stop(signal.SIGKILL)
    async with open_server_process(tmp_path, *FREE) as third:
        await third.read_until("Ctrl-C stops it.")
        assert await third.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("--data", "file/data"), ("--data", "/proc/self/fdinfo"), ("--storage", "sqlite:///file/chat.db")],
    ids=["no-folder", "unwritable", "no-database"],
)
def test_a_folder_that_can_not_be_used_is_one_line_and_status_1(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("no folder")
    ended = run(tmp_path, "serve", *FREE, *options)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("actorchat: the ")
    assert "can't be" in ended.stderr


@pytest.mark.slow
def test_bad_settings_are_a_line_each_and_status_2(tmp_path: Path) -> None:
    ended = run(tmp_path, "serve", "--workers", "0", "--port", "x", ACTORCHAT_SECRET="short")
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "actorchat: port: expected a port, 0 to 65535, got x (from the command line)",
        "actorchat: workers: expected a number, 1 to 64, got 0 (from the command line)",
        "actorchat: secret: expected at least 32 bytes (from ACTORCHAT_SECRET)",
    ]
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
async def test_with_a_json_log_every_line_is_json_and_stdout_is_empty(tmp_path: Path) -> None:
    async with open_server_process(
        tmp_path, *FREE, "--log-format", "json", env={"ACTORCHAT_SOMETHING_ELSE": "x"}
    ) as server:
        await server.read_log_until("the server listens")
        assert await server.stop() == 0
        lines = [json.loads(line) for line in (await server.rest_of_stderr()).splitlines()]
        assert server.process.stdout is not None
        assert await server.process.stdout.receive_some() == b""
    assert [(line["level"], line["event"].partition(" ")[0]) for line in lines] == [
        ("warning", "ACTORCHAT_SOMETHING_ELSE"),
        ("info", "the"),
        ("info", "the"),
    ]
    assert lines[1]["url"].startswith("http://127.0.0.1:")
    assert all(line["timestamp"].endswith("Z") and line["logger"] == "actorchat.cli" for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["option", "environment", "file"])
def test_a_failed_start_is_logged_in_json_wherever_that_format_is_set(tmp_path: Path, place: str) -> None:
    (tmp_path / "c.toml").write_text('log_format = "json"\nprot = 1\n' if place == "file" else "prot = 1\n")
    option = ("--log-format", "json") if place == "option" else ()
    env = {"ACTORCHAT_LOG_FORMAT": "json"} if place == "environment" else {}
    ended = run(tmp_path, "serve", "--config", "c.toml", "--port", "x", *option, **env)
    assert ended.returncode == 2
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(line["level"], line["event"].partition(":")[0]) for line in lines] == [
        ("error", "prot"),
        ("error", "port"),
    ]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(tmp_path, "serve", "--port", str(taken.getsockname()[1]), "--log-format", "json")
    assert ended.returncode == 1
    assert "is in use" in json.loads(ended.stderr)["event"]


async def work_of(code: str, env: Mapping[str, str]) -> float:
    """The CPU seconds of a Python process with that program."""
    program = f"{code}; import time; print(time.process_time())"
    done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True, env=environment(env))
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_starting_takes_less_work_than_importing_trio_twelve_times(tmp_path: Path, log_format: str) -> None:
    # The first start compiles the modules, which the installation of a wheel has done.
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
    (tmp_path / "first").mkdir()
    async with open_server_process(tmp_path / "first", *FREE, env=compiled) as server:
        await server.read_until("Ctrl-C")
    # CPU time in units of a reference measured at the same moment, because test machines are busy and differ.
    unit = min([await work_of("import trio", compiled) for _ in range(3)])
    work: list[float] = []
    for _ in range(3):
        async with open_server_process(tmp_path, *FREE, "--log-format", log_format, env=compiled) as server:
            await (server.read_log_until("the server listens") if log_format == "json" else server.read_until("Ctrl-C"))
            spent = psutil.Process(server.process.pid).cpu_times()
            work.append(spent.user + spent.system)
            assert await server.stop() == 0
    assert min(work) < 12 * unit
