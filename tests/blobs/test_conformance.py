"""Every blob store passes the same suite."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actorchat.blobs import BlobStore, BlobsUnavailable, LocalBlobs
from actorchat.testing import check_blob_store


async def test_the_local_store_passes(tmp_path: Path) -> None:
    @asynccontextmanager
    async def place() -> AsyncIterator[BlobStore]:
        yield LocalBlobs(tmp_path / "attachments")

    await check_blob_store(place)


async def test_nothing_is_made_on_disk_before_something_is_stored(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path / "attachments")
    await store.clean()
    await store.delete("ab-nothing")
    assert await store.entries() == ()
    assert not os.listdir(tmp_path)


async def test_only_the_owner_may_read_what_is_stored(tmp_path: Path) -> None:
    store = LocalBlobs(tmp_path / "attachments")
    path = await store.prepare() / "x"
    path.write_bytes(b"secret")
    await store.put("ab-x", path)
    for folder in (tmp_path / "attachments", tmp_path / "attachments" / "incoming"):
        assert folder.stat().st_mode & 0o077 == 0


async def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "attachments").write_bytes(b"a file, where a folder is needed")
    with pytest.raises(BlobsUnavailable, match="attachments"):
        await LocalBlobs(tmp_path / "attachments").prepare()


async def test_bytes_and_their_name_are_flushed_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    store = LocalBlobs(tmp_path)
    path = await store.prepare() / "x"
    path.write_bytes(b"x")
    monkeypatch.setattr(os, "fsync", fsync)
    await store.put("ab-x", path)
    assert flushed == [str(path), str(tmp_path), str(tmp_path / "ab")]
