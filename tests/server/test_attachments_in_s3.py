"""Uploads of a whole server whose files are in an S3 bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio

from actorchat.blobs import BlobStore, BlobsUnavailable, LocalBlobs
from actorchat.server.bootstrap import StartFailed
from actorchat.server.serving import open_server
from actorchat.server.settings import AttachmentSettings, Settings
from tests.blobs.s3_server import S3Server
from tests.server.server_under_test import SECRET, ApiClient, error_of, run_server
from tests.server.test_attachments import ANNA, files, part_of, picture, upload, uploaded

pytestmark = pytest.mark.slow


def settings(folder: Path, store: str, database: str = "actorchat.db") -> Settings:
    return Settings(
        data=folder,
        storage=f"sqlite:///{folder / database}",
        port=0,
        secret=SECRET,
        attachments=AttachmentSettings(store=store, unused_timeout=60),
    )


@asynccontextmanager
async def serving(folder: Path, store: str) -> AsyncIterator[ApiClient]:
    async with run_server(settings(folder, store)) as api:
        yield api


def blobs_of(api: ApiClient) -> BlobStore:
    return part_of(api)._blobs


async def keys(api: ApiClient) -> list[str]:
    return [entry.key for entry in await blobs_of(api).entries()]


async def test_files_in_a_bucket_are_uploaded_sent_read_in_ranges_and_deleted(
    s3_server: S3Server, tmp_path: Path
) -> None:
    content = picture()
    async with serving(tmp_path, s3_server.url(uuid4().hex)) as api:
        _, chat = await api.visit(token=ANNA)
        sent, unused = await uploaded(api, content), await uploaded(api, b"y" * 3_000_000)
        assert files(tmp_path) == []
        answer = await api.write(ANNA, chat, "", attachments=[sent["uuid"]])
        assert answer.status_code == 201, answer.text
        [shown] = answer.json()["attachments"]
        assert (await api.http.get(shown["url"])).content == content
        assert (await api.http.get(shown["url_preview"])).headers["content-type"] == "image/webp"
        part = await api.http.get(shown["url"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, content[10:20])
        tail = await api.http.get(unused["url"], headers={"Range": "bytes=1000000-"})
        assert tail.content == b"y" * 2_000_000
        attachments = part_of(api)
        real = attachments._clock
        attachments._clock = lambda: real() + 61
        await attachments.expire_unused()
        uuid = UUID(sent["uuid"]).hex
        assert await keys(api) == [uuid, f"{uuid}.preview"]
        orphan = await blobs_of(api).prepare() / "orphan"
        orphan.write_bytes(b"x")
        await blobs_of(api).put(uuid4().hex, orphan)
        attachments._clock = lambda: real() + 2 * 3_600
        await attachments.delete_orphans()
        assert await keys(api) == [uuid, f"{uuid}.preview"]


async def test_a_wrong_setting_ends_the_start_with_one_line(s3_server: S3Server, tmp_path: Path) -> None:
    for url, fault in (
        (s3_server.url(secret_key="wrong"), "attachments can't be stored: s3://chats: SignatureDoesNotMatch: "),
        (s3_server.url(bucket="missing"), "attachments can't be stored: s3://missing: NoSuchBucket: "),
    ):
        with pytest.raises(StartFailed) as caught:
            async with open_server(settings(tmp_path / "new", url)):
                pass
        assert not (tmp_path / "new").exists()
        assert str(caught.value).startswith(fault)
        assert "\n" not in str(caught.value)


async def test_a_bucket_with_the_files_of_another_database_is_not_used(s3_server: S3Server, tmp_path: Path) -> None:
    store = s3_server.url(uuid4().hex)
    async with serving(tmp_path, store) as api:
        await uploaded(api, b"x")
    with pytest.raises(StartFailed, match="belong to another database"):
        async with open_server(settings(tmp_path, store, "other.db")):
            pass


async def test_chats_work_while_the_service_is_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "s3"
    folder.mkdir()
    service = S3Server(folder)
    try:
        async with serving(tmp_path, service.url()) as api:
            assert "uploads are refused until attachments can be stored again: s3://chats: can't be" in caplog.text
            _, chat = await api.visit(token=ANNA)
            assert (await api.write(ANNA, chat, "hello")).status_code == 201
            assert error_of(await upload(api, b"x")) == (503, "storage_unavailable", "")
            await trio.to_thread.run_sync(service.start)
            attachment = await uploaded(api, b"x")
            assert (await api.http.get(attachment["url"])).content == b"x"
            service.kill()
            assert error_of(await api.http.get(attachment["url"])) == (503, "storage_unavailable", "")
            assert error_of(await upload(api, b"x")) == (503, "storage_unavailable", "")
            assert files(tmp_path) == []
    finally:
        service.close()


async def test_an_upload_is_refused_without_waiting_for_its_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = trio.Event()

    async def fail(blobs: LocalBlobs, key: str, path: Path) -> None:
        raise BlobsUnavailable("it does not answer")

    async def hang(blobs: LocalBlobs, key: str) -> None:
        deleted.set()
        await trio.sleep_forever()

    monkeypatch.setattr(LocalBlobs, "put", fail)
    monkeypatch.setattr(LocalBlobs, "delete", hang)
    async with serving(tmp_path, "") as api:
        with trio.fail_after(30):
            assert error_of(await upload(api, b"x")) == (503, "storage_unavailable", "")
            await deleted.wait()
