"""Implements the HTTP routes for widgets and consoles: configuration, saved replies, settings and visitors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Annotated, Final, TypeVar
from uuid import UUID

import attrs
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.chat.accounts import Rights
from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.chat.model import identity_of
from actorchat.chat.service import ChatService
from actorchat.http.idempotency import IdempotentCalls
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem, json_response
from actorchat.http.requests import Query, read_body, read_json, sender_of
from actorchat.http.source_names import SourceName
from actorchat.protocol import MAX_REPLY_CHARS, Malformed, NotUtf8, WidgetConfig, parse_json

__all__ = ["CHANGE_SHARED_REPLIES", "CHANGE_WIDGET", "ConsoleRoutes"]

CHANGE_WIDGET: Final = "change the widget of a source"
CHANGE_SHARED_REPLIES: Final = "change the saved replies of a source"
"""The actions that need rights, as they are named in refusals."""

T = TypeVar("T")

_ONLINE: Final = {"Cache-Control": "public, max-age=30"}
_AWAY: Final = {"Cache-Control": "public, max-age=2"}
_NO_PARAMETERS: Final = ()

_Title = Annotated[str, Meta(min_length=1, max_length=80)]
_Text = Annotated[str, Meta(min_length=1, max_length=MAX_REPLY_CHARS)]
_Shortcut = Annotated[str, Meta(pattern=r"^\S{0,40}\Z")]


@attrs.frozen(slots=False)
class ReplyBody:
    """A new saved reply; a personal one without a `source`."""

    title: _Title
    text: _Text
    shortcut: _Shortcut = ""
    source: SourceName | None = None


@attrs.frozen(slots=False)
class ReplyChangeBody:
    """The fields of a saved reply to change."""

    title: _Title | None = None
    text: _Text | None = None
    shortcut: _Shortcut | None = None


@attrs.frozen
class _Call:
    request: Request
    caller: Caller
    body: bytes
    query: Query

    def read(self, cls: type[T]) -> T:
        return read_json(self.body, cls)

    @property
    def source(self) -> str:
        source: str = self.request.path_params["source"]
        return source


_Endpoint = Callable[[_Call], Awaitable[Response]]
_Handler = Callable[[Request], Awaitable[Response]]


class ConsoleRoutes:
    """The endpoints for widgets and consoles."""

    def __init__(self, chats: ChatService, access: Access, documents: ConsoleDocuments, once: IdempotentCalls) -> None:
        self._once = once
        self._chats = chats
        self._access = access
        self._documents = documents

    def routes(self) -> list[Route]:
        return [
            _route("/api/sources/{source}/widget", GET=self._widget, PUT=self._for_operators(self._set_widget)),
            _route(
                "/api/replies",
                GET=self._for_operators(self._replies, ("source",)),
                POST=self._for_operators(self._add_reply),
            ),
            _route(
                "/api/replies/{reply:uuid}",
                PATCH=self._for_operators(self._change_reply),
                DELETE=self._for_operators(self._delete_reply),
            ),
            _route(
                "/api/operators/me/settings",
                GET=self._for_operators(self._settings),
                PATCH=self._for_operators(self._change_settings),
            ),
            _route("/api/chats/{chat:uuid}/visitor", GET=self._for_operators(self._visitor)),
        ]

    def _for_operators(self, endpoint: _Endpoint, parameters: Collection[str] = _NO_PARAMETERS) -> _Handler:
        async def handle(request: Request) -> Response:
            body = await read_body(request)
            caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
            query = Query(request, parameters)
            if not caller.is_operator:
                raise Problem("not_allowed", "only operators can do this")
            make = partial(endpoint, _Call(request, caller, body, query))
            return await self._once.answer(request, identity_of(caller.user), body, make)

        return handle

    async def _widget(self, request: Request) -> Response:
        Query(request)
        source: str = request.path_params["source"]
        self._access.count_widget(sender_of(request))
        self._access.check_source(source)
        info = await self._documents.widget(source)
        answer = json_response(info)
        answer.headers.update(_ONLINE if info.online else _AWAY)
        return answer

    async def _set_widget(self, call: _Call) -> Response:
        self._access.sources(call.caller, (call.source,))
        self._access.require(call.caller, Rights.ADMIN, CHANGE_WIDGET)
        return json_response(await self._documents.set_widget(call.source, call.read(WidgetConfig)))

    async def _replies(self, call: _Call) -> Response:
        sources = self._access.sources(call.caller, call.query.all_values("source"))
        return json_response(await self._documents.replies(call.caller.user.id, sources))

    async def _add_reply(self, call: _Call) -> Response:
        body = call.read(ReplyBody)
        if body.source is not None:
            self._require_shared(call, body.source)
        reply = await self._documents.add_reply(
            call.caller.user.id, source=body.source, title=body.title, text=body.text, shortcut=body.shortcut
        )
        return json_response(reply, 201)

    async def _change_reply(self, call: _Call) -> Response:
        changes = {name: value for name, value in vars(call.read(ReplyChangeBody)).items() if value is not None}
        operator_id, sources = call.caller.user.id, self._access.sources(call.caller, ())
        reply = await self._documents.reply(_reply_id(call), operator_id, sources)
        if reply.source is not None:
            self._require_shared(call, reply.source)
        return json_response(await self._documents.change_reply(operator_id, reply, changes))

    async def _delete_reply(self, call: _Call) -> Response:
        operator_id, sources = call.caller.user.id, self._access.sources(call.caller, ())
        reply = await self._documents.reply(_reply_id(call), operator_id, sources)
        if reply.source is not None:
            self._require_shared(call, reply.source)
        await self._documents.delete_reply(operator_id, reply)
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    def _require_shared(self, call: _Call, source: str) -> None:
        self._access.sources(call.caller, (source,))
        self._access.require(call.caller, Rights.SUPERVISOR, CHANGE_SHARED_REPLIES)

    async def _settings(self, call: _Call) -> Response:
        return json_response(await self._documents.settings(call.caller.user.id))

    async def _change_settings(self, call: _Call) -> Response:
        try:
            changes = parse_json(call.body)
        except (NotUtf8, Malformed) as error:
            raise Problem("malformed", error.detail, path=error.path, status=400) from None
        if not isinstance(changes, dict):
            raise Problem("malformed", "expected an object with the settings to change")
        return json_response(await self._documents.change_settings(call.caller.user.id, changes))

    async def _visitor(self, call: _Call) -> Response:
        chat = await self._access.chat(call.caller, call.request.path_params["chat"])
        with_address = self._access.moderates(call.caller, chat)
        return json_response(await self._chats.visits.owner_of(chat, with_address=with_address))


def _route(path: str, **handlers: _Handler) -> Route:
    """Return a route with one handler for each method, so that `Allow` names them all."""

    async def handle(request: Request) -> Response:
        return await handlers["GET" if request.method == "HEAD" else request.method](request)

    return Route(path, handle, methods=list(handlers))


def _reply_id(call: _Call) -> UUID:
    reply_id: UUID = call.request.path_params["reply"]
    return reply_id
