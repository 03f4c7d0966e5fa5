"""Implements the HTTP routes with which administrators see and change the accounts of operators."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final, Protocol

import attrs
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.chat.accounts import MAX_LOGIN, Rights
from actorchat.http.answers import AccountAdded, AccountAnswer, OneTimePassword
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import json_response
from actorchat.http.requests import Query, read_body, read_json, sender_of
from actorchat.http.source_names import SourceName

__all__ = ["AccountBody", "AccountChangeBody", "AccountList", "AccountListRoutes"]

_MAX_SOURCES: Final = 1_000

_Name = Annotated[str, Meta(max_length=200)]
_Sources = Annotated[tuple[SourceName, ...], Meta(max_length=_MAX_SOURCES)]


@attrs.frozen(slots=False)
class AccountBody:
    """A new account. Without a name, customers see the login."""

    login: Annotated[str, Meta(min_length=1, max_length=2 * MAX_LOGIN)]
    rights: Rights = Rights.OPERATOR
    sources: _Sources = ()
    firstname: _Name = ""
    lastname: _Name = ""


@attrs.frozen(slots=False)
class AccountChangeBody:
    """The values of an account to change."""

    rights: Rights | None = None
    sources: _Sources | None = None
    disabled: bool | None = None
    firstname: _Name | None = None
    lastname: _Name | None = None


class AccountList(Protocol):
    """The accounts of a server, for administrators. The methods raise Problem, ChatRefused and StorageUnavailable."""

    async def all(self) -> Collection[AccountAnswer]:
        """Return all accounts by login."""

    async def add(self, caller: Caller, wanted: AccountBody) -> AccountAdded:
        """Add an account with a one-time password."""

    async def change(self, caller: Caller, account: int, wanted: AccountChangeBody) -> AccountAnswer:
        """Change an account. Disabling it ends its sign-ins and sockets."""

    async def reset_password(self, caller: Caller, account: int) -> str:
        """Give an account a one-time password, end its sign-ins and sockets, and return the password."""

    async def sign_out(self, caller: Caller, account: int) -> None:
        """End all sign-ins and sockets of an account."""


class AccountListRoutes:
    """The endpoints under `/api/accounts`, for administrators."""

    def __init__(self, access: Access, accounts: AccountList) -> None:
        self._access = access
        self._accounts = accounts

    def routes(self) -> list[Route]:
        account = "/api/accounts/{account:int}"
        return [
            Route("/api/accounts", self._all, methods=["GET", "POST"]),
            Route(account, self._change, methods=["PATCH"]),
            Route(account + "/password", self._reset_password, methods=["POST"]),
            Route(account + "/sign-out", self._sign_out, methods=["POST"]),
        ]

    async def _admin(self, request: Request) -> Caller:
        caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
        Query(request)
        self._access.require(caller, Rights.ADMIN, "see and change accounts")
        return caller

    async def _all(self, request: Request) -> Response:
        body = await read_body(request)
        caller = await self._admin(request)
        if request.method == "POST":
            wanted = read_json(body, AccountBody)
            self._check_sources(wanted.sources)
            return json_response(await self._accounts.add(caller, wanted), 201)
        return json_response(await self._accounts.all())

    async def _change(self, request: Request) -> Response:
        body = await read_body(request)
        caller = await self._admin(request)
        wanted = read_json(body, AccountChangeBody)
        self._check_sources(wanted.sources or ())
        return json_response(await self._accounts.change(caller, request.path_params["account"], wanted))

    async def _reset_password(self, request: Request) -> Response:
        await read_body(request)
        caller = await self._admin(request)
        password = await self._accounts.reset_password(caller, request.path_params["account"])
        return json_response(OneTimePassword(password))

    async def _sign_out(self, request: Request) -> Response:
        await read_body(request)
        caller = await self._admin(request)
        await self._accounts.sign_out(caller, request.path_params["account"])
        return Response(status_code=204, headers={"Cache-Control": "no-store"})

    def _check_sources(self, sources: tuple[str, ...]) -> None:
        for source in sources:
            self._access.check_source(source)
