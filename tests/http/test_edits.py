"""Editing and redacting messages over HTTP: the answers, the refusals, and what history shows afterwards."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from actorchat.chat.accounts import Rights
from actorchat.chat.submitter import ChatRefused
from actorchat.client import ApiError, open_api
from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from actorchat.server.settings import ChatSettings, InvalidSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, customer, error_of, operator, run_server


def supervisor(source: str = "lk") -> str:
    return Tokens(SECRET).issue(User(3, Role.OPERATOR), (source,), 60, Rights.SUPERVISOR)


async def edit(api: ApiClient, token: str, message_id: int, body: object) -> httpx.Response:
    return await api.call("PATCH", f"/api/messages/{message_id}", token, body)


async def redact(api: ApiClient, token: str, message_id: int) -> httpx.Response:
    return await api.call("DELETE", f"/api/messages/{message_id}", token)


async def history(api: ApiClient, token: str, chat: object) -> Any:
    return (await api.call("GET", f"/api/chats/{chat}/messages", token)).json()


async def test_an_edited_message_is_returned_and_shown_in_history(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    sent = (await api.write(visitor, chat, "helo")).json()
    answer = await edit(api, visitor, sent["id"], {"text": "hello"})
    assert answer.status_code == 200
    assert answer.json() == sent | {"text": "hello", "chat": answer.json()["chat"]}
    page = await history(api, operator(), chat)
    assert page["messages"] == [answer.json()]
    [shown] = page["edits"]
    assert (shown["message_index"], shown["redacted"]) == (0, False)
    again = await edit(api, visitor, sent["id"], {"text": "hello"})
    assert (again.status_code, again.json()["text"]) == (200, "hello")


async def test_a_redacted_message_keeps_its_place_and_loses_text_and_files(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    upload = await api.http.post(
        "/api/attachments", headers={"Authorization": f"Bearer {visitor}"}, files={"file": ("a.txt", b"secret")}
    )
    file = upload.json()
    sent = (await api.write(visitor, chat, "hello", attachments=[file["uuid"]])).json()
    link = sent["attachments"][0]["url"]
    assert (await api.http.get(link)).content == b"secret"
    for _ in range(2):
        answer = await redact(api, visitor, sent["id"])
        assert answer.status_code == 200
        assert (answer.json()["text"], answer.json()["attachments"]) == ("", [])
    assert error_of(await api.http.get(link)) == (404, "not_found", "")
    page = await history(api, visitor, chat)
    assert [message["message_index"] for message in page["messages"]] == [0]
    assert page["edits"][0]["redacted"] is True
    assert error_of(await edit(api, visitor, sent["id"], {"text": "back"})) == (409, "conflict", "")
    folder = api.server.settings.data
    assert folder is not None
    with trio.fail_after(10):
        while any(path.read_bytes() == b"secret" for path in folder.rglob("*") if path.is_file()):  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_only_the_author_edits_and_supervisors_of_the_source_redact_too(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    message_id = (await history(api, visitor, chat))["messages"][0]["id"]
    assert error_of(await edit(api, operator(), message_id, {"text": "mine"})) == (403, "not_allowed", "")
    for stranger in (customer(7), operator(2, sources=("shop",))):
        assert error_of(await edit(api, stranger, message_id, {"text": "mine"})) == (404, "not_found", "")
        assert error_of(await redact(api, stranger, message_id)) == (404, "not_found", "")
    assert error_of(await redact(api, operator(), message_id)) == (403, "not_allowed", "")
    assert error_of(await redact(api, supervisor("shop"), message_id)) == (404, "not_found", "")
    assert (await redact(api, supervisor(), message_id)).status_code == 200


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"text": ""}, (422, "empty", "text")),
        ({"text": "x" * 4_001}, (422, "too_long", "text")),
        ({}, (422, "malformed", "text")),
        ({"text": 1}, (422, "malformed", "text")),
    ],
)
async def test_a_bad_text_changes_nothing(api: ApiClient, body: object, refusal: tuple[int, str, str]) -> None:
    visitor, chat = await api.talk()
    message_id = (await history(api, visitor, chat))["messages"][0]["id"]
    assert error_of(await edit(api, visitor, message_id, body)) == refusal
    page = await history(api, visitor, chat)
    assert page["messages"][0]["text"] == "hello"
    assert "edits" not in page


@pytest.mark.parametrize("message_id", ["0", "999999", str(2**53), "9" * 30])
async def test_a_message_that_does_not_exist_is_not_found(api: ApiClient, message_id: str) -> None:
    visitor, _ = await api.talk()
    answer = await api.call("DELETE", f"/api/messages/{message_id}", visitor)
    assert error_of(answer) == (404, "not_found", "")


async def test_authors_change_nothing_where_the_settings_say_so() -> None:
    settings = Settings(storage="memory://", port=0, secret=SECRET, chat=ChatSettings(edit_within=0))
    async with run_server(settings) as api:
        visitor, chat = await api.talk()
        message_id = (await history(api, visitor, chat))["messages"][0]["id"]
        assert error_of(await edit(api, visitor, message_id, {"text": "x"})) == (409, "too_late", "")
        assert error_of(await redact(api, visitor, message_id)) == (409, "too_late", "")
        assert (await redact(api, supervisor(), message_id)).status_code == 200
    with pytest.raises(InvalidSettings, match="edit_within"):
        Settings(chat=ChatSettings(edit_within=-1))


async def test_the_client_and_the_embedding_program_edit_and_redact(api: ApiClient, tmp_path: Path) -> None:
    visitor, chat = await api.visit()
    sent = (await api.write(visitor, chat, "helo")).json()
    async with open_api(api.server.url, token=visitor) as client:
        assert (await client.edit(sent["id"], "hello")).text == "hello"
        assert (await client.history(chat)).edits[0].redacted is False
        with pytest.raises(ApiError, match="not_found"):
            await client.redact(sent["id"] + 1)
    local = await api.server.api_for(User(1, Role.OPERATOR), sources=["lk"])
    mine = await local.add_message(chat, "hello")
    assert (await local.edit(mine.id, "welcome")).text == "welcome"
    assert (await local.redact(mine.id)).text == ""
    assert (await local.history(chat)).edits[1].redacted is True
    with pytest.raises(ChatRefused, match="not_allowed"):
        await local.redact(sent["id"])
