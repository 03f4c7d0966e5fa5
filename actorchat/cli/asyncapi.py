"""Owns `actorchat asyncapi`: the document of the wire contract on stdout.

Refuses to know what it says.
"""

from __future__ import annotations

import json

import click

__all__ = ["asyncapi"]


@click.command(short_help="Print the AsyncAPI document.")
def asyncapi() -> None:
    """Print the AsyncAPI document of the sockets and broker channels, as JSON.

    A server gives the same under /asyncapi.json.

    \b
    Example:
      actorchat asyncapi > asyncapi.json
    """
    from actorchat.protocol import asyncapi_document

    click.echo(json.dumps(asyncapi_document(), indent=2, ensure_ascii=False))
