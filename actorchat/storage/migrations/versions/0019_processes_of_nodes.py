"""On PostgreSQL, each node names its process, and presence may leave out the number of sockets, which nobody reads."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.add_column("nodes", sa.Column("process", sa.Text, nullable=False, server_default=""))
    # Nodes of the version before write it while they are replaced one by one.
    op.alter_column("presence", "sockets", server_default=sa.text("0"))
