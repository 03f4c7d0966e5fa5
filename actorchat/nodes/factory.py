"""Opens the bus that a setting names."""

from __future__ import annotations

from collections.abc import Callable

import trio

from actorchat.brokers.urls import parse_broker_url
from actorchat.nodes.notes import Note
from actorchat.nodes.ports import Bus
from actorchat.urls import names_postgres

__all__ = ["kind_of_bus", "open_bus"]


class _NoBus:
    """A `Bus` that carries nothing: nodes read of each other in the database, once a second."""

    problem: str | None = None

    def tell(self, note: Note) -> None:
        pass

    async def run(
        self, heard: Callable[[Note], object], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()


def kind_of_bus(setting: str) -> str:
    """`postgres`, `redis` or `local`. Nodes whose buses are of different kinds don't hear each other on them."""
    if setting == "local":
        return "local"
    return "postgres" if setting == "postgres" or names_postgres(setting) else "redis"


def open_bus(setting: str, storage_url: str, channel: str) -> Bus:
    """The bus between the nodes on the database at `storage_url`, not connected yet.

    `setting` is `postgres` for that database, a `postgresql://` URL that leads to it, a `redis://` URL, or `local` for
    none. `channel` names the deployment. Libraries are imported here: they are extras.
    """
    kind = kind_of_bus(setting)
    if kind == "local":
        return _NoBus()
    if kind == "postgres":
        from actorchat.nodes.postgres_bus import PostgresBus

        return PostgresBus(storage_url if setting == "postgres" else setting, channel)
    from actorchat.nodes.redis_bus import RedisBus

    return RedisBus(parse_broker_url(setting), channel)
