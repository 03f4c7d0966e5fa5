"""Adds the chats that were deleted after they were closed, and an index of closed chats."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "removed_chats",
        sa.Column("place", _BIG, primary_key=True, autoincrement=False),
        sa.Column("uuid", sa.Uuid, nullable=False),
        sa.Column("owner_id", _BIG, nullable=False),
    )
    closed = sa.text("stage = 'closed'")
    columns = ["source", "last_activity"]
    op.create_index("chats_closed", "chats", columns, sqlite_where=closed, postgresql_where=closed)
