"""Creates the first tables: chats, messages, people, counters, writers and settings."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "chats",
        sa.Column("number", _BIG, primary_key=True, autoincrement=False),
        sa.Column("uuid", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("owner_id", _BIG, nullable=False),
        sa.Column("stage", sa.String(8), nullable=False),
        sa.Column("operator_id", _BIG),
        sa.Column("rev", _BIG, nullable=False),
        sa.Column("next_index", _BIG, nullable=False),
        sa.Column("visitor_delivered", _BIG, nullable=False),
        sa.Column("visitor_read", _BIG, nullable=False),
        sa.Column("operators_delivered", _BIG, nullable=False),
        sa.Column("operators_read", _BIG, nullable=False),
        sa.Column("last_visitor_index", _BIG, nullable=False),
        sa.Column("last_activity", _BIG, nullable=False),
        sa.Column("awaiting_since", _BIG),
        sa.Column("due_at", sa.Double()),
    )
    active, has_due = sa.text("stage IN ('new', 'open')"), sa.text("due_at IS NOT NULL")
    op.create_index("chats_uuid", "chats", ["uuid"], unique=True)
    op.create_index("chats_owner", "chats", ["owner_id"])
    op.create_index("chats_active", "chats", ["source"], sqlite_where=active, postgresql_where=active)
    op.create_index("chats_due", "chats", ["due_at"], sqlite_where=has_due, postgresql_where=has_due)
    op.create_table(
        "messages",
        sa.Column("id", _BIG, primary_key=True, autoincrement=False),
        sa.Column("chat", _BIG, nullable=False),
        sa.Column("message_index", _BIG, nullable=False),
        sa.Column("rev", _BIG, nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("type_role", sa.String(8), nullable=False),
        sa.Column("author_role", sa.String(8)),
        sa.Column("author_id", _BIG),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("time", _BIG, nullable=False),
        sa.Column("client_id", sa.Text()),
    )
    op.create_index("messages_chat_index", "messages", ["chat", "message_index"], unique=True)
    op.create_table(
        "people",
        sa.Column("role", sa.String(8), primary_key=True),
        sa.Column("id", _BIG, primary_key=True, autoincrement=False),
        sa.Column("avatar", sa.Text(), nullable=False),
        sa.Column("lastname", sa.Text(), nullable=False),
        sa.Column("firstname", sa.Text(), nullable=False),
        sa.Column("patronymic", sa.Text(), nullable=False),
        sa.Column("sources", sa.Text(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "operator_counters",
        sa.Column("operator_id", _BIG, primary_key=True, autoincrement=False),
        sa.Column("new_chats", _BIG, nullable=False),
        sa.Column("open_chats", _BIG, nullable=False),
        sa.Column("rev", _BIG, nullable=False),
    )
    op.create_table(
        "source_counters",
        sa.Column("source", sa.Text(), primary_key=True),
        sa.Column("unread_chats", _BIG, nullable=False),
        sa.Column("rev", _BIG, nullable=False),
    )
    op.create_table(
        "writers",
        sa.Column("writer", sa.Text(), primary_key=True),
        sa.Column("batch", _BIG, nullable=False),
        sa.Column("last_message_id", _BIG, nullable=False),
        sa.Column("time", _BIG, nullable=False),
        sa.Column("fences", _BIG, nullable=False),
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), nullable=False),
    )
