"""Implements the routes of the HTTP API: turns requests into chat operations, and their results into JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Final, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import attrs
import trio
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.chat.links import attachments_for
from actorchat.chat.model import ChatState, Identity, Stage, StoredMessage, identity_of, wire_message
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    ReopenChat,
    ReturnChat,
    TransferChat,
)
from actorchat.chat.ports import ChatFilter, ListPlace, Page
from actorchat.chat.service import ChatService
from actorchat.http.cursors import cursor_of
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem, json_response
from actorchat.http.requests import (
    ChatBody,
    MessageBody,
    Query,
    TransferBody,
    VisitorBody,
    read_body,
    read_json,
)
from actorchat.protocol import Message, MessageType, Role, encode_entity

__all__ = ["Api"]

T = TypeVar("T")


@attrs.frozen
class _Call:
    """An authenticated request with its body read and its query parameters checked."""

    request: Request
    caller: Caller
    body: bytes
    query: Query

    def read(self, cls: type[T]) -> T:
        return read_json(self.body, cls)

    def require_operator(self, action: str) -> None:
        if not self.caller.is_operator:
            raise Problem("not_allowed", f"only operators can {action}")


_Endpoint = Callable[[_Call], Awaitable[Response]]
_ChatEndpoint = Callable[[_Call, ChatState], Awaitable[Response]]
_Parameters = Mapping[str, Collection[str]]
"""The query parameters of each HTTP method."""

_NO_PARAMETERS: Final[_Parameters] = {}
_LIST_PARAMETERS: Final = ("status", "source", "operator", "before", "limit")

REQUEST_SECONDS: Final = 45.0
"""The time limit of a request. It exceeds the limits for reading the body and for an operation of the chat."""


MAX_PAGE_BYTES: Final = 147_456
"""A page of history ends with the message that reaches this size, which limits the memory for peers that don't read."""


def _with_time_limit(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def limited(request: Request) -> Response:
        try:
            with trio.fail_after(REQUEST_SECONDS):
                return await handle(request)
        except trio.TooSlowError:
            detail = "the request took too long, and it is not known whether it takes effect; repeating a message"
            raise Problem("overloaded", f"{detail} with the same client_id is safe") from None

    return limited


class Api:
    """The endpoints under `/api`."""

    def __init__(self, chats: ChatService, access: Access) -> None:
        self._chats = chats
        self._access = access

    def routes(self) -> list[Route]:
        return [
            Route("/api/visitors", _with_time_limit(self._visit), methods=["POST"]),
            self._route("/api/operators", {"GET": ("source",)}, GET=self._operators),
            self._route("/api/chats", {"GET": _LIST_PARAMETERS}, GET=self._list_chats, POST=self._reserve),
            self._chat_route("", GET=self._chat),
            self._chat_route(
                "/messages", {"GET": ("before", "after", "limit")}, GET=self._history, POST=self._add_message
            ),
            self._chat_route("/accept", POST=self._accept),
            self._chat_route("/close", POST=self._close),
            self._chat_route("/reopen", POST=self._reopen),
            self._chat_route("/transfer", POST=self._transfer),
            self._chat_route("/return", POST=self._return),
        ]

    def _route(self, path: str, parameters: _Parameters = _NO_PARAMETERS, **endpoints: _Endpoint) -> Route:
        """Return a route with one endpoint for each method. `parameters` has the query parameters of each method."""

        async def handle(request: Request) -> Response:
            body = await read_body(request)
            caller = await self._access.caller(request.headers.get("authorization"))
            method = "GET" if request.method == "HEAD" else request.method
            query = Query(request, parameters.get(method, ()))
            return await endpoints[method](_Call(request, caller, body, query))

        return Route(path, _with_time_limit(handle), methods=list(endpoints))

    def _chat_route(self, path: str, parameters: _Parameters = _NO_PARAMETERS, **endpoints: _ChatEndpoint) -> Route:
        """Return a route below one chat. Its endpoints are called with the chat, after access to it was checked."""

        def with_chat(endpoint: _ChatEndpoint) -> _Endpoint:
            async def handle(call: _Call) -> Response:
                uuid: UUID = call.request.path_params["chat"]
                return await endpoint(call, await self._access.chat(call.caller, uuid))

            return handle

        inner = {method: with_chat(endpoint) for method, endpoint in endpoints.items()}
        return self._route("/api/chats/{chat:uuid}" + path, parameters, **inner)

    async def _visit(self, request: Request) -> Response:
        Query(request)
        body = read_json(await read_body(request), VisitorBody)
        address = request.client.host if request.client else ""
        visit = await self._access.visit(request.headers.get("authorization"), body.source, address)
        answer = {"token": visit.token, "user": visit.user, "chat": visit.chat.wire()}
        return json_response(answer, 201 if visit.anonymous else 200)

    async def _operators(self, call: _Call) -> Response:
        call.require_operator("see operators")
        sources = self._access.sources(call.caller, call.query.all_values("source"))
        records = await self._chats.chat_reader.operators(sources)
        return json_response([record.wire() for record in records])

    async def _list_chats(self, call: _Call) -> Response:
        query, caller = call.query, call.caller
        requested = query.all_values("source")
        if caller.is_operator:
            sources: frozenset[str] | None = self._access.sources(caller, requested)
        else:
            for source in requested:
                self._access.check_source(source)
            sources = frozenset(requested) or None
        status, before = query.status(), query.place("before")
        if isinstance(before, UUID) and await self._chats.chat_reader.chat(before) is None:
            raise Problem("malformed", "before: there is no such chat", path="before", status=400)
        which = ChatFilter(
            sources=sources,
            stages=None if status is None else frozenset({Stage(status.value)}),
            operator_id=query.number("operator"),
            owner_id=None if caller.is_operator else caller.user.id,
            before=before,
            limit=query.limit(),
        )
        page = await self._chats.chat_reader.chats(which)
        answer = json_response([chat.wire() for chat in page.chats])
        if page.next is not None:
            answer.headers["Link"] = _link_to(call.request, page.next)
        return answer

    async def _reserve(self, call: _Call) -> Response:
        call.require_operator("reserve chats for users")
        body = call.read(ChatBody)
        self._access.sources(call.caller, (body.source,))
        owner = await self._chats.chat_reader.person(Identity(Role.USER, body.owner))
        if owner is None:
            raise Problem("not_found", "there is no such user", path="owner")
        chat, new = await self._access.reserve(call.caller, body.source, owner.user)
        return json_response(chat.wire(), 201 if new else 200)

    async def _chat(self, call: _Call, chat: ChatState) -> Response:
        return json_response(chat.wire())

    async def _history(self, call: _Call, chat: ChatState) -> Response:
        query, role = call.query, call.caller.user.role
        before, after, limit = query.number("before"), query.number("after"), query.limit()
        if before is not None and after is not None:
            detail = "give before or after, not both"
            raise Problem("malformed", detail, path="after", status=400)
        if after is None:
            page = await self._chats.chat_reader.newest(chat.uuid, role, before=before, limit=limit)
        else:
            page = await self._chats.chat_reader.after(chat.uuid, role, after=after, limit=limit)
        if page is None:
            raise Problem("not_found", "there is no such chat")
        return json_response(_wire_page(page, partial(self._wire, call), newest_first=after is None))

    async def _add_message(self, call: _Call, chat: ChatState) -> Response:
        body = call.read(MessageBody)
        if body.type is MessageType.SYSTEM:
            call.require_operator("send system messages")
            if body.type_role is None:
                detail = "type_role: a system message needs the role of its recipients"
                raise Problem("malformed", detail, path="type_role")
        operation = AddMessage(
            chat=chat.uuid,
            author=call.caller.user,
            text=body.text,
            attachments=body.attachments,
            client_id=body.client_id,
            type=body.type,
            type_role=body.type_role or call.caller.user.role,
        )
        decision = await self._chats.perform(operation)
        if isinstance(decision, Changed):
            (message,) = decision.messages
            return json_response(self._wire(call, decision.chat, message), 201)
        if decision.message is None:
            raise AssertionError("a successful decision on a message has no message")
        return json_response(self._wire(call, decision.chat, decision.message), 200)

    def _wire(self, call: _Call, chat: ChatState, message: StoredMessage) -> Message:
        files = attachments_for(message.attachments, identity_of(call.caller.user), self._chats.links)
        return wire_message(chat, message, files)

    async def _accept(self, call: _Call, chat: ChatState) -> Response:
        call.require_operator("accept chats")
        return await self._transition(AcceptChat(chat.uuid, call.caller.user))

    async def _close(self, call: _Call, chat: ChatState) -> Response:
        return await self._transition(CloseChat(chat.uuid, call.caller.user))

    async def _reopen(self, call: _Call, chat: ChatState) -> Response:
        return await self._transition(ReopenChat(chat.uuid, call.caller.user))

    async def _transfer(self, call: _Call, chat: ChatState) -> Response:
        call.require_operator("transfer chats")
        to = call.read(TransferBody).operator_id
        return await self._transition(TransferChat(chat.uuid, call.caller.user, to))

    async def _return(self, call: _Call, chat: ChatState) -> Response:
        call.require_operator("return chats")
        return await self._transition(ReturnChat(chat.uuid, call.caller.user))

    async def _transition(self, operation: ChatOperation) -> Response:
        decision = await self._chats.perform(operation)
        return json_response(decision.chat.wire())


def _link_to(request: Request, place: ListPlace) -> str:
    """Return the value of a `Link` header to the next page, which starts at `place`, of the list in `request`."""
    parameters = [(name, value) for name, value in request.query_params.multi_items() if name != "before"]
    return f'<{request.url.path}?{urlencode([*parameters, ("before", cursor_of(place))])}>; rel="next"'


def _wire_page(
    page: Page, wire: Callable[[ChatState, StoredMessage], Message], *, newest_first: bool
) -> dict[str, object]:
    """Return the page as JSON values, cut to `MAX_PAGE_BYTES`: the newest or the oldest messages of it are kept."""
    messages: list[StoredMessage] = []
    encoded: list[Raw] = []
    size = 0
    for message in reversed(page.messages) if newest_first else page.messages:
        if size >= MAX_PAGE_BYTES:
            break
        messages.append(message)
        encoded.append(Raw(encode_entity(wire(page.chat, message))))
        size += len(encoded[-1])
    if newest_first:
        messages.reverse()
        encoded.reverse()
    return {
        "messages": encoded,
        "from_index": messages[0].index if messages else None,
        "to_index": messages[-1].index if messages else None,
        "has_more": page.has_more or len(messages) < len(page.messages),
    }
