"""Runs the migrations on the connection that the caller passes, inside the caller's transaction."""

from alembic import context

from actorchat.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
)
context.run_migrations()
