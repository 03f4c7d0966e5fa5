"""Checks that a blob store keeps its promises: every implementation passes `check_blob_store`."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import trio

from actorchat.blobs import BlobMissing, BlobStore

__all__ = ["OpenBlobStore", "check_blob_store"]

OpenBlobStore = Callable[[], AbstractAsyncContextManager[BlobStore]]
"""Opens a store, empty at first. A store opened after that has what was stored before."""


async def check_blob_store(open_store: OpenBlobStore) -> None:
    """Check that a store keeps the promises of `actorchat.blobs.BlobStore`. Raises AssertionError."""
    async with open_store() as store:
        await store.clean()
        assert await store.entries() == ()
        assert await store.owner() == ""
        await _check_reading(store)
        await _check_replacing(store)
        await _check_deleting(store)
        await _check_keys(store)
        await _check_entries(store)
        await _check_concurrency(store)
        await _check_owner(store)
        kept = await store.entries()
        left = await store.prepare() / "left"
        await trio.Path(left).write_bytes(b"half")
    async with open_store() as store:
        await store.clean()
        assert await store.entries() == kept
        assert await store.claim("later") == await store.owner() == "owner0"
        assert not await trio.Path(left).exists()
        assert await store.read("aa-parallel-0", 0, 10) == b"0"


async def _put(store: BlobStore, key: str, content: bytes) -> None:
    path = await store.prepare() / f"of-{key}"
    await trio.Path(path).write_bytes(content)
    await store.put(key, path)
    assert not await trio.Path(path).exists()


async def _check_reading(store: BlobStore) -> None:
    content = bytes(range(256)) * 20
    await _put(store, "ab-reading", content)
    assert await store.read("ab-reading", 0, len(content)) == content
    assert await store.read("ab-reading", 100, 50) == content[100:150]
    assert await store.read("ab-reading", len(content) - 1, 10) == content[-1:]
    assert await store.read("ab-reading", len(content), 10) == b""
    await _put(store, "ab-empty", b"")
    assert await store.read("ab-empty", 0, 10) == b""


async def _check_replacing(store: BlobStore) -> None:
    await _put(store, "ab-reading", b"other")
    assert await store.read("ab-reading", 0, 100) == b"other"


async def _check_deleting(store: BlobStore) -> None:
    await store.delete("ab-reading")
    await store.delete("ab-reading")
    await store.delete("zz-never-was")
    for key in ("ab-reading", "zz-never-was"):
        try:
            await store.read(key, 0, 1)
        except BlobMissing:
            continue
        raise AssertionError(f"{key} can be read, but is not there")
    assert await store.read("ab-empty", 0, 1) == b""


async def _check_keys(store: BlobStore) -> None:
    for key in ("", "ab", "../up", "ab/cd", "a\0bc", ".ab", "ABC", "x" * 101, "ab\n"):
        for call in (store.read(key, 0, 1), store.delete(key)):
            try:
                await call
            except ValueError:
                continue
            raise AssertionError(f"{key!r} is taken for a key")


async def _check_entries(store: BlobStore) -> None:
    before = time.time()
    keys = sorted(["ab-empty", "00-a", "00-b", "7f-c", "zz-d.preview"])
    for key in keys[:3] + keys[4:]:
        await _put(store, key, key.encode())
    entries = await store.entries()
    assert [entry.key for entry in entries] == keys
    assert [entry.size for entry in entries] == [len(key) if key != "ab-empty" else 0 for key in keys]
    # A remote store may have another clock.
    assert all(before - 60 <= entry.stored_at <= time.time() + 60 for entry in entries)
    walked: list[str] = []
    while page := await store.entries(walked[-1] if walked else "", 2):
        assert len(page) <= 2
        walked += [entry.key for entry in page]
    assert walked == keys
    for key in keys:
        await store.delete(key)
    assert await store.entries() == ()


async def _check_owner(store: BlobStore) -> None:
    owners = set[str]()

    async def claim() -> None:
        owners.add(await store.claim("owner0"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(claim)
    assert owners == {"owner0"}
    assert await store.claim("owner1") == await store.owner() == "owner0"


async def _check_concurrency(store: BlobStore) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(_put, store, f"aa-parallel-{number}", str(number).encode())
    for number in range(10):
        assert await store.read(f"aa-parallel-{number}", 0, 10) == str(number).encode()
