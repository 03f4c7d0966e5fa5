"""Adds the place of each chat in lists, and the places that chats got without a message."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "moves",
        sa.Column("place", _BIG, primary_key=True, autoincrement=False),
        sa.Column("chat", _BIG, nullable=False),
    )
    op.create_index("moves_chat", "moves", ["chat", "place"])
    op.add_column("chats", sa.Column("place", _BIG, nullable=False, server_default=sa.text("0")))
    # Chats that were accepted before their first message get places below all message ids.
    op.execute(
        "INSERT INTO moves SELECT number - 1 - (SELECT max(number) FROM chats), number"
        " FROM chats WHERE stage <> 'reserved' AND next_index = 0"
    )
    op.execute(
        "UPDATE chats SET place = coalesce("
        " (SELECT id FROM messages WHERE chat = chats.number ORDER BY message_index DESC LIMIT 1),"
        " (SELECT place FROM moves WHERE chat = chats.number), 0)"
    )
