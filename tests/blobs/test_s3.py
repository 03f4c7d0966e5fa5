"""The blob store in an S3 bucket, on a real service."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from actorchat.blobs import BlobMissing, BlobsMisconfigured, BlobStore, BlobsUnavailable, s3_requests
from actorchat.blobs import s3 as s3_module
from actorchat.blobs.s3 import S3Blobs, open_s3_blobs
from actorchat.blobs.s3_requests import open_s3_requests
from actorchat.blobs.s3_urls import InvalidS3Url, parse_s3_url
from actorchat.testing import check_blob_store
from tests.blobs.s3_server import S3Server


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[S3Blobs]:
    with trio.fail_after(120):
        async with open_s3_blobs(parse_s3_url(url), folder / "incoming") as store:
            yield store


@pytest.mark.slow
async def test_the_store_in_a_bucket_passes(s3_server: S3Server, tmp_path: Path) -> None:
    @asynccontextmanager
    async def place() -> AsyncIterator[BlobStore]:
        async with opened(s3_server.url("shop/files"), tmp_path) as store:
            yield store

    await check_blob_store(place)


@pytest.mark.slow
async def test_a_prefix_hides_everything_else_in_the_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    for prefix in ("one", "one/two", ""):
        async with opened(s3_server.url(prefix), tmp_path) as store:
            path = await store.prepare() / "x"
            path.write_bytes(prefix.encode())
            await store.put("ab-x", path)
    for prefix in ("one", "one/two", ""):
        async with opened(s3_server.url(prefix), tmp_path) as store:
            assert [entry.key for entry in await store.entries()] == ["ab-x"]
            assert await store.read("ab-x", 0, 10) == prefix.encode()
            await store.delete("ab-x")


@pytest.mark.slow
async def test_the_first_owner_stays(s3_server: S3Server, tmp_path: Path) -> None:
    async with opened(s3_server.url(uuid4().hex), tmp_path) as store:
        assert await store.owner() == ""
        assert await store.claim("one") == "one"
        assert await store.claim("two") == await store.owner() == "one"
        assert await store.entries() == ()


@pytest.mark.slow
async def test_a_large_file_is_stored_in_parts(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_PART_BYTES", 5_242_880)
    async with opened(s3_server.url("large"), tmp_path) as store:
        content = os.urandom(13_000_000)
        path = await store.prepare() / "x"
        path.write_bytes(content)
        await store.put("ab-x", path)
        assert [entry.size for entry in await store.entries()] == [len(content)]
        received = b""
        while part := await store.read("ab-x", len(received), store.read_bytes):
            received += part
        assert received == content
        assert not path.exists()


@pytest.mark.slow
async def test_an_upload_in_parts_that_is_cancelled_leaves_no_parts(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_PART_BYTES", 5_242_880)
    async with opened(s3_server.url("cancelled"), tmp_path) as store:
        path = await store.prepare() / "x"
        path.write_bytes(b"x" * 13_000_000)
        real, sent = store._requests.send, 0
        scope = trio.CancelScope()

        async def send(method: str, *args: object, **options: object) -> object:
            nonlocal sent
            sent += method == "PUT"
            if sent == 2:
                scope.cancel()
            return await real(method, *args, **options)  # type: ignore[arg-type] # what `put` passes

        monkeypatch.setattr(store._requests, "send", send)
        with scope:
            await store.put("ab-x", path)
        monkeypatch.undo()
        assert scope.cancelled_caught
        assert path.exists()
        with pytest.raises(BlobMissing):
            await store.read("ab-x", 0, 1)
        answer = await store._requests.send("GET", "", query={"uploads": "", "prefix": "cancelled/"})
        assert b"<UploadId>" not in answer.content


@pytest.mark.slow
async def test_parts_that_a_killed_process_has_left_are_removed_after_a_day(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(s3_server.url("stale"), tmp_path) as store:
        await store._requests.send("POST", "stale/files/ab-x", query={"uploads": ""})

        async def count() -> int:
            answer = await store._requests.send("GET", "", query={"uploads": "", "prefix": "stale/"})
            return answer.content.count(b"<UploadId>")

        await store.clean()
        assert await count() == 1
        monkeypatch.setattr(s3_module, "_STALE_SECONDS", -60.0)
        await store.clean()
        assert await count() == 0


@pytest.mark.slow
async def test_faults_of_the_settings_are_named_in_one_line(s3_server: S3Server, tmp_path: Path) -> None:
    for url, fault in (
        (s3_server.url(access_key="unknown"), "s3://chats: InvalidAccessKeyId: "),
        (s3_server.url(secret_key="wrong"), "s3://chats: SignatureDoesNotMatch: "),
        (s3_server.url(bucket="no-such-bucket"), "s3://no-such-bucket: NoSuchBucket: "),
    ):
        async with opened(url, tmp_path) as store:
            for call in (store.owner, store.entries, partial(store.read, "ab-x", 0, 1)):
                with pytest.raises(BlobsMisconfigured) as caught:
                    await call()
                assert str(caught.value).startswith(fault)
                assert "\n" not in str(caught.value)


async def test_a_service_that_is_away_is_named_without_its_keys(tmp_path: Path) -> None:
    async with opened("s3://key:pa55word@chats/x?endpoint=http://127.0.0.1:1", tmp_path) as store:
        with pytest.raises(BlobsUnavailable) as caught:
            await store.entries()
    assert not isinstance(caught.value, BlobsMisconfigured)
    assert str(caught.value).startswith("s3://chats/x: can't be reached: ")


async def test_a_service_that_accepts_a_request_and_says_nothing_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_requests, "_IDLE_SECONDS", 0.5)
    requests = 0

    async def say_nothing(stream: trio.SocketStream) -> None:
        nonlocal requests
        requests += 1
        async for _ in stream:
            pass

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say_nothing, [listener])
        port = listener.socket.getsockname()[1]
        async with opened(f"s3://key:secret@chats/x?endpoint=http://127.0.0.1:{port}", tmp_path) as store:
            with pytest.raises(BlobsUnavailable, match="no answer for"):
                await store.entries()
        nursery.cancel_scope.cancel()
    assert requests == 1


async def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    url = parse_s3_url("s3://chats?endpoint=http://127.0.0.1:1&region=eu-central-1")
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(BlobsMisconfigured, match=r"^s3://chats: no credentials: set AWS_ACCESS_KEY_ID and"):
        async with open_s3_requests(url):
            pass
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    async with open_s3_requests(url) as requests:
        headers = requests._sign("GET", "http://127.0.0.1:1/chats/", {}, b"")
    assert "Credential=from-the-environment/" in headers["Authorization"]
    assert "/eu-central-1/s3/" in headers["Authorization"]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://bucket", "expected s3://bucket/prefix"),
        ("s3://ab", "the name of a bucket has 3 to 63"),
        ("s3://key@bucket", "expected both keys"),
        ("s3://key:a/b@bucket", "write / in a key as %2F"),
        ("s3://bucket/../x", "the prefix may have"),
        ("s3://bucket/a b", "the prefix may have"),
        ("s3://bucket?endpoint=s3.example", "endpoint: expected"),
        ("s3://bucket?endpoint=https://s3.example/path", "endpoint: expected"),
        ("s3://bucket?endpoint=https://s3..example", "endpoint: expected"),
        (f"s3://bucket?endpoint=https://{'s' * 64}.example", "endpoint: expected"),
        ("s3://bucket?endpoint=https://s3.example:99999", "endpoint: expected"),
        ("s3://bucket?region=a/b", "region: expected"),
        ("s3://bucket?style=dns", "style: expected path or virtual"),
        ("s3://bucket?ca=", "ca: expected"),
        ("s3://bucket?region=a&region=b", "the parameter region is there twice"),
        ("s3://bucket?acl=public", "there are endpoint, region, style, ca"),
    ],
)
def test_a_wrong_url_is_refused_with_what_would_be_right(url: str, fault: str) -> None:
    with pytest.raises(InvalidS3Url) as caught:
        parse_s3_url(url)
    assert fault in str(caught.value)


def test_the_bucket_is_in_the_host_name_on_aws_and_in_the_path_elsewhere() -> None:
    assert parse_s3_url("s3://bucket").virtual
    for url in (
        "s3://bucket.with.dots",
        "s3://bucket?style=path",
        "s3://bucket?endpoint=https://s3.example",
    ):
        assert not parse_s3_url(url).virtual
    parsed = parse_s3_url("s3://key:a%2Fb@bucket/chat/files/?endpoint=https://s3.example:9000/&style=virtual")
    assert (parsed.access_key, parsed.secret_key) == ("key", "a/b")
    assert (parsed.endpoint, parsed.prefix, parsed.virtual) == ("https://s3.example:9000", "chat/files/", True)
    assert "a/b" not in repr(parsed)
