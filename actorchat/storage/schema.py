"""Defines the tables, for SQLite and PostgreSQL.

Every index on `messages`, or on a column that each message changes, costs microseconds per message. So `messages` has
only one, on (chat, message_index), which also serves to read the idempotency keys.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    Uuid,
    false,
    text,
)

__all__ = [
    "HEAD",
    "accounts",
    "audit",
    "blocks",
    "chat_tags",
    "chats",
    "documents",
    "edits",
    "log",
    "messages",
    "metadata",
    "moves",
    "operator_counters",
    "people",
    "relayed",
    "removed_chats",
    "sessions",
    "settings",
    "source_counters",
    "uploads",
    "writers",
]

HEAD: Final = "0019"
"""The newest migration. A database at this version is opened without Alembic."""

metadata: MetaData = MetaData()

# In SQLite only an INTEGER column can be the row's own key.
_Big = BigInteger().with_variant(Integer(), "sqlite")

chats: Table = Table(
    "chats",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),
    Column("uuid", Uuid, nullable=False),
    Column("source", Text, nullable=False),
    Column("owner_id", _Big, nullable=False),
    Column("stage", String(8), nullable=False),
    Column("operator_id", _Big),
    Column("rev", _Big, nullable=False),
    Column("next_index", _Big, nullable=False),
    Column("visitor_delivered", _Big, nullable=False),
    Column("visitor_read", _Big, nullable=False),
    Column("operators_delivered", _Big, nullable=False),
    Column("operators_read", _Big, nullable=False),
    Column("last_visitor_index", _Big, nullable=False),
    Column("last_activity", _Big, nullable=False),
    Column("awaiting_since", _Big),
    Column("place", _Big, nullable=False, server_default=text("0")),
    Column("assigned_at", _Big),
    Column("due_at", Double),
)
_ACTIVE = text("stage IN ('new', 'open')")
_HAS_DUE = text("due_at IS NOT NULL")
_CLOSED = text("stage = 'closed'")
_RESERVED = text("stage = 'reserved'")
Index("chats_uuid", chats.c.uuid, unique=True)
Index("chats_owner", chats.c.owner_id)
Index("chats_active", chats.c.source, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)
Index("chats_due", chats.c.due_at, sqlite_where=_HAS_DUE, postgresql_where=_HAS_DUE)
Index("chats_closed", chats.c.source, chats.c.last_activity, sqlite_where=_CLOSED, postgresql_where=_CLOSED)
Index("chats_reserved", chats.c.last_activity, sqlite_where=_RESERVED, postgresql_where=_RESERVED)

messages: Table = Table(
    "messages",
    metadata,
    Column("id", _Big, primary_key=True, autoincrement=False),
    Column("chat", _Big, nullable=False),
    Column("message_index", _Big, nullable=False),
    Column("rev", _Big, nullable=False),
    Column("type", String(8), nullable=False),
    Column("type_role", String(8), nullable=False),
    Column("author_role", String(8)),
    Column("author_id", _Big),
    Column("text", Text, nullable=False),
    Column("time", _Big, nullable=False),
    Column("client_id", Text),
    # JSON: the files, null for most messages.
    Column("attachments", Text),
)
Index("messages_chat_index", messages.c.chat, messages.c.message_index, unique=True)

# Messages whose text was changed or removed, of which there are few. `rev` is the chat's revision of the last change,
# and `place` is from the sequence of message ids: the order of all changes, which the search index follows.
edits: Table = Table(
    "edits",
    metadata,
    Column("chat", _Big, primary_key=True, autoincrement=False),
    Column("message_index", _Big, primary_key=True, autoincrement=False),
    Column("rev", _Big, nullable=False),
    Column("time", _Big, nullable=False),
    Column("redacted", Boolean, nullable=False),
    Column("place", _Big, nullable=False, server_default=text("0")),
    sqlite_with_rowid=False,
)
Index("edits_place", edits.c.place)

# Closed chats that were deleted. The search index follows `place`, which is from the sequence of message ids.
removed_chats: Table = Table(
    "removed_chats",
    metadata,
    Column("place", _Big, primary_key=True, autoincrement=False),
    Column("uuid", Uuid, nullable=False),
    Column("owner_id", _Big, nullable=False),
)

# What administrators, supervisors and the server itself did: who did it, when, to whom, and how much it was. The role
# is empty if it was nobody in particular.
audit: Table = Table(
    "audit",
    metadata,
    Column("number", _Big, primary_key=True),
    Column("at", _Big, nullable=False),
    Column("by", Text, nullable=False),
    Column("action", String(16), nullable=False),
    Column("role", String(8), nullable=False),
    Column("id", _Big, nullable=False),
    # JSON object.
    Column("counts", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
)

# The places that chats got without a message. With these and the message ids, each chat's place at any time is known.
moves: Table = Table(
    "moves",
    metadata,
    Column("place", _Big, primary_key=True, autoincrement=False),
    Column("chat", _Big, nullable=False),
)
Index("moves_chat", moves.c.chat, moves.c.place)

# Uploaded files. `chat` and `message_index` identify the message that has the file as an attachment. Both are null
# until there is one.
uploads: Table = Table(
    "uploads",
    metadata,
    Column("uuid", Uuid, primary_key=True),
    Column("uploader_role", String(8), nullable=False),
    Column("uploader_id", _Big, nullable=False),
    Column("source", Text, nullable=False),
    Column("type", String(8), nullable=False),
    Column("media_type", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("extension", Text, nullable=False),
    Column("size", _Big, nullable=False),
    Column("preview_size", _Big, nullable=False),
    Column("created", _Big, nullable=False),
    Column("chat", _Big),
    Column("message_index", _Big),
    sqlite_with_rowid=False,
)
_UNBOUND = text("chat IS NULL")
Index("uploads_unbound", uploads.c.created, sqlite_where=_UNBOUND, postgresql_where=_UNBOUND)

chat_tags: Table = Table(
    "chat_tags",
    metadata,
    Column("chat", _Big, primary_key=True, autoincrement=False),
    Column("tag", Text, primary_key=True),
    sqlite_with_rowid=False,
)
Index("chat_tags_tag", chat_tags.c.tag, chat_tags.c.chat)

documents: Table = Table(
    "documents",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("text", Text, nullable=False),
    sqlite_with_rowid=False,
)

people: Table = Table(
    "people",
    metadata,
    Column("role", String(8), primary_key=True),
    Column("id", _Big, primary_key=True, autoincrement=False),
    Column("avatar", Text, nullable=False),
    Column("lastname", Text, nullable=False),
    Column("firstname", Text, nullable=False),
    Column("patronymic", Text, nullable=False),
    # JSON object: the expiry of the membership in each source.
    Column("sources", Text, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("leaving", Boolean, nullable=False, server_default=false()),
    # JSON array: the token that the profile comes from, and older ones; empty if it does not come from a token.
    Column("profile_token", Text, nullable=False, server_default=""),
    Column("away", Boolean, nullable=False, server_default=false()),
    # Tokens that were issued at this time or earlier are worthless.
    Column("signed_out_at", Double, nullable=False, server_default=text("0")),
    sqlite_with_rowid=False,
)

# Operators' accounts. The operator's profile is in `people`.
accounts: Table = Table(
    "accounts",
    metadata,
    Column("operator_id", _Big, primary_key=True, autoincrement=False),
    Column("login", Text, nullable=False),
    Column("rights", String(16), nullable=False),
    # JSON array.
    Column("sources", Text, nullable=False),
    # A hash in the PHC format, empty if no password works.
    Column("password", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", _Big, nullable=False),
    Column("one_time", Boolean, nullable=False, server_default=false()),
    Column("last_sign_in", _Big),
)
Index("accounts_login", accounts.c.login, unique=True)

# Blocked visitors and networks.
blocks: Table = Table(
    "blocks",
    metadata,
    Column("id", _Big, primary_key=True, autoincrement=False),
    Column("user_id", _Big),
    Column("network", Text),
    Column("reason", Text, nullable=False),
    Column("blocked_by", _Big, nullable=False),
    Column("created", _Big, nullable=False),
    Column("until", _Big),
)

# Sign-ins of operators, until they end.
sessions: Table = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("operator_id", _Big, nullable=False),
    Column("opened", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("generation", _Big, nullable=False),
    Column("rotated", Double, nullable=False),
)

operator_counters: Table = Table(
    "operator_counters",
    metadata,
    Column("operator_id", _Big, primary_key=True, autoincrement=False),
    Column("new_chats", _Big, nullable=False),
    Column("open_chats", _Big, nullable=False),
    Column("rev", _Big, nullable=False),
)

source_counters: Table = Table(
    "source_counters",
    metadata,
    Column("source", Text, primary_key=True),
    Column("unread_chats", _Big, nullable=False),
    Column("rev", _Big, nullable=False),
)

# One row per journal, updated by each batch. After an error it shows whether the batch was committed.
writers: Table = Table(
    "writers",
    metadata,
    Column("writer", Text, primary_key=True),
    Column("batch", _Big, nullable=False),
    Column("last_message_id", _Big, nullable=False),
    Column("time", _Big, nullable=False),
    Column("fences", _Big, nullable=False),
)

settings: Table = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# One row per batch, while a broker is configured: the data to publish. The newest row is never deleted, so that no
# `seq` is used twice.
log: Table = Table(
    "log",
    metadata,
    Column("seq", _Big, primary_key=True),
    Column("writer", Text, nullable=False),
    Column("batch", _Big, nullable=False),
    Column("time", Double, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

# One row per configured broker: it has confirmed everything up to `seq`.
relayed: Table = Table(
    "relayed",
    metadata,
    Column("broker", Text, primary_key=True),
    Column("seq", _Big, nullable=False),
)
