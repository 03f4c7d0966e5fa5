"""Implements `actorchat asyncapi` and `actorchat openapi`, which print the documents of the protocol and of the API."""

from __future__ import annotations

import os
import sys

import click

from actorchat.cli.errors import FAILED, fail
from actorchat.cli.output import echo_json

__all__ = ["asyncapi", "openapi"]


@click.command(short_help="Print the AsyncAPI document.")
def asyncapi() -> None:
    """Print the AsyncAPI document of the websockets and broker channels, as JSON.

    A running server serves the same document at /asyncapi.json.

    \b
    Example:
      actorchat asyncapi > asyncapi.json
    """
    from actorchat.protocol import asyncapi_document

    _print(asyncapi_document())


@click.command(short_help="Print the OpenAPI document.")
def openapi() -> None:
    """Print the OpenAPI document of the HTTP API, as JSON.

    A running server serves the same document at /openapi.json.

    \b
    Example:
      actorchat openapi > openapi.json
    """
    from actorchat.http.openapi import openapi_document

    _print(openapi_document())


def _print(document: object) -> None:
    if sys.stdout is None:
        fail(("there is no stdout to print to",), FAILED)
    try:
        echo_json(document, indent=2)
    except OSError as error:
        # Python flushes stdout once more at exit; what is still buffered would fail again, with a traceback.
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
        fail((f"cannot print the document: {error.strerror}",), FAILED)
