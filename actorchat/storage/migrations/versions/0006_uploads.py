"""Adds uploads and the attachments of messages."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "uploads",
        sa.Column("uuid", sa.Uuid, primary_key=True),
        sa.Column("uploader_role", sa.String(8), nullable=False),
        sa.Column("uploader_id", _BIG, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("type", sa.String(8), nullable=False),
        sa.Column("media_type", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("extension", sa.Text, nullable=False),
        sa.Column("size", _BIG, nullable=False),
        sa.Column("preview_size", _BIG, nullable=False),
        sa.Column("created", _BIG, nullable=False),
        sa.Column("chat", _BIG),
        sa.Column("message_index", _BIG),
        sqlite_with_rowid=False,
    )
    unbound = sa.text("chat IS NULL")
    op.create_index("uploads_unbound", "uploads", ["created"], sqlite_where=unbound, postgresql_where=unbound)
    op.add_column("messages", sa.Column("attachments", sa.Text))
