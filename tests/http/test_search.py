"""Search over HTTP: what each caller finds, the pages, and the refusals."""

from typing import Any

import httpx
import pytest

from actorchat.client import ApiError, open_api
from actorchat.protocol import Role, User
from tests.server.server_under_test import ApiClient, customer, error_of, operator


async def search(api: ApiClient, token: str, **parameters: object) -> httpx.Response:
    return await api.call("GET", f"/api/search?{httpx.QueryParams(parameters)}", token)  # type: ignore[arg-type]


async def texts(api: ApiClient, token: str, q: str, **parameters: object) -> list[str]:
    answer = await search(api, token, q=q, **parameters)
    assert answer.status_code == 200, answer.text
    return [message["text"] for message in answer.json()]


async def note(api: ApiClient, chat: object, text: str) -> None:
    fields = {"text": text, "type": "system", "type_role": "operator"}
    assert (await api.call("POST", f"/api/chats/{chat}/messages", operator(), fields)).status_code == 201


async def test_everybody_finds_only_what_they_may_see(api: ApiClient) -> None:
    ann, chat = await api.visit()
    bob, other = await api.visit()
    await api.write(ann, chat, "Мой заказ")
    await api.write(bob, other, "заказ Боба")
    await note(api, chat, "заказ проверен")
    assert await texts(api, ann, "МОЙ заказ") == ["Мой заказ"]
    assert await texts(api, ann, "заказ", chat=chat) == ["Мой заказ"]
    assert await texts(api, bob, "заказ") == ["заказ Боба"]
    assert await texts(api, operator(), "заказ") == ["заказ проверен", "заказ Боба", "Мой заказ"]
    assert await texts(api, operator(), "заказ", chat=other) == ["заказ Боба"]
    assert await texts(api, operator(2, sources=("shop",)), "заказ") == []
    assert await texts(api, customer(9), "заказ") == []


async def test_an_edit_and_a_redaction_change_what_is_found_at_once(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    message_id = (await api.write(visitor, chat, "old words")).json()["id"]
    assert await texts(api, visitor, "old") == ["old words"]
    await api.call("PATCH", f"/api/messages/{message_id}", visitor, {"text": "new words"})
    assert (await texts(api, visitor, "old"), await texts(api, visitor, "new")) == ([], ["new words"])
    await api.call("DELETE", f"/api/messages/{message_id}", visitor)
    assert await texts(api, visitor, "words") == []


async def test_pages_are_linked_and_keep_their_parameters(api: ApiClient) -> None:
    visitor, chat = await api.visit()
    for number in range(5):
        await api.write(visitor, chat, f"order {number}")
    url: str | None = "/api/search?q=order&limit=2"
    found: list[str] = []
    while url is not None:
        answer = await api.call("GET", url, visitor)
        found += [message["text"] for message in answer.json()]
        url = answer.links.get("next", {}).get("url")
    assert found == [f"order {number}" for number in range(4, -1, -1)]


async def test_people_and_files_are_found_by_operators(api: ApiClient) -> None:
    visitor = customer(7, firstname="Анна", lastname="Берёзова")
    _, chat = await api.visit(token=visitor)
    headers = {"Authorization": f"Bearer {visitor}"}
    files = {"file": ("Счёт.txt", b"5")}
    file = (await api.http.post("/api/attachments", headers=headers, files=files)).json()
    await api.write(visitor, chat, "", attachments=[file["uuid"]])
    people = (await search(api, operator(), q="березова", kind="people")).json()
    assert [(user["id"], user["firstname"]) for user in people] == [(7, "Анна")]
    assert (await search(api, operator(2, sources=("shop",)), q="анна", kind="people")).json() == []
    [message] = (await search(api, operator(), q="счет", kind="files")).json()
    assert message["attachments"][0]["filename"] == "Счёт.txt"
    assert (await api.http.get(message["attachments"][0]["url"])).content == b"5"
    assert error_of(await search(api, visitor, q="eve", kind="people")) == (403, "not_allowed", "kind")


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({}, "q"),
        ({"q": " … "}, "q"),
        ({"q": "x" * 501}, "q"),
        ({"q": "x", "kind": "chats"}, "kind"),
        ({"q": "x", "chat": "1"}, "chat"),
        ({"q": "x", "before": "next"}, "before"),
        ({"q": "x", "limit": "0"}, "limit"),
        ({"q": "x", "text": "y"}, "text"),
    ],
)
async def test_a_wrong_parameter_is_named(api: ApiClient, parameters: dict[str, Any], path: str) -> None:
    assert error_of(await search(api, operator(), **parameters)) == (400, "malformed", path)


async def test_a_search_in_what_is_not_ones_own_is_refused(api: ApiClient) -> None:
    _, chat = await api.talk()
    assert error_of(await search(api, customer(9), q="hello", chat=chat)) == (403, "not_participant", "")
    shop = operator(2, sources=("shop",))
    assert error_of(await search(api, shop, q="hello", chat=chat)) == (403, "not_allowed", "")
    assert error_of(await search(api, shop, q="hello", source="lk")) == (403, "not_allowed", "source")
    assert error_of(await api.call("GET", "/api/search?q=x")) == (401, "not_authenticated", "")


async def test_the_client_and_the_embedding_program_search(api: ApiClient) -> None:
    visitor, chat = await api.talk()
    await api.write(visitor, chat, "hello again")
    async with open_api(api.server.url, token=operator()) as client:
        page = await client.search_messages("hello", source="lk", chat=chat, limit=1)
        assert [message.text for message in page.messages] == ["hello again"]
        page = await client.search_messages("hello", limit=1, cursor=page.next)
        assert ([message.text for message in page.messages], page.next) == (["hello"], None)
        assert (await client.search_people("nobody")).people == ()
        with pytest.raises(ApiError, match="malformed"):
            await client.search_messages("")
    local = await api.server.api_for(User(1, Role.OPERATOR, firstname="Eve"), sources=["lk"])
    assert len((await local.search_messages("hello")).messages) == 2
    assert (await local.search_messages("hello", files=True)).messages == ()
    assert [user.firstname for user in (await local.search_people("eve")).people] == ["Eve"]
