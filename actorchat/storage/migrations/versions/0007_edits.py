"""Adds the table of edited and redacted messages."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "edits",
        sa.Column("chat", _BIG, primary_key=True, autoincrement=False),
        sa.Column("message_index", _BIG, primary_key=True, autoincrement=False),
        sa.Column("rev", _BIG, nullable=False),
        sa.Column("time", _BIG, nullable=False),
        sa.Column("redacted", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
