"""Rules about the HTTP API. The first line of each docstring is the rule."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from actorchat.testing.conformance.deployment import Deployment, expect

__all__ = ["CHECKS"]

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d")
_USER: Final = {"id": int, "role": str, "avatar": str, "lastname": str, "firstname": str, "patronymic": str}
_CHAT: Final = {"uuid": str, "widget": dict, "status": str, "owner_user": dict, "operator_user": dict | None}
_MESSAGE: Final = {
    "id": int,
    "type": str,
    "type_role": str,
    "status": str,
    "text": str,
    "send_time": str,
    "message_index": int,
    "chat": dict,
    "user": dict | None,
    "attachments": list,
}
_ATTACHMENT: Final = {
    "uuid": str,
    "type": str,
    "url": str,
    "url_preview": str,
    "filename": str,
    "extension": str,
    "size": int,
}


# Any: JSON, and types or unions of types.
def has_fields(value: Any, fields: Mapping[str, Any], what: str) -> None:
    """Check the names, the order and the types of an entity's fields."""
    expect(isinstance(value, dict), f"{what} must be an object, got {value!r}")
    expect(list(value) == list(fields), f"{what} must have the fields {', '.join(fields)}, got {', '.join(value)}")
    for name, type_ in fields.items():
        fits = isinstance(value[name], type_) and not isinstance(value[name], bool)
        expect(fits, f"{what}.{name} has another type: {value[name]!r}")


def is_message(value: Any, what: str) -> None:  # Any: JSON
    """Check a whole message with its chat and user."""
    has_fields(value, _MESSAGE, what)
    is_chat(value["chat"], f"{what}.chat")
    if value["user"] is not None:
        has_fields(value["user"], _USER, f"{what}.user")
    for file in value["attachments"]:
        has_fields(file, _ATTACHMENT, f"{what}.attachments")
    expect(_TIME.fullmatch(value["send_time"]), f"send_time must be YYYY-MM-DDTHH:MM:SS±HH:MM: {value['send_time']}")
    expect(value["status"] in ("new", "delivered", "read"), f"{what}.status is {value['status']!r}")


def is_chat(value: Any, what: str) -> None:  # Any: JSON
    has_fields(value, _CHAT, what)
    has_fields(value["owner_user"], _USER, f"{what}.owner_user")
    has_fields(value["widget"], {"source": str}, f"{what}.widget")
    expect(value["status"] in ("new", "open", "closed"), f"{what}.status is {value['status']!r}")


async def entities_have_the_contracts_fields(deployment: Deployment) -> None:
    """Entities have exactly the contract's fields, in its order, with its types."""
    visit = await deployment.ok("POST", "/api/visitors", body={"source": deployment.source})
    has_fields(visit, {"token": str, "user": dict, "chat": dict}, "the answer to POST /api/visitors")
    has_fields(visit["user"], _USER, "user")
    is_chat(visit["chat"], "chat")
    visitor = await deployment.visitor()
    is_message(await deployment.write(visitor, "hello"), "message")


async def a_visit_is_continued_with_its_token(deployment: Deployment) -> None:
    """A visitor's token gets the same open chat back, with 200 instead of 201."""
    made = await deployment.call("POST", "/api/visitors", body={"source": deployment.source})
    expect(made.status_code == 201, f"a new visitor was answered with {made.status_code} instead of 201")
    again = await deployment.call("POST", "/api/visitors", made.json()["token"], {"source": deployment.source})
    expect(again.status_code == 200, f"a known visitor was answered with {again.status_code} instead of 200")
    expect(again.json()["chat"]["uuid"] == made.json()["chat"]["uuid"], "a known visitor got another chat")


async def errors_have_code_detail_and_path(deployment: Deployment) -> None:
    """Errors have the contract's statuses and the body {"error": {"code", "detail", "path"}}."""
    visitor = await deployment.visitor()
    messages = f"/api/chats/{visitor.chat}/messages"
    cases: Sequence[tuple[int, str, str, str | None, Any]] = (
        (404, "GET", "/api/no-such-path", visitor.token, None),
        (401, "GET", f"/api/chats/{visitor.chat}", None, None),
        (401, "GET", f"/api/chats/{visitor.chat}", "no-token", None),
        (404, "GET", f"/api/chats/{uuid4()}", visitor.token, None),
        (422, "POST", messages, visitor.token, {"text": 1}),
        (422, "POST", messages, visitor.token, {}),
        (400, "GET", f"{messages}?limit=x", visitor.token, None),
        (405, "DELETE", messages, visitor.token, None),
    )
    for status, method, path, token, body in cases:
        answer = await deployment.call(method, path, token, body)
        expect(answer.status_code == status, f"{method} {path}: expected {status}, got {answer.status_code}")
        error = answer.json()["error"]
        has_fields(error, {"code": str, "detail": str, "path": str}, f"the error of {method} {path}")
    answer = await deployment.call("POST", messages, visitor.token, content=b"no JSON")
    expect(answer.status_code == 400, f"a body that is not JSON was answered with {answer.status_code}")


async def unknown_query_parameters_are_refused(deployment: Deployment) -> None:
    """An unknown query parameter is refused by name."""
    visitor = await deployment.visitor()
    answer = await deployment.call("GET", f"/api/chats/{visitor.chat}/messages?beforehand=1", visitor.token)
    expect(answer.status_code == 400, f"the parameter beforehand was answered with {answer.status_code} instead of 400")
    expect("beforehand" in answer.json()["error"]["detail"], "the error does not name the parameter")


async def private_answers_are_not_cached(deployment: Deployment) -> None:
    """Private JSON has the header Cache-Control: no-store."""
    visitor = await deployment.visitor()
    for path in (f"/api/chats/{visitor.chat}", f"/api/chats/{visitor.chat}/messages"):
        caching = (await deployment.call("GET", path, visitor.token)).headers.get("cache-control", "")
        expect("no-store" in caching, f"GET {path} has Cache-Control {caching!r}")


async def history_is_ascending_and_its_bounds_are_exclusive(deployment: Deployment) -> None:
    """History is in ascending order; before and after are exclusive, and has_more tells whether there is more."""
    visitor = await deployment.visitor()
    for number in range(5):
        await deployment.write(visitor, str(number))
    path = f"/api/chats/{visitor.chat}/messages"
    for query, indexes, more in (
        ("", [0, 1, 2, 3, 4], False),
        ("?limit=2", [3, 4], True),
        ("?before=3", [0, 1, 2], False),
        ("?before=3&limit=2", [1, 2], True),
        ("?after=1", [2, 3, 4], False),
        ("?after=1&limit=2", [2, 3], True),
        ("?after=4", [], False),
    ):
        page = await deployment.ok("GET", path + query, visitor.token)
        found = [message["message_index"] for message in page["messages"]]
        expect(found == indexes, f"{query or 'without parameters'}: expected the indexes {indexes}, got {found}")
        expect(page["has_more"] is more, f"{query or 'without parameters'}: has_more is {page['has_more']}")
        bounds = [indexes[0], indexes[-1]] if indexes else [None, None]
        expect([page["from_index"], page["to_index"]] == bounds, f"{query}: from_index or to_index differs")


async def message_indexes_begin_at_0_without_gaps(deployment: Deployment) -> None:
    """The messages of a chat are numbered from 0 without gaps, and ids are never repeated."""
    visitor = await deployment.visitor()
    messages = [await deployment.write(visitor, f"number {number}") for number in range(4)]
    indexes = [message["message_index"] for message in messages]
    expect(indexes == [0, 1, 2, 3], f"four messages have the indexes {indexes}")
    expect(len({message["id"] for message in messages}) == 4, "an id is repeated")


async def a_repeated_client_id_stores_nothing(deployment: Deployment) -> None:
    """A repeated client_id returns the stored message, and conflicts with another text."""
    visitor = await deployment.visitor()
    path, body = f"/api/chats/{visitor.chat}/messages", {"text": "once", "client_id": "a-key"}
    first = await deployment.call("POST", path, visitor.token, body)
    again = await deployment.call("POST", path, visitor.token, body)
    statuses = [first.status_code, again.status_code]
    expect(statuses == [201, 200], f"expected 201 and then 200 for the same client_id, got {statuses}")
    expect(first.json()["id"] == again.json()["id"], "the repeated call returned another message")
    stored = len(await deployment.history(visitor.chat, visitor.token))
    expect(stored == 1, f"the message is stored {stored} times")
    await deployment.refused(409, "conflict", "POST", path, visitor.token, {**body, "text": "another"})


async def empty_messages_are_refused(deployment: Deployment) -> None:
    """A message without text and attachments is refused with empty."""
    visitor = await deployment.visitor()
    path = f"/api/chats/{visitor.chat}/messages"
    await deployment.refused(422, "empty", "POST", path, visitor.token, {"text": ""})
    expect(not await deployment.history(visitor.chat, visitor.token), "a refused message is stored")


async def chats_of_others_are_closed_to_visitors(deployment: Deployment) -> None:
    """A visitor reads and writes only its own chat."""
    owner, stranger = await deployment.visitor(), await deployment.visitor()
    await deployment.write(owner, "secret")
    path = f"/api/chats/{owner.chat}"
    for method, each, body in (
        ("GET", path, None),
        ("GET", f"{path}/messages", None),
        ("POST", f"{path}/messages", {"text": "intrusion"}),
        ("POST", f"{path}/close", None),
    ):
        answer = await deployment.call(method, each, stranger.token, body)
        expect(answer.status_code == 403, f"{method} {each} of another visitor was answered with {answer.status_code}")
    listed = [chat["uuid"] for chat in await deployment.ok("GET", "/api/chats", stranger.token)]
    expect(owner.chat not in listed, "a visitor's list shows the chat of another")


async def visitors_store_no_system_messages(deployment: Deployment) -> None:
    """System messages come from operators only; a visitor gets 403 not_allowed."""
    visitor = await deployment.visitor()
    await deployment.write(visitor, "hello")
    body = {"text": "note", "type": "system", "type_role": "operator"}
    await deployment.refused(403, "not_allowed", "POST", f"/api/chats/{visitor.chat}/messages", visitor.token, body)


async def a_file_is_used_once_and_only_by_its_uploader(deployment: Deployment) -> None:
    """An uploaded file belongs to one message of its uploader; anything else is attachment_unknown."""
    owner, stranger = await deployment.visitor(), await deployment.visitor()
    answer = await deployment.call("POST", "/api/attachments", owner.token, files={"file": ("note.txt", b"content")})
    if answer.status_code == 403:
        # The deployment accepts no files.
        return
    expect(answer.status_code == 201, f"an upload was answered with {answer.status_code}")
    file = answer.json()
    has_fields(file, _ATTACHMENT, "attachment")
    expect((file["filename"], file["extension"], file["size"]) == ("note.txt", "txt", 7), f"it is described as {file}")
    body = {"text": "", "attachments": [file["uuid"]]}
    refusal = (422, "attachment_unknown", "POST")
    await deployment.refused(*refusal, f"/api/chats/{stranger.chat}/messages", stranger.token, body)
    message = await deployment.ok("POST", f"/api/chats/{owner.chat}/messages", owner.token, body)
    content = await deployment.call("GET", deployment.address.link(message["attachments"][0]["url"]))
    expect(content.content == b"content", "the link of the attachment does not lead to the file")
    await deployment.refused(*refusal, f"/api/chats/{owner.chat}/messages", owner.token, {**body, "text": "again"})


async def a_chat_is_listed_from_its_first_message_on(deployment: Deployment) -> None:
    """A reserved chat is in no list before its first message."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]

    async def listed() -> bool:
        chats = await deployment.ok("GET", f"/api/chats?source={deployment.source}&limit=200", operator)
        return visitor.chat in [chat["uuid"] for chat in chats]

    expect(not await listed(), "a chat without messages is in the list")
    await deployment.write(visitor, "hello")
    expect(await listed(), "a chat with a message is not in the list of the newest")


async def accepting_a_chat_makes_it_the_operators(deployment: Deployment) -> None:
    """An accepted chat is open with its operator; accepting again changes nothing, closing ends it."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    await deployment.write(visitor, "hello")
    path = f"/api/chats/{visitor.chat}"
    chat = await deployment.ok("POST", f"{path}/accept", operator)
    is_chat(chat, "chat")
    expect(chat["status"] == "open", f"an accepted chat is {chat['status']}")
    expect(chat["operator_user"] is not None, "an accepted chat has no operator")
    again = await deployment.call("POST", f"{path}/accept", operator)
    expect(again.status_code == 200, f"accepting the own chat was answered with {again.status_code}")
    closed = await deployment.ok("POST", f"{path}/close", operator)
    expect(closed["status"] == "closed", f"a closed chat is {closed['status']}")
    reopened = await deployment.ok("POST", f"{path}/reopen", operator)
    expect(reopened["status"] == "open", f"a chat that an operator reopens is {reopened['status']}")


async def of_two_operators_one_gets_the_chat(deployment: Deployment) -> None:
    """A chat that is open with an operator is refused to another with not_owner."""
    visitor = await deployment.visitor()
    await deployment.write(visitor, "hello")
    path = f"/api/chats/{visitor.chat}"
    first, second = deployment.operators[:2]
    await deployment.ok("POST", f"{path}/accept", first)
    await deployment.refused(409, "not_owner", "POST", f"{path}/accept", second)
    await deployment.refused(409, "not_owner", "POST", f"{path}/messages", second, {"text": "mine"})


async def notes_are_hidden_from_visitors(deployment: Deployment) -> None:
    """A system message for operators is not in the visitor's history, and keeps its index."""
    visitor, operator = await deployment.visitor(), deployment.operators[0]
    await deployment.write(visitor, "hello")
    note = {"text": "a note", "type": "system", "type_role": "operator"}
    await deployment.ok("POST", f"/api/chats/{visitor.chat}/messages", operator, note)
    await deployment.write(visitor, "bye")
    seen = [message["text"] for message in await deployment.history(visitor.chat, visitor.token)]
    expect(seen == ["hello", "bye"], f"the visitor's history is {seen}")
    indexes = [message["message_index"] for message in await deployment.history(visitor.chat, operator)]
    expect(indexes == [0, 1, 2], f"the operator's history has the indexes {indexes}")


CHECKS: Final[Mapping[int, Sequence[Callable[[Deployment], Awaitable[None]]]]] = {
    0: (
        entities_have_the_contracts_fields,
        a_visit_is_continued_with_its_token,
        errors_have_code_detail_and_path,
        unknown_query_parameters_are_refused,
        private_answers_are_not_cached,
        history_is_ascending_and_its_bounds_are_exclusive,
        message_indexes_begin_at_0_without_gaps,
        a_repeated_client_id_stores_nothing,
        empty_messages_are_refused,
        chats_of_others_are_closed_to_visitors,
        visitors_store_no_system_messages,
        a_file_is_used_once_and_only_by_its_uploader,
    ),
    1: (
        a_chat_is_listed_from_its_first_message_on,
        accepting_a_chat_makes_it_the_operators,
        notes_are_hidden_from_visitors,
    ),
    2: (of_two_operators_one_gets_the_chat,),
}
"""The rules by the number of operators that they need."""
