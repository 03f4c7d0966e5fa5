"""Adds the time when an operator got a chat, and whether an offline operator still has chats to return."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("chats", sa.Column("assigned_at", _BIG))
    # The exact time is not known, but it was not later than the last activity.
    op.execute(
        "UPDATE chats SET assigned_at = last_activity WHERE operator_id IS NOT NULL AND stage IN ('new', 'open')"
    )
    op.add_column("people", sa.Column("leaving", sa.Boolean(), nullable=False, server_default=sa.false()))
