"""Receives uploads, serves files through their links, and deletes files that no message uses."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.blobs import BlobMissing, BlobsUnavailable, blob_keys
from actorchat.blobs.filenames import clean_filename, extension_of
from actorchat.blobs.links import BadTicket, SignedLinks
from actorchat.blobs.media import Media, is_inline, sniff
from actorchat.blobs.previews import PREVIEW_MEDIA_TYPE, ImageTooLarge, Previews
from actorchat.chat.file_rules import FileRule, FileRules
from actorchat.chat.links import attachments_for
from actorchat.chat.model import Identity, StoredAttachment, Upload, identity_of
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.ports import Caller, FileAnswer
from actorchat.http.problems import Problem
from actorchat.protocol import Attachment
from actorchat.server.attachment_store import AttachmentStore
from actorchat.server.incoming_file import PREVIEW_SUFFIX, IncomingFile, check_free_space, files_unavailable
from actorchat.server.rate_limits import AddressLimiter, MinuteLimiter
from actorchat.server.scanning import Scanner
from actorchat.server.settings import AttachmentSettings
from actorchat.server.unused_uploads import Charge, UnusedUploads

__all__ = ["Attachments"]

_log: Final = logging.getLogger("actorchat.attachments")

MAX_UPLOADS: Final = 64
"""Uploads in progress. Further ones are refused with `overloaded`."""

MAX_USER_UPLOADS: Final = 8
"""Uploads in progress of one user. Further ones are refused with `rate_limited`."""

SWEEP_SECONDS: Final = 60.0
"""The interval at which unused uploads are deleted."""

SWEEP_BATCH: Final = 100

MAX_REMOVED: Final = 10_000
"""Files of removed messages that wait to be deleted. Further ones are deleted as orphans."""

ORPHAN_SECONDS: Final = 3_600.0
"""The age at which files without a row in the database are deleted. A row is stored within seconds after its file."""

ORPHAN_SWEEPS: Final = 360
"""Files without a row are searched for after this many sweeps, because the search lists all files."""

MAX_LOADED: Final = 10_000
"""Unused uploads of an earlier run that are counted."""


@attrs.frozen(kw_only=True)
class UploadStatistics:
    """Files that are being received now, and the number and bytes of those stored since the start."""

    receiving: int
    stored: int
    bytes: int


class Attachments:
    """The files of one server (`actorchat.http.ports.Files`).

    A file is stored before its row in the database, so that every file with a row can be read. It is deleted in the
    opposite order: the row first, in a transaction that is serialized with messages. A crash between the two steps
    leaves a file without a row, which `sweep` deletes.

    `rules` say which files are accepted. If no source accepts any, uploads are refused. `clock` returns epoch seconds.
    """

    def __init__(
        self,
        chats: ChatService,
        store: AttachmentStore,
        links: SignedLinks,
        scanner: Scanner,
        settings: AttachmentSettings,
        *,
        rules: FileRules,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._chats = chats
        self._store = store
        self._blobs = store.blobs
        self._links = links
        self._settings = settings
        self._rules = rules
        self._clock = clock
        self._random = random
        self._previews = Previews()
        self._scanner = scanner
        self._uploads_by_user: MinuteLimiter[Identity] = MinuteLimiter(settings.per_minute)
        self._uploads_by_address = AddressLimiter(settings.address_per_minute)
        self._unused = UnusedUploads(settings.unused_bytes, settings.address_unused_bytes, chats.chat_reader.uploads)
        self._receiving: Counter[Identity] = Counter()
        self._files_in_progress: set[UUID] = set()
        self._removed: deque[UUID] = deque()
        self._some_removed = trio.Event()
        self._begin_sweeping: Callable[[], object] | None = None
        self._stored = self._stored_bytes = 0

    def statistics(self) -> UploadStatistics:
        return UploadStatistics(receiving=self._receiving.total(), stored=self._stored, bytes=self._stored_bytes)

    @property
    def max_bytes(self) -> int:
        return self._rules.for_upload(()).size

    @asynccontextmanager
    async def receive(self, caller: Caller, address: str | None) -> AsyncIterator[IncomingFile]:
        """Like `Files.receive`. With `address` None, for calls from this process, no rate limits apply."""
        identity = identity_of(caller.user)
        rule = self._rules.for_upload(caller.sources)
        if not rule.per_message:
            raise Problem("not_allowed", "this server does not accept files")
        charge: Charge | None = None
        if address is not None:
            self._check_limits(identity, address)
            charge = self._unused.open(identity, address)
        uuid = UUID(int=self._random.getrandbits(128), version=4)
        if self._begin_sweeping is not None:
            self._begin_sweeping()
            self._begin_sweeping = None
        self._receiving[identity] += 1
        self._files_in_progress.add(uuid)
        try:
            folder = await self._prepare_folder()
            keep = partial(self._keep, caller, uuid, rule, charge)
            count = None if charge is None else partial(self._count_unused, charge)
            incoming = IncomingFile(folder / uuid.hex, rule.size, keep, count)
            try:
                yield incoming
            finally:
                await incoming.clean()
        finally:
            if charge is not None:
                self._unused.end(charge)
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
            await self._store.claim()
            folder = await self._blobs.prepare()
            await check_free_space(folder)
        except BlobsUnavailable as error:
            raise files_unavailable(error) from None
        return folder

    async def open(self, file: UUID, ticket: str, reader: Identity | None, *, preview: bool) -> FileAnswer:
        try:
            named, until = self._links.check(file, ticket)
        except BadTicket as error:
            raise Problem("not_allowed", str(error)) from None
        if reader is not None and reader != named:
            raise Problem("not_allowed", "the link was issued to another user")
        [upload] = await self._chats.chat_reader.uploads((file,)) or (None,)
        if upload is None or not (upload.bound or upload.uploader == named):
            raise Problem("not_found", "there is no such file")
        if preview and not upload.file.preview_size:
            raise Problem("not_found", "the file has no preview")
        key = file.hex + (PREVIEW_SUFFIX if preview else "")

        async def read(start: int, size: int) -> bytes:
            try:
                return await self._blobs.read(key, start, size)
            except BlobMissing:
                if await self._is_recorded(file):
                    _log.error("file %s is missing in %s", file, self._blobs.place)
                raise Problem("not_found", "the file is missing") from None
            except BlobsUnavailable as error:
                raise files_unavailable(error) from None

        seconds = max(0, int(until - self._clock()))
        if preview:
            name = f"preview of {upload.file.filename}.webp"
            size, media_type, inline = upload.file.preview_size, PREVIEW_MEDIA_TYPE, True
            return FileAnswer(name, media_type, size, inline, seconds, self._blobs.read_bytes, read)
        inline = is_inline(upload.media_type)
        media_type = upload.media_type if inline else "application/octet-stream"
        return FileAnswer(
            upload.file.filename, media_type, upload.file.size, inline, seconds, self._blobs.read_bytes, read
        )

    async def _is_recorded(self, file: UUID) -> bool:
        """Whether the file should exist. It may have been erased, or have expired, since a download began."""
        try:
            return bool(await self._chats.chat_reader.uploads((file,)))
        except StorageUnavailable:
            # Not known, and a lost file has to be reported.
            return True

    async def read_file(self, file: StoredAttachment) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a stored file; none if they are missing. Raises OSError if they can't be read now."""
        offset = 0
        while offset < file.size:
            try:
                part = await self._blobs.read(file.uuid.hex, offset, self._blobs.read_bytes)
            except BlobMissing:
                return
            except BlobsUnavailable as error:
                raise OSError(str(error)) from error
            if not part:
                return
            yield part
            offset += len(part)

    async def _count_unused(self, charge: Charge, size: int) -> None:
        """Count received bytes that no message uses yet. Raises Problem if there are too many."""
        if self._unused.add(charge, size):
            return
        # Messages may have used some since.
        await self._unused.recount(charge)
        if not self._unused.add(charge, size):
            raise Problem("rate_limited", "too many uploads that no message uses; send them, or wait until they expire")

    async def _keep(
        self,
        caller: Caller,
        uuid: UUID,
        rule: FileRule,
        charge: Charge | None,
        filename: str,
        path: Path,
        size: int,
        head: bytes,
    ) -> Attachment:
        """Check a received file and store it. Raises Problem."""
        media = sniff(head)
        if not rule.accepts(media.type, media.media_type):
            raise Problem("attachment_rejected", "files of this type are not accepted", path="file")
        await self._scanner.scan(path)
        preview = path.with_name(path.name + PREVIEW_SUFFIX)
        preview_size = await self._make_preview(path, media, preview)
        name = clean_filename(filename)
        file = StoredAttachment(uuid, media.type, name, extension_of(name), size, preview_size)
        identity = identity_of(caller.user)
        source = next(iter(caller.sources)) if len(caller.sources) == 1 else ""
        upload = Upload(file, identity, source, media.media_type, int(self._clock()))
        try:
            if preview_size:
                await self._blobs.put(uuid.hex + PREVIEW_SUFFIX, preview)
            await self._blobs.put(uuid.hex, path)
            await self._chats.record_upload(upload)
            self._stored, self._stored_bytes = self._stored + 1, self._stored_bytes + size
        except (BlobsUnavailable, ChatRefused) as error:
            # The file has no row, so it can be deleted. If this call is cancelled, `sweep` deletes it instead.
            if isinstance(error, ChatRefused):
                await self._delete(uuid)
                raise
            # The client does not wait for a store that may not answer.
            self.remove_soon((uuid,))
            raise files_unavailable(error) from None
        if charge is not None:
            self._unused.keep(charge, uuid)
        [attachment] = attachments_for((file,), identity, self._links)
        return attachment

    async def _make_preview(self, path: Path, media: Media, target: Path) -> int:
        try:
            made = await self._previews.make(path, media.media_type, target)
            return (await trio.Path(target).stat()).st_size if made else 0
        except ImageTooLarge as error:
            raise Problem("attachment_rejected", str(error), path="file") from None
        except OSError as error:
            raise files_unavailable(error) from None

    # Deletion of unused files

    def remove_soon(self, files: Sequence[UUID]) -> None:
        """Have `delete_removed` delete files that have no row. Never blocks.

        Over a bound this does nothing: `delete_orphans` finds such files, as it does after a crash.
        """
        if len(self._removed) < MAX_REMOVED:
            self._removed.extend(files)
        self._some_removed.set()

    async def delete_removed(self) -> None:
        """Delete the files of `remove_soon`, until cancelled."""
        while True:
            await self._some_removed.wait()
            self._some_removed = trio.Event()
            while self._removed:
                await self._delete(self._removed.popleft())

    async def clean(self) -> None:
        """Remove unfinished uploads of a killed process, and count the unused ones. Call it before the first upload."""
        try:
            await self._blobs.clean()
            unused = await self._chats.chat_reader.unbound_uploads(self._clock(), MAX_LOADED)
            self._unused.load(await self._chats.chat_reader.uploads(unused))
        except (BlobsUnavailable, StorageUnavailable) as error:
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
                await self._unused.forget_used()
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
        if not await self._blobs.entries(limit=1):
            return
        await self._store.claim()
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
        self._unused.forget(file)
        for key in blob_keys(file):
            try:
                await self._blobs.delete(key)
            except BlobsUnavailable as error:
                _log.warning("file %s can't be deleted now: %s", file, error)


def _file_of(key: str) -> UUID | None:
    try:
        return UUID(hex=key.removesuffix(PREVIEW_SUFFIX))
    except ValueError:
        return None
