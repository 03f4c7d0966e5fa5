"""Implements the HTTP routes that list the tags of all chats, rename them and remove them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.chat.accounts import Rights
from actorchat.chat.ports import ChatFilter
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.chat.service import ChatService
from actorchat.chat.tag_replacement import replace_tag
from actorchat.http.answers import TagCount, TagsChanged
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem, json_response
from actorchat.http.requests import Query, Tag, check_tag, read_body, read_json, sender_of

__all__ = ["RemoveTagBody", "RenameTagBody", "TagRoutes"]

MOST_TAGS: Final = 1_000
"""Tags in a list."""

CHANGE_SECONDS: Final = 20.0
"""How long one request changes chats. Then it answers, and the client repeats it."""


@attrs.frozen(slots=False)
class RenameTagBody:
    tag: Tag
    into: Tag


@attrs.frozen(slots=False)
class RemoveTagBody:
    tag: Tag


class TagRoutes:
    """The endpoints under `/api/tags`. `clock` returns epoch seconds."""

    def __init__(self, access: Access, chats: ChatService, clock: Callable[[], float]) -> None:
        self._access = access
        self._chats = chats
        self._clock = clock

    def routes(self) -> list[Route]:
        return [
            Route("/api/tags", self._list, methods=["GET"]),
            Route("/api/tags/rename", self._rename, methods=["POST"]),
            Route("/api/tags/remove", self._remove, methods=["POST"]),
        ]

    async def _caller(self, request: Request, *parameters: str) -> tuple[Caller, Query]:
        caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
        query = Query(request, parameters)
        if not caller.is_operator:
            raise Problem("not_allowed", "only operators can see tags")
        return caller, query

    async def _list(self, request: Request) -> Response:
        caller, query = await self._caller(request, "source")
        sources = self._access.sources(caller, query.all_values("source"))
        counts = await self._chats.chat_reader.tag_counts(sources, MOST_TAGS)
        return json_response([TagCount(tag, chats) for tag, chats in counts])

    async def _rename(self, request: Request) -> Response:
        text = await read_body(request)
        caller, _ = await self._caller(request)
        body = read_json(text, RenameTagBody)
        check_tag(body.into, "into")
        if body.into == body.tag:
            raise Problem("malformed", "into: expected another name than that of the tag", path="into")
        return await self._replace(caller, body.tag, body.into)

    async def _remove(self, request: Request) -> Response:
        text = await read_body(request)
        caller, _ = await self._caller(request)
        return await self._replace(caller, read_json(text, RemoveTagBody).tag, None)

    async def _replace(self, caller: Caller, tag: str, into: str | None) -> Response:
        self._access.require(caller, Rights.ADMIN, "rename and remove tags")
        sources = self._access.sources(caller, ())
        if not (await self._chats.chat_reader.chats(ChatFilter(sources=sources, tag=tag, limit=1))).chats:
            return json_response(TagsChanged(0, complete=True))
        known = dict(await self._chats.chat_reader.tag_counts(sources, MOST_TAGS))
        audit = AuditEntry(
            at=int(self._clock()),
            by=f"{caller.user.role} {caller.user.id}",
            action=AuditAction.TAG_REMOVED if into is None else AuditAction.TAG_RENAMED,
            subject=None,
            counts={"chats": known[tag]} if tag in known else {},
            detail=tag if into is None else f"{tag} → {into}",
        )
        # Before the changes, so that there is none without a record.
        await self._chats.record_audit(audit)
        done = await replace_tag(self._chats, sources, tag, into, CHANGE_SECONDS)
        return json_response(TagsChanged(done.chats, done.complete))
