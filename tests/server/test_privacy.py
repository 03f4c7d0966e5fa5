"""A person is exported completely and erased everywhere, with a record that has no content."""

import io
import json
import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from actorchat.chat.accounts import Rights
from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator, run_server

ANN = 7


def settings_in(folder: Path, storage: str = "sqlite") -> Settings:
    return Settings(
        storage="memory://" if storage == "memory" else f"sqlite:///{folder}/chat.db",
        data=folder,
        port=0,
        secret=SECRET,
        limits=LimitSettings(messages_per_second=0),
    )


@pytest.fixture(params=["memory", "sqlite"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ApiClient]:
    async with run_server(settings_in(tmp_path, request.param)) as api:
        yield api


def chief(rights: Rights = Rights.ADMIN, sources: tuple[str, ...] = ("lk",), user_id: int = 3) -> str:
    return Tokens(SECRET).issue(User(user_id, Role.OPERATOR), sources, 60, rights)


async def talk(api: ApiClient) -> tuple[str, UUID]:
    """Make a chat of Ann with her messages, a file, an answer and a note."""
    ann = customer(ANN, firstname="Annabella")
    context = {"url": "https://shop.example/gold", "title": "Straw and gold"}
    visit = await api.call("POST", "/api/visitors", ann, {"source": "lk", "context": context})
    chat = UUID(visit.json()["chat"]["uuid"])
    headers = {"Authorization": f"Bearer {ann}"}
    files = {"file": ("passport.txt", b"geheim4711")}
    file = (await api.http.post("/api/attachments", headers=headers, files=files)).json()
    await api.write(ann, chat, "my name is Rumpelstilzchen", attachments=[file["uuid"]])
    await api.write(operator(firstname="Eve"), chat, "Hello Rumpelstilzchen!")
    note = {"text": "Rumpelstilzchen spins gold", "type": "system", "type_role": "operator"}
    await api.call("POST", f"/api/chats/{chat}/messages", operator(), note)
    await api.http.post("/api/attachments", headers=headers, files={"file": ("unused.txt", b"geheim4712")})
    return ann, chat


async def erase(api: ApiClient, token: str, role: str = "user", user_id: int = ANN) -> httpx.Response:
    return await api.call("POST", f"/api/people/{role}/{user_id}/erase", token)


async def close_code(socket: WebSocketConnection) -> int | None:
    try:
        while True:
            await socket.get_message()
    except ConnectionClosed as closed:
        return None if closed.reason is None else closed.reason.code


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


async def test_an_erased_visitor_is_gone_everywhere_and_counters_are_right(api: ApiClient) -> None:
    ann, chat = await talk(api)
    other, others_chat = await api.talk()
    async with api.socket(f"/ws/chats/{chat}", ann) as socket:
        answer = await erase(api, chief())
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"chats": 1, "messages": 3, "files": 2}
        with trio.fail_after(10):
            assert await close_code(socket) == 4410
    assert error_of(await api.call("GET", f"/api/chats/{chat}", ann))[0] == 401
    page: Any = (await api.call("GET", f"/api/chats/{chat}/messages", operator())).json()
    assert {message["text"] for message in page["messages"]} == {""}
    assert [message["attachments"] for message in page["messages"]] == [[]] * len(page["messages"])
    assert page["messages"][0]["user"]["firstname"] == ""
    assert page["messages"][0]["chat"]["owner_user"]["firstname"] == ""
    for kind in ("messages", "files", "people"):
        for q in ("rumpelstilzchen", "passport", "annabella"):
            assert (await api.call("GET", f"/api/search?q={q}&kind={kind}", operator())).json() == []
    operators: Any = (await api.call("GET", "/api/operators", operator())).json()
    eve = next(each for each in operators if each["user"]["id"] == 1)
    assert (eve["new_chats"], eve["open_chats"]) == (0, 0)
    assert (await api.call("GET", f"/api/chats/{chat}", operator())).json()["status"] == "closed"
    assert (await api.call("GET", f"/api/chats/{others_chat}", other)).json()["status"] == "new"
    again = await erase(api, chief())
    assert again.json() == {"chats": 1, "messages": 0, "files": 0}
    records: Any = (await api.call("GET", "/api/audit", chief())).json()
    assert [(each["action"], each["by"], each["id"]) for each in records] == [("erase", "operator 3", ANN)] * 2
    assert "Rumpel" not in json.dumps(records)


async def test_the_files_of_the_server_have_nothing_of_an_erased_person(tmp_path: Path) -> None:
    async with run_server(settings_in(tmp_path)) as api:
        await talk(api)
        assert (await api.call("GET", "/api/search?q=rumpelstilzchen", operator())).json() != []
        assert (await erase(api, chief())).status_code == 200
        assert (await api.call("GET", "/api/search?q=rumpelstilzchen", operator())).json() == []
        with trio.fail_after(20):
            while b"geheim47" in contents(tmp_path / "attachments"):  # noqa: ASYNC110 - the disk has no event
                await trio.sleep(0.05)
            # The index is rewritten in the background.
            while any(b"rumpelst" in path.read_bytes() for path in tmp_path.glob("chat-search*")):  # noqa: ASYNC110, ASYNC240
                await trio.sleep(0.05)
    stored = contents(tmp_path)
    for secret in (b"Rumpelstilzchen", b"rumpelstilzchen", b"Annabella", b"passport", b"geheim47", b"Straw and"):
        assert secret not in stored


async def test_an_export_has_the_profile_the_chats_and_the_files(api: ApiClient) -> None:
    _, chat = await talk(api)
    answer = await api.call("POST", f"/api/people/user/{ANN}/export", chief(Rights.SUPERVISOR))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert json.loads(archive.read("person.json"))["person"]["firstname"] == "Annabella"
        assert b"Straw and gold" in archive.read("person.json")
        messages = json.loads(archive.read(f"chats/{chat}.json"))
        assert [message["text"].split()[0] for message in messages] == ["my", "Hello", "Rumpelstilzchen"]
        link = messages[0]["attachments"][0]["url"]
        assert archive.read(link) == b"geheim4711"
        assert sorted(archive.namelist()) == sorted(["person.json", f"chats/{chat}.json", link])
    await erase(api, chief())
    later = await api.call("POST", f"/api/people/user/{ANN}/export", chief())
    assert b"Rumpel" not in b"".join(
        zipfile.ZipFile(io.BytesIO(later.content)).read(name)
        for name in zipfile.ZipFile(io.BytesIO(later.content)).namelist()
    )


async def test_an_export_whose_client_has_left_leaves_no_file(
    api: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    await talk(api)
    head = f"POST /api/people/user/{ANN}/export HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {chief()}\r\n\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", api.server.port) as stream:
        await stream.send_all(head.encode())
    with trio.fail_after(10):
        while not (await api.call("GET", "/api/audit", chief())).json():  # noqa: ASYNC110 - storage has no event
            await trio.sleep(0.01)
        while any(temporary.iterdir()):  # noqa: ASYNC110 - the disk has no event
            await trio.sleep(0.05)


async def test_an_operator_loses_its_messages_and_its_name_and_chats_stay(api: ApiClient) -> None:
    _, chat = await talk(api)
    exported = await api.call("POST", "/api/people/operator/1/export", chief())
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert [each["text"] for each in json.loads(archive.read("messages.json"))] == ["Hello Rumpelstilzchen!"]
    assert error_of(await erase(api, chief(Rights.SUPERVISOR), "operator", 1)) == (403, "not_allowed", "")
    assert (await erase(api, chief(), "operator", 1)).json()["messages"] == 2
    page: Any = (await api.call("GET", f"/api/chats/{chat}/messages", chief())).json()
    assert [message["text"] for message in page["messages"]] == ["my name is Rumpelstilzchen", "", ""]
    assert page["messages"][1]["user"] == attrs.asdict(User(1, Role.OPERATOR))


@pytest.mark.parametrize("action", ["erase", "export"])
async def test_only_supervisors_with_all_sources_of_a_person_may_do_it(api: ApiClient, action: str) -> None:
    ann, _ = await talk(api)
    path = f"/api/people/user/{ANN}/{action}"
    for token in (ann, operator(), chief(Rights.SUPERVISOR, ("shop",))):
        assert error_of(await api.call("POST", path, token)) == (403, "not_allowed", "")
    for unknown in ("/api/people/user/8/", "/api/people/bot/7/", f"/api/people/user/{2**60}/"):
        assert error_of(await api.call("POST", unknown + action, chief())) == (404, "not_found", "")
    assert error_of(await api.call("GET", "/api/audit", chief(Rights.SUPERVISOR))) == (403, "not_allowed", "")
