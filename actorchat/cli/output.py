"""Prints text and JSON on stdout and stderr, whatever their encoding."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import Final

__all__ = ["discard_unwritable_output", "echo", "echo_json", "prepare_output"]

_ERROR_HANDLER: Final = "actorchat"

_LOOKALIKES: Final = {
    "—": "-",
    "·": "-",
    "…": "...",
    "“": '"',
    "”": '"',
    "✓": "v",
    "✗": "x",
    "⏎": "/",
    "├": "|",
    "│": "|",
    "└": "`",
    "─": "-",
}
"""ASCII replacements for this program's own symbols; other characters that the encoding lacks become escapes."""


def prepare_output() -> None:
    """Make printing succeed in every encoding: unsupported characters become ASCII or an escape like `\\u0416`."""
    codecs.register_error(_ERROR_HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERROR_HANDLER)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    replaced = (_LOOKALIKES.get(char) or char.encode("ascii", "backslashreplace").decode() for char in bad)
    return "".join(replaced), error.end


def echo(text: str, *, err: bool = False) -> None:
    """Print `text` and a newline on stdout, or on stderr. Raises OSError if the stream cannot be written.

    `click.echo` would write UTF-8 to a stream whose encoding is ASCII; this keeps the stream's encoding.
    """
    print(text, file=sys.stderr if err else sys.stdout, flush=True)


def discard_unwritable_output() -> None:
    """Discard what stdout and stderr still buffer if it cannot be written, for example to a closed terminal.

    Python would try to write it at exit, and exit with status 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def echo_json(value: object, *, indent: int | None = None) -> None:
    """Print `value` as JSON, in ASCII unless stdout is UTF-8 or UTF-16. Raises OSError if stdout cannot be written."""
    echo(json.dumps(value, indent=indent, ensure_ascii=not _has_unicode()))


def _has_unicode() -> bool:
    """Whether the encoding of stdout has every character."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return codecs.lookup(encoding).name.startswith("utf")
