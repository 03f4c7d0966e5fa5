"""Transcripts: complete, in order, only with what the reader may see, and harmless to open."""

import json
from uuid import UUID

import httpx
import pytest

from actorchat.client import open_api
from actorchat.protocol import Role, User
from tests.server.server_under_test import ApiClient, customer, error_of, operator


async def transcript(api: ApiClient, token: str, chat: UUID, format: str = "text") -> httpx.Response:
    return await api.call("GET", f"/api/chats/{chat}/transcript?format={format}", token)


async def talk(api: ApiClient) -> tuple[str, UUID]:
    visitor = customer(7, firstname="Ann", lastname="<b>Lee</b>")
    _, chat = await api.visit(token=visitor)
    await api.write(visitor, chat, "Hello,\n<script>alert(1)</script> & \x1b[31mred")
    await api.write(operator(firstname="Eve"), chat, "Good morning!")
    fields = {"text": "pays late", "type": "system", "type_role": "operator"}
    await api.call("POST", f"/api/chats/{chat}/messages", operator(), fields)
    await api.call("POST", f"/api/chats/{chat}/close", operator())
    return visitor, chat


async def test_a_text_has_every_message_and_a_note_only_for_operators(api: ApiClient) -> None:
    visitor, chat = await talk(api)
    answer = await transcript(api, visitor, chat)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="chat-{chat}.txt"'
    assert answer.headers["cache-control"] == "no-store"
    lines = answer.text.splitlines()
    assert lines[0] == f"Chat {chat} at lk, closed"
    assert lines[1] == "Customer: Ann <b>Lee</b>. Operator: Eve"
    assert [line.split("] ")[-1] for line in lines[3:]] == [
        "Ann <b>Lee</b>: Hello,",
        "    <script>alert(1)</script> & \ufffd[31mred",
        "Eve: Good morning!",
        "Eve: The chat was closed.",
    ]
    assert "(note): pays late" in (await transcript(api, operator(), chat)).text


async def test_html_is_escaped_and_allows_nothing_but_its_own_style(api: ApiClient) -> None:
    visitor, chat = await talk(api)
    answer = await transcript(api, visitor, chat, "html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "<script" not in answer.text
    assert "<b>" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in answer.text
    assert 'http-equiv="Content-Security-Policy"' in answer.text
    assert "pays late" not in answer.text
    assert 'class="note"' in (await transcript(api, operator(), chat, "html")).text


async def test_json_has_the_chat_and_the_messages_of_the_history(api: ApiClient) -> None:
    visitor, chat = await talk(api)
    body = json.loads((await transcript(api, visitor, chat, "json")).content)
    history = (await api.call("GET", f"/api/chats/{chat}/messages", visitor)).json()
    assert body["messages"] == history["messages"]
    assert body["chat"] == (await api.call("GET", f"/api/chats/{chat}", visitor)).json()


async def test_a_long_chat_is_complete(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    local = await api.server.api_for(User(1, Role.OPERATOR), sources=["lk"])
    await api.write(visitor, chat, "begin")
    for number in range(450):
        await local.add_note(chat, str(number))
    body = json.loads((await transcript(api, operator(), chat, "json")).content)
    assert [message["message_index"] for message in body["messages"]] == list(range(451))
    text = await local.transcript(chat)
    assert [line.rsplit(" ", 1)[-1] for line in text.splitlines()[4:]] == [str(number) for number in range(450)]
    assert (await local.transcript(chat, "html")).count("<li ") == 451


async def test_removed_and_edited_messages_are_marked(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    first = (await api.write(visitor, chat, "secret")).json()["id"]
    second = (await api.write(visitor, chat, "helo")).json()["id"]
    await api.call("DELETE", f"/api/messages/{first}", visitor)
    await api.call("PATCH", f"/api/messages/{second}", visitor, {"text": "hello"})
    async with open_api(api.server.url, token=visitor) as client:
        text = await client.transcript(chat)
    assert [line.split(": ", 1)[1] for line in text.splitlines()[3:]] == ["(removed)", "hello (edited)"]


@pytest.mark.parametrize("format", ["pdf", ""])
async def test_another_format_is_refused(api: ApiClient, format: str) -> None:
    visitor, chat = await api.talk()
    assert error_of(await transcript(api, visitor, chat, format)) == (400, "malformed", "format")
    assert error_of(await transcript(api, customer(9), chat)) == (403, "not_participant", "")
