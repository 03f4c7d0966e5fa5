"""Uploads and signed links on a whole server: which files are accepted, and when they are deleted."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import attrs
import httpx
import pytest
import trio
from PIL import Image
from starlette.requests import Request
from trio.testing import MockClock

from actorchat.blobs import BlobsUnavailable, LocalBlobs
from actorchat.blobs.previews import MAX_PIXELS
from actorchat.chat.model import Identity
from actorchat.client import ApiError, open_api
from actorchat.http.body_pace import BodyPace, large_body
from actorchat.http.problems import Problem
from actorchat.protocol import MessageAdded, Role
from actorchat.server import incoming_file, unused_uploads
from actorchat.server.attachments import MAX_USER_UPLOADS, ORPHAN_SECONDS, Attachments
from actorchat.server.bootstrap import StartFailed
from actorchat.server.serving import open_server
from actorchat.server.settings import AttachmentSettings, LimitSettings, Settings, SourceAttachmentSettings
from tests.blobs.test_previews import png_that_claims
from tests.server.server_under_test import SECRET, ApiClient, error_of, operator, run_server, token

ANNA = token(Role.USER, 100, ttl=3_600)
BEN = token(Role.USER, 101, ttl=3_600)


def picture(width: int = 900, height: int = 600) -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(made, "PNG")
    return made.getvalue()


@asynccontextmanager
async def serving(
    folder: Path, storage: str = "sqlite", attachments: AttachmentSettings | None = None, *, most: int = 10
) -> AsyncIterator[ApiClient]:
    settings = Settings(
        storage="memory://" if storage == "memory" else None,
        data=folder,
        port=0,
        secret=SECRET,
        limits=LimitSettings(messages_per_second=0, attachments=most),
        attachments=attachments or AttachmentSettings(per_minute=0, address_per_minute=0),
    )
    async with run_server(settings) as api:
        yield api


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with serving(tmp_path, request.param) as api:
        yield api


async def upload(
    api: ApiClient, content: bytes, name: str = "photo.png", who: str = ANNA, field: str = "file"
) -> httpx.Response:
    return await api.http.post(
        "/api/attachments", files={field: (name, content)}, headers={"Authorization": f"Bearer {who}"}
    )


async def uploaded(api: ApiClient, content: bytes, name: str = "photo.png", who: str = ANNA) -> dict[str, Any]:
    answer = await upload(api, content, name, who)
    assert answer.status_code == 201, answer.text
    attachment: dict[str, Any] = answer.json()
    return attachment


def files(folder: Path) -> list[str]:
    """Every file of attachments on disk."""
    found = [path.name for path in (folder / "attachments").rglob("*") if path.is_file()]
    return sorted(name for name in found if name != "owner")


def part_of(server: ApiClient) -> Attachments:
    return server.server._parts.attachments


async def rows(api: ApiClient) -> int:
    """How many uploads no message has taken."""
    return len(await api.server._parts.chats.chat_reader.unbound_uploads(2**40, 1_000))


async def test_an_upload_is_answered_with_its_attachment(api: ApiClient, tmp_path: Path) -> None:
    content = picture()
    attachment = await uploaded(api, content, "C:\\Fotos\\gold sphere_2.PNG")
    uuid = UUID(attachment["uuid"])
    assert list(attachment) == ["uuid", "type", "url", "url_preview", "filename", "extension", "size"]
    assert (attachment["type"], attachment["filename"], attachment["extension"], attachment["size"]) == (
        "image",
        "gold sphere_2.PNG",
        "png",
        len(content),
    )
    assert (await api.http.get(attachment["url"])).content == content
    preview = await api.http.get(attachment["url_preview"])
    assert preview.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(preview.content)) as image:
        assert image.size == (480, 320)
    assert files(tmp_path) == [uuid.hex, f"{uuid.hex}.preview"]


async def test_a_message_with_files_is_the_same_live_in_history_and_in_its_answer(api: ApiClient) -> None:
    _, chat = await api.visit(token=ANNA)
    attachment = await uploaded(api, picture())
    async with api.socket(f"/ws/chats/{chat}", ANNA) as socket:
        await socket.get_message()
        answer = await api.write(ANNA, chat, "", attachments=[attachment["uuid"]], client_id="k")
        assert answer.status_code == 201, answer.text
        live = (await api.http.get("/health/live")).status_code
        assert live == 200
        event = await socket.get_message()
    shown = answer.json()["attachments"]
    assert [each["uuid"] for each in shown] == [attachment["uuid"]]
    assert attachment["uuid"] in event
    again = await api.write(ANNA, chat, "", attachments=[attachment["uuid"]], client_id="k")
    assert (again.status_code, again.json()) == (200, answer.json())
    other = await api.write(ANNA, chat, "", attachments=[str(uuid4())], client_id="k")
    assert error_of(other) == (409, "conflict", "")
    history = await api.call("GET", f"/api/chats/{chat}/messages", operator())
    [message] = history.json()["messages"]
    [theirs] = message["attachments"]
    assert theirs["url"] != shown[0]["url"]
    assert {**theirs, "url": "", "url_preview": ""} == {**shown[0], "url": "", "url_preview": ""}
    for link in (theirs["url"], theirs["url_preview"], shown[0]["url"]):
        assert (await api.http.get(link)).status_code == 200


async def test_the_uploader_alone_binds_a_file_and_only_once(api: ApiClient) -> None:
    _, chat = await api.visit(token=ANNA)
    _, mall = await api.visit("mall", ANNA)
    _, other = await api.visit(token=BEN)
    mine, theirs = await uploaded(api, b"mine"), await uploaded(api, b"theirs", who=BEN)
    assert (await api.write(ANNA, chat, attachments=[mine["uuid"]])).status_code == 201
    for who, where, uuid in (
        (ANNA, chat, theirs["uuid"]),
        (ANNA, mall, mine["uuid"]),
        (BEN, other, mine["uuid"]),
        (ANNA, chat, str(uuid4())),
    ):
        refused = await api.write(who, where, attachments=[uuid])
        assert error_of(refused) == (422, "attachment_unknown", "attachments")
        assert "there is no such attachment" in refused.text


REFUSED: Mapping[str, tuple[bytes, str, tuple[int, str, str]]] = {
    "program called picture": (b"MZ\x90\0" + b"\0" * 100, "a.png", (422, "attachment_rejected", "file")),
    "decompression bomb": (png_that_claims(MAX_PIXELS, 2), "a.png", (422, "attachment_rejected", "file")),
    "one byte too much": (b"x" * 100_001, "a.txt", (413, "too_large", "file")),
    "far too much": (b"x" * 1_000_000, "a.txt", (413, "too_large", "file")),
    "empty": (b"", "a.txt", (422, "empty", "file")),
}


@pytest.mark.parametrize(("content", "name", "refusal"), REFUSED.values(), ids=REFUSED)
async def test_what_is_refused_leaves_nothing_behind(
    content: bytes, name: str, refusal: tuple[int, str, str], tmp_path: Path
) -> None:
    async with serving(tmp_path, attachments=AttachmentSettings(size=100_000)) as api:
        assert error_of(await upload(api, content, name)) == refusal
        assert files(tmp_path) == []
        assert await rows(api) == 0
        await uploaded(api, b"x" * 100_000)


BODIES: Mapping[str, tuple[str | None, bytes, tuple[int, str, str]]] = {
    "json": ("application/json", b"{}", (400, "malformed", "")),
    "no type": (None, b"", (400, "malformed", "")),
    "no boundary": ("multipart/form-data", b"", (400, "malformed", "")),
    "nonsense": ("multipart/form-data; boundary=b", b"nonsense", (400, "malformed", "")),
    "cut off": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf',
        (400, "malformed", ""),
    ),
    "no file": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\nx\r\n--b--\r\n',
        (422, "malformed", "file"),
    ),
    "no filename": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--b--\r\n',
        (422, "malformed", "file"),
    ),
    "two files": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n' * 2 + b"--b--\r\n",
        (422, "malformed", "file"),
    ),
    "much beside the file": (
        "multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + b"x" * 70_000,
        (413, "too_large", ""),
    ),
}


@pytest.mark.parametrize(("kind", "body", "refusal"), BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_upload_is_refused(
    kind: str | None, body: bytes, refusal: tuple[int, str, str], tmp_path: Path
) -> None:
    async with serving(tmp_path) as api:
        headers = {"Authorization": f"Bearer {ANNA}", **({} if kind is None else {"Content-Type": kind})}
        answer = await api.http.post("/api/attachments", content=body, headers=headers)
        assert error_of(answer) == refusal
        assert files(tmp_path) == []
        assert await rows(api) == 0


PART = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nx\r\n--b--\r\n'


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"--b\r\n" + PART, "a.txt"),
        (b"\r\n--b\r\n" + PART, "a.txt"),
        (b"This is MIME.\r\n--bb\r\n--b\r\n" + PART + b"The end.", "a.txt"),
        (b"--b\r\n" + PART.replace(b'filename="a.txt"', b"filename*=UTF-8''na%C3%AFve%20%22a%22.txt"), 'naïve "a".txt'),
        (b"--b\r\n" + PART.replace(b'filename="a.txt"', b"filename*=iso-8859-1'en'na%EFve.txt"), "naïve.txt"),
        (b"--b\r\n" + PART.replace(b'.txt"', b".txt\"; filename*=UTF-8''b.txt"), "a.txt"),
    ],
    ids=["plain", "empty line before", "preamble and epilogue", "extended name", "latin name", "two names"],
)
async def test_bodies_as_the_standards_allow_them_are_read(body: bytes, name: str, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {ANNA}", "Content-Type": "multipart/form-data; boundary=b"}

    async def bytewise() -> AsyncIterator[bytes]:
        for byte in body:
            yield bytes([byte])

    async with serving(tmp_path) as api:
        for content in (body, bytewise()):
            answer = await api.http.post("/api/attachments", content=content, headers=headers)
            assert answer.status_code == 201, answer.text
            assert (answer.json()["filename"], answer.json()["size"]) == (name, 1)


async def test_a_wrong_body_is_not_reported_in_the_servers_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": f"Bearer {ANNA}", "Content-Type": "multipart/form-data; boundary=b"}
    async with serving(tmp_path) as api:
        for body in (b"nonsense", b"--b\r\n: \r\n", b"--b\r\nContent-Disposition\r\n\r\n"):
            answer = await api.http.post("/api/attachments", content=body, headers=headers)
            assert error_of(answer) == (400, "malformed", "")
    assert not [record for record in caplog.records if "multipart" in record.name]


async def test_an_upload_needs_a_token_and_leave_to_send_files(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        answer = await api.http.post("/api/attachments", files={"file": ("a", b"x")})
        assert error_of(answer) == (401, "not_authenticated", "")
    async with serving(tmp_path, most=0) as api:
        assert error_of(await upload(api, b"x")) == (403, "not_allowed", "")
    assert files(tmp_path) == []


async def test_uploads_are_limited_per_person_and_per_address(tmp_path: Path) -> None:
    async with serving(tmp_path, attachments=AttachmentSettings(per_minute=2, address_per_minute=3)) as api:
        for who, status in ((ANNA, 201), (ANNA, 201), (ANNA, 429), (BEN, 201), (BEN, 429)):
            answer = await upload(api, b"x", who=who)
            assert answer.status_code == status, answer.text
            assert status != 429 or int(answer.headers["retry-after"]) > 0


async def test_a_client_that_vanishes_half_way_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        stream = await half_an_upload(api)
        await until(lambda: len(files(tmp_path)) == 1)
        await stream.aclose()
        await until(lambda: not files(tmp_path))
        assert await rows(api) == 0


async def until(there: Callable[[], bool]) -> None:
    # Polled, because nothing reports a change on disk. `running` bounds the wait.
    while not there():  # noqa: ASYNC110
        await trio.sleep(0.01)


async def half_an_upload(api: ApiClient, size: int = 300_000) -> trio.SocketStream:
    """A connection on which half of that many bytes were sent."""
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    stream = await trio.open_tcp_stream("127.0.0.1", api.server.port)
    await stream.send_all(
        b"POST /api/attachments HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        + f"Authorization: Bearer {ANNA}\r\nContent-Length: {2 * size}\r\n\r\n".encode()
        + head
        + b"x" * size
    )
    return stream


async def test_one_person_has_few_uploads_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        streams = [await half_an_upload(api) for _ in range(MAX_USER_UPLOADS)]
        await until(lambda: len(files(tmp_path)) == MAX_USER_UPLOADS)
        assert error_of(await upload(api, b"x")) == (429, "rate_limited", "")
        await uploaded(api, b"x", who=BEN)
        for stream in streams:
            await stream.aclose()


async def test_a_scanner_holds_a_file_back_until_it_says_yes(tmp_path: Path) -> None:
    scanner = tmp_path / "scanner.py"
    scanner.write_text("import sys\nsys.exit({b'g': 0, b'b': 1}.get(open(sys.argv[1], 'rb').read(1), 3))\n")
    scan = (sys.executable, str(scanner))
    async with serving(tmp_path, attachments=AttachmentSettings(scan=scan)) as api:
        await uploaded(api, b"good")
        known = files(tmp_path)
        assert error_of(await upload(api, b"bad")) == (422, "attachment_rejected", "file")
        assert error_of(await upload(api, b"unclear")) == (503, "overloaded", "")
        assert files(tmp_path) == known
        assert await rows(api) == 1


async def test_a_scanner_that_hangs_or_is_missing_takes_no_file(tmp_path: Path) -> None:
    for scan in ((sys.executable, "-c", "import time; time.sleep(60)"), ("/no/such/scanner",)):
        async with serving(tmp_path, attachments=AttachmentSettings(scan=scan, scan_seconds=1)) as api:
            assert error_of(await upload(api, b"x")) == (503, "overloaded", "")
            assert files(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="Windows has no groups of processes")
async def test_a_scanner_that_hangs_ends_with_what_it_has_started(tmp_path: Path) -> None:
    number = tmp_path / "number"
    scan = ("sh", "-c", f"(trap '' TERM; sleep 60) & echo $! > {number}; wait")
    limits = AttachmentSettings(per_minute=0, address_per_minute=0, scan=scan, scan_seconds=1)
    async with serving(tmp_path, attachments=limits) as api:
        assert error_of(await upload(api, b"x")) == (503, "overloaded", "")
        await until(lambda: not runs(int(number.read_text())))


def runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    # It may be a zombie, which has ended but was not waited for yet.
    status = Path(f"/proc/{number}/stat")
    return not status.exists() or status.read_text().split(")")[1].split()[0] != "Z"


async def test_a_scanner_does_not_get_the_servers_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTORCHAT_SECRET", SECRET)
    look = "import os, sys; sys.exit('ACTORCHAT_SECRET' in os.environ or 'PATH' not in os.environ)"
    limits = AttachmentSettings(per_minute=0, address_per_minute=0, scan=(sys.executable, "-c", look))
    async with serving(tmp_path, attachments=limits) as api:
        assert (await upload(api, b"x")).status_code == 201


@asynccontextmanager
async def scan_service(handle: Callable[[bytes], int], taken: list[dict[str, str]] | None = None) -> AsyncIterator[str]:
    """Serve POST on a port of its own; `handle` returns the status for a body. Yields the address."""

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some()
            head, _, body = data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            if taken is not None:
                taken.append({"": lines[0], **headers})
            while len(body) < int(headers["content-length"]):
                body += await stream.receive_some()
            status = handle(body)
            if status:
                await stream.send_all(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n".encode())
            else:
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, serve_one, 0, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/scan"
        nursery.cancel_scope.cancel()


async def test_a_scan_service_holds_a_file_back_until_it_says_yes(tmp_path: Path) -> None:
    seen: list[dict[str, str]] = []
    large = b"g" * 1_000_000
    bodies: list[int] = []

    def judge(body: bytes) -> int:
        bodies.append(len(body))
        return {b"g": 204, b"b": 406, b"w": 422, b"r": 302}.get(body[:1], 500)

    async with scan_service(judge, seen) as url:
        limits = AttachmentSettings(per_minute=0, address_per_minute=0, scan_url=url)
        async with serving(tmp_path, attachments=limits) as api:
            await uploaded(api, large)
            known = files(tmp_path)
            for content in (b"bad", b"wrong"):
                assert error_of(await upload(api, content)) == (422, "attachment_rejected", "file")
            for content in (b"unclear", b"redirect"):
                assert error_of(await upload(api, content)) == (503, "overloaded", "")
            assert files(tmp_path) == known
            assert await rows(api) == 1
    assert bodies[0] == len(large)
    assert seen[0][""] == "POST /scan HTTP/1.1"
    assert (seen[0]["content-length"], seen[0]["content-type"]) == ("1000000", "application/octet-stream")


async def test_a_scan_service_that_hangs_or_is_away_takes_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with scan_service(lambda _: 0) as url:
        for address in (url, "http://user:pa55word@127.0.0.1:1/scan"):
            limits = AttachmentSettings(scan_url=address, scan_seconds=1)
            async with serving(tmp_path, attachments=limits) as api:
                assert error_of(await upload(api, b"x")) == (503, "overloaded", "")
                assert files(tmp_path) == []
    assert "it did not finish" in caplog.text
    assert "can't be reached" in caplog.text
    assert "pa55word" not in caplog.text


async def test_only_configured_types_are_accepted(tmp_path: Path) -> None:
    async with serving(tmp_path, attachments=AttachmentSettings(types=("image", "application/pdf"))) as api:
        await uploaded(api, picture())
        await uploaded(api, b"%PDF-1.7\n")
        for content in (b"text", b"PK\x03\x04", b"MZ\0", b"ID3\4"):
            assert error_of(await upload(api, content)) == (422, "attachment_rejected", "file")
    async with serving(tmp_path, attachments=AttachmentSettings(types=("program",))) as api:
        await uploaded(api, b"MZ\0")


@pytest.mark.parametrize(
    ("content", "name", "media_type", "kind"),
    [
        (picture(), "a.html", "image/png", "inline"),
        (b"<script>alert(1)</script>", "a.html", "application/octet-stream", "attachment"),
        (b"<svg onload='alert(1)'>", "a.svg", "application/octet-stream", "attachment"),
        (b"GIF89a/*<script>alert(1)</script>*/", "a.html", "image/gif", "inline"),
        (b"%PDF-1.7", "a.pdf", "application/octet-stream", "attachment"),
        (b"plain", 'я "1".txt', "application/octet-stream", "attachment"),
    ],
    ids=["picture", "html", "svg", "polyglot", "pdf", "text"],
)
async def test_a_file_is_shown_or_only_downloaded_and_runs_nothing(
    content: bytes, name: str, media_type: str, kind: str, tmp_path: Path
) -> None:
    async with serving(tmp_path) as api:
        attachment = await uploaded(api, content, name)
        answer = await api.http.get(attachment["url"])
        assert answer.content == content
        headers = answer.headers
        assert headers["content-type"] == media_type
        assert headers["content-disposition"].startswith(f"{kind}; filename=")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")
        assert headers["cache-control"].startswith("private, max-age=")
        if name.startswith("я"):
            assert headers["content-disposition"] == (
                "attachment; filename=\"_ _1_.txt\"; filename*=UTF-8''%D1%8F%20%221%22.txt"
            )
        head = await api.http.head(attachment["url"])
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=0-", 206, 0, 1_000_000),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=500000-", 206, 500_000, 1_000_000),
        ("bytes=999999-2000000", 206, 999_999, 1_000_000),
        ("bytes=-10", 206, 999_990, 1_000_000),
        ("bytes=-2000000", 206, 0, 1_000_000),
        ("bytes=1000000-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=5-2", 200, 0, 1_000_000),
        ("bytes=-", 200, 0, 1_000_000),
        ("bytes=0-1,5-6", 200, 0, 1_000_000),
        ("lines=0-1", 200, 0, 1_000_000),
    ],
)
async def test_a_range_of_a_file_can_be_had(asked: str, status: int, start: int, stop: int, tmp_path: Path) -> None:
    content = bytes(range(250)) * 4_000
    async with serving(tmp_path) as api:
        url = (await uploaded(api, content))["url"]
        answer = await api.http.get(url, headers={"Range": asked})
        assert answer.status_code == status
        assert answer.content == content[start:stop]
        if status == 206:
            assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/1000000"
        elif status == 416:
            assert answer.headers["content-range"] == "bytes */1000000"
        tag = (await api.http.head(url)).headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', f'"a,b" ,W/{tag}, "c"', "*"):
            unchanged = await api.http.get(url, headers={"If-None-Match": known})
            assert (unchanged.status_code, unchanged.content) == (304, b"")
        for other in ('"other"', f'{tag[:-1]}x"', "W/", tag[1:-1], '"*"'):
            assert (await api.http.get(url, headers={"If-None-Match": other})).status_code == 200
        whole = await api.http.get(url, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
        assert (whole.status_code, len(whole.content)) == (200, 1_000_000)


async def test_a_link_dies_for_other_readers_and_when_it_is_changed(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        attachment, other = await uploaded(api, b"x"), await uploaded(api, b"y")
        url = attachment["url"]
        assert (await api.call("GET", url, ANNA)).status_code == 200
        assert error_of(await api.call("GET", url, BEN)) == (403, "not_allowed", "")
        assert error_of(await api.call("GET", url, "no-token")) == (401, "not_authenticated", "")
        for wrong in (
            url.partition("?")[0],
            url[:-1],
            url[:-1] + ("A" if url[-1] != "A" else "B"),
            url.replace(attachment["uuid"], other["uuid"]),
        ):
            assert error_of(await api.http.get(wrong)) == (403, "not_allowed", "")
        # Text has no preview.
        assert attachment["url_preview"] == ""
        assert error_of(await api.http.get(url.replace("?", "/preview?"))) == (404, "not_found", "")


async def test_a_link_of_a_file_that_is_gone_leads_nowhere(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        attachment = await uploaded(api, b"x")
        for path in (tmp_path / "attachments").rglob(UUID(attachment["uuid"]).hex):
            path.unlink()
        assert error_of(await api.http.get(attachment["url"])) == (404, "not_found", "")


async def test_a_file_without_a_preview_and_a_file_that_is_gone_are_told_apart(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        attachment = await uploaded(api, b"text", "a.txt")
        url, _, ticket = attachment["url"].partition("?")
        answer = await api.http.get(f"{url}/preview?{ticket}")
        assert (error_of(answer)[:2], answer.json()["error"]["detail"]) == (
            (404, "not_found"),
            "the file has no preview",
        )
        await part_of(api)._chats.expire_uploads((UUID(attachment["uuid"]),), 1e10)
        answer = await api.http.get(attachment["url"])
        assert (error_of(answer)[:2], answer.json()["error"]["detail"]) == ((404, "not_found"), "there is no such file")


async def test_files_that_no_message_took_are_deleted_with_their_rows(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        _, chat = await api.visit(token=ANNA)
        kept, unused = await uploaded(api, picture()), await uploaded(api, picture())
        assert (await api.write(ANNA, chat, attachments=[kept["uuid"]])).status_code == 201
        part = part_of(api)
        await part.expire_unused()
        assert await rows(api) == 1
        part._settings = attrs.evolve(part._settings, unused_timeout=60)
        real = part._clock
        part._clock = lambda: real() + 61
        await part.expire_unused()
        uuid = UUID(kept["uuid"]).hex
        assert files(tmp_path) == [uuid, f"{uuid}.preview"]
        assert await rows(api) == 0
        assert (await api.http.get(kept["url"])).status_code == 200
        assert error_of(await api.http.get(unused["url"])) == (404, "not_found", "")
        refused = await api.write(ANNA, chat, attachments=[unused["uuid"]])
        assert error_of(refused) == (422, "attachment_unknown", "attachments")


async def test_old_bytes_without_a_row_are_deleted_and_others_kept(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        attachment = await uploaded(api, b"x")
        folder = tmp_path / "attachments" / "ab"
        folder.mkdir(exist_ok=True)
        orphan = "ab" + uuid4().hex[2:]
        for name in (orphan, f"{orphan}.preview", "ab-not-ours"):
            (folder / name).write_bytes(b"x")
        part = part_of(api)
        await part.delete_orphans()
        assert len(files(tmp_path)) == 4
        real = part._clock
        part._clock = lambda: real() + ORPHAN_SECONDS + 5
        await part.delete_orphans()
        assert files(tmp_path) == sorted([UUID(attachment["uuid"]).hex, "ab-not-ours"])


async def test_a_server_without_a_database_leaves_the_files_of_another_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        await uploaded(api, b"x")
    known = files(tmp_path)
    for path in (tmp_path / "attachments").rglob("*"):
        os.utime(path, (1, 1))
    async with serving(tmp_path, "memory") as api:
        await uploaded(api, b"y")
        await part_of(api).delete_orphans()
    assert files(tmp_path) == known


async def test_a_second_database_never_deletes_the_files_of_the_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        attachment = await uploaded(api, b"x")
    left = tmp_path / "attachments" / "incoming" / uuid4().hex
    left.write_bytes(b"half")
    known = files(tmp_path)
    settings = Settings(data=tmp_path, storage=f"sqlite:///{tmp_path / 'other.db'}", port=0, secret=SECRET)
    with pytest.raises(StartFailed, match="attachments belong to another database: start the server with that one"):
        async with open_server(settings):
            pass
    assert files(tmp_path) == known
    async with serving(tmp_path) as api:
        part = part_of(api)
        real = part._clock
        part._clock = lambda: real() + ORPHAN_SECONDS + 5
        await part.delete_orphans()
    assert files(tmp_path) == [UUID(attachment["uuid"]).hex]


async def test_the_database_that_stores_a_file_first_gets_the_folder(tmp_path: Path) -> None:
    other = Settings(data=tmp_path, storage=f"sqlite:///{tmp_path / 'other.db'}", port=0, secret=SECRET)
    # Both start before there is a file.
    async with run_server(other) as second, serving(tmp_path) as first:
        await uploaded(first, b"x")
        for path in (tmp_path / "attachments").rglob("*"):
            os.utime(path, (1, 1))
        known = files(tmp_path)
        assert error_of(await upload(second, b"y")) == (503, "storage_unavailable", "")
        with pytest.raises(BlobsUnavailable, match="belong to another database"):
            await part_of(second).delete_orphans()
        assert files(tmp_path) == known


async def test_a_restored_backup_of_the_database_keeps_its_files(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        attachment = await uploaded(api, b"x")
    (tmp_path / "actorchat.db").rename(tmp_path / "backup.db")
    (tmp_path / "backup.db").rename(tmp_path / "actorchat.db")
    async with serving(tmp_path) as api:
        assert (await api.http.get(attachment["url"])).content == b"x"
        await uploaded(api, b"y")


async def test_a_server_that_keeps_no_files_takes_them_while_it_runs() -> None:
    settings = Settings(storage="memory://", port=0, secret=SECRET)
    async with run_server(settings) as api:
        attachment = await uploaded(api, b"x")
        assert (await api.http.get(attachment["url"])).content == b"x"
        folder = await part_of(api)._blobs.prepare()
        assert folder.exists()
    assert not folder.parent.exists()


async def test_links_begin_with_the_configured_address(tmp_path: Path) -> None:
    async with serving(tmp_path, attachments=AttachmentSettings(url="https://chat.example/x/")) as api:
        attachment = await uploaded(api, b"x")
        assert attachment["url"].startswith(f"https://chat.example/x/api/attachments/{attachment['uuid']}?ticket=")


async def test_code_in_the_same_process_sends_and_reads_files(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        visitor = await api.server.connect_visitor(source="lk")
        calls = await api.server.api_for(visitor.user)
        attachment = await calls.upload(picture(), "photo.png")
        assert visitor.chat is not None
        message = await calls.add_message(visitor.chat, "", [attachment.uuid])
        assert await calls.download(message.attachments[0]) == picture()
        async for event in visitor:
            if isinstance(event, MessageAdded):
                assert [each.uuid for each in event.message.attachments] == [attachment.uuid]
                break
        await visitor.aclose()


async def test_the_client_uploads_sends_and_downloads_files(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            yield b"x" * 10_000

    async with serving(tmp_path, attachments=AttachmentSettings(size=1_000_000)) as api:
        _, chat = await api.visit(token=ANNA)
        async with open_api(api.server.url, token=ANNA) as client:
            attachment = await client.upload(pieces(), 'a "b"\n.txt')
            assert (attachment.filename, attachment.size) == ('a "b".txt', 1_000_000)
            message = await client.add_message(chat, "", [attachment.uuid])
            assert await client.download(message.attachments[0]) == b"x" * 1_000_000
            with pytest.raises(ValueError, match="no preview"):
                await client.download(attachment, preview=True)
            shown = await client.upload(picture(), "a.png")
            assert (await client.download(shown, preview=True))[8:12] == b"WEBP"
            with pytest.raises(ApiError, match="too_large"):
                await client.upload(b"x" * 1_000_001, "a.txt")
            async with open_api(api.server.url, token=BEN) as other:
                assert await other.download(shown) == picture()


async def test_a_large_upload_is_read_no_faster_than_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a slow disk doesn't take stays with the sender."""
    size = 30_000_000
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < size:
            await trio.lowlevel.checkpoint()
            sent += 100_000
            yield b"x" * 100_000

    held = trio.Event()
    real = trio.to_thread.run_sync

    async def slow(call: Any, *args: Any, **kwargs: Any) -> Any:
        if call is incoming_file._append:
            await held.wait()
        return await real(call, *args, **kwargs)

    async with serving(tmp_path, attachments=AttachmentSettings(size=size)) as api:
        async with open_api(api.server.url, token=ANNA) as client, trio.open_nursery() as nursery:
            monkeypatch.setattr(trio.to_thread, "run_sync", slow)
            nursery.start_soon(client.upload, pieces(), "a.bin")
            before = -1
            while before != sent or not sent:
                before = sent
                await trio.sleep(0.5)
            # The kernel's buffers hold some megabytes.
            assert sent < 20_000_000
            held.set()
        assert sent == size
        monkeypatch.undo()
        [path] = (tmp_path / "attachments").rglob("??/" + "?" * 32)
        assert path.stat().st_size == size


async def read_all(request: Request) -> None:
    async with aclosing(large_body(request)) as body:
        async for _ in body:
            pass


async def test_a_body_that_trickles_is_cut_off(tmp_path: Path, autojump_clock: MockClock) -> None:
    pace = BodyPace()
    sends, receives = trio.open_memory_channel[bytes](0)

    async def receive() -> Any:
        with trio.move_on_after(3_600):
            return {"type": "http.request", "body": await receives.receive(), "more_body": True}
        return {"type": "http.disconnect"}

    async def trickle(seconds: float, size: int) -> None:
        while True:
            await trio.sleep(seconds)
            await sends.send(b"x" * size)

    for seconds, size, ends in ((20.0, 100_000, 15.0), (1.0, 100, 16.0), (10.0, 10, 20.0)):
        request = Request({"type": "http", "headers": [], "state": {"body_pace": pace}}, receive)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, seconds, size)
            with pytest.raises(Problem, match="timeout"):
                await read_all(request)
            assert trio.current_time() - begun == pytest.approx(ends)
            nursery.cancel_scope.cancel()


async def test_a_draining_server_cuts_an_upload_off_and_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as api:
        stream = await half_an_upload(api)
        await until(lambda: len(files(tmp_path)) == 1)
        await api.server.drain()
        assert files(tmp_path) == []
        answer = bytes(await stream.receive_some())
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'"draining"' in answer
        await stream.aclose()


async def test_a_download_that_storage_cuts_off_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path) as api:
        attachment = await uploaded(api, bytes(1_000_000))
        read = LocalBlobs.read

        async def fail_later(self: LocalBlobs, key: str, start: int, size: int) -> bytes:
            if start:
                raise BlobsUnavailable("the disk is gone")
            return await read(self, key, start, size)

        monkeypatch.setattr(LocalBlobs, "read", fail_later)
        with pytest.raises(httpx.RemoteProtocolError):
            await api.http.get(attachment["url"])
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "files can't be stored or read: the disk is gone"
    ]


async def test_a_nearly_full_disk_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as api:
        await uploaded(api, b"x")
        known = files(tmp_path)
        monkeypatch.setattr(incoming_file, "MIN_FREE_BYTES", 2**62)
        assert error_of(await upload(api, b"x")) == (503, "storage_unavailable", "")
        assert files(tmp_path) == known


async def test_an_upload_ends_when_the_disk_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as api:
        await uploaded(api, b"x")
        known = files(tmp_path)
        asked: list[Path] = []

        def disk_usage(folder: Path) -> object:
            asked.append(folder)
            # As if other programs filled the disk while the file arrives.
            return SimpleNamespace(free=2**40 if len(asked) < 4 else 2**20)

        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        assert error_of(await upload(api, bytes(2_000_000))) == (503, "storage_unavailable", "")
        assert files(tmp_path) == known


async def test_a_source_may_have_its_own_rules_for_files(tmp_path: Path) -> None:
    limits = AttachmentSettings(
        per_minute=0,
        address_per_minute=0,
        size=1_000,
        types=("image", "file"),
        sources={
            "mall": SourceAttachmentSettings(types=("image",), per_message=1),
            "lk": SourceAttachmentSettings(size=100_000),
        },
    )
    async with serving(tmp_path, attachments=limits) as api:
        _, lk = await api.visit("lk", ANNA)
        _, mall = await api.visit("mall", ANNA)
        _, other = await api.visit("other", ANNA)
        # A visitor's token names no source, so the largest size and all types are accepted.
        refused = await upload(api, b"x" * 100_001)
        assert (error_of(refused), "100000" in refused.text) == ((413, "too_large", "file"), True)
        assert error_of(await upload(api, b"ID3\4")) == (422, "attachment_rejected", "file")
        large, text = await uploaded(api, b"x" * 100_000), await uploaded(api, b"x")
        first, second = await uploaded(api, picture(5, 5)), await uploaded(api, picture(6, 6))
        for chat, sent, code in (
            (other, [large], "attachment_rejected"),
            (mall, [text], "attachment_rejected"),
            (mall, [first, second], "too_many_attachments"),
        ):
            answer = await api.write(ANNA, chat, attachments=[each["uuid"] for each in sent])
            assert error_of(answer) == (422, code, "attachments")
        # What was refused can be sent elsewhere.
        for chat, sent in ((lk, [large, text]), (mall, [first]), (other, [second])):
            answer = await api.write(ANNA, chat, attachments=[each["uuid"] for each in sent])
            assert answer.status_code == 201, answer.text
        # An operator's token names its sources.
        assert error_of(await upload(api, b"x", who=operator(sources=["mall"]))) == (422, "attachment_rejected", "file")
        assert error_of(await upload(api, b"x" * 1_001, who=operator(sources=["mall", "other"]))) == (
            413,
            "too_large",
            "file",
        )


async def test_the_rules_of_a_source_hold_for_programs(tmp_path: Path) -> None:
    limits = AttachmentSettings(sources={"lk": SourceAttachmentSettings(types=("program",))})
    async with serving(tmp_path, attachments=limits) as api:
        _, lk = await api.visit("lk", ANNA)
        _, mall = await api.visit("mall", ANNA)
        program = await uploaded(api, b"MZ\0")
        answer = await api.write(ANNA, mall, attachments=[program["uuid"]])
        assert error_of(answer) == (422, "attachment_rejected", "attachments")
        answer = await api.write(ANNA, lk, attachments=[program["uuid"]])
        assert answer.status_code == 201
        [shown] = answer.json()["attachments"]
        assert (await api.http.get(shown["url"])).headers["content-type"] == "application/octet-stream"


async def test_files_that_no_message_uses_are_limited_per_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unused_uploads, "MIN_BYTES", 100)
    limits = AttachmentSettings(per_minute=0, address_per_minute=0, unused_bytes=1_000)
    async with serving(tmp_path, attachments=limits) as api:
        _, chat = await api.visit(token=ANNA)
        # The first file is accepted whatever its size.
        first = await uploaded(api, b"x" * 5_000)
        known = files(tmp_path)
        for content in (b"x", b"x" * 400_000):
            assert error_of(await upload(api, content)) == (429, "rate_limited", "")
        assert files(tmp_path) == known
        await uploaded(api, b"x", who=BEN)
        assert (await api.write(ANNA, chat, attachments=[first["uuid"]])).status_code == 201
        small = [await uploaded(api, b"x") for _ in range(10)]
        assert error_of(await upload(api, b"x")) == (429, "rate_limited", "")
    # They still count after a restart.
    async with serving(tmp_path, attachments=limits) as api:
        assert error_of(await upload(api, b"x")) == (429, "rate_limited", "")
        part = part_of(api)
        real = part._clock
        part._clock = lambda: real() + 86_401
        await part.expire_unused()
        assert part._unused._bytes == {}
        part._clock = real
        for _ in small:
            await uploaded(api, b"x")
        assert error_of(await upload(api, b"x")) == (429, "rate_limited", "")


async def test_files_that_no_message_uses_are_limited_per_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unused_uploads, "MIN_BYTES", 100)
    limits = AttachmentSettings(per_minute=0, address_per_minute=0, address_unused_bytes=1_000)
    async with serving(tmp_path, attachments=limits) as api:
        _, chat = await api.visit(token=ANNA)
        sent = [await uploaded(api, b"x" * 450, who=who) for who in (ANNA, BEN)]
        await uploaded(api, b"x", who=BEN)
        assert error_of(await upload(api, b"x", who=token(Role.USER, 102))) == (429, "rate_limited", "")
        # Refused uploads don't count.
        assert error_of(await upload(api, b"", who=ANNA)) == (422, "empty", "file")
        assert (await api.write(ANNA, chat, attachments=[sent[0]["uuid"]])).status_code == 201
        await uploaded(api, b"x", who=token(Role.USER, 102))
        unused = part_of(api)._unused
        await unused.forget_used()
        assert unused._bytes == {
            unused.open(Identity(Role.USER, 1), "127.0.0.1").keys[1]: 650,
            Identity(Role.USER, 101): 550,
            Identity(Role.USER, 102): 100,
        }
