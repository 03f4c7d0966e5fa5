"""Adds the commit log for message brokers, and the position of each broker."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "log",
        sa.Column("seq", _BIG, primary_key=True),
        sa.Column("writer", sa.Text, nullable=False),
        sa.Column("batch", _BIG, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "relayed",
        sa.Column("broker", sa.Text, primary_key=True),
        sa.Column("seq", _BIG, nullable=False),
    )
