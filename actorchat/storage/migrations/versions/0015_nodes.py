"""Adds what several servers on one PostgreSQL database need: sequences, a log by writer, nodes, leases and presence."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_SORTED = {
    "chats": ["source"],
    "source_counters": ["source"],
    "documents": ["scope", "name"],
    "chat_tags": ["tag"],
    "sessions": ["id"],
    "accounts": ["login"],
    "writers": ["writer"],
}
"""Columns that are sorted or compared: by their bytes, as in SQLite, not by the rules of a language."""

_SEQUENCES = ("message_blocks INCREMENT BY 8192", "chat_numbers", "commit_order", "commit_place_numbers")

_FREE = {"chats": 70, "operator_counters": 50, "source_counters": 50, "writers": 50}
"""Tables whose rows change all the time, and how full their pages are to be, in percent."""


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    for table, names in _SORTED.items():
        for name in names:
            op.alter_column(table, name, type_=sa.Text(collation="C"))
    for table, percent in _FREE.items():
        op.execute(f"ALTER TABLE {table} SET (fillfactor = {percent})")
    for sequence in _SEQUENCES:
        op.execute(f"CREATE SEQUENCE {sequence}")
    op.drop_table("log")
    op.create_table(
        "commits",
        sa.Column("writer", sa.Text(collation="C"), primary_key=True),
        sa.Column("batch", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("previous", sa.BigInteger, nullable=False),
        sa.Column("drawn", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    # Compressing small payloads takes more time than it saves.
    op.execute("ALTER TABLE commits ALTER COLUMN payload SET STORAGE EXTERNAL")
    op.create_table(
        "commit_queue",
        sa.Column("writer", sa.Text(collation="C"), primary_key=True),
        sa.Column("batch", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("drawn", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "commit_places",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("writer", sa.Text(collation="C"), nullable=False),
        sa.Column("batch", sa.BigInteger, nullable=False),
    )
    op.create_index("commit_places_batch", "commit_places", ["writer", "batch"], unique=True)
    op.create_table(
        "nodes",
        sa.Column("node", sa.Text(collation="C"), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("statistics", sa.Text, nullable=False),
        sa.Column("presence", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(collation="C"), primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "presence",
        sa.Column("chat", sa.Uuid, primary_key=True),
        sa.Column("role", sa.String(8), primary_key=True),
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("node", sa.Text(collation="C"), primary_key=True),
        sa.Column("sockets", sa.BigInteger, nullable=False),
        prefixes=["UNLOGGED"],
    )
    op.create_index("presence_node", "presence", ["node"])
