"""Implements the HTTP routes for signing in and out, and for what operators see and set about themselves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import attrs
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.http.base_path import base_path_of
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Access, Caller, SignedIn, SignIns
from actorchat.http.problems import Problem, json_response
from actorchat.http.requests import Query, read_body, read_json, sender_of

__all__ = ["AccountRoutes"]

COOKIE: Final = "actorchat_session"
"""The cookie with the refresh token. Scripts can't read it, and it is sent to `_TOKEN_PATH` only."""

_TOKEN_PATH: Final = "/api/token"  # noqa: S105 - a path


@attrs.frozen(slots=False)
class LoginBody:
    login: Annotated[str, Meta(max_length=1024)]
    password: Annotated[str, Meta(max_length=4096)] = attrs.field(repr=False)
    new_password: Annotated[str, Meta(max_length=4096)] | None = attrs.field(default=None, repr=False)


@attrs.frozen(slots=False)
class CodeBody:
    code: Annotated[str, Meta(max_length=1024)] = attrs.field(repr=False)


@attrs.frozen(slots=False)
class AwayBody:
    away: bool


class AccountRoutes:
    """The endpoints for operators' accounts."""

    def __init__(self, access: Access, sign_ins: SignIns, documents: ConsoleDocuments) -> None:
        self._access = access
        self._documents = documents
        self._sign_ins = sign_ins
        # Only the server's own pages may use the cookie.
        self._own_origin = AllowedOrigins()

    def routes(self) -> list[Route]:
        return [
            Route("/api/login", self._login, methods=["POST"]),
            Route("/api/login/once", self._login_once, methods=["POST"]),
            Route(_TOKEN_PATH, self._renew, methods=["POST"]),
            Route("/api/sign-out", self._authenticated(self._sign_out), methods=["POST"]),
            Route("/api/operators/me", self._authenticated(self._profile), methods=["GET"]),
            Route("/api/operators/me/away", self._authenticated(self._away), methods=["POST"]),
        ]

    async def _login(self, request: Request) -> Response:
        Query(request)
        body = read_json(await read_body(request), LoginBody)
        signed_in = await self._sign_ins.sign_in(body.login, body.password, _address(request), body.new_password)
        return _answer(request, signed_in)

    async def _login_once(self, request: Request) -> Response:
        Query(request)
        body = read_json(await read_body(request), CodeBody)
        return _answer(request, await self._sign_ins.sign_in_once(body.code, _address(request)))

    async def _renew(self, request: Request) -> Response:
        Query(request)
        await read_body(request)
        if not self._own_origin.allow(request.headers.get("origin"), request.headers.get("host")):
            raise Problem("not_allowed", "only pages of this server may renew a sign-in")
        try:
            return _answer(request, await self._sign_ins.renew(request.cookies.get(COOKIE)))
        except Problem as problem:
            if problem.status != 401:
                raise
            answer = problem.response()
            _set_cookie(request, answer, "", 0)
            return answer

    async def _sign_out(self, request: Request, caller: Caller, body: bytes) -> Response:
        await self._sign_ins.sign_out(caller)
        answer = Response(status_code=204, headers={"Cache-Control": "no-store"})
        if caller.is_operator:
            _set_cookie(request, answer, "", 0)
        return answer

    async def _profile(self, request: Request, caller: Caller, body: bytes) -> Response:
        _require_operator(caller)
        return await self._own_profile(caller)

    async def _away(self, request: Request, caller: Caller, body: bytes) -> Response:
        _require_operator(caller)
        await self._sign_ins.set_away(caller, read_json(body, AwayBody).away)
        return await self._own_profile(caller)

    async def _own_profile(self, caller: Caller) -> Response:
        profile = await self._sign_ins.profile(caller)
        settings = await self._documents.settings(caller.user.id)
        return json_response(attrs.asdict(attrs.evolve(profile, settings=dict(settings)), recurse=False))

    def _authenticated(
        self, endpoint: Callable[[Request, Caller, bytes], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            Query(request)
            body = await read_body(request)
            caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
            return await endpoint(request, caller, body)

        return handle


def _require_operator(caller: Caller) -> None:
    if not caller.is_operator:
        raise Problem("not_allowed", "only operators have a profile here")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _answer(request: Request, signed_in: SignedIn) -> Response:
    answer = json_response({"token": signed_in.token, "expires_in": signed_in.seconds, "user": signed_in.user})
    _set_cookie(request, answer, signed_in.refresh_token, signed_in.refresh_seconds)
    return answer


def _set_cookie(request: Request, answer: Response, value: str, seconds: int) -> None:
    answer.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        path=base_path_of(request) + _TOKEN_PATH,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
