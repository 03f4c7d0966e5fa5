"""Owns `actorchat asyncapi`: the document of the wire contract on stdout.

Refuses to know what it says.
"""

from __future__ import annotations

import os
import sys

import click

from actorchat.cli.errors import FAILED, fail
from actorchat.cli.output import echo_json

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

    if sys.stdout is None:
        fail(("there is no stdout to print to",), FAILED)
    try:
        echo_json(asyncapi_document(), indent=2)
    except OSError as error:
        # What is left in the buffer would be tried again at the exit, and fail with words of Python's own.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        fail((f"the document can't be printed: {error.strerror}",), FAILED)
