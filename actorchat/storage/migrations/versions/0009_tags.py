"""Adds the tags of chats."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "chat_tags",
        sa.Column("chat", _BIG, primary_key=True, autoincrement=False),
        sa.Column("tag", sa.Text, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("chat_tags_tag", "chat_tags", ["tag", "chat"])
