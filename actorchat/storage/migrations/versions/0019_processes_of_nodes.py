"""On PostgreSQL, each node names its process, and presence no longer counts sockets, which nobody read."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.add_column("nodes", sa.Column("process", sa.Text, nullable=False, server_default=""))
    op.drop_column("presence", "sockets")
