"""Implements the routes that export and erase people, and list the records of that."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from actorchat.chat.accounts import Rights
from actorchat.chat.model import Identity
from actorchat.chat.privacy import AuditEntry
from actorchat.http.answers import AuditAnswer, ErasedAnswer
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem, json_response
from actorchat.http.requests import Query, read_body, sender_of
from actorchat.http.streamed_response import StreamedResponse
from actorchat.protocol import MAX_SAFE_INTEGER, Role, wire_time

__all__ = ["People", "PrivacyRoutes"]

_CHUNK: Final = 262_144


class People(Protocol):
    """Exports and erases people. Methods raise LookupError for a person about whom nothing is stored."""

    async def sources_of(self, person: Identity) -> frozenset[str]:
        """The widget sources where the person has chats, or that an operator belongs to."""

    async def erase(self, person: Identity, by: str) -> dict[str, int]:
        """Erase the person and return how much it was. `by` is for the record."""

    async def export(self, person: Identity, by: str, target: Path) -> dict[str, int]:
        """Write everything about the person to the new zip file `target`."""

    async def audits(self, before: int | None, limit: int) -> tuple[AuditEntry, ...]:
        """Records with a number below `before`, the newest first."""


class PrivacyRoutes:
    """The endpoints under `/api/people` and `/api/audit`, for supervisors and administrators."""

    def __init__(self, access: Access, people: People) -> None:
        self._access = access
        self._people = people

    def routes(self) -> list[Route]:
        routes = [Route("/api/audit", self._authenticated(self._audit, "before", "limit"), methods=["GET"])]
        for role in Role:
            path = f"/api/people/{role}" + "/{person:int}"
            for action, endpoint in (("/export", self._export), ("/erase", self._erase)):
                routes.append(Route(path + action, self._authenticated(partial(endpoint, role)), methods=["POST"]))
        return routes

    def _authenticated(
        self, endpoint: Callable[[Request, Caller], Awaitable[Response]], *parameters: str
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            await read_body(request)
            caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
            Query(request, parameters)
            return await endpoint(request, caller)

        return handle

    async def _person(self, role: Role, request: Request, caller: Caller, action: str) -> Identity:
        """Return the person of the path. The caller must have all sources of it."""
        self._access.require(caller, Rights.SUPERVISOR, action)
        person = Identity(role, request.path_params["person"])
        if person.id > MAX_SAFE_INTEGER:
            raise Problem("not_found", "there is no such person")
        try:
            sources = await self._people.sources_of(person)
        except LookupError:
            raise Problem("not_found", "there is no such person") from None
        if not caller.rights.include(Rights.ADMIN) and not sources <= caller.sources:
            raise Problem("not_allowed", f"you can {action} only if you have all of their sources")
        return person

    async def _export(self, role: Role, request: Request, caller: Caller) -> Response:
        person = await self._person(role, request, caller, "export people")
        folder = await trio.to_thread.run_sync(tempfile.mkdtemp, None, "actorchat-export-")
        target = Path(folder) / "export.zip"
        try:
            await self._people.export(person, _by(caller), target)
            return _SentOnce(target, f"{person.role}-{person.id}.zip")
        except BaseException:
            _remove(target)
            raise

    async def _erase(self, role: Role, request: Request, caller: Caller) -> Response:
        person = await self._person(role, request, caller, "erase people")
        if person.role is Role.OPERATOR:
            self._access.require(caller, Rights.ADMIN, "erase operators")
        return json_response(ErasedAnswer(**await self._people.erase(person, _by(caller))))

    async def _audit(self, request: Request, caller: Caller) -> Response:
        self._access.require(caller, Rights.ADMIN, "see the records")
        query = Query(request, ("before", "limit"))
        entries = await self._people.audits(query.number("before"), query.limit())
        return json_response([_wire(entry) for entry in entries])


def _wire(entry: AuditEntry) -> AuditAnswer:
    subject = entry.subject
    role, id_ = (None, None) if subject is None else (subject.role, subject.id)
    at, counts = wire_time(entry.at), dict(entry.counts)
    return AuditAnswer(entry.number, at, entry.by, entry.action, role, id_, counts, entry.detail)


def _by(caller: Caller) -> str:
    return f"{caller.user.role} {caller.user.id}"


def _remove(target: Path) -> None:
    target.unlink(missing_ok=True)
    target.parent.rmdir()


class _SentOnce(StreamedResponse):
    """Sends a zip file and removes it with its folder, also if the client has left before the first byte."""

    def __init__(self, target: Path, filename: str) -> None:
        headers = {
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{filename}"',
            "Content-Length": str(target.stat().st_size),
            "X-Content-Type-Options": "nosniff",
        }
        self._target = target
        super().__init__(_chunks(target), headers=headers, media_type="application/zip")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            _remove(self._target)


async def _chunks(target: Path) -> AsyncGenerator[bytes, None]:
    descriptor = os.open(target, os.O_RDONLY)
    try:
        while chunk := await trio.to_thread.run_sync(os.read, descriptor, _CHUNK):
            yield chunk
    finally:
        os.close(descriptor)
