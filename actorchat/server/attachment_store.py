"""Opens the store for attachments in the settings, and checks that its files belong to this server's database."""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import trio

from actorchat.blobs import BlobsMisconfigured, BlobStore, BlobsUnavailable, LocalBlobs
from actorchat.blobs.s3_urls import parse_s3_url
from actorchat.server.bootstrap import StartFailed
from actorchat.server.settings import Settings

__all__ = ["AttachmentStore", "OpenBlobs", "open_attachment_store", "open_blobs"]

_log: Final = logging.getLogger("actorchat.attachments")

_CHECK_SECONDS: Final = 10.0
"""How long the start waits for a store that does not answer."""


class AttachmentStore:
    """The store of a database's files, made by `open_attachment_store`.

    Files without a row in the database are deleted, so a store with files of another database is never used.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs: BlobStore = blobs
        self._found = self._owner = ""
        self._claimed = False

    async def look(self) -> None:
        """Read whose store it is. Raises BlobsUnavailable."""
        self._found = await self.blobs.owner()

    def use_for(self, owner: str) -> None:
        """Use the store for the database with the name `owner`, "" for one that ends with the process.

        Raises StartFailed if it is known to have the files of another database.
        """
        self._owner, self._claimed = owner, not owner
        try:
            self._check_owner(self._found)
        except BlobsMisconfigured as error:
            raise _failed(error) from None

    async def claim(self) -> None:
        """Make the store this database's own before something is stored or deleted.

        Raises BlobsUnavailable, also if it has the files of another database.
        """
        if not self._claimed:
            self._check_owner(await self.blobs.claim(self._owner))
            self._claimed = True

    def _check_owner(self, owner: str) -> None:
        if owner and owner != self._owner:
            raise BlobsMisconfigured(
                f"the files in {self.blobs.place} belong to another database: start the server with that one, or with"
                " another place for files"
            )


OpenBlobs = Callable[[Settings], AbstractAsyncContextManager[BlobStore]]
"""Opens the store of the settings. Raises BlobsMisconfigured."""


@asynccontextmanager
async def open_attachment_store(settings: Settings, open_blobs: OpenBlobs) -> AsyncIterator[AttachmentStore]:
    """Open the store of the settings. Call `AttachmentStore.use_for` before anything is stored.

    Raises StartFailed if the store can't be used with these settings. A store that can't be reached now is logged,
    because chats work without it.
    """
    async with AsyncExitStack() as stack:
        try:
            store = AttachmentStore(await stack.enter_async_context(open_blobs(settings)))
        except BlobsMisconfigured as error:
            raise _failed(error) from None
        if settings.storage != "memory://":
            await _look(store)
        yield store


async def _look(store: AttachmentStore) -> None:
    try:
        with trio.move_on_after(_CHECK_SECONDS) as waited:
            await store.look()
        if waited.cancelled_caught:
            raise BlobsUnavailable(f"{store.blobs.place}: no answer within {_CHECK_SECONDS:.0f} s")
    except BlobsMisconfigured as error:
        raise _failed(error) from None
    except BlobsUnavailable as error:
        _log.warning("uploads are refused until attachments can be stored again: %s", error)


def _failed(error: Exception) -> StartFailed:
    return StartFailed(f"attachments can't be stored: {error}")


@asynccontextmanager
async def open_blobs(settings: Settings) -> AsyncIterator[BlobStore]:
    """Open the S3 bucket of the settings, else the folder of attachments. Raises BlobsMisconfigured.

    Files of a server with the storage `memory://` are kept in a temporary folder, which is removed at the end.
    """
    with _folder(settings) as folder:
        if not settings.attachments.store:
            yield LocalBlobs(folder)
            return
        # Imported here: its library is an extra.
        from actorchat.blobs.s3 import open_s3_blobs

        async with open_s3_blobs(parse_s3_url(settings.attachments.store), folder / "incoming") as blobs:
            yield blobs


@contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """The folder of attachments. Without a database it is one of this run, removed at the end.

    Otherwise the files of a database in the same data folder would be deleted: they have no rows in this one.
    """
    if settings.folder is not None and settings.storage != "memory://":
        yield settings.folder / "attachments"
        return
    parent = Path(tempfile.gettempdir()) if settings.folder is None else settings.folder / "attachments"
    # It is created at the first upload.
    folder = parent / f"actorchat-{secrets.token_hex(16)}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
