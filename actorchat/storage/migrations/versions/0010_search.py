"""Adds the order of edits, which the search index follows."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("edits", sa.Column("place", _BIG, nullable=False, server_default=sa.text("0")))
    op.create_index("edits_place", "edits", ["place"])
