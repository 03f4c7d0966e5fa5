"""Adds the last sign-in and the one-time password of accounts, and what changed to the records of administration."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("accounts", sa.Column("one_time", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("accounts", sa.Column("last_sign_in", _BIG))
    op.add_column("audit", sa.Column("detail", sa.Text, nullable=False, server_default=""))
