"""Adds accounts of operators, their sign-ins, manual away, and the time of the last sign-out of each person."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("operator_id", _BIG, primary_key=True, autoincrement=False),
        sa.Column("login", sa.Text, nullable=False),
        sa.Column("rights", sa.String(16), nullable=False),
        sa.Column("sources", sa.Text, nullable=False),
        sa.Column("password", sa.Text, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created", _BIG, nullable=False),
    )
    op.create_index("accounts_login", "accounts", ["login"], unique=True)
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("operator_id", _BIG, nullable=False),
        sa.Column("opened", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("generation", _BIG, nullable=False),
        sa.Column("rotated", sa.Double, nullable=False),
    )
    op.add_column("people", sa.Column("away", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("people", sa.Column("signed_out_at", sa.Double, nullable=False, server_default=sa.text("0")))
