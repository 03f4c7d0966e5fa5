"""The server listens on a Unix socket for a proxy, and below a path."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from actorchat.client import open_api
from actorchat.http.unix_user import unix_user
from actorchat.server.bootstrap import StartFailed
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import InvalidSettings, LimitSettings, MetricsSettings, Settings
from actorchat.testing import RawPeer
from tests.server.server_under_test import SECRET, operator, run_server

pytestmark = pytest.mark.slow

SETTINGS = Settings(storage="memory://", port=0, secret=SECRET, limits=LimitSettings(visitors_per_minute=1))


@asynccontextmanager
async def serving(
    path: Path, transport: str = "auto", metrics: MetricsSettings | None = None
) -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    with trio.fail_after(30):
        async with (
            open_server(
                attrs.evolve(SETTINGS, unix=path, transport=transport, metrics=metrics or SETTINGS.metrics)
            ) as server,
            httpx.AsyncClient(base_url="http://x", transport=httpx.AsyncHTTPTransport(uds=str(path))) as http,
        ):
            yield server, http


async def test_requests_and_websockets_work_through_a_unix_socket(tmp_path: Path) -> None:
    for transport in ("reactor", "trio-websocket"):
        path = tmp_path / transport
        async with serving(path, transport) as (server, http):
            assert server.url == f"unix:{path}"
            with pytest.raises(RuntimeError, match="has no port"):
                _ = server.port
            visit = (await http.post("/api/visitors", json={"source": "lk"})).json()
            peer = RawPeer(await trio.open_unix_socket(path))
            header = (f"Authorization: Bearer {visit['token']}",)
            head = await peer.handshake(f"/ws/chats/{visit['chat']['uuid']}", ("actorchat.v1",), headers=header)
            assert b" 101 " in head
            assert b"user_connected" in await peer.receive()
            await peer.send_text('{"type": "send_message", "data": {"text": "hello", "attachments": []}}')
            assert b"hello" in await peer.receive()
            await peer.close()
            await peer.read_to_end()
        assert not await trio.Path(path).exists()


async def test_only_the_owner_and_the_group_may_connect(tmp_path: Path) -> None:
    async with serving(tmp_path / "s"):
        mode = (await trio.Path(tmp_path / "s").lstat()).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


async def test_the_headers_of_the_proxy_count(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as (_, http):
        statuses = [
            (await http.post("/api/visitors", json={"source": "lk"}, headers={"X-Forwarded-For": address})).status_code
            for address in ("9.9.9.1", "9.9.9.2", "9.9.9.2")
        ]
        assert statuses == [201, 201, 429]


@pytest.mark.parametrize("transport", ["reactor", "trio-websocket"])
async def test_the_servers_user_may_read_metrics(tmp_path: Path, transport: str) -> None:
    async with serving(tmp_path / "s", transport) as (_, http):
        answer = await http.get("/metrics")
        assert (answer.status_code, "actorchat_" in answer.text) == (200, True)
    none = MetricsSettings(networks=())
    async with serving(tmp_path / "s", transport, none) as (_, http):
        assert (await http.get("/metrics")).status_code == 403


@pytest.mark.parametrize("user", [1, 0, None])
async def test_a_proxy_without_headers_and_another_user_does_not_open_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int | None
) -> None:
    monkeypatch.setattr("actorchat.http.connection.unix_user", lambda sock: user)
    monkeypatch.setattr("os.geteuid", lambda: 1017)
    async with serving(tmp_path / "s") as (_, http):
        answer = await http.get("/metrics")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "not_allowed")


async def test_the_address_that_a_proxy_names_decides_about_metrics_but_not_loopback(tmp_path: Path) -> None:
    settings = MetricsSettings(networks=("9.9.0.0/16", "127.0.0.0/8", "::1/128"))
    async with serving(tmp_path / "s", metrics=settings) as (_, http):
        for headers, status in (
            ({"X-Forwarded-For": "9.9.9.1"}, 200),
            ({"X-Forwarded-For": "8.8.8.8"}, 403),
            ({"X-Forwarded-For": "127.0.0.1"}, 403),
            ({"X-Forwarded-For": "::1"}, 403),
            ({"X-Forwarded-For": "unknown"}, 403),
            ({"Forwarded": "for=127.0.0.1"}, 403),
            ({"X-Real-IP": "127.0.0.1"}, 403),
            ({"Via": "1.1 proxy"}, 403),
        ):
            assert (await http.get("/metrics", headers=headers)).status_code == status, headers


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the user of a peer is found on Linux only")
def test_the_user_at_the_other_end_of_a_unix_socket_is_found() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unix_user(ours) == os.geteuid()


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with serving(path):
        with pytest.raises(StartFailed, match="is in use: another server listens on it"):
            async with open_server(attrs.evolve(SETTINGS, unix=path)):
                pass
        async with httpx.AsyncClient(base_url="http://x", transport=httpx.AsyncHTTPTransport(uds=str(path))) as http:
            assert (await http.get("/health/live")).status_code == 200


async def test_a_file_of_another_kind_stays(tmp_path: Path) -> None:
    file = trio.Path(tmp_path / "s")
    await file.write_text("content")
    with pytest.raises(StartFailed, match="there is a file that is not a socket"):
        async with open_server(attrs.evolve(SETTINGS, unix=tmp_path / "s")):
            pass
    assert await file.read_text() == "content"


@pytest.mark.parametrize("path", ["missing/s", "x" * 200])
async def test_an_unusable_path_is_one_line(tmp_path: Path, path: str) -> None:
    with pytest.raises(StartFailed, match="can't listen on"):
        async with open_server(attrs.evolve(SETTINGS, unix=tmp_path / path)):
            pass


@pytest.mark.parametrize("wrong", ["chat", "/a b", "/a?b", "//a", "/../a b"])
def test_a_base_path_is_a_path(wrong: str) -> None:
    with pytest.raises(InvalidSettings, match="base_path: expected a path like /chat"):
        Settings(base_path=wrong)


async def test_below_a_base_path_everything_works_and_links_have_it() -> None:
    settings = attrs.evolve(SETTINGS, base_path="/chat/", limits=LimitSettings(visitors_per_minute=0))
    async with run_server(settings) as api:
        # A proxy may pass on the whole path, or remove the base path.
        for base in ("/chat", ""):
            made = (await api.http.post(f"{base}/api/visitors", json={"source": "lk"})).json()
            chat, bearer = made["chat"]["uuid"], {"Authorization": f"Bearer {made['token']}"}
            files = {"file": ("a.txt", b"content")}
            file = (await api.http.post(f"{base}/api/attachments", files=files, headers=bearer)).json()
            assert file["url"].startswith("/chat/api/attachments/")
            assert (await api.http.get(file["url"])).content == b"content"
            await api.http.post(f"{base}/api/chats/{chat}/messages", json={"text": "hello"}, headers=bearer)
            async with api.socket(f"{base}/ws/chats/{chat}", made["token"]) as room:
                assert "user_connected" in await room.get_message()
        async with open_api(f"{api.server.url}/chat", token=operator()) as client:
            assert await client.download(await client.upload(b"content", "b.txt")) == b"content"
        page = await api.call("GET", "/chat/api/chats?limit=1", operator())
        link = page.headers["link"].partition(">")[0].removeprefix("<")
        assert link.startswith("/chat/api/chats?limit=1&before=")
        assert len((await api.call("GET", link, operator())).json()) == 1
        assert (await api.http.get("/chatter/health/live")).status_code == 404
        assert (await api.http.get("/chat/openapi.json")).json()["servers"][0]["url"] == "/chat"
        assert (await api.http.get("/chat/docs")).status_code == 200


async def test_a_page_at_the_base_path_is_at_the_path_with_a_slash_because_its_links_are_relative() -> None:
    async with run_server(attrs.evolve(SETTINGS, base_path="/chat")) as api:
        for path, target in (("/chat", "/chat/"), ("/chat?lang=ru&a=%20", "/chat/?lang=ru&a=%20")):
            answer = await api.http.get(path)
            assert (answer.status_code, answer.headers["location"]) == (307, target)
        assert (await api.http.get("/chat/")).status_code == 200
