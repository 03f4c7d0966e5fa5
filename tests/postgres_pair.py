"""A PostgreSQL server with a synchronous standby that can take over, again and again."""

import time
from collections.abc import Callable

from tests.postgres_server import STARTS_WITHIN, PostgresServer

_SYNCHRONOUS = "synchronous_standby_names='standby'"


class PostgresPair:
    """A `FailsOver` of the checker: `port` is that of the server which takes writes now."""

    def __init__(self) -> None:
        self._primary = PostgresServer("fsync=off")
        self._standby: PostgresServer | None = None
        self._old: list[PostgresServer] = []

    @property
    def port(self) -> int:
        return self._primary.port

    def create(self) -> None:
        """Make and start both."""
        self._primary.create()
        self._primary.start()
        self._add_standby()

    def new_database(self) -> str:
        return self._primary.new_database()

    def kill(self) -> None:
        self._primary.kill()

    def start(self) -> None:
        self._primary.start()

    def fail_over(self) -> None:
        """Kill the first one, let the standby take over, and give it a standby."""
        standby, self._standby = self._standby, None
        assert standby is not None
        self._primary.kill()
        standby.execute("SELECT pg_promote()")
        self._old.append(self._primary)
        self._primary = standby
        self._add_standby()

    def close(self) -> None:
        for server in (self._standby, self._primary, *self._old):
            if server is not None:
                server.close()

    def _add_standby(self) -> None:
        source = f"host=127.0.0.1 port={self.port} user=actorchat application_name=standby"
        standby = self._standby = PostgresServer("fsync=off", f"primary_conninfo='{source}'")
        standby.run("pg_basebackup", "-R", "-c", "fast", "-D", str(standby.data), "-d", source)
        standby.start()
        _wait_for(lambda: self._primary.execute("SELECT state FROM pg_stat_replication") == [("streaming",)])
        self._primary.settings = ("fsync=off", _SYNCHRONOUS)
        self._primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        self._primary.execute("SELECT pg_reload_conf()")
        _wait_for(lambda: self._primary.execute("SELECT sync_state FROM pg_stat_replication") == [("sync",)])
        # From now on nothing is confirmed that the standby does not have. This is for what was confirmed before.
        [(written,)] = self._primary.execute("SELECT pg_current_wal_lsn() - '0/0'")
        flushed = "SELECT flush_lsn - '0/0' FROM pg_stat_replication"
        _wait_for(
            lambda: [row for row in self._primary.execute(flushed) if int(str(row[0])) >= int(str(written))] != []
        )


def _wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError("the standby does not follow")
        time.sleep(0.05)
