"""Adds expiry dates of memberships, the tokens of profiles, and an index of reserved chats."""

import json
import time

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_UNKNOWN_TOKEN = 30 * 24 * 3600
"""How long existing memberships last from now on, in seconds; the expiry of their tokens is not known."""


def upgrade() -> None:
    op.add_column("people", sa.Column("profile_token", sa.Text(), nullable=False, server_default=""))
    reserved = sa.text("stage = 'reserved'")
    op.create_index("chats_reserved", "chats", ["last_activity"], sqlite_where=reserved, postgresql_where=reserved)
    people = sa.table("people", sa.column("role"), sa.column("id"), sa.column("sources"))
    connection = op.get_bind()
    # Only operators belong to sources.
    connection.execute(people.update().where(people.c.role == "user").values(sources="{}"))
    until = int(time.time()) + _UNKNOWN_TOKEN
    operators = connection.execute(sa.select(people.c.id, people.c.sources).where(people.c.role == "operator")).all()
    for id_, sources in operators:
        memberships = json.dumps(dict.fromkeys(json.loads(sources), until))
        connection.execute(
            people.update().where(people.c.role == "operator", people.c.id == id_).values(sources=memberships)
        )
