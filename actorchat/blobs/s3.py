"""Stores blobs as objects in a bucket of an S3-compatible storage service."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

import httpx
import trio

from actorchat.blobs.ports import BlobEntry, BlobMissing, BlobsMisconfigured, BlobsUnavailable, check_key
from actorchat.blobs.s3_requests import S3Requests, open_s3_requests, xml_root, xml_text
from actorchat.blobs.s3_urls import S3Url
from actorchat.blobs.staging import StagingFolder

__all__ = ["S3Blobs", "open_s3_blobs"]

_PART_BYTES: Final = 16_777_216
"""A larger file is uploaded in parts of this size, so that memory stays flat and only a part is sent again."""

_MAX_PARTS: Final = 9_000
"""S3 takes 10,000 parts."""

_UPLOADS: Final = 4
"""Files that are uploaded to the service at one time. Each has a part in memory."""

_ABORT_SECONDS: Final = 5.0
_STALE_SECONDS: Final = 86_400.0
"""The age at which an upload in parts, which a killed process has left, is ended. No upload takes this long."""

_READ_BYTES: Final = 1_048_576

_CONFLICT: Final = 412
_NOT_IMPLEMENTED: Final = 501


class S3Blobs:
    """A `BlobStore` in a bucket, made by `open_s3_blobs`.

    A blob is the object `<prefix>files/<key>`; `<prefix>owner` names the owner. Files that are to be `put` wait in a
    folder on the local disk.
    """

    read_bytes: int = _READ_BYTES

    def __init__(self, requests: S3Requests, prefix: str, staging: Path) -> None:
        self._requests = requests
        self._prefix = prefix
        self._staging = StagingFolder(staging)
        self._uploads = trio.CapacityLimiter(_UPLOADS)

    @property
    def place(self) -> str:
        return self._requests.name

    async def owner(self) -> str:
        answer = await self._requests.send("GET", f"{self._prefix}owner", expected=(200, 404))
        return "" if self._is_missing(answer) else answer.text.strip()

    async def claim(self, owner: str) -> str:
        if found := await self.owner():
            return found
        path, body = f"{self._prefix}owner", owner.encode()
        answer = await self._requests.send(
            "PUT", path, headers={"If-None-Match": "*"}, body=body, expected=(200, _CONFLICT, _NOT_IMPLEMENTED)
        )
        if answer.status_code == _NOT_IMPLEMENTED:
            await self._requests.send("PUT", path, body=body)
        return await self.owner()

    async def prepare(self) -> Path:
        return await self._staging.prepare()

    async def put(self, key: str, path: Path) -> None:
        check_key(key)
        async with self._uploads:
            size = await self._staging.run(lambda: path.stat().st_size)
            if size <= _PART_BYTES:
                body = await self._staging.run(path.read_bytes)
                await self._requests.send("PUT", self._object(key), body=body)
            else:
                await self._put_parts(self._object(key), path, size)
        await self._staging.run(lambda: path.unlink(missing_ok=True))

    async def read(self, key: str, start: int, size: int) -> bytes:
        check_key(key)
        answer = await self._requests.send(
            "GET",
            self._object(key),
            headers={"Range": f"bytes={start}-{start + size - 1}"},
            expected=(200, 206, 404, 416),
        )
        if self._is_missing(answer):
            raise BlobMissing(f"there is no blob {key}")
        if answer.status_code == 416:
            return b""
        # A service may ignore the range of an empty object. Others send the range with status 200.
        is_part = answer.status_code == 206 or "content-range" in answer.headers
        return answer.content if is_part else answer.content[start : start + size]

    async def delete(self, key: str) -> None:
        check_key(key)
        answer = await self._requests.send("DELETE", self._object(key), expected=(200, 204, 404))
        self._is_missing(answer)

    async def entries(self, after: str = "", limit: int = 1_000) -> tuple[BlobEntry, ...]:
        prefix = f"{self._prefix}files/"
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(limit)}
        if after:
            query["start-after"] = prefix + after
        root = self._parsed(await self._requests.send("GET", "", query=query))
        return tuple(
            BlobEntry(
                xml_text(each, "Key").removeprefix(prefix), int(xml_text(each, "Size")), _epoch(each, "LastModified")
            )
            for each in root.iterfind("Contents")
        )

    async def clean(self) -> None:
        await self._staging.clean()
        query = {"uploads": "", "prefix": self._prefix}
        answer = await self._requests.send("GET", "", query=query, expected=(200, 404, _NOT_IMPLEMENTED))
        if answer.status_code != 200:
            # Some services can't list unfinished uploads, or answer like this when there are none.
            self._is_missing(answer)
            return
        for each in self._parsed(answer).iterfind("Upload"):
            if _epoch(each, "Initiated") < time.time() - _STALE_SECONDS:
                await self._abort(xml_text(each, "Key"), xml_text(each, "UploadId"))

    async def _put_parts(self, path: str, file: Path, size: int) -> None:
        started = self._parsed(await self._requests.send("POST", path, query={"uploads": ""}))
        upload = xml_text(started, "UploadId")
        part_bytes = max(_PART_BYTES, -(-size // _MAX_PARTS))
        try:
            parts: list[str] = []
            for number, start in enumerate(range(0, size, part_bytes), 1):
                body = await self._staging.run(partial(_part, file, start, part_bytes))
                answer = await self._requests.send(
                    "PUT", path, query={"partNumber": str(number), "uploadId": upload}, body=body
                )
                tag = escape(answer.headers.get("etag", ""))
                parts.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>")
            whole = f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>"
            answer = await self._requests.send("POST", path, query={"uploadId": upload}, body=whole.encode())
            root = self._parsed(answer)
            if root.tag == "Error":
                # Services send the status 200 before they join the parts, so an error is in the body.
                raise BlobsUnavailable(f"{self.place}: {xml_text(root, 'Code')}: {xml_text(root, 'Message')}")
        except BaseException:
            # Shielded, because storing the parts costs money until then. It takes at most `_ABORT_SECONDS`.
            with trio.move_on_after(_ABORT_SECONDS, shield=True), suppress(BlobsUnavailable):
                await self._abort(path, upload)
            raise

    async def _abort(self, path: str, upload: str) -> None:
        await self._requests.send("DELETE", path, query={"uploadId": upload}, expected=(200, 204, 404))

    def _object(self, key: str) -> str:
        return f"{self._prefix}files/{key}"

    def _is_missing(self, answer: httpx.Response) -> bool:
        """Whether there is no such object. Raises `BlobsMisconfigured` if there is no such bucket."""
        if answer.status_code == 404 and b"NoSuchBucket" in answer.content:
            raise BlobsMisconfigured(f"{self.place}: NoSuchBucket: the bucket does not exist")
        return answer.status_code == 404

    def _parsed(self, answer: httpx.Response) -> ET.Element:
        try:
            return xml_root(answer.content)
        except ValueError:
            raise BlobsUnavailable(f"{self.place}: the answer is no XML: is this an S3 service?") from None


@asynccontextmanager
async def open_s3_blobs(url: S3Url, staging: Path) -> AsyncIterator[S3Blobs]:
    """Open a store in the bucket. `staging` is a local folder for files that are to be stored.

    Connects at the first call. Raises `BlobsMisconfigured` if there are no credentials.
    """
    async with open_s3_requests(url) as requests:
        yield S3Blobs(requests, url.prefix, staging)


def _part(file: Path, start: int, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(size)


def _epoch(element: ET.Element, name: str) -> float:
    return datetime.fromisoformat(xml_text(element, name)).timestamp()
