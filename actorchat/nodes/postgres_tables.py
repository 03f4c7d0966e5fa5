"""Keeps the tables that nodes share in PostgreSQL. One thread at a time may call."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from actorchat.chat.elsewhere import Place
from actorchat.chat.model import Identity
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.tables import MOST_INQUIRIES, Inquiry, NodeRow
from actorchat.protocol import Role
from actorchat.storage.postgres.connecting import Connection, Connector, is_alive
from actorchat.storage.postgres.errors import outages_named
from actorchat.storage.postgres.upgrade import schema_version

__all__ = ["PostgresTables"]

_STATEMENT_SECONDS: Final = 5
_NODE: Final = "node"
_NOWHERE: Final = UUID(int=0)

_REGISTER: Final = b"""
    INSERT INTO nodes (node, epoch, version, state, address, statistics, process, presence, expires_at)
    VALUES (%s, (extract(epoch FROM clock_timestamp()) * 1000)::bigint, %s, %s, %s, %s, %s, 0,
        now() + make_interval(secs => %s))
    ON CONFLICT (node) DO UPDATE SET epoch = greatest(nodes.epoch + 1, excluded.epoch), version = excluded.version,
        state = excluded.state, address = excluded.address, statistics = excluded.statistics,
        process = excluded.process, presence = 0, expires_at = excluded.expires_at
        WHERE nodes.expires_at <= now() OR nodes.process = excluded.process OR nodes.epoch = %s
    RETURNING epoch"""
"""The epoch comes from the clock, so that a name that was deleted and is claimed again has a higher one."""
_RENEW: Final = b"""
    UPDATE nodes SET version = %s, state = %s, address = %s, statistics = %s,
        expires_at = now() + make_interval(secs => %s)
    WHERE node = %s AND epoch = %s
        AND EXISTS (SELECT FROM presence p WHERE (p.chat, p.role, p.id, p.node) = (%s, 'node', 0, nodes.node))
    RETURNING epoch"""
_NODES: Final = b"""
    SELECT node, epoch, version, state, address, statistics, process, presence,
        extract(epoch FROM expires_at)::float8 AS expires,
        greatest(0, extract(epoch FROM now() - expires_at))::float8 AS silent
    FROM nodes ORDER BY node"""
_LEAVE: Final = b"DELETE FROM nodes WHERE node = %s AND process = %s RETURNING node"
_BURY: Final = b"""
    DELETE FROM nodes WHERE expires_at <= now() - make_interval(secs => %s) RETURNING node"""
_HOLD: Final = b"""
    INSERT INTO leases (name, holder, epoch, expires_at) VALUES (%s, %s, %s, now() + make_interval(secs => %s))
    ON CONFLICT (name) DO UPDATE
        SET holder = excluded.holder, epoch = excluded.epoch, expires_at = excluded.expires_at
        WHERE (leases.holder, leases.epoch) = (excluded.holder, excluded.epoch) OR leases.expires_at <= now()
    RETURNING name"""
_MARK: Final = b"INSERT INTO presence (chat, role, id, node) VALUES (%s, 'node', 0, %s)"
"""A row of each registered node. The table is unlogged, so it is empty after a crash of the database."""
_PRESENT: Final = b"""
    INSERT INTO presence (chat, role, id, node)
    SELECT chat, role, id, %s FROM unnest(%s::uuid[], %s::text[], %s::bigint[]) AS v(chat, role, id)
    ON CONFLICT DO NOTHING"""
_GONE: Final = b"""
    DELETE FROM presence USING unnest(%s::uuid[], %s::text[], %s::bigint[]) AS v(chat, role, id)
    WHERE presence.node = %s AND presence.chat = v.chat AND presence.role = v.role AND presence.id = v.id"""
_NUMBER: Final = b"UPDATE nodes SET presence = %s WHERE node = %s AND epoch = %s RETURNING epoch"
_PRESENCE: Final = b"""
    SELECT n.presence, p.chat, p.role, p.id FROM nodes n LEFT JOIN presence p USING (node) WHERE n.node = %s"""
_ASK: Final = b"""
    INSERT INTO inspections (id, node, request, expires_at)
    SELECT %s::uuid, %s::text, %s::bytea, now() + make_interval(secs => %s)
    WHERE (SELECT count(*) FROM inspections WHERE expires_at > now()) < %s
    RETURNING id"""
_ASKED: Final = b"""
    WITH expired AS (DELETE FROM inspections WHERE expires_at <= now())
    SELECT i.id, i.request FROM inspections i JOIN nodes n USING (node)
    WHERE n.node = %s AND n.epoch = %s AND i.answer IS NULL AND i.expires_at > now()
    ORDER BY i.expires_at LIMIT %s"""
_ANSWER: Final = b"UPDATE inspections SET answer = %s WHERE id = %s::uuid AND answer IS NULL"
_TAKE: Final = b"DELETE FROM inspections WHERE id = %s::uuid AND answer IS NOT NULL RETURNING answer"


class PostgresTables:
    """`Tables` of the database at `url`, whose schema the store has made."""

    def __init__(self, url: str) -> None:
        self._connector = Connector(url)
        self._connection: Connection | None = None

    def check_owner(self) -> None:
        """Raise `StoreUrlError` if the database belongs to another program, with the message of a server's start."""
        with self._using() as connection:
            schema_version(connection, self._connector.name)

    def register(self, row: NodeRow, seconds: float, ended: int = 0) -> int | None:
        values = (row.node, row.version, row.state, row.address, row.statistics, row.process, float(seconds), ended)
        with self._using() as connection, connection.transaction():
            # First, because it makes another process that registers the same name wait.
            claimed = connection.execute(_REGISTER, values).fetchall()
            if not claimed:
                return None
            connection.execute(b"DELETE FROM presence WHERE node = %s", (row.node,))
            connection.execute(_MARK, (_NOWHERE, row.node))
        return int(claimed[0][0])

    def renew(self, row: NodeRow, seconds: float) -> bool:
        values = (row.version, row.state, row.address, row.statistics, float(seconds), row.node, row.epoch, _NOWHERE)
        with self._using() as connection:
            return bool(connection.execute(_RENEW, values).fetchall())

    def nodes(self) -> Sequence[NodeRow]:
        with self._using() as connection:
            return connection.cursor(row_factory=class_row(NodeRow)).execute(_NODES).fetchall()

    def leave(self, node: str, process: str) -> None:
        with self._using() as connection, connection.transaction():
            if connection.execute(_LEAVE, (node, process)).fetchall():
                self._forget(connection, node)

    def bury(self, silent: float) -> Sequence[str]:
        with self._using() as connection, connection.transaction():
            dead = [node for (node,) in connection.execute(_BURY, (float(silent),))]
            for node in dead:
                self._forget(connection, node)
        return dead

    def hold(self, lease: str, node: str, epoch: int, seconds: float) -> bool:
        with self._using() as connection:
            return bool(connection.execute(_HOLD, (lease, node, epoch, float(seconds))).fetchall())

    def put_presence(
        self, node: str, epoch: int, number: int, here: Collection[Place], gone: Collection[Place]
    ) -> None:
        with self._using() as connection, connection.transaction():
            # Also a lock: an older process of this name changes nothing any more.
            if connection.execute(_NUMBER, (number, node, epoch)).fetchall():
                connection.execute(_GONE, (*_columns(gone), node))
                connection.execute(_PRESENT, (node, *_columns(here)))

    def presence_of(self, node: str) -> tuple[int, Sequence[Place]]:
        with self._using() as connection:
            rows = connection.execute(_PRESENCE, (node,)).fetchall()
        if rows and all(role != _NODE for _, _, role, _ in rows):
            raise StorageUnavailable(f"the database has lost the presence of {node}, which will store it again")
        places = [(UUID(chat), Identity(Role(role), id_)) for _, chat, role, id_ in rows if role != _NODE]
        return (rows[0][0] if rows else 0), places

    def ask(self, inquiry: Inquiry, node: str, seconds: float) -> bool:
        values = (str(inquiry.id), node, inquiry.request, float(seconds), MOST_INQUIRIES)
        with self._using() as connection:
            return bool(connection.execute(_ASK, values).fetchall())

    def asked(self, node: str, epoch: int) -> Sequence[Inquiry]:
        with self._using() as connection:
            rows = connection.execute(_ASKED, (node, epoch, MOST_INQUIRIES)).fetchall()
        return [Inquiry(UUID(id_), request) for id_, request in rows]

    def answer(self, inquiry: UUID, answer: bytes) -> None:
        with self._using() as connection:
            connection.execute(_ANSWER, (answer, str(inquiry)))

    def take_answer(self, inquiry: UUID) -> bytes | None:
        with self._using() as connection:
            rows = connection.execute(_TAKE, (str(inquiry),)).fetchall()
        return rows[0][0] if rows else None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _forget(self, connection: Connection, node: str) -> None:
        connection.execute(b"DELETE FROM presence WHERE node = %s", (node,))
        connection.execute(b"DELETE FROM leases WHERE holder = %s", (node,))

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        """A connection. If the block fails, it is closed."""
        with outages_named(self._connector.name):
            if self._connection is None or not is_alive(self._connection):
                self.close()
                self._connection = self._connector.open(_STATEMENT_SECONDS)
            try:
                yield self._connection
            except BaseException:
                self.close()
                raise


def _columns(places: Collection[Place]) -> tuple[list[str], list[str], list[int]]:
    return (
        [str(chat) for chat, _ in places],
        [identity.role.value for _, identity in places],
        [identity.id for _, identity in places],
    )
