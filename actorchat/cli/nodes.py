"""Implements `actorchat nodes`, which lists the servers that share a database."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.options import config_option, data_option, storage_option
from actorchat.cli.output import echo, echo_json
from actorchat.server.settings import InvalidSettings
from actorchat.server.settings_loader import load_settings
from actorchat.urls import names_postgres

if TYPE_CHECKING:
    from actorchat.nodes.postgres_tables import PostgresTables
    from actorchat.nodes.tables import NodeRow
    from actorchat.server.settings import Settings

__all__ = ["nodes", "open_tables"]

_COLUMNS = ("NODE", "VERSION", "STATE", "ADDRESS", "SOCKETS", "LAG", "LOSSES")


@click.command(short_help="List the servers that share a PostgreSQL database.")
@data_option
@storage_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per node.")
def nodes(data: Path | None, storage: str | None, config: Path | None, as_json: bool) -> None:
    """List the nodes: servers whose chats are in the same PostgreSQL database.

    STATE is ready, starting, draining, or dead for a node that has not been heard of for ten seconds. LAG is for how
    long a commit of another node has been known and not shown. LOSSES counts how often the node has found that the
    database had lost commits.

    \b
    Example:
      actorchat nodes --storage postgresql://chat@db.example/chat
    """
    from actorchat.chat.ports import StorageUnavailable

    try:
        settings = load_settings(config, {"data": data, "storage": storage})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    try:
        with closing(open_tables(settings)) as tables:
            rows = tables.nodes()
    except StorageUnavailable as error:
        fail((error,), FAILED)
    if as_json:
        for row in rows:
            echo_json(_values(row))
        return
    lines = [_COLUMNS, *(tuple(str(value) or "-" for value in _values(row).values()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    for line in lines:
        echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def open_tables(settings: Settings) -> PostgresTables:
    """The tables that the nodes of a deployment share. Exits with a message if they can't be used."""
    if not names_postgres(settings.storage_url):
        fail(("only servers whose chats are in PostgreSQL have nodes: set --storage postgresql://…",), FAILED)
    from actorchat.chat.ports import StorageUnavailable
    from actorchat.nodes.postgres_tables import PostgresTables
    from actorchat.storage import StoreUrlError

    try:
        tables = PostgresTables(settings.storage_url)
        tables.check_owner()
    except (StorageUnavailable, StoreUrlError) as error:
        fail((error,), FAILED)
    return tables


def _values(row: NodeRow) -> dict[str, Any]:  # Any: texts and numbers
    try:
        statistics = json.loads(row.statistics)
    except ValueError:
        statistics = {}
    return {
        "node": row.node,
        "version": row.version,
        "state": row.state if row.alive else "dead",
        "address": row.address,
        "sockets": statistics.get("sockets", 0),
        "lag": statistics.get("lag", 0.0),
        "losses": statistics.get("losses", 0),
    }
