"""Counts the bytes of uploads that no message uses yet, by user and by network address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from itertools import islice
from typing import Final
from uuid import UUID

import attrs

from actorchat.chat.model import Identity, Upload
from actorchat.transports.unfinished_requests import site_of

__all__ = ["MIN_BYTES", "Charge", "UnusedUploads"]

MIN_BYTES: Final = 65_536
"""The least that each upload counts, so that very many small files count too."""

_PAGE: Final = 1_000

_Key = Identity | str
ReadUploads = Callable[[Collection[UUID]], Awaitable[tuple[Upload, ...]]]


@attrs.define(eq=False)
class Charge:
    """The bytes of one upload, made by `UnusedUploads.open`: those received, and those counted."""

    keys: tuple[_Key, ...]
    received: int = 0
    counted: int = 0
    kept: bool = False


class UnusedUploads:
    """The uploads that no message uses yet, as far as this process knows them.

    Messages don't report which uploads they use, because that would cost every message. Instead `recount` reads which
    ones are still unused before anything is refused, and `forget_used` does so from time to time. `read` reads uploads
    from the database. `user_bytes` and `address_bytes` are the limits; 0 = unlimited.
    """

    def __init__(self, user_bytes: int, address_bytes: int, read: ReadUploads) -> None:
        self._user_bytes = user_bytes
        self._address_bytes = address_bytes
        self._read = read
        # Finished uploads in the order in which `forget_used` looks at them.
        self._uploads: OrderedDict[UUID, Charge] = OrderedDict()
        self._bytes: dict[_Key, int] = {}
        self._files: dict[_Key, set[UUID]] = {}

    def open(self, identity: Identity, address: str) -> Charge:
        """Begin to count an upload of the user at the network address."""
        return Charge((identity, site_of(address)))

    def add(self, charge: Charge, size: int) -> bool:
        """Count `size` more bytes. Returns False, and counts nothing, if that would be over a limit."""
        more = max(MIN_BYTES, charge.received + size) - charge.counted
        for key in charge.keys:
            limit = self._address_bytes if isinstance(key, str) else self._user_bytes
            others = self._bytes.get(key, 0) - charge.counted
            # A single file is accepted whatever its size: `AttachmentSettings.size` limits that.
            if limit and others and others + charge.counted + more > limit:
                return False
        charge.received += size
        self._count(charge, more)
        return True

    def keep(self, charge: Charge, file: UUID) -> None:
        """The upload is finished and stored."""
        charge.kept = True
        self._uploads[file] = charge
        for key in charge.keys:
            self._files.setdefault(key, set()).add(file)

    def end(self, charge: Charge) -> None:
        """Count the upload no more, unless it was finished and stored."""
        if not charge.kept:
            self._count(charge, -charge.counted)

    def forget(self, file: UUID) -> None:
        """The upload is used by a message, or deleted. Unknown ones are ignored."""
        charge = self._uploads.pop(file, None)
        if charge is None:
            return
        self._count(charge, -charge.counted)
        for key in charge.keys:
            files = self._files[key]
            files.discard(file)
            if not files:
                del self._files[key]

    def load(self, uploads: Collection[Upload]) -> None:
        """Count uploads that are stored already. Their addresses are not known."""
        for upload in uploads:
            charge = Charge((upload.uploader,))
            self._count(charge, max(MIN_BYTES, upload.file.size))
            self.keep(charge, upload.file.uuid)

    async def recount(self, charge: Charge) -> None:
        """Forget the used uploads of this user and this address. Raises what `read` raises."""
        for key in charge.keys:
            await self._forget_used(tuple(self._files.get(key, ())))

    async def forget_used(self) -> None:
        """Forget the used ones among some uploads, others each time. Raises what `read` raises."""
        files = tuple(islice(self._uploads, _PAGE))
        await self._forget_used(files)
        for file in files:
            if file in self._uploads:
                self._uploads.move_to_end(file)

    async def _forget_used(self, files: tuple[UUID, ...]) -> None:
        for start in range(0, len(files), _PAGE):
            page = files[start : start + _PAGE]
            unused = {upload.file.uuid for upload in await self._read(page) if not upload.bound}
            for file in page:
                if file not in unused:
                    self.forget(file)

    def _count(self, charge: Charge, more: int) -> None:
        charge.counted += more
        for key in charge.keys:
            self._bytes[key] = self._bytes.get(key, 0) + more
            if not self._bytes[key]:
                del self._bytes[key]
