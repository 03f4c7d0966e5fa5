"""Contains the Alembic migrations to `actorchat.storage.schema`; `actorchat.storage.schema_upgrade` runs them."""
