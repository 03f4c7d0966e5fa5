"""Implements `actorchat asyncapi`, which prints the AsyncAPI document."""

from __future__ import annotations

import os
import sys

import click

from actorchat.cli.errors import FAILED, fail
from actorchat.cli.output import echo_json

__all__ = ["asyncapi"]


@click.command(short_help="Print the AsyncAPI document.")
def asyncapi() -> None:
    """Print the AsyncAPI document of the websockets and broker channels, as JSON.

    A running server serves the same document at /asyncapi.json.

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
        # Python flushes stdout once more at exit; what is still buffered would fail again, with a traceback.
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
        fail((f"cannot print the document: {error.strerror}",), FAILED)
