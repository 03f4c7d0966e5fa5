from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import h11
import msgspec
import pytest
import trio

from actorchat.client import ApiError, ApiUnreachable, HistoryPage, Visit, open_api
from actorchat.protocol.codec import encode_entity
from tests.client.scripted_server import CHAT, VISITOR, message

Respond = Callable[[h11.Request, bytes], tuple[int, bytes]]


@asynccontextmanager
async def serving(respond: Respond) -> AsyncIterator[str]:
    """An HTTP server with fixed answers on a free port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, partial(_answer, respond), 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _answer(respond: Respond, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    request, body = None, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        else:
            break
    assert request is not None
    status, answer = respond(request, body)
    headers = [("Content-Length", str(len(answer))), ("Connection", "close")]
    for part in (
        h11.Response(status_code=status, headers=headers),
        h11.Data(data=answer),
        h11.EndOfMessage(),
    ):
        await stream.send_all(connection.send(part) or b"")
    await stream.aclose()


async def test_a_visitor_gets_a_token_and_a_chat() -> None:
    asked = []

    def respond(request: h11.Request, body: bytes) -> tuple[int, bytes]:
        asked.append((request.method, request.target, msgspec.json.decode(body)))
        return 201, msgspec.json.encode({"token": "abc", "user": VISITOR, "chat": CHAT})

    async with serving(respond) as url, open_api(url) as api:
        assert await api.visit("lk") == Visit("abc", VISITOR, CHAT)
    assert asked == [(b"POST", b"/api/visitors", {"source": "lk"})]


async def test_calls_carry_the_token_and_history_its_indexes() -> None:
    asked = []

    def respond(request: h11.Request, body: bytes) -> tuple[int, bytes]:
        asked.append((request.target, dict(request.headers)[b"authorization"]))
        page = HistoryPage((message(3), message(4)), 3, 4, has_more=True)
        return 200, encode_entity(page)

    async with serving(respond) as url, open_api(url, token="abc") as api:
        page = await api.history(CHAT.uuid, after=2, limit=2)
    assert [item.message_index for item in page.messages] == [3, 4]
    assert asked == [(f"/api/chats/{CHAT.uuid}/messages?limit=2&after=2".encode(), b"Bearer abc")]


async def test_a_note_is_a_system_message_for_operators() -> None:
    bodies = []

    def respond(request: h11.Request, body: bytes) -> tuple[int, bytes]:
        bodies.append(msgspec.json.decode(body))
        return 201, encode_entity(message(0))

    async with serving(respond) as url, open_api(url, token="abc") as api:
        await api.add_note(CHAT.uuid, "hm")
    assert bodies[0].pop("client_id")
    assert bodies == [{"text": "hm", "attachments": [], "type": "system", "type_role": "operator"}]


@pytest.mark.parametrize("verb", ["accept", "close", "reopen", "transfer", "return"])
async def test_transitions_answer_with_the_chat(verb: str) -> None:
    asked = []

    def respond(request: h11.Request, body: bytes) -> tuple[int, bytes]:
        asked.append((request.target, msgspec.json.decode(body)))
        return 200, encode_entity(CHAT)

    async with serving(respond) as url, open_api(url, token="abc") as api:
        if verb == "transfer":
            assert await api.transfer(CHAT.uuid, 8) == CHAT
        else:
            call = {
                "accept": api.accept,
                "close": api.close,
                "reopen": api.reopen,
                "return": api.return_to_queue,
            }
            assert await call[verb](CHAT.uuid) == CHAT
    body = {"operator_id": 8} if verb == "transfer" else {}
    assert asked == [(f"/api/chats/{CHAT.uuid}/{verb}".encode(), body)]


async def test_a_refusal_carries_the_servers_code() -> None:
    def respond(request: h11.Request, body: bytes) -> tuple[int, bytes]:
        return 409, b'{"error": {"code": "not_owner", "detail": "theirs", "path": ""}}'

    async with serving(respond) as url, open_api(url, token="abc") as api:
        with pytest.raises(ApiError, match="not_owner: theirs") as refused:
            await api.accept(CHAT.uuid)
    assert (refused.value.status, refused.value.code) == (409, "not_owner")


@pytest.mark.parametrize("answer", [(502, b"<html>bad gateway"), (500, b"")])
async def test_a_refusal_from_something_else_is_named_by_its_status(answer: tuple[int, bytes]) -> None:
    async with serving(lambda request, body: answer) as url, open_api(url) as api:
        with pytest.raises(ApiError, match=f"http_{answer[0]}"):
            await api.chat(CHAT.uuid)


async def test_an_answer_of_another_api_is_an_error() -> None:
    async with serving(lambda request, body: (200, b"hello")) as url, open_api(url) as api:
        with pytest.raises(ApiUnreachable, match="not from this API") as refused:
            await api.chat(CHAT.uuid)
    assert refused.value.asked


async def test_an_unreachable_server_is_a_typed_error() -> None:
    async with serving(lambda request, body: (200, b"")) as url:
        pass
    async with open_api(url) as api:
        with pytest.raises(ApiUnreachable, match=r"127\.0\.0\.1:\d+: connection refused") as refused:
            await api.chats()
    assert not refused.value.asked


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
async def test_a_server_without_tls_is_reported_as_such(nursery: trio.Nursery, words: bytes) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(words)
        await stream.aclose()

    listeners: list[trio.SocketListener] = await nursery.start(partial(trio.serve_tcp, refuse, 0, host="127.0.0.1"))
    async with open_api(f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}") as api:
        with pytest.raises(ApiUnreachable, match="it does not seem to speak TLS") as refused:
            await api.chats()
    assert not refused.value.asked
