"""Implements the HTTP routes for attachments: uploads, and downloads through signed links."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final
from urllib.parse import quote
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.chat.model import Identity, identity_of
from actorchat.http.body_pace import large_body
from actorchat.http.multipart import FilePart
from actorchat.http.ports import Access, FileAnswer, Files
from actorchat.http.problems import Problem, ResponseCutOff, json_response
from actorchat.http.requests import Query, sender_of
from actorchat.http.streamed_response import StreamedResponse

__all__ = ["AttachmentRoutes"]

_MAX_OVERHEAD: Final = 65_536
"""Bytes that a multipart body may contain besides the file."""

_RANGE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")

_ETAG: Final = re.compile(r'"[^"]*"')

_SANDBOX: Final = "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
"""Lets a browser display a file that is opened on its own, but run no scripts of it."""


class AttachmentRoutes:
    """The endpoints under `/api/attachments`."""

    def __init__(self, access: Access, files: Files) -> None:
        self._access = access
        self._files = files

    def routes(self) -> list[Route]:
        path = "/api/attachments"
        return [
            Route(path, self._upload, methods=["POST"]),
            Route(path + "/{file:uuid}", self._file, methods=["GET"]),
            Route(path + "/{file:uuid}/preview", self._preview, methods=["GET"]),
        ]

    async def _upload(self, request: Request) -> Response:
        Query(request)
        max_bytes = self._files.max_bytes
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > max_bytes + _MAX_OVERHEAD:
            raise Problem("too_large", f"a file may have at most {max_bytes} bytes", path="file")
        part = FilePart(request.headers.get("content-type"))
        async with aclosing(large_body(request)) as body:
            caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
            address = request.client.host if request.client else ""
            async with self._files.receive(caller, address) as incoming:
                overhead = 0
                async for data in body:
                    overhead += len(data)
                    for chunk in part.feed(data):
                        overhead -= len(chunk)
                        await incoming.write(chunk)
                    if overhead > _MAX_OVERHEAD:
                        detail = f"the body may have at most {_MAX_OVERHEAD} bytes besides the file"
                        raise Problem("too_large", detail)
                return json_response(await incoming.finish(part.end()), 201)

    async def _file(self, request: Request) -> Response:
        return await self._serve(request, preview=False)

    async def _preview(self, request: Request) -> Response:
        return await self._serve(request, preview=True)

    async def _serve(self, request: Request, *, preview: bool) -> Response:
        Query(request, ("ticket",))
        reader: Identity | None = None
        authorization = request.headers.get("authorization", "")
        if authorization.lower().startswith("bearer "):
            reader = identity_of((await self._access.caller(authorization, sender_of(request))).user)
        file: UUID = request.path_params["file"]
        ticket = request.query_params.get("ticket", "")
        answer = await self._files.open(file, ticket, reader, preview=preview)
        tag = f'"{file.hex}"'
        headers = {
            "Content-Disposition": _disposition(answer),
            "Content-Security-Policy": _SANDBOX,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Referrer-Policy": "no-referrer",
            # A file never changes, but its link is for one reader and expires.
            "Cache-Control": f"private, max-age={answer.seconds}, immutable",
            "Accept-Ranges": "bytes",
            "ETag": tag,
        }
        if _has_tag(request.headers.getlist("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        start, stop, status = 0, answer.size, 200
        header = _RANGE.fullmatch(request.headers.get("range", ""))
        requested = None if header is None else _byte_range(header[1], header[2], answer.size)
        if requested is not None and request.headers.get("if-range", tag) == tag:
            (start, stop), status = requested, 206
            if start >= stop:
                headers = {"Content-Range": f"bytes */{answer.size}", "Cache-Control": "no-store"}
                return Response(status_code=416, headers=headers)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{answer.size}"
        headers["Content-Length"] = str(stop - start)
        if request.method == "HEAD":
            return Response(None, status, headers, answer.media_type)
        # Read before the status is sent, so that a missing file can still be answered with an error.
        first = await answer.read(start, min(answer.read_bytes, stop - start))
        return StreamedResponse(_chunks(answer, first, start, stop), status, headers, answer.media_type)


async def _chunks(answer: FileAnswer, first: bytes, start: int, stop: int) -> AsyncGenerator[bytes, None]:
    yield first
    offset = start + len(first)
    while offset < stop:
        try:
            chunk = await answer.read(offset, min(answer.read_bytes, stop - offset))
        except Problem as problem:
            raise ResponseCutOff(str(problem)) from problem
        if not chunk:
            # Closes the connection, because the response is shorter than its Content-Length.
            raise OSError("the file is shorter than when it was uploaded")
        offset += len(chunk)
        yield chunk


def _byte_range(first: str, last: str, size: int) -> tuple[int, int] | None:
    """Return start and exclusive end of the requested range in a file of `size` bytes, None for an invalid range.

    The range is empty if it lies outside of the file.
    """
    if not first:
        return (max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size


def _has_tag(values: list[str], tag: str) -> bool:
    """Whether `If-None-Match` names the file. A weak tag (`W/`) does too: the bytes never change."""
    named = _ETAG.findall(", ".join(values))
    return tag in named or any(value.strip() == "*" for value in values)


def _disposition(answer: FileAnswer) -> str:
    kind = "inline" if answer.inline else "attachment"
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", answer.filename)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(answer.filename, safe='')}"
