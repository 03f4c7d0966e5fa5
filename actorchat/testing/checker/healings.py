"""Lists what servers heal, and switches one of it off in this process, to show that the checker sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final

import attrs
import trio

from actorchat.chat.foreign_commits import ForeignCommits
from actorchat.chat.publisher import Publisher
from actorchat.nodes import follower
from actorchat.nodes.follower import Follower
from actorchat.nodes.node import Node
from actorchat.nodes.presence import Presence
from actorchat.nodes.reconnecting import BusUnavailable, Line
from actorchat.nodes.registry import Registry
from actorchat.server import websocket_routes
from actorchat.storage.changes import NewKeys
from actorchat.storage.journal import Journal
from actorchat.storage.postgres import store
from actorchat.storage.postgres.statements import PostgresStatements
from actorchat.storage.postgres.store import PostgresStore
from actorchat.storage.postgres.writer import PostgresWriter

__all__ = ["HEALINGS", "Healing"]


@attrs.frozen
class Healing:
    """A healing. `text` says what it does, `faults` are those without which it has nothing to do.

    `switch_off()` changes the classes of this process. `newcomers` is how many chats have to begin meanwhile.
    """

    text: str
    faults: Sequence[str]
    switch_off: Callable[[], object]
    newcomers: int = 20


def _replace(owner: object, name: str, value: object) -> None:
    """Replace what the class or module `owner` calls `name`. Raises AttributeError if there is no such thing."""
    getattr(owner, name)
    setattr(owner, name, value)


async def _never(*_: object, **__: object) -> None:
    await trio.sleep_forever()


def _without_filling() -> None:
    async def look(self: Any, applies: object) -> None:
        self.looked_at = trio.current_time()
        await trio.lowlevel.checkpoint()

    _replace(Follower, "_look", look)


def _without_starting_over() -> None:
    # So that a server that was away for seconds has missed what it can't read.
    _replace(store, "LOG_SECONDS", 1.0)
    _replace(store, "_TEND_PERIOD", 0.2)
    _replace(Node, "_start_over", _never)


def _without_doubt() -> None:
    whole = PostgresStore.recover

    def recover(self: PostgresStore, batch: Any) -> bool:
        whole(self, batch)
        return True

    _replace(PostgresStore, "recover", recover)


def _without_fence() -> None:
    whole = PostgresStatements.__init__

    def init(self: PostgresStatements) -> None:
        whole(self)
        self.fence_off = "SELECT batch, fences FROM writers WHERE writer = %s AND %s > 0"

    _replace(PostgresStatements, "__init__", init)


def _without_resume() -> None:
    _replace(websocket_routes, "_after", lambda texts: None)


def _without_reading_presence() -> None:
    _replace(Presence, "_read_stale", _never)


def _without_registering_again() -> None:
    whole = Registry.register

    async def register(self: Registry) -> None:
        if self.epoch:
            await trio.lowlevel.checkpoint()
        else:
            await whole(self)

    _replace(Registry, "register", register)


def _without_reconnecting() -> None:
    async def keep(self: Any, connect: Callable[[], Any]) -> None:
        try:
            await connect()
        except BusUnavailable as error:
            self._down(str(error))
        await trio.sleep_forever()

    _replace(Line, "_keep", keep)


_NOTES: Final = ("bus-loss", "bus-shuffle", "bus-stall")

HEALINGS: Final[dict[str, Healing]] = {
    "fill": Healing("a batch that the bus did not tell is read from the log", _NOTES, _without_filling),
    "look": Healing(
        "the log is read each second, whatever the bus tells", ("no-bus",), lambda: _replace(follower, "PERIOD", inf)
    ),
    "start-over": Healing(
        "a server that has missed what is not in the log any more reads everything again",
        ("freeze", "away+bus-away"),
        _without_starting_over,
    ),
    "revisions": Healing(
        "a change waits for those of its chat before it",
        _NOTES,
        lambda: _replace(Publisher, "_in_order", lambda self: True),
    ),
    "chats-of-others": Healing(
        "a console is shown a chat that its server does not know together with all before it",
        ("bus-loss",),
        lambda: _replace(ForeignCommits, "needs_others", lambda self, commit: False),
        newcomers=150,
    ),
    "bus": Healing("the connection to the bus is opened again", ("bus-cut",), _without_reconnecting),
    "storage": Healing(
        "the connection to the database is opened again",
        ("cut", "commit-lost"),
        lambda: _replace(Journal, "_recover", _never),
    ),
    "doubt": Healing("after a lost COMMIT the database is asked", ("commit-lost",), _without_doubt),
    "fence": Healing("a COMMIT that arrives late stores nothing", ("commit-late",), _without_fence),
    "client-id": Healing(
        "a message that is sent again is stored once",
        ("answer-lost", "kill"),
        lambda: _replace(NewKeys, "find", lambda self, client_id: None),
    ),
    "resume": Healing("a client that connects again is shown what it has missed", ("restart", "kill"), _without_resume),
    "rows": Healing(
        "a row that another server has changed is read again",
        ("cut",),
        lambda: _replace(PostgresWriter, "_compare", lambda self, cached, locked: None),
    ),
    "presence": Healing(
        "people are read in the database if the bus did not tell of them",
        ("no-bus", "bus-loss"),
        _without_reading_presence,
    ),
    "registration": Healing(
        "a server whose registration or presence was lost registers again",
        ("database-kill",),
        _without_registering_again,
    ),
}
