"""Extracts the file from a multipart body while the body arrives."""

from __future__ import annotations

import logging
import re
from typing import Final
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from actorchat.http.problems import Problem

__all__ = ["FilePart"]

_FIELD: Final = b"file"

_EXTENDED_NAME: Final = re.compile(r"""; *filename\*=(utf-8|iso-8859-1)'[a-z0-9-]*'([^;"]*)""", re.IGNORECASE)
"""The name of a file in the syntax of RFC 5987. RFC 7578 forbids it in a body, but some programs send nothing else."""

# The parser reports faults of the body twice: it raises an error, and logs a warning.
_no_log: Final = logging.Logger("multipart")
_no_log.disabled = True


class FilePart:
    """Parses a body that must have exactly one file in a part named `file`. Other parts are ignored."""

    def __init__(self, content_type: str | None) -> None:
        """Raises Problem 400 for a `Content-Type` that is not multipart/form-data with a boundary."""
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise _bad("expected multipart/form-data with a boundary")
        self._filename: str | None = None
        self._inside = self._ended = False
        self._name, self._value = bytearray(), bytearray()
        self._disposition = ""
        self._chunks: list[bytes] = []
        self._preamble: bytearray | None = bytearray(b"\r\n")
        self._first_boundary = re.compile(rb"\r\n(?=--" + re.escape(boundary) + rb"(\r\n|--))")
        self._longest_boundary = len(boundary) + 6
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_begin": self._begin_header,
                    "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._take,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _bad(str(error)) from None
        self._parser.logger = _no_log

    def feed(self, data: bytes) -> list[bytes]:
        """Parse the next bytes of the body, and return the parts of the file in them. Raises Problem 400 or 422."""
        self._chunks = []
        if self._preamble is not None:
            data = self._without_preamble(self._preamble, data)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _bad(str(error)) from None
        return self._chunks

    def _without_preamble(self, preamble: bytearray, data: bytes) -> bytes:
        """Return the body from the first boundary on, b"" while that has not arrived. The parser knows no preamble."""
        searched = max(0, len(preamble) - self._longest_boundary)
        preamble += data
        found = self._first_boundary.search(preamble, searched)
        if found is None:
            return b""
        self._preamble = None
        return bytes(preamble[found.end() :])

    def end(self) -> str:
        """Return the file's name as it was sent. Call this after the whole body was fed.

        Raises Problem 400 for an incomplete body, 422 for one without a file.
        """
        if not self._ended:
            raise _bad("the body ends before its last boundary")
        if self._filename is None:
            raise Problem("malformed", "file: the body needs a part with this name and a filename", path="file")
        return self._filename

    def _begin_part(self) -> None:
        self._disposition = ""

    def _begin_header(self) -> None:
        self._name.clear()
        self._value.clear()

    def _end_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            # Keeps all bytes. Browsers send the filename in UTF-8, which `_end_headers` decodes.
            self._disposition = self._value.decode("latin-1")

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        extended = _EXTENDED_NAME.search(self._disposition)
        if options.get(b"name") != _FIELD or not (b"filename" in options or extended):
            return
        if self._filename is not None:
            raise Problem("malformed", "file: the body must have only one file", path="file")
        self._inside = True
        if b"filename" not in options and extended:
            self._filename = unquote(extended[2], encoding=extended[1])
            return
        name = options[b"filename"].decode("utf-8", errors="replace")
        # Browsers escape only these three characters.
        for escaped, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
            name = name.replace(escaped, character)
        self._filename = name

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self._chunks.append(data[start:end])

    def _end_part(self) -> None:
        self._inside = False

    def _end(self) -> None:
        self._ended = True


def _bad(detail: str) -> Problem:
    return Problem("malformed", detail, status=400)
