"""On PostgreSQL, messages no longer change an indexed column of their chat: that was most of their cost."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    since = sa.Computed("CASE WHEN stage IN ('closed', 'reserved') THEN last_activity END", persisted=True)
    op.add_column("chats", sa.Column("inactive_since", sa.BigInteger, since))
    op.drop_index("chats_closed")
    op.drop_index("chats_reserved")
    closed, reserved = sa.text("stage = 'closed'"), sa.text("stage = 'reserved'")
    op.create_index("chats_closed", "chats", ["source", "inactive_since"], postgresql_where=closed)
    op.create_index("chats_reserved", "chats", ["inactive_since"], postgresql_where=reserved)
