"""Starts the servers under test, each as a process on a loopback port, pinned to the first core."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Literal

import attrs
import httpx

from actorchat.protocol import Role
from actorchat.server.auth import local_token
from bench.load.generator import Dialect, Socket, cache_folder, compile_c, pin_server, signals_held

__all__ = [
    "ACTORCHAT",
    "LIMIT",
    "ON_TRIO_WEBSOCKET",
    "OURS",
    "PEERS",
    "SQLITE",
    "UPLOADS_STARLETTE",
    "WITH_IDS",
    "Server",
    "Target",
    "Unavailable",
    "actorchat_on",
    "anonymous_kib",
    "chat_sockets",
    "console_sockets",
    "private_kib",
]

START_SECONDS = 60
PORT_TRIES = 3
STAND_SECONDS = 15
_SERVE = (sys.executable, "-m", "actorchat", "serve")
PEER_FOLDER = Path(__file__).with_name("peers")
SOCKET_IO = Dialect('42["send_message",', "]", '42["message_added"', "40")


class Unavailable(Exception):  # noqa: N818 - a state of the server
    """A server can't be started here. The text says what it needs."""


@attrs.frozen
class Target:
    """A running server. `rooms(count, members, writers)` makes new rooms and returns their sockets, writers first."""

    process: subprocess.Popen[bytes]
    port: int
    rooms: Callable[[int, int, int], list[Socket]]
    ids: bool = False
    dialect: Dialect | None = None


@attrs.frozen
class Server:
    """A server to start: `with server.start() as target`. Starting raises `Unavailable`."""

    name: str
    start: Callable[[], AbstractContextManager[Target]]


@contextmanager
def _peer(command: Sequence[str], dialect: Dialect | None = None) -> Iterator[Target]:
    def rooms(count: int, members: int, writers: int) -> list[Socket]:
        path = "/socket.io/?EIO=4&transport=websocket&room={}" if dialect else "/room{}"
        return [
            Socket(path.format(room), role=_role(place, writers)) for room in range(count) for place in range(members)
        ]

    with _running(lambda port: [*command, str(port)]) as (port, process):
        yield Target(process, port, rooms, dialect=dialect)


def _role(place: int, writers: int) -> Literal["writes", "reads"]:
    return "writes" if place < writers else "reads"


@contextmanager
def _python(module: str, needs: str, dialect: Dialect | None = None) -> Iterator[Target]:
    if find_spec(needs) is None:
        raise Unavailable('not installed: pip install -e ".[bench]"')
    with _peer([sys.executable, "-m", f"bench.peers.{module}"], dialect) as target:
        yield target


@contextmanager
def _javascript(script: str, runtime: str) -> Iterator[Target]:
    folder = _packages()
    programs = [str(folder / "node_modules" / ".bin" / runtime)] if runtime == "bun" else _nodes()
    for program in programs:
        binary, abi = _ask(program)
        module = folder / f"node_modules/@trufflesuite/uws-js-unofficial/dist/uws_linux_x64_{abi}.node"
        # Some packages are compiled for some versions of node only.
        if "uws" not in script or module.exists():
            break
    else:
        raise Unavailable(f"no {runtime} here that its package is compiled for")
    with _peer([binary, str(folder / script)]) as target:
        yield target


def _nodes() -> list[str]:
    found = [shutil.which("node", path=place) for place in os.environ["PATH"].split(os.pathsep)]
    return list(dict.fromkeys(node for node in found if node is not None))


def _ask(program: str) -> tuple[str, str]:
    """The path of a runtime's own binary, so that no launcher is measured, and its ABI version."""
    command = [program, "-e", "console.log(process.execPath); console.log(process.versions.modules)"]
    try:
        binary, abi = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise Unavailable(f"{program} does not run: {error}") from error
    return binary, abi


def _packages() -> Path:
    """The folder of the JavaScript relays, with their packages installed."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("needs node and npm")
    folder = cache_folder() / "peers"
    folder.mkdir(exist_ok=True)
    for source in [*PEER_FOLDER.glob("*.mjs"), PEER_FOLDER / "package.json"]:
        shutil.copy(source, folder)
    wanted = (folder / "package.json").read_text()
    done = folder / "installed.json"
    if not done.exists() or done.read_text() != wanted:
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if made.returncode:
            raise Unavailable(f"npm install failed: {made.stderr.strip().splitlines()[-1:]}")
        done.write_text(wanted)
    return folder


@contextmanager
def _limit() -> Iterator[Target]:
    with _peer([str(compile_c(PEER_FOLDER / "relay.c"))]) as target:
        yield target


LIMITS_OUT_OF_REACH = {
    "ACTORCHAT_LIMITS_MESSAGES_PER_SECOND": "1000000",
    "ACTORCHAT_LIMITS_BURST": "1000000",
    "ACTORCHAT_LIMITS_VISITORS_PER_MINUTE": "1000000",
    "ACTORCHAT_LIMITS_VISITOR_SOCKETS": "0",
    "ACTORCHAT_LIMITS_OPERATOR_SOCKETS": "0",
    "ACTORCHAT_ACCOUNTS_ATTEMPTS_PER_MINUTE": "0",
    "ACTORCHAT_ACCOUNTS_ADDRESS_ATTEMPTS_PER_MINUTE": "0",
    "ACTORCHAT_ATTACHMENTS_PER_MINUTE": "0",
    "ACTORCHAT_ATTACHMENTS_ADDRESS_PER_MINUTE": "0",
    "ACTORCHAT_ATTACHMENTS_UNUSED_BYTES": "0",
    "ACTORCHAT_ATTACHMENTS_ADDRESS_UNUSED_BYTES": "0",
    "ACTORCHAT_ATTACHMENTS_SIZE": "1073741824",
}


@contextmanager
def _actorchat(storage: str, transport: str, *, ids: bool) -> Iterator[Target]:
    """`actorchat serve` as deployed, with the feed and counters, and with rate limits too high to be reached.

    In every room the visitor writes; the other sockets are an operator's.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = "memory://" if storage == "memory" else f"sqlite:///{folder}/bench.db"
        command = [*_SERVE, "--data", name, "--storage", url, "--transport", transport]
        with _running(lambda port: [*command, "--port", str(port)], LIMITS_OUT_OF_REACH) as (port, process):
            profile = "actorchat.v1.ext" if ids else "actorchat.v1"
            yield Target(process, port, partial(_chat_rooms, port, folder, profile), ids=ids)


@contextmanager
def actorchat_on(folder: Path, *options: str, allowed: bool = False) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run `actorchat serve` on a data folder, which may have chats. Yields its port and its process.

    `allowed`: with the default rate limits for messages.
    """
    folder.mkdir(exist_ok=True)
    limits = {
        name: value
        for name, value in LIMITS_OUT_OF_REACH.items()
        if not allowed or "VISITOR" in name or "SOCKETS" in name
    }
    command = [*_SERVE, "--data", str(folder), *options]
    with _running(lambda port: [*command, "--port", str(port)], limits) as running:
        yield running


def chat_sockets(port: int, folder: Path, count: int, members: int, writers: int) -> list[Socket]:
    """Make `count` chats and return their sockets: in each, `writers` of the visitor, the others of an operator."""
    return _chat_rooms(port, folder, "actorchat.v1.ext", count, members, writers)


def _chat_rooms(port: int, folder: Path, profile: str, count: int, members: int, writers: int) -> list[Socket]:
    operator = local_token(folder, role=Role.OPERATOR, user_id=1, sources=["lk"])
    sockets: list[Socket] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(count):
            visitor = client.post("/api/visitors", json={"source": "lk"}).raise_for_status().json()
            path = f"/ws/chats/{visitor['chat']['uuid']}"
            for place in range(members):
                token = visitor["token"] if place < writers else operator
                headers = (("Authorization", f"Bearer {token}"), ("Sec-WebSocket-Protocol", profile))
                sockets.append(Socket(path, headers, role=_role(place, writers)))
    return sockets


def console_sockets(rooms: Sequence[Socket], count: int) -> list[Socket]:
    """`count` feed sockets of the operator in `rooms`, whose last socket is an operator's."""
    return [Socket("/ws/operators", rooms[-1].headers, role="console")] * count


def _ours(name: str, storage: str, transport: str, *, ids: bool = False) -> Server:
    return Server(name, partial(_actorchat, storage, transport, ids=ids))


ACTORCHAT = _ours("actorchat", "memory", "reactor")
WITH_IDS = _ours("actorchat, client_ids", "memory", "reactor", ids=True)
SQLITE = _ours("actorchat, SQLite", "sqlite", "reactor", ids=True)
ON_TRIO_WEBSOCKET = _ours("actorchat on trio-websocket", "memory", "trio-websocket")
OURS = (ACTORCHAT, WITH_IDS, SQLITE, ON_TRIO_WEBSOCKET)
LIMIT = Server("least possible (C)", _limit)
UPLOADS_STARLETTE = Server("Starlette", partial(_python, "uploads_starlette", "uvicorn"))
PEERS = (
    LIMIT,
    Server("uWebSockets.js", partial(_javascript, "relay_uws.mjs", "node")),
    Server("Bun", partial(_javascript, "relay_bun.mjs", "bun")),
    Server("ws", partial(_javascript, "relay_ws.mjs", "node")),
    Server("picows", partial(_python, "relay_picows", "picows")),
    Server("websockets", partial(_python, "relay_websockets", "websockets")),
    Server("aiohttp", partial(_python, "relay_aiohttp", "aiohttp")),
    Server("Starlette", partial(_python, "relay_starlette", "uvicorn")),
    Server("trio-websocket", partial(_python, "relay_trio_websocket", "trio_websocket")),
    Server("python-socketio", partial(_python, "relay_socketio", "socketio", SOCKET_IO)),
)


def private_kib(process: subprocess.Popen[bytes], *, still: float = 0.4) -> int:
    """The anonymous resident memory in KiB of the server and its children: the heap, without files and libraries.

    Pages of files are left out because they are shared with other programs, and so is the kernel's memory for sockets,
    which belongs to no process. Waits until the figure has not changed for `still` seconds, because a server that
    listens may still be starting.
    """
    deadline = time.monotonic() + STAND_SECONDS
    kib, since = -1, time.monotonic()
    while (now := time.monotonic()) < deadline and now - since < still:
        before, kib = kib, anonymous_kib(process.pid)
        since = since if kib == before else now
        time.sleep(0.1)
    return kib


def anonymous_kib(session: int) -> int:
    """The same as `private_kib`, without waiting, for all processes of `session`."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getsid(int(status.parent.name)) == session:
                found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
                total += int(found.group(1)) if found is not None else 0
        except (ProcessLookupError, FileNotFoundError):
            continue
    return total


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(
    command: Callable[[int], Sequence[str]], environment: dict[str, str] | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start `command(port)`; yield the port and the process once it listens. Raises `Unavailable` if it does not."""
    with tempfile.TemporaryFile() as errors:
        port, process = _start(command, os.environ | (environment or {}), errors)
        try:
            yield port, process
        finally:
            _end(process)


def _start(
    command: Callable[[int], Sequence[str]], environment: dict[str, str], errors: IO[bytes]
) -> tuple[int, subprocess.Popen[bytes]]:
    for _ in range(PORT_TRIES):
        port = _free_port()
        errors.seek(0)
        errors.truncate()
        # In its own session, so that Ctrl-C goes to the benchmark only, which ends the server and its children.
        with signals_held():
            process = subprocess.Popen(
                command(port),
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                preexec_fn=pin_server,
            )
        listens = False
        try:
            listens = _listens(port, process)
            if listens:
                return port, process
            too_slow = process.poll() is None
        finally:
            if not listens:
                _end(process)
        if too_slow:
            break
        # The server has ended, perhaps because another program has taken the port.
    errors.seek(0)
    said = errors.read().decode(errors="replace").strip().splitlines()
    raise Unavailable(f"does not listen: {said[-1] if said else 'there is no output'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server listens. Returns False if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            # If the server has ended, another program answers on the port.
            return process.poll() is None
    return False
