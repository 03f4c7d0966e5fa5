"""Builds the text of all SQL statements with SQLAlchemy Core; the driver executes them.

SQLAlchemy only compiles the statements: executing them through it would take longer than most of them run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, defstruct
from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
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
from sqlalchemy.sql import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from actorchat.chat.model import Stage
from actorchat.chat.ports import MOST_UNREAD, ChatFilter
from actorchat.storage.dialects import RowColumns, SqlDialect, SqliteDialect
from actorchat.storage.row_cache import KEY_HORIZON
from actorchat.storage.schema import (
    accounts,
    audit,
    blocks,
    chat_tags,
    chats,
    documents,
    edits,
    log,
    messages,
    moves,
    operator_counters,
    people,
    relayed,
    removed_chats,
    sessions,
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

# A number below every place.
_NOWHERE: Final[ColumnElement[int]] = literal_column(str(-(2**62)))
_ACTIVE_STAGES: Final = frozenset({Stage.NEW, Stage.OPEN})
_active = literal_column("stage").in_([literal_column("'new'"), literal_column("'open'")])
_unclosed = chats.c.stage != literal_column("'closed'")
_closed = literal_column("stage") == literal_column("'closed'")
_reserved = literal_column("stage") == literal_column("'reserved'")
_listed = chats.c.stage != literal_column("'reserved'")
_state = tuple(column for column in chats.c if column.name != "due_at")
_owner, _operator = people.alias("owner"), people.alias("operator")
_of_chat = chats.c.number == messages.c.chat
_edit_is = and_(edits.c.chat == messages.c.chat, edits.c.message_index == messages.c.message_index)
_author_is = and_(people.c.role == messages.c.author_role, people.c.id == messages.c.author_id)
_message = (
    *(column for column in messages.c if column.name != "chat"),
    *(edits.c.time, edits.c.redacted, edits.c.rev),
    *(people.c[name] for name in _PROFILE),
)


class Statements:
    """The statements for one dialect. Parameters are positional, in the order of the names after each statement.

    A `keys` parameter is a JSON array, so that one statement with a constant text can read any number of rows.
    `row_types` has, for each statement that takes written rows as one JSON array, the type of these rows.
    """

    def __init__(self, dialect: SqlDialect | None = None) -> None:
        self._dialect: SqlDialect = SqliteDialect() if dialect is None else dialect
        self.row_types: dict[str, type[Struct]] = {}
        self._filtered: dict[tuple[frozenset[str], bool], str] = {}
        text_, many, among = self._text, self._many, self._dialect.among

        # Statements of a batch: the rows that it needs and the rows that it writes.
        self.chats_by_uuid: str = text_(select(*_state).where(among(chats.c.uuid)), "keys")
        pairs = self._dialect.tuples("keys")
        owner_is = chats.c.owner_id == self._dialect.item(pairs, 0, chats.c.owner_id)
        owned = select(*_state).select_from(pairs.join(chats, owner_is))
        self.unclosed_chats: str = text_(
            owned.where(chats.c.source == self._dialect.item(pairs, 1, chats.c.source), _unclosed), "keys"
        )
        also_closed = self._dialect.item(pairs, 1, chats.c.owner_id) == literal_column("1")
        self.chats_of_owners: str = text_(owned.where(or_(_unclosed, also_closed)), "keys")
        self.active_chats: str = text_(select(*_state).where(_active))
        self.people_by_id: str = text_(
            select(*people.c).where(people.c.role == bindparam("role"), among(people.c.id)), "role", "keys"
        )
        self.operator_counters: str = text_(
            select(*operator_counters.c).where(among(operator_counters.c.operator_id)), "keys"
        )
        self.source_counters: str = text_(select(*source_counters.c).where(among(source_counters.c.source)), "keys")
        self.all_operator_counters: str = text_(select(*operator_counters.c))
        self.all_source_counters: str = text_(select(*source_counters.c))
        self.marked_messages: str = text_(
            select(
                messages.c.id,
                messages.c.chat,
                messages.c.message_index,
                messages.c.type,
                messages.c.type_role,
            ).where(among(messages.c.id)),
            "keys",
        )
        self.recent_keys: str = self._recent_keys()
        self.last_message_id: str = text_(select(func.max(writers.c.last_message_id)))
        self.last_chat_number: str = text_(select(func.max(chats.c.number)))
        self.insert_chat: str = self._insert(chats)
        self.insert_message: str = self._insert(messages, leave=("attachments",))
        self.insert_message_with_files: str = self._insert(messages)
        self.update_message: str = self._update(
            {"new_text": messages.c.text, "new_attachments": messages.c.attachments},
            {"of": messages.c.chat, "at": messages.c.message_index},
        )
        self.insert_audit: str = self._insert(audit, leave=("number",))
        self.audits: str = text_(
            select(*audit.c)
            .where(audit.c.number < bindparam("before"))
            .order_by(audit.c.number.desc())
            .limit(bindparam("limit")),
            "before",
            "limit",
        )
        self.written_by: str = text_(
            select(chats.c.uuid, messages.c.id)
            .select_from(messages.join(chats, _of_chat))
            .where(
                messages.c.author_role == bindparam("role"),
                messages.c.author_id == bindparam("author"),
                messages.c.id > bindparam("after"),
            )
            .order_by(messages.c.id)
            .limit(bindparam("limit")),
            "role",
            "author",
            "after",
            "limit",
        )
        self.uploads_of: str = text_(
            select(uploads.c.uuid).where(
                uploads.c.uploader_role == bindparam("role"), uploads.c.uploader_id == bindparam("id")
            ),
            "role",
            "id",
        )
        self.put_edit: str = self._put(edits)
        self.insert_upload: str = self._insert(uploads)
        self.take_upload: str = self._update(
            {"new_chat": uploads.c.chat, "new_index": uploads.c.message_index}, {"of": uploads.c.uuid}
        )
        self.delete_upload: str = self._delete(uploads.c.uuid)
        self.give_chat: str = self._update_chat(("owner_id",))
        self.give_messages: str = self._update(
            {"taker": messages.c.author_id},
            {"of": messages.c.chat, "giver": messages.c.author_id},
            messages.c.author_role == literal_column("'user'"),
        )
        by_user = uploads.c.uploader_role == literal_column("'user'")
        self.give_upload: str = self._update(
            {"taker": uploads.c.uploader_id}, {"of": uploads.c.uuid, "giver": uploads.c.uploader_id}, by_user
        )
        # By the index of unbound uploads, whose condition is spelled like this.
        self.give_uploads: str = self._update(
            {"taker": uploads.c.uploader_id},
            {"giver": uploads.c.uploader_id},
            by_user,
            literal_column("chat IS NULL"),
        )
        self.uploads: str = text_(select(*uploads.c).where(among(uploads.c.uuid)), "keys")
        # The same in SQLite, whose transactions exclude each other.
        self.uploads_to_change: str = self.uploads
        # The condition has to be spelled as in the index of unbound uploads.
        self.unbound_uploads: str = text_(
            select(uploads.c.uuid)
            .where(literal_column("chat IS NULL"), uploads.c.created <= bindparam("before"))
            .order_by(uploads.c.created)
            .limit(bindparam("limit")),
            "before",
            "limit",
        )
        self.put_document: str = self._put(documents)
        self.delete_document: str = self._delete(documents.c.kind, documents.c.scope, documents.c.name)
        self.document: str = text_(
            select(documents.c.text).where(
                documents.c.kind == bindparam("kind"),
                documents.c.scope == bindparam("scope"),
                documents.c.name == bindparam("name"),
            ),
            "kind",
            "scope",
            "name",
        )
        self.delete_visits: str = many(
            lambda row: documents.delete().where(
                documents.c.kind == literal_column("'visit'"),
                documents.c.scope == row("scope"),
                ~select(chats.c.number).where(chats.c.owner_id == row("owner")).correlate_except(chats).exists(),
            ),
            scope=documents.c.scope,
            owner=chats.c.owner_id,
        )
        self.documents: str = text_(
            select(documents.c.name, documents.c.text)
            .where(documents.c.kind == bindparam("kind"), documents.c.scope == bindparam("scope"))
            .order_by(documents.c.name),
            "kind",
            "scope",
        )
        self.insert_tag: str = self._insert(chat_tags)
        self.delete_tags: str = self._delete(chat_tags.c.chat)
        self.delete_tag: str = self._delete(chat_tags.c.chat, chat_tags.c.tag)
        self.copy_tag: str = self._copy_tag()
        self.insert_move: str = self._insert(moves)
        self.update_chat: str = self._update_chat(("stage", "operator_id", *_PROGRESS, "assigned_at", "due_at"))
        self.update_chat_progress: str = self._update_chat(_PROGRESS)
        self.files_of_chat: str = text_(
            select(messages.c.attachments).where(
                messages.c.chat == bindparam("chat"), messages.c.attachments.is_not(None)
            ),
            "chat",
        )
        self.delete_messages: str = self._delete(messages.c.chat)
        self.delete_edits: str = self._delete(edits.c.chat)
        self.delete_moves: str = self._delete(moves.c.chat)
        self.insert_removed_chat: str = self._insert(removed_chats)
        self.delete_retention_record: str = many(
            lambda row: audit.delete().where(audit.c.at == row("of"), audit.c.action == literal_column("'retention'")),
            of=audit.c.at,
        )
        self.delete_chat: str = self._delete(chats.c.number)
        any_chat = select(chats.c.number).where(chats.c.owner_id == people.c.id).correlate(people)
        self.delete_owner: str = many(
            lambda row: people.delete().where(
                people.c.role == literal_column("'user'"),
                people.c.id == row("of"),
                # Otherwise its tokens would be worth something again.
                people.c.signed_out_at == literal_column("0"),
                ~any_chat.exists(),
            ),
            of=people.c.id,
        )
        self.update_due: str = self._update_chat(("due_at",))
        self.put_person: str = self._put(people)
        self.known_sources: str = text_(
            select(source_counters.c.source).order_by(source_counters.c.source).limit(bindparam("limit")),
            "limit",
        )
        self.accounts: str = text_(select(*accounts.c).order_by(accounts.c.operator_id))
        self.put_account: str = self._put(accounts)
        self.blocks: str = text_(select(*blocks.c).order_by(blocks.c.id))
        self.put_block: str = self._put(blocks)
        self.delete_block: str = self._delete(blocks.c.id)
        self.sessions: str = text_(select(*sessions.c))
        self.put_session: str = self._put(sessions)
        self.delete_session: str = self._delete(sessions.c.id)
        self.put_operator_counters: str = self._put(operator_counters)
        self.put_source_counters: str = self._put(source_counters)
        self.put_setting: str = self._put(settings)
        self.setting: str = text_(select(settings.c.value).where(settings.c.name == bindparam("name")), "name")
        self.put_batch: str = self._put(writers, keep=("fences",))
        self.batch: str = text_(select(writers.c.batch).where(writers.c.writer == bindparam("writer")), "writer")
        columns = {column.name: column for column in writers.c}
        self.fence: str = many(
            lambda row: self._dialect.insert(writers, tuple(columns), row).on_conflict_do_update(
                index_elements=["writer"], set_={"fences": writers.c.fences + literal_column("1")}
            ),
            **columns,
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
        self.newest_entry: str = text_(select(func.coalesce(newest_entry, literal_column("0"))))
        self.count_entries: str = text_(select(func.count()).where(log.c.seq > bindparam("after")), "after")
        self.entries: str = text_(
            select(log.c.seq, log.c.time, log.c.payload).where(log.c.seq > bindparam("after")).order_by(log.c.seq),
            "after",
        )
        self.oldest_entries: str = text_(
            select(log.c.seq, log.c.time).where(log.c.seq < newest_entry).order_by(log.c.seq).limit(bindparam("limit")),
            "limit",
        )
        self.delete_entries: str = text_(log.delete().where(log.c.seq <= bindparam("seq")), "seq")
        self.delete_old_entries: str = text_(log.delete().where(log.c.seq < newest_entry))
        nothing: ColumnElement[bytes] = literal_column("x''")
        self.empty_entries: str = text_(log.update().values(payload=nothing).where(log.c.payload != nothing))
        self.relayed: str = text_(select(relayed.c.broker, relayed.c.seq))
        self.put_relayed: str = self._update({"new_seq": relayed.c.seq}, {"of": relayed.c.broker})
        self.add_relayed: str = self._insert(relayed)
        self.delete_relayed: str = text_(relayed.delete().where(relayed.c.broker == bindparam("broker")), "broker")

        # Read the newest row of each table that reads need.
        self.probes: tuple[str, ...] = tuple(
            text_(select(table).order_by(next(iter(table.primary_key)).desc()).limit(literal_column("1")))
            for table in (chats, messages, people, operator_counters, source_counters)
        )

        # Reads, with the current profiles of people.
        with_people = self._chats_with_people()
        self.chat: str = text_(with_people.where(chats.c.uuid == bindparam("uuid")), "uuid")
        self.numbered: str = text_(with_people.where(chats.c.number == bindparam("number")), "number")
        # These read only an index, so that they work if a page of the table is damaged.
        self.active_numbers: str = text_(select(chats.c.number).where(_active, among(chats.c.source)), "keys")
        self.all_active_numbers: str = text_(select(chats.c.number).where(_active))
        self.due_numbers: str = text_(
            select(chats.c.number)
            .where(chats.c.due_at <= bindparam("now"))
            .order_by(chats.c.due_at)
            .limit(bindparam("limit")),
            "now",
            "limit",
        )
        self.unused_numbers: str = text_(
            select(chats.c.number)
            .where(_reserved, chats.c.last_activity <= bindparam("before"))
            .order_by(chats.c.last_activity)
            .limit(bindparam("limit")),
            "before",
            "limit",
        )
        page = self._messages_with_authors().where(messages.c.chat == bindparam("chat"))
        visible = or_(messages.c.type == literal_column("'standard'"), messages.c.type_role == bindparam("role"))
        index = messages.c.message_index
        limit: ColumnElement[int] = bindparam("limit")
        self.newest: str = text_(
            page.where(index < bindparam("before"), visible).order_by(index.desc()).limit(limit),
            "chat",
            "before",
            "role",
            "limit",
        )
        self.after: str = text_(
            page.where(index > bindparam("after"), visible).order_by(index).limit(limit),
            "chat",
            "after",
            "role",
            "limit",
        )
        self.all_after: str = text_(
            page.where(index > bindparam("after")).order_by(index).limit(limit), "chat", "after", "limit"
        )
        self.edited: str = text_(
            page.where(edits.c.rev > bindparam("rev")).order_by(edits.c.rev).limit(limit),
            "chat",
            "rev",
            "limit",
        )
        self.messages_by_id: str = text_(
            self._messages_with_authors(messages.c.chat).where(among(messages.c.id)), "keys"
        )
        self.chats_by_number: str = text_(with_people.where(among(chats.c.number)), "keys")
        self.located: str = text_(
            select(chats.c.uuid, messages.c.message_index)
            .select_from(messages.join(chats, _of_chat))
            .where(messages.c.id == bindparam("id")),
            "id",
        )
        searchable = (
            messages.c.id,
            chats.c.uuid,
            chats.c.source,
            chats.c.owner_id,
            messages.c.type,
            messages.c.type_role,
            messages.c.text,
            messages.c.attachments,
        )
        self.searchable: str = text_(
            select(messages.c.id.label("number"), *searchable)
            .select_from(messages.join(chats, _of_chat))
            .where(messages.c.id > bindparam("after"))
            .order_by(messages.c.id)
            .limit(limit),
            "after",
            "limit",
        )
        self.searchable_edits: str = text_(
            select(edits.c.place, *searchable)
            .select_from(edits.join(messages, _edit_is).join(chats, _of_chat))
            .where(edits.c.place > bindparam("after"))
            .order_by(edits.c.place)
            .limit(limit),
            "after",
            "limit",
        )
        self.people_after: str = text_(
            select(*people.c)
            .where(
                people.c.role == bindparam("role"),
                people.c.id > bindparam("id"),
                or_(*(people.c[name] != literal_column("''") for name in _PROFILE[1:])),
            )
            .order_by(people.c.id)
            .limit(limit),
            "role",
            "id",
            "limit",
        )
        self.sources_of_owner: str = text_(
            select(chats.c.source).distinct().where(chats.c.owner_id == bindparam("id"), _listed), "id"
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
            .limit(limit),
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
            .limit(literal_column("1")),
            "chat",
            "rev",
        )
        # Summaries of chats: their rows by UUID, then the rest by number.
        self.summary_chats: str = text_(with_people.where(among(chats.c.uuid)), "keys")
        self.last_shown: str = self._newest(
            lambda message: or_(
                message.c.type == literal_column("'standard'"), message.c.type_role == literal_column("'operator'")
            )
        )
        self.last_told: str = self._newest(
            lambda message: and_(
                message.c.type == literal_column("'system'"), message.c.type_role == literal_column("'user'")
            )
        )
        self.unread: str = self._unread()
        self.first_times: str = text_(
            select(messages.c.chat, messages.c.time).where(
                among(messages.c.chat), messages.c.message_index == literal_column("0")
            ),
            "keys",
        )
        self.tags: str = text_(
            select(*chat_tags.c).where(among(chat_tags.c.chat)).order_by(chat_tags.c.chat, chat_tags.c.tag), "keys"
        )
        self.tag_counts: str = text_(
            select(chat_tags.c.tag, func.count())
            .select_from(chat_tags.join(chats, chats.c.number == chat_tags.c.chat))
            .where(among(chats.c.source))
            .group_by(chat_tags.c.tag)
            .order_by(func.count().desc(), chat_tags.c.tag)
            .limit(bindparam("limit")),
            "keys",
            "limit",
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
            with_people.where(_active, among(chats.c.source)).order_by(chats.c.place.desc()).limit(limit),
            "keys",
            "limit",
        )
        # Spelled as in the index of closed chats.
        self.next_closed_source: str = text_(
            select(func.min(chats.c.source)).where(_closed, chats.c.source > bindparam("after")), "after"
        )
        self.past_retention: str = text_(
            select(chats.c.uuid)
            .where(_closed, chats.c.source == bindparam("source"), chats.c.last_activity <= bindparam("before"))
            .order_by(chats.c.last_activity, chats.c.uuid)
            .limit(limit),
            "source",
            "before",
            "limit",
        )
        self.removed_chats: str = text_(
            select(*removed_chats.c)
            .where(removed_chats.c.place > bindparam("after"))
            .order_by(removed_chats.c.place)
            .limit(limit),
            "after",
            "limit",
        )
        self.unused: str = text_(
            select(chats.c.uuid)
            # The condition has to be spelled as in the index of reserved chats.
            .where(_reserved, chats.c.last_activity <= bindparam("before"))
            .order_by(chats.c.last_activity, chats.c.uuid)
            .limit(limit),
            "before",
            "limit",
        )
        self.due: str = text_(
            select(chats.c.uuid)
            .where(chats.c.due_at <= bindparam("now"))
            .order_by(chats.c.due_at, chats.c.uuid)
            .limit(limit),
            "now",
            "limit",
        )

    def filtered_chats(self, which: ChatFilter) -> str:
        """The statement for a list of chats. The last column of a row is the chat's place at the time of `start`.

        Parameters: `start` three times if `before` is set; then those of sources (keys), stages (keys), operator,
        owner, owners (keys) and tag that are set; `place` if `before` is set; the limit.
        """
        names = ("sources", "stages", "operator_id", "owner_id", "owners", "tag")
        present = frozenset(name for name in (*names, "before") if getattr(which, name) is not None)
        only_active = which.stages is not None and which.stages <= _ACTIVE_STAGES
        found = self._filtered.get((present, only_active))
        if found is not None:
            return found
        among = self._dialect.among
        conditions: dict[str, ColumnElement[bool]] = {
            "sources": among(chats.c.source, "sources"),
            "stages": among(chats.c.stage, "stages"),
            "operator_id": chats.c.operator_id == bindparam("operator_id"),
            "owner_id": chats.c.owner_id == bindparam("owner_id"),
            "owners": among(chats.c.owner_id, "owners"),
            "tag": chats.c.number.in_(select(chat_tags.c.chat).where(chat_tags.c.tag == bindparam("tag"))),
        }
        chosen = [name for name in names if name in present]
        # Spelled as in the index of active chats: with parameters SQLite would not know that it can use the index.
        query = self._chats_with_people().where(_active if only_active else _listed)
        query = query.where(*(conditions[name] for name in chosen))
        parameters = tuple(chosen)
        if "before" in present:
            then = query.add_columns(_stood(self._dialect).label("stood")).subquery()
            query = select(then).where(then.c.stood < bindparam("place"), then.c.stood > _NOWHERE)
            query = query.order_by(then.c.stood.desc())
            parameters = ("start", "start", "start", *parameters, "place")
        else:
            query = query.add_columns(chats.c.place.label("stood")).order_by(chats.c.place.desc())
        query = query.limit(bindparam("limit"))
        found = self._filtered[present, only_active] = self._text(query, *parameters, "limit")
        return found

    def _text(self, statement: ClauseElement, *parameters: str) -> str:
        compiled = statement.compile(dialect=self._dialect.compiler)
        # Values are passed by position, so make sure that the order is the documented one.
        actual = tuple(compiled.positiontup or ()) if isinstance(compiled, SQLCompiler) else ()
        if actual != parameters:
            raise AssertionError(f"{compiled} has the parameters {actual}, not {parameters}")
        return str(compiled)

    def _many(self, build: Callable[[RowColumns], ClauseElement], **columns: ColumnElement[Any]) -> str:
        """A statement that writes rows of values with these names, in their order, and with the types of `columns`."""
        statement = build(self._dialect.written(columns))
        if not self._dialect.rows_are_json:
            return self._text(statement, *columns)
        text = self._text(statement, "rows")
        # SQLAlchemy's names are of a type of their own.
        self.row_types[text] = defstruct("WrittenRow", list(map(str, columns)), gc=False)
        return text

    def _insert(self, table: Table, leave: Sequence[str] = ()) -> str:
        columns = {column.name: column for column in table.c if column.name not in leave}
        return self._many(lambda row: self._dialect.insert(table, tuple(columns), row), **columns)

    def _put(self, table: Table, keep: Sequence[str] = ()) -> str:
        """Insert a row, or update all columns except `keep` of the row with the same key. Takes the table's columns."""
        columns = {column.name: column for column in table.c}
        keys = [column.name for column in table.primary_key]
        changed = [name for name in columns if name not in keys and name not in keep]

        def build(row: RowColumns) -> ClauseElement:
            insert = self._dialect.insert(table, tuple(columns), row)
            put: ClauseElement = insert.on_conflict_do_update(
                index_elements=keys, set_={name: insert.excluded[name] for name in changed}
            )
            return put

        return self._many(build, **columns)

    def _delete(self, *columns: Column[Any]) -> str:
        """Delete the rows of a table whose columns have these values."""
        return self._many(
            lambda row: columns[0].table.delete().where(*(column == row(f"of_{column.name}") for column in columns)),
            **{f"of_{column.name}": column for column in columns},
        )

    def _update_chat(self, names: Sequence[str]) -> str:
        return self._update({f"new_{name}": chats.c[name] for name in names}, {"of": chats.c.number})

    def _update(
        self, new: Mapping[str, Column[Any]], where: Mapping[str, Column[Any]], *also: ColumnElement[bool]
    ) -> str:
        """Set the columns of `new` in the rows whose columns of `where` have these values and for which `also` holds.

        The names are those of the values.
        """
        table = next(iter(new.values())).table

        def build(row: RowColumns) -> ClauseElement:
            conditions = (column == row(name) for name, column in where.items())
            return update(table).where(*conditions, *also).values({of.name: row(name) for name, of in new.items()})

        return self._many(build, **new, **where)

    def _copy_tag(self) -> str:
        """Give a chat a new tag beside another one, if it has that and does not have the new one."""
        other = chat_tags.alias("other")

        def build(row: RowColumns) -> ClauseElement:
            known = select(other.c.chat).where(other.c.chat == chat_tags.c.chat, other.c.tag == row("known"))
            tags = select(chat_tags.c.chat, row("new")).where(
                chat_tags.c.chat == row("of"), chat_tags.c.tag == row("old"), ~known.exists()
            )
            return chat_tags.insert().from_select(["chat", "tag"], tags)

        tag = chat_tags.c.tag
        return self._many(build, new=tag, of=chat_tags.c.chat, old=tag, known=tag)

    def _recent_keys(self) -> str:
        """Read authors' latest idempotency keys in ascending order. Takes [[chat, author role, author id], …]."""
        asked, item = self._dialect.tuples("keys"), self._dialect.item
        newest = messages.alias("newest")

        def theirs(table: Any) -> ColumnElement[bool]:
            return and_(
                table.c.chat == item(asked, 0, table.c.chat),
                table.c.author_role == item(asked, 1, table.c.author_role),
                table.c.author_id == item(asked, 2, table.c.author_id),
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

    def _newest(self, wanted: Callable[[FromClause], ColumnElement[bool]]) -> str:
        """The newest of the `wanted` messages of each chat, with its author. Each row begins with the chat."""
        asked, newer = self._dialect.keys("keys"), messages.alias("newer")
        chat = self._dialect.key(asked, messages.c.chat)
        newest = (
            select(newer.c.message_index)
            .where(newer.c.chat == chat, wanted(newer))
            .order_by(newer.c.message_index.desc())
            .limit(literal_column("1"))
            .correlate(asked)
            .scalar_subquery()
        )
        found = asked.join(messages, and_(messages.c.chat == chat, messages.c.message_index == newest))
        found = found.outerjoin(edits, _edit_is).outerjoin(people, _author_is)
        return self._text(select(messages.c.chat, *_message).select_from(found), "keys")

    def _unread(self) -> str:
        """The number of visitor's messages behind an index, at most `MOST_UNREAD`. Takes [[chat, index], …]."""
        asked, item = self._dialect.tuples("keys"), self._dialect.item
        some = (
            select(literal_column("1"))
            .select_from(messages)
            .where(
                messages.c.chat == item(asked, 0, messages.c.chat),
                messages.c.message_index > item(asked, 1, messages.c.message_index),
                messages.c.type == literal_column("'standard'"),
                messages.c.type_role == literal_column("'user'"),
            )
            .limit(literal_column(str(MOST_UNREAD)))
            .correlate(asked)
            .subquery()
        )
        counted = select(func.count()).select_from(some).scalar_subquery()
        return self._text(select(item(asked, 0, messages.c.chat), counted).select_from(asked), "keys")

    def _chats_with_people(self) -> Any:
        owner_is = and_(_owner.c.role == literal_column("'user'"), _owner.c.id == chats.c.owner_id)
        operator_is = and_(_operator.c.role == literal_column("'operator'"), _operator.c.id == chats.c.operator_id)
        return select(
            *_state, *(_owner.c[name] for name in _PROFILE), *(_operator.c[name] for name in _PROFILE)
        ).select_from(chats.outerjoin(_owner, owner_is).outerjoin(_operator, operator_is))

    def _messages_with_authors(self, *more: ColumnElement[Any]) -> Any:
        found = messages.outerjoin(edits, _edit_is).outerjoin(people, _author_is)
        return select(*_message, *more).select_from(found)


def _stood(dialect: SqlDialect) -> ColumnElement[Any]:
    """The chat's place at the time when `start` was the highest place; `_NOWHERE` if it was in no list then.

    The lookup in messages and moves is made only for chats that have moved since.
    """
    start: ColumnElement[int] = bindparam("start")

    def newest(place: ColumnElement[int], chat: ColumnElement[int], order: ColumnElement[int]) -> ColumnElement[int]:
        found = select(place).where(chat == chats.c.number, place <= start).order_by(order.desc())
        found = found.limit(literal_column("1")).correlate(chats)
        return func.coalesce(found.scalar_subquery(), _NOWHERE)

    message = newest(messages.c.id, messages.c.chat, messages.c.message_index)
    move = newest(moves.c.place, moves.c.chat, moves.c.place)
    return case((chats.c.place <= start, chats.c.place), else_=dialect.greater(message, move))
