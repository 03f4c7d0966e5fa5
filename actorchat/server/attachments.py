"""Receives uploads, serves files through their links, and deletes files that no message uses."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import trio

from actorchat.blobs import BlobMissing, BlobStore, BlobsUnavailable
from actorchat.blobs.filenames import clean_filename, extension_of
from actorchat.blobs.links import BadTicket, SignedLinks
from actorchat.blobs.media import HEAD_BYTES, Media, is_inline, sniff
from actorchat.blobs.previews import PREVIEW_MEDIA_TYPE, ImageTooLarge, Previews
from actorchat.chat.links import attachments_for
from actorchat.chat.model import Identity, StoredAttachment, Upload, identity_of
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatRefused, ChatService
from actorchat.http.ports import Caller, FileAnswer
from actorchat.http.problems import Problem
from actorchat.protocol import Attachment
from actorchat.server.rate_limits import AddressLimiter, MinuteLimiter
from actorchat.server.settings import AttachmentSettings

__all__ = ["Attachments"]

_log: Final = logging.getLogger("actorchat.attachments")

MAX_UPLOADS: Final = 64
"""Uploads in progress. Further ones are refused with `overloaded`."""

MAX_USER_UPLOADS: Final = 8
"""Uploads in progress of one user. Further ones are refused with `rate_limited`."""

MAX_SCANS: Final = 4
"""Processes of the scan command that run at a time."""

MIN_FREE_BYTES: Final = 134_217_728
"""Disk space that uploads leave free for the database."""

SWEEP_SECONDS: Final = 60.0
"""The interval at which unused uploads are deleted."""

SWEEP_BATCH: Final = 100

ORPHAN_SECONDS: Final = 3_600.0
"""The age at which files without a row in the database are deleted. A row is stored within seconds after its file."""

ORPHAN_SWEEPS: Final = 360
"""Files without a row are searched for after this many sweeps, because the search lists all files."""

_WRITE_BYTES: Final = 262_144
_PREVIEW: Final = ".preview"
_REJECTED: Final = 1
"""The exit status with which the scan command rejects a file."""

_SCAN_END_SECONDS: Final = 2.0
"""How long a scan command that is ended may take before it is killed."""


async def _end_group(process: trio.Process) -> None:
    """End a scan command that takes too long, with the processes that it has started."""
    try:
        _send_group(process, signal.SIGTERM)
        await trio.sleep(_SCAN_END_SECONDS)
    finally:
        # Ends what is left of the group when the command itself has ended.
        _send_group(process, signal.SIGKILL)


def _send_group(process: trio.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


# Any: these are options of `trio.run_process`. Windows has no groups of processes.
_PROCESS_GROUP: Final[dict[str, Any]] = (
    {"start_new_session": True, "deliver_cancel": _end_group} if os.name == "posix" else {}
)


class Attachments:
    """The files of one server (`actorchat.http.ports.Files`).

    A file is stored before its row in the database, so that every file with a row can be read. It is deleted in the
    opposite order: the row first, in a transaction that is serialized with messages. A crash between the two steps
    leaves a file without a row, which `sweep` deletes.

    `max_per_message` is how many files a message may have; with 0, uploads are refused. `clock` returns epoch seconds.
    """

    def __init__(
        self,
        chats: ChatService,
        blobs: BlobStore,
        links: SignedLinks,
        settings: AttachmentSettings,
        *,
        max_per_message: int,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._chats = chats
        self._blobs = blobs
        self._links = links
        self._settings = settings
        self._max_per_message = max_per_message
        self._clock = clock
        self._random = random
        self._previews = Previews()
        self._scans = trio.CapacityLimiter(MAX_SCANS)
        self._uploads_by_user: MinuteLimiter[Identity] = MinuteLimiter(settings.per_minute)
        self._uploads_by_address = AddressLimiter(settings.address_per_minute)
        self._receiving: Counter[Identity] = Counter()
        self._files_in_progress: set[UUID] = set()
        self._begin_sweeping: Callable[[], object] | None = None

    @property
    def max_bytes(self) -> int:
        return self._settings.size

    @asynccontextmanager
    async def receive(self, caller: Caller, address: str | None) -> AsyncIterator[_Incoming]:
        """Like `Files.receive`. With `address` None, for calls from this process, no rate limits apply."""
        identity = identity_of(caller.user)
        if not self._max_per_message:
            raise Problem("not_allowed", "this server does not accept files")
        if address is not None:
            self._check_limits(identity, address)
        uuid = UUID(int=self._random.getrandbits(128), version=4)
        if self._begin_sweeping is not None:
            self._begin_sweeping()
            self._begin_sweeping = None
        self._receiving[identity] += 1
        self._files_in_progress.add(uuid)
        try:
            folder = await self._prepare_folder()
            incoming = _Incoming(self, caller, uuid, folder / uuid.hex)
            try:
                yield incoming
            finally:
                await incoming.clean()
        finally:
            self._files_in_progress.discard(uuid)
            self._receiving[identity] -= 1
            self._receiving += Counter()

    def _check_limits(self, identity: Identity, address: str) -> None:
        if self._receiving[identity] >= MAX_USER_UPLOADS:
            raise Problem("rate_limited", "too many uploads at once")
        if self._receiving.total() >= MAX_UPLOADS:
            raise Problem("overloaded", "too many uploads at once")
        now = trio.current_time()
        wait = max(self._uploads_by_user.wait(identity, now), self._uploads_by_address.wait(address, now))
        if wait:
            raise Problem("rate_limited", "too many uploads", retry_after=wait)
        self._uploads_by_user.take(identity, now)
        self._uploads_by_address.take(address, now)

    async def _prepare_folder(self) -> Path:
        try:
            folder = await self._blobs.prepare()
            await trio.to_thread.run_sync(_check_free_space, folder)
        except (BlobsUnavailable, OSError) as error:
            raise _unavailable(error) from None
        return folder

    async def open(self, file: UUID, ticket: str, reader: Identity | None, *, preview: bool) -> FileAnswer:
        try:
            named, until = self._links.check(file, ticket)
        except BadTicket as error:
            raise Problem("not_allowed", str(error)) from None
        if reader is not None and reader != named:
            raise Problem("not_allowed", "the link was issued to another user")
        [upload] = await self._chats.chat_reader.uploads((file,)) or (None,)
        if (
            upload is None
            or not (upload.bound or upload.uploader == named)
            or (preview and not upload.file.preview_size)
        ):
            raise Problem("not_found", "the file has no preview")
        key = file.hex + (_PREVIEW if preview else "")

        async def read(start: int, size: int) -> bytes:
            try:
                return await self._blobs.read(key, start, size)
            except BlobMissing:
                _log.error("file %s is missing on disk", file)
                raise Problem("not_found", "the file is missing") from None
            except BlobsUnavailable as error:
                raise _unavailable(error) from None

        seconds = max(0, int(until - self._clock()))
        if preview:
            name = f"preview of {upload.file.filename}.webp"
            return FileAnswer(name, PREVIEW_MEDIA_TYPE, upload.file.preview_size, True, seconds, read)
        inline = is_inline(upload.media_type)
        media_type = upload.media_type if inline else "application/octet-stream"
        return FileAnswer(upload.file.filename, media_type, upload.file.size, inline, seconds, read)

    async def keep(self, caller: Caller, uuid: UUID, filename: str, path: Path, size: int, head: bytes) -> Attachment:
        """Check a received file and store it. Raises Problem."""
        media = sniff(head)
        self._check_type(media)
        await self._scan(path)
        preview = path.with_name(path.name + _PREVIEW)
        preview_size = await self._make_preview(path, media, preview)
        name = clean_filename(filename)
        file = StoredAttachment(uuid, media.type, name, extension_of(name), size, preview_size)
        identity = identity_of(caller.user)
        source = next(iter(caller.sources)) if len(caller.sources) == 1 else ""
        upload = Upload(file, identity, source, media.media_type, int(self._clock()))
        try:
            if preview_size:
                await self._blobs.put(uuid.hex + _PREVIEW, preview)
            await self._blobs.put(uuid.hex, path)
            await self._chats.record_upload(upload)
        except (BlobsUnavailable, ChatRefused) as error:
            # The file has no row, so it can be deleted. If this call is cancelled, `sweep` deletes it instead.
            await self._delete(uuid)
            if isinstance(error, ChatRefused):
                raise
            raise _unavailable(error) from None
        [attachment] = attachments_for((file,), identity, self._links)
        return attachment

    def _check_type(self, media: Media) -> None:
        types = self._settings.types
        kind = "program" if media.executable else media.type.value
        if kind not in types and (media.executable or media.media_type not in types):
            raise Problem("attachment_rejected", "files of this type are not accepted", path="file")

    async def _make_preview(self, path: Path, media: Media, target: Path) -> int:
        try:
            made = await self._previews.make(path, media.media_type, target)
            return (await trio.Path(target).stat()).st_size if made else 0
        except ImageTooLarge as error:
            raise Problem("attachment_rejected", str(error), path="file") from None
        except OSError as error:
            raise _unavailable(error) from None

    async def _scan(self, path: Path) -> None:
        """Run the scan command on the file, if there is one. Raises Problem unless it accepts the file."""
        command = self._settings.scan
        if not command:
            return
        status: int | None = None
        async with self._scans:
            with trio.move_on_after(self._settings.scan_seconds):
                try:
                    done = await trio.run_process(
                        [*command, str(path)],
                        check=False,
                        stdin=b"",
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        # The server's secrets are none of its business.
                        env={name: value for name, value in os.environ.items() if not name.startswith("ACTORCHAT_")},
                        **_PROCESS_GROUP,
                    )
                    status = done.returncode
                except OSError as error:
                    _log.error("the scan command can't be run: %s", error)
        if status == _REJECTED:
            raise Problem("attachment_rejected", "the file was rejected by the scanner", path="file")
        if status != 0:
            reason = "did not finish" if status is None else f"ended with status {status}"
            _log.error("the scan command %s; the file is refused", reason)
            raise Problem("overloaded", "the file could not be scanned now; try again later")

    # Deletion of unused files

    async def clean(self) -> None:
        """Remove unfinished uploads of a killed process. Must be called before the first upload."""
        try:
            await self._blobs.clean()
        except BlobsUnavailable as error:
            _log.warning("unfinished uploads can't be removed: %s", error)

    def sweep_after_first_upload(self, nursery: trio.Nursery) -> None:
        """Start `sweep` in `nursery` at the first upload, because there is nothing to delete before."""
        self._begin_sweeping = partial(nursery.start_soon, self.sweep)

    async def sweep(self) -> None:
        """Delete unused uploads and files without a row at intervals, until cancelled."""
        sweeps = 0
        while True:
            await trio.sleep(SWEEP_SECONDS)
            try:
                await self.expire_unused()
                if sweeps % ORPHAN_SWEEPS == 0:
                    await self.delete_orphans()
            except (StorageUnavailable, ChatRefused, BlobsUnavailable) as error:
                _log.warning("unused files can't be deleted now: %s", error)
                continue
            sweeps += 1

    async def expire_unused(self) -> None:
        """Delete uploads that no message has used in time.

        Raises StorageUnavailable, ChatRefused and BlobsUnavailable.
        """
        before = self._clock() - self._settings.unused_timeout
        while unbound := await self._chats.chat_reader.unbound_uploads(before, SWEEP_BATCH):
            for file in await self._chats.expire_uploads(unbound, before):
                # The row is deleted, so no message can use the file any more.
                await self._delete(file)

    async def delete_orphans(self) -> None:
        """Delete old files that have no row. Raises StorageUnavailable and BlobsUnavailable."""
        last = ""
        while entries := await self._blobs.entries(last):
            last = entries[-1].key
            # Copied after listing the files and before reading the rows: an upload that ends in between has its row.
            in_progress = frozenset(self._files_in_progress)
            old = {
                file
                for entry in entries
                if entry.stored_at <= self._clock() - ORPHAN_SECONDS and (file := _file_of(entry.key)) is not None
            }
            known = {upload.file.uuid for upload in await self._chats.chat_reader.uploads(tuple(old))}
            for file in sorted(old - known - in_progress):
                _log.info("deleting file %s, which has no row in the database", file)
                await self._delete(file)

    async def _delete(self, file: UUID) -> None:
        for key in (file.hex, file.hex + _PREVIEW):
            try:
                await self._blobs.delete(key)
            except BlobsUnavailable as error:
                _log.warning("file %s can't be deleted now: %s", file, error)


class _Incoming:
    """An upload in progress, which is written to a file on disk (`actorchat.http.ports.Incoming`)."""

    def __init__(self, attachments: Attachments, caller: Caller, uuid: UUID, path: Path) -> None:
        self._attachments = attachments
        self._caller = caller
        self._uuid = uuid
        self._path = path
        self._size = 0
        self._head = b""
        self._buffer = bytearray()

    async def write(self, data: bytes) -> bool:
        self._size += len(data)
        if self._size > self._attachments.max_bytes:
            return False
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + data)[:HEAD_BYTES]
        self._buffer += data
        if len(self._buffer) >= _WRITE_BYTES:
            await self._flush()
        return True

    async def finish(self, filename: str) -> Attachment:
        if not self._size:
            raise Problem("empty", "file: the file is empty", path="file")
        await self._flush()
        return await self._attachments.keep(self._caller, self._uuid, filename, self._path, self._size, self._head)

    async def clean(self) -> None:
        """Remove the files of an unfinished upload."""
        # Shielded because a cancelled upload must be removed too. It takes two calls of the file system.
        with trio.CancelScope(shield=True):
            for path in (self._path, self._path.with_name(self._path.name + _PREVIEW)):
                await trio.Path(path).unlink(missing_ok=True)

    async def _flush(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        try:
            await trio.to_thread.run_sync(_append, self._path, data)
        except OSError as error:
            raise _unavailable(error) from None


def _check_free_space(folder: Path) -> None:
    """Raise OSError if the disk has less than `MIN_FREE_BYTES` left."""
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise OSError(errno.ENOSPC, f"{free} bytes are left, {MIN_FREE_BYTES} are kept for the database", str(folder))


def _append(path: Path, data: bytearray) -> None:
    # For each part: other uploads, and other programs, fill the disk as well.
    _check_free_space(path.parent)
    with path.open("ab") as file:
        file.write(data)


def _file_of(key: str) -> UUID | None:
    try:
        return UUID(hex=key.removesuffix(_PREVIEW))
    except ValueError:
        return None


def _unavailable(error: Exception) -> Problem:
    _log.error("files can't be stored or read: %s", error)
    return Problem("storage_unavailable", "files can't be stored or read now; try again later")
