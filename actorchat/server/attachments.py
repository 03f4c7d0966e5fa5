"""Takes uploads, serves files by their links, and deletes files that no message has taken."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final
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

UPLOADS_AT_ONCE: Final = 64
"""Uploads that are being received; over it new ones are refused with `overloaded`."""

OWN_UPLOADS_AT_ONCE: Final = 8
"""Of them, those of one person."""

SCANS_AT_ONCE: Final = 4
"""Processes of the scan command."""

FREE_BYTES: Final = 134_217_728
"""Disk space that uploads leave for the database."""

SWEEP_SECONDS: Final = 60.0
"""Seconds between two looks for uploads that no message has taken."""

SWEPT_AT_ONCE: Final = 100

ORPHAN_SECONDS: Final = 3_600.0
"""Bytes without a row are deleted when they are so old: a row follows its bytes within seconds, or never."""

ORPHAN_SWEEPS: Final = 360
"""Looks for unused uploads between two looks for bytes without a row, which walk all files."""

_WRITTEN_BYTES: Final = 262_144
_PREVIEW: Final = ".preview"
_REJECTED: Final = 1


class Attachments:
    """The files of one server (`actorchat.http.ports.Files`).

    First the bytes of a file are stored, then its row: a message can only take a file that can be read. A file is
    deleted the other way round, its row in a transaction that no message can pass, then its bytes. What a crash leaves
    between the two steps is bytes without a row, which `sweep` finds.

    `most` is how many files a message may have; 0: this server takes none. `clock` gives epoch seconds.
    """

    def __init__(
        self,
        chats: ChatService,
        blobs: BlobStore,
        links: SignedLinks,
        settings: AttachmentSettings,
        *,
        most: int,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._chats = chats
        self._blobs = blobs
        self._links = links
        self._settings = settings
        self._most = most
        self._clock = clock
        self._random = random
        self._previews = Previews()
        self._scans = trio.CapacityLimiter(SCANS_AT_ONCE)
        self._by: MinuteLimiter[Identity] = MinuteLimiter(settings.per_minute)
        self._from = AddressLimiter(settings.address_per_minute)
        self._receiving: Counter[Identity] = Counter()
        self._files_in_progress: set[UUID] = set()
        self._begin_sweeping: Callable[[], object] | None = None

    @property
    def most_bytes(self) -> int:
        return self._settings.size

    @asynccontextmanager
    async def receive(self, caller: Caller, address: str | None) -> AsyncIterator[_Incoming]:
        """As `Files.receive`; `address` None is this process, which may upload as often as it wants."""
        identity = identity_of(caller.user)
        if not self._most:
            raise Problem("not_allowed", "this server takes no files")
        if address is not None:
            self._take_turn(identity, address)
        uuid = UUID(int=self._random.getrandbits(128), version=4)
        if self._begin_sweeping is not None:
            self._begin_sweeping()
            self._begin_sweeping = None
        self._receiving[identity] += 1
        self._files_in_progress.add(uuid)
        try:
            folder = await self._prepare()
            incoming = _Incoming(self, caller, uuid, folder / uuid.hex)
            try:
                yield incoming
            finally:
                await incoming.clean()
        finally:
            self._files_in_progress.discard(uuid)
            self._receiving[identity] -= 1
            self._receiving += Counter()

    def _take_turn(self, identity: Identity, address: str) -> None:
        if self._receiving[identity] >= OWN_UPLOADS_AT_ONCE:
            raise Problem("rate_limited", "too many uploads at once")
        if self._receiving.total() >= UPLOADS_AT_ONCE:
            raise Problem("overloaded", "too many uploads at once")
        now = trio.current_time()
        wait = max(self._by.wait(identity, now), self._from.wait(address, now))
        if wait:
            raise Problem("rate_limited", "too many uploads", retry_after=wait)
        self._by.take(identity, now)
        self._from.take(address, now)

    async def _prepare(self) -> Path:
        try:
            folder = await self._blobs.prepare()
            free = (await trio.to_thread.run_sync(shutil.disk_usage, folder)).free
        except (BlobsUnavailable, OSError) as error:
            raise _unavailable(error) from None
        if free < FREE_BYTES:
            _log.error("uploads are refused: %s has %d bytes left", folder, free)
            raise Problem("storage_unavailable", "no file can be stored now; try again later")
        return folder

    async def open(self, file: UUID, ticket: str, reader: Identity | None, *, preview: bool) -> FileAnswer:
        try:
            named, until = self._links.check(file, ticket)
        except BadTicket as error:
            raise Problem("not_allowed", str(error)) from None
        if reader is not None and reader != named:
            raise Problem("not_allowed", "the link is another reader's")
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
                _log.error("the bytes of file %s are gone", file)
                raise Problem("not_found", "the file is gone") from None
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
        """Store what was received, once it is judged. Raises Problem."""
        media = sniff(head)
        self._judge(media)
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
            # Nothing names the bytes. If the call is cancelled nobody knows, and the sweeper finds out.
            await self._delete(uuid)
            if isinstance(error, ChatRefused):
                raise
            raise _unavailable(error) from None
        [attachment] = attachments_for((file,), identity, self._links)
        return attachment

    def _judge(self, media: Media) -> None:
        types = self._settings.types
        kind = "program" if media.executable else media.type.value
        if kind not in types and (media.executable or media.media_type not in types):
            raise Problem("attachment_rejected", "files of this type are not taken", path="file")

    async def _make_preview(self, path: Path, media: Media, target: Path) -> int:
        try:
            made = await self._previews.make(path, media.media_type, target)
            return (await trio.Path(target).stat()).st_size if made else 0
        except ImageTooLarge as error:
            raise Problem("attachment_rejected", str(error), path="file") from None
        except OSError as error:
            raise _unavailable(error) from None

    async def _scan(self, path: Path) -> None:
        """Let the scan command look at the file: it is held back until that says yes."""
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
                    )
                    status = done.returncode
                except OSError as error:
                    _log.error("the scan command can't be run: %s", error)
        if status == _REJECTED:
            raise Problem("attachment_rejected", "the file was rejected by the scanner", path="file")
        if status != 0:
            what = "gave no answer in time" if status is None else f"ended with status {status}"
            _log.error("the scan command %s; the file is not taken", what)
            raise Problem("overloaded", "the file could not be scanned now; try again later")

    # What nobody needs any more

    async def clean(self) -> None:
        """Remove unfinished uploads of a process that was killed. To be called before anything is uploaded."""
        try:
            await self._blobs.clean()
        except BlobsUnavailable as error:
            _log.warning("unfinished uploads can't be removed: %s", error)

    def sweep_once_used(self, nursery: trio.Nursery) -> None:
        """Have `sweep` run in `nursery` from the first upload on: before that there is nothing to delete."""
        self._begin_sweeping = partial(nursery.start_soon, self.sweep)

    async def sweep(self) -> None:
        """Delete what no message has taken in time, and bytes without a row, until cancelled."""
        looks = 0
        while True:
            await trio.sleep(SWEEP_SECONDS)
            try:
                await self.expire_unused()
                if looks % ORPHAN_SWEEPS == 0:
                    await self.delete_orphans()
            except (StorageUnavailable, ChatRefused, BlobsUnavailable) as error:
                _log.warning("unused files can't be deleted now: %s", error)
                continue
            looks += 1

    async def expire_unused(self) -> None:
        """Delete uploads that no message has taken in time. Raises what storage and blobs raise."""
        before = self._clock() - self._settings.unused_timeout
        while unbound := await self._chats.chat_reader.unbound_uploads(before, SWEPT_AT_ONCE):
            for file in await self._chats.expire_uploads(unbound, before):
                # From the commit on nothing names it.
                await self._delete(file)

    async def delete_orphans(self) -> None:
        """Delete old bytes that have no row. Raises what storage and blobs raise."""
        last = ""
        while entries := await self._blobs.entries(last):
            last = entries[-1].key
            # Looked at between the two readings: an upload that is not in progress any more has a row to be read.
            in_progress = frozenset(self._files_in_progress)
            old = {
                file
                for entry in entries
                if entry.stored_at <= self._clock() - ORPHAN_SECONDS and (file := _file_of(entry.key)) is not None
            }
            known = {upload.file.uuid for upload in await self._chats.chat_reader.uploads(tuple(old))}
            for file in sorted(old - known - in_progress):
                _log.info("deleting the bytes of file %s: it has no row", file)
                await self._delete(file)

    async def _delete(self, file: UUID) -> None:
        for key in (file.hex, file.hex + _PREVIEW):
            try:
                await self._blobs.delete(key)
            except BlobsUnavailable as error:
                _log.warning("the bytes of file %s can't be deleted now: %s", file, error)


class _Incoming:
    """One upload: its bytes go to a file on disk, a few at a time."""

    def __init__(self, attachments: Attachments, caller: Caller, uuid: UUID, path: Path) -> None:
        self._attachments = attachments
        self._caller = caller
        self._uuid = uuid
        self._path = path
        self._size = 0
        self._head = b""
        self._waiting = bytearray()

    async def write(self, data: bytes) -> bool:
        self._size += len(data)
        if self._size > self._attachments.most_bytes:
            return False
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + data)[:HEAD_BYTES]
        self._waiting += data
        if len(self._waiting) >= _WRITTEN_BYTES:
            await self._flush()
        return True

    async def finish(self, filename: str) -> Attachment:
        if not self._size:
            raise Problem("empty", "file: it has no bytes", path="file")
        await self._flush()
        return await self._attachments.keep(self._caller, self._uuid, filename, self._path, self._size, self._head)

    async def clean(self) -> None:
        """Remove what is still there of an unfinished upload."""
        # Two calls to the file system: a cancelled upload must leave nothing behind either.
        with trio.CancelScope(shield=True):
            for path in (self._path, self._path.with_name(self._path.name + _PREVIEW)):
                await trio.Path(path).unlink(missing_ok=True)

    async def _flush(self) -> None:
        data, self._waiting = self._waiting, bytearray()
        try:
            await trio.to_thread.run_sync(_append, self._path, data)
        except OSError as error:
            raise _unavailable(error) from None


def _append(path: Path, data: bytearray) -> None:
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
