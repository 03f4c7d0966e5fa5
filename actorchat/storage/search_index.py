"""Keeps the words of messages, files and people in a full-text index: a SQLite file of its own, or memory.

The index is derived: what it holds may be older than the database, and a lost or damaged one is built again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final
from uuid import UUID

import attrs
import orjson

from actorchat.chat.model import Identity, identity_of
from actorchat.chat.search import SHORTEST_PREFIX, SearchFilter, SearchKind, fold_plain, words_of
from actorchat.protocol import MAX_SAFE_INTEGER, Role
from actorchat.storage.store import SearchableMessage, SearchablePerson

__all__ = ["SearchIndex", "SearchPosition", "SearchTooSlow"]

_VERSION: Final = 3
_FIND_SECONDS: Final = 2.0
_INSTRUCTIONS: Final = 100_000
"""Instructions of SQLite's virtual machine between two looks at the clock."""

_MERGED_PAGES: Final = 64
"""Pages that one step of a merge writes."""

# Everything is one column, because an index without positions and columns is the smallest. No word holds these
# characters, which begin the names of files and what restricts a search.
_FILE: Final = "\ue000"
_SOURCE: Final = "\ue001"
_CHAT: Final = "\ue002"
_HIDDEN: Final = "\ue003"
_PERSON: Final = "\ue004"

_TABLES: Final = (
    "CREATE TABLE position"
    " (version INTEGER, database TEXT, messages INTEGER, edits INTEGER, removals INTEGER, merge INTEGER)",
    "CREATE TABLE people (number INTEGER PRIMARY KEY, role TEXT, id INTEGER, sources TEXT, names TEXT)",
    "CREATE UNIQUE INDEX people_identity ON people (role, id)",
    "CREATE VIRTUAL TABLE words USING fts5(body, tokenize='ascii', detail='none', prefix='2 3 4')",
    "INSERT INTO words (words, rank) VALUES ('usermerge', 2)",
)


class SearchTooSlow(Exception):  # noqa: N818 - an answer
    """A search was given up after `_FIND_SECONDS`."""


@attrs.frozen
class SearchPosition:
    """How far the index has read: the highest id of a message, place of an edit, and place of a deleted chat."""

    messages: int = 0
    edits: int = 0
    removals: int = 0


class SearchIndex:
    """The index in the file `path`, None for memory. One thread at a time makes all calls.

    Every method may raise `sqlite3.Error`; after one, `reset` starts with an empty index.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        # Whether removed words may still be in the file, and the parameter of the next step that rewrites it.
        self._merge = 0

    def open(self, newest: int, database: str = "") -> SearchPosition:
        """Open the index of the database with the identity `database`, whose highest number is `newest`.

        It is begun anew if it is missing, of another version or database, or ahead of `newest`.
        """
        connection = self._connect()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "position" in tables:
            for version, *rest in connection.execute("SELECT * FROM position").fetchall():
                if version == _VERSION and rest[0] == database and max(rest[1:4]) <= newest:
                    self._merge = rest[4]
                    return SearchPosition(*rest[1:4])
        if tables:
            self.reset()
            connection = self._connect()
        connection.execute("BEGIN")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO position VALUES (?, ?, 0, 0, 0, 0)", (_VERSION, database))
        connection.execute("COMMIT")
        return SearchPosition()

    def reset(self) -> None:
        """Delete the index."""
        self.close()
        self._merge = 0
        if self._path is not None:
            for suffix in ("", "-wal", "-shm", "-journal"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def put(
        self,
        position: SearchPosition,
        messages: Sequence[SearchableMessage],
        people: Sequence[SearchablePerson] = (),
        removed: Sequence[UUID] = (),
    ) -> None:
        """Put messages and people as they are now, instead of older versions, and move to `position`.

        The messages of the chats in `removed` are removed.
        """
        connection = self._connect()
        connection.execute("BEGIN")
        try:
            self._put_messages(connection, messages)
            for chat in removed:
                self._remove_chat(connection, chat)
            for person in people:
                self._put_person(connection, person)
            connection.execute(
                "UPDATE position SET messages = ?, edits = ?, removals = ?",
                (position.messages, position.edits, position.removals),
            )
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def unknown_owners(self, messages: Iterable[SearchableMessage]) -> set[Identity]:
        """The owners of the messages' chats that are not found in these sources yet."""
        owners = {(message.owner_id, message.source) for message in messages}
        ids = orjson.dumps([owner_id for owner_id, _ in owners]).decode()
        rows = self._connect().execute(
            "SELECT id, sources FROM people WHERE role = ? AND id IN (SELECT value FROM json_each(?))",
            (Role.USER.value, ids),
        )
        known = {(id_, source) for id_, sources in rows for source in sources.split()}
        return {Identity(Role.USER, owner_id) for owner_id, _ in owners - known}

    def is_known(self, identity: Identity) -> bool:
        """Whether the index has this person."""
        found = self._connect().execute(
            "SELECT 1 FROM people WHERE role = ? AND id = ?", (identity.role.value, identity.id)
        )
        return bool(found.fetchall())

    def remove_people(self, people: Iterable[Identity]) -> None:
        """Remove people."""
        connection = self._connect()
        for identity in people:
            key = (identity.role.value, identity.id)
            for (number,) in connection.execute("SELECT number FROM people WHERE role = ? AND id = ?", key).fetchall():
                self._remove(connection, [(-number,)])
            connection.execute("DELETE FROM people WHERE role = ? AND id = ?", key)

    def messages(self, which: SearchFilter, before: int, limit: int) -> list[int]:
        """The highest `limit` ids below `before` of messages that seem to match. Raises `SearchTooSlow`."""
        marker = _FILE if which.kind is SearchKind.FILES else ""
        conditions = [_any(_CHAT + chat.hex for chat in which.chats)] if which.chats is not None else []
        query = [_condition(marker, word) for word in which.words]
        hidden = f' NOT "{_HIDDEN}{which.role.value}"'
        query += conditions if which.chats is not None else _in_sources(which.sources)
        return self._find(f"({' AND '.join(query)}){hidden}", 0, before, limit)

    def people(self, which: SearchFilter, before: int, limit: int) -> list[tuple[int, Identity]]:
        """Up to `limit` people that seem to match, with numbers below `before`. Raises `SearchTooSlow`."""
        query = [_condition(_PERSON, word) for word in which.words] + _in_sources(which.sources)
        numbers = self._find(" AND ".join(query), -MAX_SAFE_INTEGER, min(before, 0), limit)
        connection, found = self._connect(), []
        for number in numbers:
            for role, id_ in connection.execute("SELECT role, id FROM people WHERE number = ?", (-number,)):
                found.append((number, Identity(Role(role), id_)))
        return found

    def merge(self) -> bool:
        """Do a part of the work that rewrites the index without what was removed. False once nothing is left to do."""
        if not self._merge:
            return False
        connection = self._connect()
        before = connection.total_changes
        connection.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (self._merge,))
        # As documented for FTS5: fewer than two changes mean that there was nothing to merge.
        done = self._merge > 0 and connection.total_changes - before < 2
        self._set_merge(connection, 0 if done else _MERGED_PAGES)
        if done and self._path is not None:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return not done

    def _remove_chat(self, connection: sqlite3.Connection, chat: UUID) -> None:
        found = connection.execute("SELECT rowid FROM words WHERE words MATCH ?", (f'"{_CHAT}{chat.hex}"',)).fetchall()
        if found:
            self._remove(connection, found)

    def _remove(self, connection: sqlite3.Connection, rows: Sequence[tuple[int]]) -> None:
        connection.executemany("DELETE FROM words WHERE rowid = ?", rows)
        # A negative number begins to merge everything into one part, positive ones go on with it.
        self._set_merge(connection, -_MERGED_PAGES)

    def _set_merge(self, connection: sqlite3.Connection, merge: int) -> None:
        if merge != self._merge:
            self._merge = merge
            connection.execute("UPDATE position SET merge = ?", (merge,))

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            name = ":memory:" if self._path is None else str(self._path)
            connection = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")
                # Removed words must not stay in unused pages.
                connection.execute("PRAGMA secure_delete=ON")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            if self._path is not None:
                self._path.chmod(0o600)
        return self._connection

    def _put_messages(self, connection: sqlite3.Connection, messages: Sequence[SearchableMessage]) -> None:
        edited = [(message.id,) for message in messages if message.number != message.id]
        if edited:
            self._remove(connection, edited)
        bodies = {str(message.id): _body_of(message) for message in messages if message.text or message.files}
        # One statement: another thread can run Python meanwhile, and this one does not wait for it after each row.
        # REPLACE: a message that is edited before the index reads it comes in its new version first.
        connection.execute(
            "INSERT OR REPLACE INTO words (rowid, body) SELECT CAST(key AS INTEGER), value FROM json_each(?)",
            (orjson.dumps(bodies).decode(),),
        )

    def _put_person(self, connection: sqlite3.Connection, person: SearchablePerson) -> None:
        user = person.user
        names = words_of(" ".join((user.lastname, user.firstname, user.patronymic, str(user.id))))
        sources = sorted(person.sources)
        row = (user.role.value, user.id, " ".join(sources), " ".join(names))
        known = connection.execute("SELECT sources, names FROM people WHERE role = ? AND id = ?", row[:2]).fetchall()
        if known == [row[2:]]:
            return
        self.remove_people([identity_of(user)])
        if not sources:
            return
        cursor = connection.execute("INSERT INTO people (role, id, sources, names) VALUES (?, ?, ?, ?)", row)
        words = [_PERSON + word for word in names] + [_SOURCE + _hex(source) for source in sources]
        connection.execute("INSERT INTO words (rowid, body) VALUES (?, ?)", (-(cursor.lastrowid or 0), " ".join(words)))

    def _find(self, query: str, above: int, below: int, limit: int) -> list[int]:
        connection = self._connect()
        until = time.monotonic() + _FIND_SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > until, _INSTRUCTIONS)
        try:
            rows = connection.execute(
                "SELECT rowid FROM words WHERE words MATCH ? AND rowid < ? AND rowid > ? ORDER BY rowid DESC LIMIT ?",
                (query, below, above, limit),
            ).fetchall()
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise SearchTooSlow from None
            raise
        finally:
            connection.set_progress_handler(None, 0)
        return [row[0] for row in rows]


def _body_of(message: SearchableMessage) -> str:
    # The tokenizer separates words as `words_of` does, if no other characters than these separate them.
    text = fold_plain(message.text)
    body = f"{' '.join(words_of(message.text)) if text is None else text} {_SOURCE}{_hex(message.source)}"
    body += f" {_CHAT}{message.chat}"
    for name in message.files:
        body += "".join([f" {_FILE}{word}" for word in words_of(name)])
    return body if message.hidden is None else f"{body} {_HIDDEN}{message.hidden.value}"


@lru_cache
def _hex(source: str) -> str:
    # Names of sources may have characters that separate words.
    return source.encode().hex()


def _condition(marker: str, word: str) -> str:
    return f'"{marker}{word}"*' if len(word) >= SHORTEST_PREFIX else f'"{marker}{word}"'


def _any(words: Iterable[str]) -> str:
    return "(" + " OR ".join(f'"{word}"' for word in sorted(words)) + ")"


def _in_sources(sources: frozenset[str] | None) -> list[str]:
    return [] if sources is None else [_any(_SOURCE + _hex(source) for source in sources)]
