"""Implements the routes of the HTTP API: turns requests into chat operations, and their results into JSON."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
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
    EditMessage,
    RedactMessage,
    ReopenChat,
    ReturnChat,
    SetTags,
    TransferChat,
    changed_message,
)
from actorchat.chat.ports import ChatFilter, ChatReader, ListPlace, Page
from actorchat.chat.search import SearchKind
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.base_path import base_path_of
from actorchat.http.cursors import cursor_of
from actorchat.http.idempotency import IdempotentCalls
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem, json_response, with_tag
from actorchat.http.requests import (
    MAX_LIMIT,
    ChatBody,
    EditBody,
    MessageBody,
    Query,
    TagsBody,
    TransferBody,
    VisitorBody,
    check_tags,
    read_body,
    read_json,
    sender_of,
)
from actorchat.http.searching import list_chats, search_filter, search_of
from actorchat.http.transcripts import TranscriptFormat, transcript_response
from actorchat.protocol import MAX_SAFE_INTEGER, Message, MessageType, Role, encode_entity, wire_time

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

    @property
    def message_id(self) -> int:
        message_id: int = self.request.path_params["message"]
        return message_id

    def require_operator(self, action: str) -> None:
        if not self.caller.is_operator:
            raise Problem("not_allowed", f"only operators can {action}")


_Endpoint = Callable[[_Call], Awaitable[Response]]
_ChatEndpoint = Callable[[_Call, ChatState], Awaitable[Response]]
_Parameters = Mapping[str, Collection[str]]
"""The query parameters of each HTTP method."""

_NO_PARAMETERS: Final[_Parameters] = {}
_SEARCH_PARAMETERS: Final = ("q", "kind", "source", "chat", "before", "limit")
_LIST_PARAMETERS: Final = ("status", "source", "operator", "owner", "q", "tag", "view", "before", "cursor", "limit")

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

    def __init__(self, chats: ChatService, access: Access, once: IdempotentCalls) -> None:
        self._chats = chats
        self._access = access
        self._once = once

    def routes(self) -> list[Route]:
        return [
            Route("/api/visitors", _with_time_limit(self._visit), methods=["POST"]),
            self._route("/api/operators", {"GET": ("source",)}, GET=self._operators),
            self._route("/api/chats", {"GET": _LIST_PARAMETERS}, GET=self._list_chats, POST=self._reserve),
            self._chat_route("", GET=self._chat),
            self._chat_route(
                "/messages", {"GET": ("before", "after", "limit")}, GET=self._history, POST=self._add_message
            ),
            self._route("/api/search", {"GET": _SEARCH_PARAMETERS}, GET=self._search),
            self._message_route(PATCH=self._edit, DELETE=self._redact),
            self._chat_route("/tags", GET=self._tags, PUT=self._set_tags),
            self._chat_route("/transcript", {"GET": ("format",)}, GET=self._transcript),
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
            caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
            method = "GET" if request.method == "HEAD" else request.method
            query = Query(request, parameters.get(method, ()))
            call = _Call(request, caller, body, query)
            return await self._once.answer(request, identity_of(caller.user), body, partial(endpoints[method], call))

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

    def _message_route(self, **endpoints: _ChatEndpoint) -> Route:
        """Return a route of one message. Its endpoints are called with the message's chat."""

        def with_chat(endpoint: _ChatEndpoint) -> _Endpoint:
            async def handle(call: _Call) -> Response:
                return await endpoint(call, await self._chat_of(call.caller, call.message_id))

            return handle

        inner = {method: with_chat(endpoint) for method, endpoint in endpoints.items()}
        return self._route("/api/messages/{message:int}", _NO_PARAMETERS, **inner)

    async def _chat_of(self, caller: Caller, message_id: int) -> ChatState:
        """Return the chat of a message. For messages that the caller may not see, Problem 404 as if there were none."""
        try:
            located = await self._chats.chat_reader.located(message_id) if message_id <= MAX_SAFE_INTEGER else None
            if located is not None:
                return await self._access.chat(caller, located[0])
        except Problem as problem:
            if problem.status not in (403, 404):
                raise
        raise Problem("not_found", "there is no such message")

    async def _visit(self, request: Request) -> Response:
        Query(request)
        body, sender = read_json(await read_body(request), VisitorBody), sender_of(request)
        authorization = request.headers.get("authorization")
        visit = await self._access.visit(authorization, body.source, sender, body.anonymous)
        if body.context is not None:
            # The chat is more important than the page that it was begun on.
            with suppress(ChatRefused):
                await self._chats.visits.record(visit.user, body.context, sender.address)
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
        if query.chosen("view", ("summary",)) is not None:
            call.require_operator("see summaries")
        status, before = query.status(), _start_of_page(query)
        if isinstance(before, UUID) and await self._chats.chat_reader.chat(before) is None:
            raise Problem("malformed", "before: there is no such chat", path="before", status=400)
        which = ChatFilter(
            sources=sources,
            stages=None if status is None else frozenset({Stage(status.value)}),
            operator_id=query.number("operator"),
            owner_id=_requested_owner(call),
            tag=query.text("tag"),
            before=before,
            limit=query.limit(),
        )
        if which.tag is not None:
            call.require_operator("see tags")
        page = await list_chats(self._access, self._chats, caller, which, query.text("q"), requested)
        if query.text("view") is None:
            answer = json_response([chat.wire() for chat in page.chats])
        else:
            summaries = await self._chats.summaries.read([chat.uuid for chat in page.chats])
            following = None if page.next is None else cursor_of(page.next)
            answer = json_response({"chats": summaries, "next": following})
        if page.next is not None:
            answer.headers["Link"] = _link_to(call.request, cursor_of(page.next))
        return answer

    async def _search(self, call: _Call) -> Response:
        query, search = call.query, search_of(self._chats)
        kind = query.one_of("kind", SearchKind, SearchKind.MESSAGES)
        which = await search_filter(
            self._access,
            self._chats,
            call.caller,
            query.text("q"),
            kind,
            sources=query.all_values("source"),
            chat=query.uuid("chat"),
            before=query.number("before"),
            limit=query.limit(),
        )
        if kind is SearchKind.PEOPLE:
            people = await search.people(which)
            answer, after = json_response(people.people), people.next
        else:
            found = await search.messages(which)
            answer = json_response([self._wire(call, chat, message) for chat, message in found.messages])
            after = found.next
        if after is not None:
            answer.headers["Link"] = _link_to(call.request, str(after))
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
        answer = json_response(_wire_page(page, partial(self._wire, call), newest_first=after is None))
        return with_tag(call.request, answer)

    async def _transcript(self, call: _Call, chat: ChatState) -> Response:
        format = call.query.one_of("format", TranscriptFormat, TranscriptFormat.TEXT)
        read = partial(_read_page, self._chats.chat_reader, chat.uuid, call.caller.user.role)
        return await transcript_response(chat, format, read, partial(self._wire, call))

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

    async def _edit(self, call: _Call, chat: ChatState) -> Response:
        text = call.read(EditBody).text
        return await self._change(call, EditMessage(chat.uuid, call.caller.user, call.message_id, text))

    async def _redact(self, call: _Call, chat: ChatState) -> Response:
        moderates = self._access.moderates(call.caller, chat)
        return await self._change(call, RedactMessage(chat.uuid, call.caller.user, call.message_id, moderates))

    async def _change(self, call: _Call, operation: EditMessage | RedactMessage) -> Response:
        decision = await self._chats.perform(operation)
        return json_response(self._wire(call, decision.chat, changed_message(decision)))

    def _wire(self, call: _Call, chat: ChatState, message: StoredMessage) -> Message:
        files = attachments_for(message.attachments, identity_of(call.caller.user), self._chats.links)
        return wire_message(chat, message, files)

    async def _tags(self, call: _Call, chat: ChatState) -> Response:
        call.require_operator("see tags")
        [summary] = await self._chats.summaries.read([chat.uuid]) or [None]
        return json_response({"tags": () if summary is None else summary.tags})

    async def _set_tags(self, call: _Call, chat: ChatState) -> Response:
        call.require_operator("set tags")
        tags = check_tags(call.read(TagsBody).tags)
        await self._chats.perform(SetTags(chat.uuid, tags))
        return json_response({"tags": tags})

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


def _start_of_page(query: Query) -> ListPlace | UUID | None:
    before, cursor = query.place("before"), query.place("cursor")
    if before is not None and cursor is not None:
        raise Problem("malformed", "give before or cursor, not both", path="cursor", status=400)
    return before if cursor is None else cursor


def _requested_owner(call: _Call) -> int | None:
    """The owner whose chats are listed. Visitors see only their own chats."""
    owner, caller = call.query.number("owner"), call.caller
    if caller.is_operator:
        return owner
    if owner not in (None, caller.user.id):
        raise Problem("not_allowed", "visitors see only their own chats", path="owner")
    return caller.user.id


def _link_to(request: Request, cursor: str) -> str:
    """Return the value of a `Link` header to the next page, which starts at `cursor`, of the list in `request`."""
    parameters = [
        (name, value) for name, value in request.query_params.multi_items() if name not in ("before", "cursor")
    ]
    return f'<{base_path_of(request)}{request.url.path}?{urlencode([*parameters, ("before", cursor)])}>; rel="next"'


async def _read_page(chat_reader: ChatReader, chat: UUID, role: Role, after: int) -> Page | None:
    return await chat_reader.after(chat, role, after=after, limit=MAX_LIMIT)


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
    answer: dict[str, object] = {
        "messages": encoded,
        "from_index": messages[0].index if messages else None,
        "to_index": messages[-1].index if messages else None,
        "has_more": page.has_more or len(messages) < len(page.messages),
    }
    edits = [
        {"message_index": each.index, "edited_at": wire_time(each.edited_at), "redacted": each.redacted}
        for each in messages
        if each.edited_at is not None
    ]
    return answer | {"edits": edits} if edits else answer
