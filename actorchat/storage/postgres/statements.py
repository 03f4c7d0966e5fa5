"""Has the SQL statements that only PostgreSQL needs: locks, the fence, counters that are added to, and commits."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Table

from actorchat.storage.dialects import PostgresDialect
from actorchat.storage.row_cache import KEY_HORIZON
from actorchat.storage.schema import people, uploads
from actorchat.storage.statements import Statements

__all__ = ["BLOCK", "PostgresStatements"]

BLOCK: Final = 8_192
"""The numbers that a batch draws at once for messages, edits and places. 2**53 numbers last for 10**12 batches."""

_MOST_LOST: Final = 2**24
"""Batches that may be lost before a number is given twice. 2**53 numbers last for 65,000 losses."""

_MOST_TRIMMED: Final = 20_000
"""Numbers of batches that are deleted at once."""


def _columns(table: Table) -> str:
    return ", ".join(f'{table.name}."{column.name}"' for column in table.c)


_PEOPLE: Final = f"""
    SELECT {_columns(people)} FROM json_array_elements(%s::json) asked
    JOIN people ON people.role = asked ->> 0 AND people.id = (asked ->> 1)::bigint"""  # noqa: S608 - constants

# Each is one statement, because their rows have to be locked in one order.
_LOCKED_CHATS: Final = """
    FROM chats WHERE number = ANY (ARRAY(
        SELECT value::bigint FROM json_array_elements_text(%s::json)
        UNION ALL
        SELECT number FROM chats
        WHERE uuid = ANY (ARRAY(SELECT value::uuid FROM json_array_elements_text(%s::json)))
        UNION ALL
        SELECT number FROM json_array_elements(%s::json) asked
        JOIN chats ON owner_id = (asked ->> 0)::bigint AND source = asked ->> 1 AND stage <> 'closed'
        UNION ALL
        SELECT number FROM json_array_elements(%s::json) asked
        JOIN chats ON owner_id = (asked ->> 0)::bigint AND (stage <> 'closed' OR asked ->> 1 = '1')
    )) ORDER BY number FOR NO KEY UPDATE"""


class PostgresStatements(Statements):
    """The statements for PostgreSQL, with those of `Statements`."""

    def __init__(self) -> None:
        super().__init__(PostgresDialect())
        self.last_message_id: str = f"""
            SELECT CASE WHEN is_called THEN last_value + {BLOCK - 1} ELSE 0 END FROM message_blocks"""  # noqa: S608 - constants
        self.forget_writers: str = """
            DELETE FROM writers WHERE "time" < %s
            AND NOT EXISTS (SELECT FROM commits WHERE commits.writer = writers.writer)"""

        # By a column that only PostgreSQL has, see `actorchat.storage.postgres.tables`.
        self.unused: str = """
            SELECT uuid FROM chats WHERE stage = 'reserved' AND inactive_since <= %s
            ORDER BY inactive_since, uuid LIMIT %s"""
        self.past_retention: str = """
            SELECT uuid FROM chats WHERE stage = 'closed' AND source = %s AND inactive_since <= %s
            ORDER BY inactive_since, uuid LIMIT %s"""

        # A writer and its batches.
        self.register: str = """
            INSERT INTO writers (writer, batch, last_message_id, "time", fences) VALUES (%s, 0, 0, %s, 0)
            ON CONFLICT (writer) DO UPDATE SET fences = writers.fences RETURNING fences"""
        self.fence_off: str = """
            INSERT INTO writers (writer, batch, last_message_id, "time", fences) VALUES (%s, 0, 0, %s, 0)
            ON CONFLICT (writer) DO UPDATE SET fences = writers.fences + 1 RETURNING batch, fences"""
        self.take_batch: str = """
            UPDATE writers SET batch = %s, "time" = %s WHERE writer = %s AND fences = %s RETURNING fences"""
        self.keep_writer: str = 'UPDATE writers SET "time" = %s WHERE writer = %s'
        self.last_logged: str = "SELECT coalesce(max(batch), 0) FROM commits WHERE writer = %s"
        # A look into the index for each writer, because the log is long.
        self.newest_batches: str = """
            SELECT * FROM (
                SELECT writer, (SELECT max(batch) FROM commits WHERE commits.writer = writers.writer) AS newest
                FROM writers
            ) AS found WHERE newest IS NOT NULL"""

        # Locks, in the order in which a transaction takes them.
        self.owners: str = """
            SELECT owner_id FROM chats
            WHERE uuid = ANY (ARRAY(SELECT value::uuid FROM json_array_elements_text(%s::json)))"""
        self.lock_chats: str = f"SELECT number, rev, last_activity {_LOCKED_CHATS}"
        self.draw: str = "SELECT nextval('message_blocks'), nextval('commit_order')"
        self.draw_chat_numbers: str = "SELECT nextval('chat_numbers') FROM generate_series(1, %s)"
        self.people_as_they_are: str = _PEOPLE
        self.add_operator_counters_of: str = """
            INSERT INTO operator_counters (operator_id, new_chats, open_chats, rev)
            SELECT value::bigint, 0, 0, 0 FROM json_array_elements_text(%s::json)
            ON CONFLICT (operator_id) DO NOTHING"""
        self.lock_operator_counters: str = """
            SELECT operator_id, new_chats, open_chats, rev FROM operator_counters
            WHERE operator_id = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text(%s::json)))
            ORDER BY operator_id FOR NO KEY UPDATE"""
        self.uploads_to_change: str = f"""
            SELECT {_columns(uploads)} FROM uploads
            WHERE uuid = ANY (ARRAY(SELECT value::uuid FROM json_array_elements_text(%s::json)))
            ORDER BY uuid FOR NO KEY UPDATE"""  # noqa: S608 - constants

        # Counters are added to at the end, and return what they are then.
        self.add_to_operators: str = """
            INSERT INTO operator_counters (operator_id, new_chats, open_chats, rev)
            SELECT (asked ->> 0)::bigint, (asked ->> 1)::bigint, (asked ->> 2)::bigint, (asked ->> 3)::bigint
            FROM json_array_elements(%s::json) asked
            ON CONFLICT (operator_id) DO UPDATE SET
                new_chats = operator_counters.new_chats + excluded.new_chats,
                open_chats = operator_counters.open_chats + excluded.open_chats,
                rev = operator_counters.rev + excluded.rev
            RETURNING operator_id, new_chats, open_chats, rev"""
        self.add_to_sources: str = """
            INSERT INTO source_counters (source, unread_chats, rev)
            SELECT asked ->> 0, (asked ->> 1)::bigint, (asked ->> 2)::bigint FROM json_array_elements(%s::json) asked
            ON CONFLICT (source) DO UPDATE SET
                unread_chats = source_counters.unread_chats + excluded.unread_chats,
                rev = source_counters.rev + excluded.rev
            RETURNING source, unread_chats, rev"""

        # The log of commits, and the order in which brokers get them.
        self.add_commit: str = """
            INSERT INTO commits (writer, batch, previous, drawn, "time", payload) VALUES (%s, %s, %s, %s, %s, %s)"""
        self.queue_commit: str = """
            INSERT INTO commit_queue (writer, batch, drawn)
            SELECT %s::text, %s, %s WHERE EXISTS (SELECT FROM relayed)"""
        self.commits: str = """
            SELECT batch, previous, "time", payload FROM (
                SELECT *, sum(octet_length(payload)) OVER (ORDER BY batch) - octet_length(payload) AS before
                FROM commits WHERE writer = %s AND batch > %s AND batch <= %s ORDER BY batch LIMIT %s
            ) AS page WHERE before < %s ORDER BY batch"""
        self.try_to_place: str = "SELECT pg_try_advisory_xact_lock(%s)"
        self.place_commits: str = """
            WITH taken AS (DELETE FROM commit_queue RETURNING writer, batch, drawn)
            INSERT INTO commit_places (seq, writer, batch)
            SELECT nextval('commit_place_numbers'), writer, batch FROM (SELECT * FROM taken ORDER BY drawn) AS sorted"""
        self.placed: str = """
            SELECT seq, "time", payload FROM commit_places JOIN commits USING (writer, batch)
            WHERE seq > %s ORDER BY seq LIMIT %s"""
        self.newest_entry: str = """
            SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM commit_place_numbers"""
        self.count_entries: str = "SELECT count(*) FROM commit_places WHERE seq > %s"
        self.oldest_entries: str = """
            SELECT seq, "time" FROM commit_places JOIN commits USING (writer, batch) ORDER BY seq LIMIT %s"""
        self.delete_entries: str = "DELETE FROM commit_places WHERE seq <= %s"
        self.forget_queue: str = "DELETE FROM commit_queue"
        self.forget_places: str = "DELETE FROM commit_places"
        # A writer keeps its newest row, by which the others know how far they have come. What a broker lacks is in the
        # newest rows too. A step deletes so many at most, so that it does not take long.
        self.trim_commits: str = f"""
            DELETE FROM commits WHERE writer = %(writer)s AND batch < least(
                %(upto)s + 1,
                (SELECT max(batch) FROM commits WHERE writer = %(writer)s),
                (SELECT min(batch) FROM commits WHERE writer = %(writer)s) + {_MOST_TRIMMED},
                (SELECT min(batch) FROM commit_queue WHERE writer = %(writer)s),
                (SELECT min(batch) FROM commit_places WHERE writer = %(writer)s))"""  # noqa: S608 - constants
        self.trim_old_commits: str = """
            DELETE FROM commits WHERE "time" < %s
            AND NOT EXISTS (SELECT FROM commit_queue q WHERE q.writer = commits.writer AND q.batch = commits.batch)
            AND NOT EXISTS (SELECT FROM commit_places p WHERE p.writer = commits.writer AND p.batch = commits.batch)
            AND (
                batch < (SELECT max(batch) FROM commits c WHERE c.writer = commits.writer)
                OR NOT EXISTS (SELECT FROM writers w WHERE w.writer = commits.writer AND w."time" >= %s)
            )"""

        self.database_time: str = "SELECT extract(epoch FROM clock_timestamp())::float8"

        # What identifies the content: another one means that it may have lost commits.
        self.history: str = """
            SELECT (SELECT system_identifier FROM pg_control_system()) || ' '
                || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || ' ' || 'writers'::regclass::oid"""
        self.leave_numbers_out: str = f"""
            SELECT setval('message_blocks', last_value + {_MOST_LOST * BLOCK}) FROM message_blocks"""  # noqa: S608 - constants
        self.drawn_so_far: str = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM message_blocks"
        self.newest_transaction: str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        self.oldest_transaction: str = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

    def _recent_keys(self) -> str:
        # With the statement of SQLite, PostgreSQL would look for the oldest key anew for each message of the chat.
        return f"""
            SELECT found.* FROM json_array_elements(%s::json) asked, LATERAL (
                SELECT chat, author_role, author_id, client_id, message_index FROM messages
                WHERE chat = (asked ->> 0)::bigint AND author_role = asked ->> 1
                AND author_id = (asked ->> 2)::bigint AND client_id IS NOT NULL
                ORDER BY message_index DESC LIMIT {KEY_HORIZON}
            ) AS found ORDER BY chat, message_index"""  # noqa: S608 - constants
