"""Implements the HTTP routes with which supervisors block visitors and network addresses."""

from __future__ import annotations

from typing import Annotated, Final, Protocol

import attrs
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actorchat.chat.accounts import Rights
from actorchat.chat.blocks import Block
from actorchat.chat.model import identity_of
from actorchat.http.answers import BlockAnswer
from actorchat.http.idempotency import IdempotentCalls
from actorchat.http.ports import Access, Caller
from actorchat.http.problems import Problem, json_response
from actorchat.http.requests import Query, read_body, read_json, sender_of
from actorchat.protocol.entities import SafeInt
from actorchat.protocol.times import wire_time

__all__ = ["SEE_AND_CHANGE", "BlockBody", "BlockList", "BlockRoutes", "add_block", "block_answer"]

SEE_AND_CHANGE: Final = "see and change blocks"
"""The action that needs rights, as it is named in refusals."""

_MAX_SECONDS: Final = 10**9


class BlockList(Protocol):
    """The blocks of a server. The methods raise Problem, ChatRefused and StorageUnavailable."""

    def all(self) -> tuple[Block, ...]:
        """Return all blocks, the newest first."""

    async def add(
        self, caller: Caller, *, user: int | None, address: str | None, reason: str, seconds: float | None
    ) -> Block:
        """Block a visitor or an address."""

    async def remove(self, block_id: int) -> None:
        """Remove a block."""


@attrs.frozen(slots=False)
class BlockBody:
    user: SafeInt | None = None
    address: Annotated[str, Meta(max_length=64)] | None = None
    reason: Annotated[str, Meta(max_length=500)] = ""
    seconds: float | None = None


class BlockRoutes:
    """The endpoints under `/api/blocks`."""

    def __init__(self, access: Access, blocks: BlockList, once: IdempotentCalls) -> None:
        self._once = once
        self._access = access
        self._blocks = blocks

    def routes(self) -> list[Route]:
        return [
            Route("/api/blocks", self._all, methods=["GET", "POST"]),
            Route("/api/blocks/{block:int}", self._remove, methods=["DELETE"]),
        ]

    async def _supervisor(self, request: Request) -> Caller:
        Query(request)
        caller = await self._access.caller(request.headers.get("authorization"), sender_of(request))
        self._access.require(caller, Rights.SUPERVISOR, SEE_AND_CHANGE)
        return caller

    async def _all(self, request: Request) -> Response:
        return await (self._add(request) if request.method == "POST" else self._list(request))

    async def _list(self, request: Request) -> Response:
        await self._supervisor(request)
        return json_response([block_answer(block) for block in self._blocks.all()])

    async def _add(self, request: Request) -> Response:
        body = await read_body(request)
        caller = await self._supervisor(request)

        async def add() -> Response:
            return json_response(block_answer(await add_block(self._blocks, caller, read_json(body, BlockBody))), 201)

        return await self._once.answer(request, identity_of(caller.user), body, add)

    async def _remove(self, request: Request) -> Response:
        await self._supervisor(request)
        await self._blocks.remove(request.path_params["block"])
        return Response(status_code=204, headers={"Cache-Control": "no-store"})


async def add_block(blocks: BlockList, caller: Caller, body: BlockBody) -> Block:
    """Block what `body` names, for a caller who may do so."""
    if body.seconds is not None and not 0 < body.seconds <= _MAX_SECONDS:
        detail = f"seconds: expected more than 0 and at most {_MAX_SECONDS}"
        raise Problem("malformed", detail, path="seconds")
    return await blocks.add(caller, user=body.user, address=body.address, reason=body.reason, seconds=body.seconds)


def block_answer(block: Block) -> BlockAnswer:
    """Return the block as the API answers it."""
    return BlockAnswer(
        id=block.id,
        user=block.user,
        address=block.network,
        reason=block.reason,
        by=block.by,
        created=wire_time(block.created),
        until=None if block.until is None else wire_time(block.until),
    )
