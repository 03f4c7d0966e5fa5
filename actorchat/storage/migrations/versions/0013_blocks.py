"""Adds blocks of visitors and network addresses."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "blocks",
        sa.Column("id", _BIG, primary_key=True, autoincrement=False),
        sa.Column("user_id", _BIG),
        sa.Column("network", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("blocked_by", _BIG, nullable=False),
        sa.Column("created", _BIG, nullable=False),
        sa.Column("until", _BIG),
    )
