"""Builds the text of all SQL statements with SQLAlchemy Core; the driver executes them.

SQLAlchemy only compiles the statements: executing them through it would take longer than most of them run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from actorchat.chat.model import Stage
from actorchat.chat.ports import ChatFilter
from actorchat.storage.row_cache import KEY_HORIZON
from actorchat.storage.schema import (
    chats,
    log,
    messages,
    moves,
    operator_counters,
    people,
    relayed,
    settings,
    source_counters,
    uploads,
    writers,
)

__all__ = ["Statements"]

_PROFILE: Final = ("avatar", "lastname", "firstname", "patronymic")
_PROGRESS: Final = (
    "rev",
    "next_index",
    "visitor_delivered",
    "visitor_read",
    "operators_delivered",
    "operators_read",
    "last_visitor_index",
    "last_activity",
    "awaiting_since",
    "place",
)

# Given explicitly, because the SQLite dialect would otherwise add an offset as a parameter.
_start: ColumnElement[int] = literal_column("0")
# A number below every place.
_NOWHERE: Final[ColumnElement[int]] = literal_column(str(-(2**62)))
_ACTIVE_STAGES: Final = frozenset({Stage.NEW, Stage.OPEN})
_active = literal_column("stage").in_([literal_column("'new'"), literal_column("'open'")])
_reserved = literal_column("stage") == literal_column("'reserved'")
_listed = chats.c.stage != literal_column("'reserved'")
_state = tuple(column for column in chats.c if column.name != "due_at")
_owner, _operator = people.alias("owner"), people.alias("operator")


class Statements:
    """The statements for SQLite. Parameters are positional, in the order of the names after each statement.

    A `keys` parameter is a JSON array, so that one statement with a constant text can read any number of rows.
    """

    def __init__(self) -> None:
        self._dialect = sqlite.dialect(paramstyle="qmark")
        self._filtered: dict[tuple[frozenset[str], bool], str] = {}
        text_ = self._text

        # Statements of a batch: the rows that it needs and the rows that it writes.
        self.chats_by_uuid: str = text_(select(*_state).where(_among(chats.c.uuid)), "keys")
        pairs = _each("keys")
        self.unclosed_chats: str = text_(
            select(*_state)
            .select_from(pairs.join(chats, chats.c.owner_id == _item(pairs, 0)))
            .where(chats.c.source == _item(pairs, 1), chats.c.stage != literal_column("'closed'")),
            "keys",
        )
        self.active_chats: str = text_(select(*_state).where(_active))
        self.people_by_id: str = text_(
            select(*people.c).where(people.c.role == bindparam("role"), _among(people.c.id)), "role", "keys"
        )
        self.operator_counters: str = text_(
            select(*operator_counters.c).where(_among(operator_counters.c.operator_id)), "keys"
        )
        self.source_counters: str = text_(select(*source_counters.c).where(_among(source_counters.c.source)), "keys")
        self.all_operator_counters: str = text_(select(*operator_counters.c))
        self.all_source_counters: str = text_(select(*source_counters.c))
        self.marked_messages: str = text_(
            select(
                messages.c.id,
                messages.c.chat,
                messages.c.message_index,
                messages.c.type,
                messages.c.type_role,
            ).where(_among(messages.c.id)),
            "keys",
        )
        self.recent_keys: str = self._recent_keys()
        self.last_message_id: str = text_(select(func.max(writers.c.last_message_id)))
        self.last_chat_number: str = text_(select(func.max(chats.c.number)))
        self.insert_chat: str = self._insert(chats)
        self.insert_message: str = self._insert(messages, leave=("attachments",))
        self.insert_message_with_files: str = self._insert(messages)
        self.insert_upload: str = self._insert(uploads)
        self.take_upload: str = text_(
            update(uploads)
            .where(uploads.c.uuid == bindparam("of"))
            .values({"chat": bindparam("new_chat"), "message_index": bindparam("new_index")}),
            "new_chat",
            "new_index",
            "of",
        )
        self.delete_upload: str = text_(uploads.delete().where(uploads.c.uuid == bindparam("of")), "of")
        self.uploads: str = text_(select(*uploads.c).where(_among(uploads.c.uuid)), "keys")
        # The condition has to be spelled as in the index of unbound uploads.
        self.unbound_uploads: str = text_(
            select(uploads.c.uuid)
            .where(literal_column("chat IS NULL"), uploads.c.created <= bindparam("before"))
            .order_by(uploads.c.created)
            .limit(bindparam("limit"))
            .offset(_start),
            "before",
            "limit",
        )
        self.insert_move: str = self._insert(moves)
        self.update_chat: str = self._update_chat(("stage", "operator_id", *_PROGRESS, "assigned_at", "due_at"))
        self.update_chat_progress: str = self._update_chat(_PROGRESS)
        self.delete_chat: str = text_(chats.delete().where(chats.c.number == bindparam("number")), "number")
        any_chat = select(chats.c.number).where(chats.c.owner_id == people.c.id)
        self.delete_owner: str = text_(
            people.delete().where(
                people.c.role == literal_column("'user'"), people.c.id == bindparam("id"), ~any_chat.exists()
            ),
            "id",
        )
        self.update_due: str = self._update_chat(("due_at",))
        self.put_person: str = self._put(people)
        self.put_operator_counters: str = self._put(operator_counters)
        self.put_source_counters: str = self._put(source_counters)
        self.put_setting: str = self._put(settings)
        self.setting: str = text_(select(settings.c.value).where(settings.c.name == bindparam("name")), "name")
        self.put_batch: str = self._put(writers, keep=("fences",))
        self.batch: str = text_(select(writers.c.batch).where(writers.c.writer == bindparam("writer")), "writer")
        fence = sqlite.insert(writers).values({column.name: bindparam(column.name) for column in writers.c})
        self.fence: str = text_(
            fence.on_conflict_do_update(
                index_elements=["writer"], set_={"fences": writers.c.fences + literal_column("1")}
            ),
            *(column.name for column in writers.c),
        )
        newest_id = select(func.max(writers.c.last_message_id)).scalar_subquery()
        self.forget_writers: str = text_(
            writers.delete().where(writers.c.time < bindparam("before"), writers.c.last_message_id < newest_id),
            "before",
        )

        # The commit log, and how far each broker has confirmed it.
        entry = ("writer", "batch", "time", "payload")
        self.insert_entry: str = text_(log.insert().values({name: bindparam(name) for name in entry}), *entry)
        newest_entry = select(func.max(log.c.seq)).scalar_subquery()
        self.entries: str = text_(
            select(log.c.seq, log.c.time, log.c.payload).where(log.c.seq > bindparam("after")).order_by(log.c.seq),
            "after",
        )
        self.oldest_entries: str = text_(
            select(log.c.seq, log.c.time)
            .where(log.c.seq < newest_entry)
            .order_by(log.c.seq)
            .limit(bindparam("limit"))
            .offset(_start),
            "limit",
        )
        self.delete_entries: str = text_(log.delete().where(log.c.seq <= bindparam("seq")), "seq")
        self.delete_old_entries: str = text_(log.delete().where(log.c.seq < newest_entry))
        nothing: ColumnElement[bytes] = literal_column("x''")
        self.empty_entries: str = text_(log.update().values(payload=nothing).where(log.c.payload != nothing))
        self.relayed: str = text_(select(relayed.c.broker, relayed.c.seq))
        self.put_relayed: str = text_(
            relayed.update().values(seq=bindparam("seq")).where(relayed.c.broker == bindparam("broker")),
            "seq",
            "broker",
        )
        self.add_relayed: str = text_(
            relayed.insert().from_select(
                ["broker", "seq"],
                select(bindparam("broker"), func.coalesce(newest_entry, literal_column("0"))),
            ),
            "broker",
        )
        self.delete_relayed: str = text_(relayed.delete().where(relayed.c.broker == bindparam("broker")), "broker")

        # Read the newest row of each table that reads need.
        self.probes: tuple[str, ...] = tuple(
            text_(
                select(table).order_by(next(iter(table.primary_key)).desc()).limit(literal_column("1")).offset(_start)
            )
            for table in (chats, messages, people, operator_counters, source_counters)
        )

        # Reads, with the current profiles of people.
        with_people = self._chats_with_people()
        self.chat: str = text_(with_people.where(chats.c.uuid == bindparam("uuid")), "uuid")
        self.numbered: str = text_(with_people.where(chats.c.number == bindparam("number")), "number")
        # These read only an index, so that they work if a page of the table is damaged.
        self.active_numbers: str = text_(select(chats.c.number).where(_active, _among(chats.c.source)), "keys")
        self.all_active_numbers: str = text_(select(chats.c.number).where(_active))
        self.due_numbers: str = text_(
            select(chats.c.number)
            .where(chats.c.due_at <= bindparam("now"))
            .order_by(chats.c.due_at)
            .limit(bindparam("limit"))
            .offset(_start),
            "now",
            "limit",
        )
        self.unused_numbers: str = text_(
            select(chats.c.number)
            .where(_reserved, chats.c.last_activity <= bindparam("before"))
            .order_by(chats.c.last_activity)
            .limit(bindparam("limit"))
            .offset(_start),
            "before",
            "limit",
        )
        page = self._messages_with_authors()
        visible = or_(messages.c.type == literal_column("'standard'"), messages.c.type_role == bindparam("role"))
        index = messages.c.message_index
        limit: ColumnElement[int] = bindparam("limit")
        self.newest: str = text_(
            page.where(index < bindparam("before"), visible).order_by(index.desc()).limit(limit).offset(_start),
            "chat",
            "before",
            "role",
            "limit",
        )
        self.after: str = text_(
            page.where(index > bindparam("after"), visible).order_by(index).limit(limit).offset(_start),
            "chat",
            "after",
            "role",
            "limit",
        )
        self.all_after: str = text_(
            page.where(index > bindparam("after")).order_by(index).limit(limit).offset(_start), "chat", "after", "limit"
        )
        self.one: str = text_(page.where(index == bindparam("at")), "chat", "at")
        self.authored: str = text_(
            page.where(
                index > bindparam("after"),
                index <= bindparam("upto"),
                messages.c.type == literal_column("'standard'"),
                messages.c.type_role == bindparam("role"),
            )
            .order_by(index)
            .limit(limit)
            .offset(_start),
            "chat",
            "after",
            "upto",
            "role",
            "limit",
        )
        # Searches from the newest message backwards, because the result is usually near the end.
        self.index_at_rev: str = text_(
            select(index)
            .where(messages.c.chat == bindparam("chat"), messages.c.rev <= bindparam("rev"))
            .order_by(index.desc())
            .limit(literal_column("1"))
            .offset(_start),
            "chat",
            "rev",
        )
        self.person: str = text_(
            select(*people.c).where(people.c.role == bindparam("role"), people.c.id == bindparam("id")),
            "role",
            "id",
        )
        self.operators: str = text_(
            select(
                *people.c,
                operator_counters.c.new_chats,
                operator_counters.c.open_chats,
                operator_counters.c.rev,
            )
            .select_from(people.outerjoin(operator_counters, operator_counters.c.operator_id == people.c.id))
            .where(people.c.role == literal_column("'operator'"))
            .order_by(people.c.id)
        )
        self.feed_chats: str = text_(
            with_people.where(_active, _among(chats.c.source))
            .order_by(chats.c.place.desc())
            .limit(limit)
            .offset(_start),
            "keys",
            "limit",
        )
        self.unused: str = text_(
            select(chats.c.uuid)
            # The condition has to be spelled as in the index of reserved chats.
            .where(_reserved, chats.c.last_activity <= bindparam("before"))
            .order_by(chats.c.last_activity, chats.c.uuid)
            .limit(limit)
            .offset(_start),
            "before",
            "limit",
        )
        self.due: str = text_(
            select(chats.c.uuid)
            .where(chats.c.due_at <= bindparam("now"))
            .order_by(chats.c.due_at, chats.c.uuid)
            .limit(limit)
            .offset(_start),
            "now",
            "limit",
        )

    def filtered_chats(self, which: ChatFilter) -> str:
        """The statement for a list of chats. The last column of a row is the chat's place at the time of `start`.

        Parameters: `start` three times if `before` is set; then those of sources (keys), stages (keys), operator and
        owner that are set; `place` if `before` is set; the limit.
        """
        names = ("sources", "stages", "operator_id", "owner_id")
        present = frozenset(name for name in (*names, "before") if getattr(which, name) is not None)
        only_active = which.stages is not None and which.stages <= _ACTIVE_STAGES
        found = self._filtered.get((present, only_active))
        if found is not None:
            return found
        conditions: dict[str, ColumnElement[bool]] = {
            "sources": _among(chats.c.source, "sources"),
            "stages": _among(chats.c.stage, "stages"),
            "operator_id": chats.c.operator_id == bindparam("operator_id"),
            "owner_id": chats.c.owner_id == bindparam("owner_id"),
        }
        chosen = [name for name in names if name in present]
        # Spelled as in the index of active chats: with parameters SQLite would not know that it can use the index.
        query = self._chats_with_people().where(_active if only_active else _listed)
        query = query.where(*(conditions[name] for name in chosen))
        parameters = tuple(chosen)
        if "before" in present:
            then = query.add_columns(_stood().label("stood")).subquery()
            query = select(then).where(then.c.stood < bindparam("place"), then.c.stood > _NOWHERE)
            query = query.order_by(then.c.stood.desc())
            parameters = ("start", "start", "start", *parameters, "place")
        else:
            query = query.add_columns(chats.c.place.label("stood")).order_by(chats.c.place.desc())
        query = query.limit(bindparam("limit")).offset(_start)
        found = self._filtered[present, only_active] = self._text(query, *parameters, "limit")
        return found

    def _text(self, statement: ClauseElement, *parameters: str) -> str:
        compiled = statement.compile(dialect=self._dialect)
        # Values are passed by position, so make sure that the order is the documented one.
        actual = tuple(compiled.positiontup or ()) if isinstance(compiled, SQLCompiler) else ()
        if actual != parameters:
            raise AssertionError(f"{compiled} has the parameters {actual}, not {parameters}")
        return str(compiled)

    def _insert(self, table: Table, leave: Sequence[str] = ()) -> str:
        names = [column.name for column in table.c if column.name not in leave]
        return self._text(table.insert().values({name: bindparam(name) for name in names}), *names)

    def _put(self, table: Table, keep: Sequence[str] = ()) -> str:
        """Insert a row, or update all columns except `keep` of the row with the same key. Takes the table's columns."""
        names = [column.name for column in table.c]
        insert = sqlite.insert(table).values({name: bindparam(name) for name in names})
        keys = [column.name for column in table.primary_key]
        changed = {name: insert.excluded[name] for name in names if name not in keys and name not in keep}
        return self._text(insert.on_conflict_do_update(index_elements=keys, set_=changed), *names)

    def _update_chat(self, names: Sequence[str]) -> str:
        values: dict[str, ColumnElement[Any]] = {name: bindparam(f"new_{name}") for name in names}
        statement = update(chats).where(chats.c.number == bindparam("of")).values(values)
        return self._text(statement, *(f"new_{name}" for name in names), "of")

    def _recent_keys(self) -> str:
        """Read authors' latest idempotency keys in ascending order. Takes [[chat, author role, author id], …]."""
        asked = _each("keys")
        newest = messages.alias("newest")

        def theirs(table: Any) -> ColumnElement[bool]:
            return and_(
                table.c.chat == _item(asked, 0),
                table.c.author_role == _item(asked, 1),
                table.c.author_id == _item(asked, 2),
                table.c.client_id.is_not(None),
            )

        oldest = (
            select(newest.c.message_index)
            .where(theirs(newest))
            .order_by(newest.c.message_index.desc())
            .limit(literal_column("1"))
            .offset(literal_column(str(KEY_HORIZON - 1)))
            .correlate(asked)
            .scalar_subquery()
        )
        return self._text(
            select(
                messages.c.chat,
                messages.c.author_role,
                messages.c.author_id,
                messages.c.client_id,
                messages.c.message_index,
            )
            .select_from(asked.join(messages, theirs(messages)))
            .where(messages.c.message_index >= func.coalesce(oldest, literal_column("0")))
            .order_by(messages.c.chat, messages.c.message_index),
            "keys",
        )

    def _chats_with_people(self) -> Any:
        owner_is = and_(_owner.c.role == literal_column("'user'"), _owner.c.id == chats.c.owner_id)
        operator_is = and_(_operator.c.role == literal_column("'operator'"), _operator.c.id == chats.c.operator_id)
        return select(
            *_state, *(_owner.c[name] for name in _PROFILE), *(_operator.c[name] for name in _PROFILE)
        ).select_from(chats.outerjoin(_owner, owner_is).outerjoin(_operator, operator_is))

    def _messages_with_authors(self) -> Any:
        author_is = and_(people.c.role == messages.c.author_role, people.c.id == messages.c.author_id)
        columns = [column for column in messages.c if column.name != "chat"]
        return (
            select(*columns, *(people.c[name] for name in _PROFILE))
            .select_from(messages.outerjoin(people, author_is))
            .where(messages.c.chat == bindparam("chat"))
        )


def _stood() -> ColumnElement[Any]:
    """The chat's place at the time when `start` was the highest place; `_NOWHERE` if it was in no list then.

    The lookup in messages and moves is made only for chats that have moved since.
    """
    start: ColumnElement[int] = bindparam("start")

    def newest(place: ColumnElement[int], chat: ColumnElement[int], order: ColumnElement[int]) -> ColumnElement[int]:
        found = select(place).where(chat == chats.c.number, place <= start).order_by(order.desc())
        found = found.limit(literal_column("1")).offset(_start).correlate(chats)
        return func.coalesce(found.scalar_subquery(), _NOWHERE)

    message = newest(messages.c.id, messages.c.chat, messages.c.message_index)
    move = newest(moves.c.place, moves.c.chat, moves.c.place)
    # In SQLite, max with two arguments returns the greater one.
    return case((chats.c.place <= start, chats.c.place), else_=func.max(message, move))


def _each(name: str) -> Any:
    return func.json_each(bindparam(name)).table_valued("value", name="asked")


def _item(asked: Any, place: int) -> ColumnElement[Any]:
    return func.json_extract(asked.c.value, literal_column(f"'$[{place}]'"))


def _among(column: ColumnElement[Any], name: str = "keys") -> ColumnElement[bool]:
    return column.in_(select(func.json_each(bindparam(name)).table_valued("value").c.value))
