"""Prepares stdout and stderr for any text, and prints JSON, whatever encoding the terminal or pipe has."""

from __future__ import annotations

import codecs
import io
import json
import sys
from typing import Final

__all__ = ["echo", "echo_json", "prepare_output"]

_SCHEME: Final = "actorchat"

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
"""What this program's own marks become where the encoding lacks them; other characters become escapes."""


def prepare_output() -> None:
    """Let printing succeed on every encoding: what it lacks becomes an ASCII lookalike or an escape like `\\u0416`."""
    codecs.register_error(_SCHEME, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_SCHEME)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    replaced = (_LOOKALIKES.get(char) or char.encode("ascii", "backslashreplace").decode() for char in bad)
    return "".join(replaced), error.end


def echo(text: str, *, err: bool = False) -> None:
    """Print a text on stdout, or on stderr. Raises OSError where it can't be used.

    Unlike `click.echo` it keeps to the encoding of the stream: that one writes UTF-8 where it is ASCII.
    """
    print(text, file=sys.stderr if err else sys.stdout, flush=True)


def echo_json(value: object, *, indent: int | None = None) -> None:
    """Print `value` as JSON that any reader of this encoding understands. Raises OSError where stdout can't be used."""
    echo(json.dumps(value, indent=indent, ensure_ascii=not _has_unicode()))


def _has_unicode() -> bool:
    """Whether stdout can take every character."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return codecs.lookup(encoding).name.startswith("utf")
