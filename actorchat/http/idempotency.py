"""Answers repeated requests with the same `Idempotency-Key` like the first one, without doing the work again."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final

import attrs
import trio
from starlette.requests import Request
from starlette.responses import Response

from actorchat.chat.model import Identity
from actorchat.http.problems import Problem

__all__ = ["KEY_PATTERN", "IdempotentCalls"]

KEY_SECONDS: Final = 86_400.0
MAX_CALLS: Final = 10_000
"""Answers that are kept, of all callers. The oldest are forgotten first."""

MAX_CALLS_OF_ONE: Final = 500
"""Answers that are kept of one caller, so that nobody makes the server forget those of others."""

MAX_ANSWER_BYTES: Final = 65_536
"""A larger answer is not kept."""

KEY_PATTERN: Final = "[!-~]{1,128}"
"""A key as a regular expression: printable ASCII characters without spaces."""

_KEY: Final = re.compile(KEY_PATTERN)


@attrs.define(eq=False)
class _Call:
    """One call: what was asked, since when, and the answer once there is one."""

    request: bytes
    at: float
    answer: Response | None = None
    done: trio.Event = attrs.field(factory=trio.Event)


class IdempotentCalls:
    """The calls of the last day with a key, in memory. Only answers of success are kept: others may be tried again."""

    def __init__(self) -> None:
        self._calls: OrderedDict[tuple[Identity, str], _Call] = OrderedDict()
        self._counts: dict[Identity, int] = {}

    async def answer(
        self, request: Request, caller: Identity, body: bytes, call: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Like `run` for a `POST` with an `Idempotency-Key`; any other request is just made."""
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        if key is None:
            return await call()
        return await self.run(caller, key, f"{request.method} {request.url.path}", body, call)

    async def run(
        self, caller: Identity, key: str, target: str, body: bytes, call: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Return the answer of the first call with this key, or make the call. `target` is its method and path.

        Raises Problem 400 for an invalid key, and 409 for one that was used for another request. Of two calls at the
        same time, the second waits for the first.
        """
        if not _KEY.fullmatch(key):
            detail = "Idempotency-Key: expected 1 to 128 printable ASCII characters without spaces"
            raise Problem("malformed", detail, path="Idempotency-Key", status=400)
        request = blake2b(target.encode() + b"\0" + body, digest_size=16).digest()
        while (known := self._find(caller, key)) is not None:
            if known.request != request:
                raise Problem("conflict", "this Idempotency-Key was used for another request", path="Idempotency-Key")
            if known.answer is not None:
                return _again(known.answer)
            await known.done.wait()
        made = self._begin(caller, key, request)
        try:
            answer = await call()
            if answer.status_code < 300 and len(answer.body) <= MAX_ANSWER_BYTES:
                made.answer = answer
        finally:
            if made.answer is None:
                self._forget((caller, key))
            made.done.set()
        return answer

    def _find(self, caller: Identity, key: str) -> _Call | None:
        known = self._calls.get((caller, key))
        if known is not None and known.answer is not None and trio.current_time() - known.at > KEY_SECONDS:
            self._forget((caller, key))
            return None
        return known

    def _begin(self, caller: Identity, key: str, request: bytes) -> _Call:
        if self._counts.get(caller, 0) >= MAX_CALLS_OF_ONE:
            self._forget(next(each for each in self._calls if each[0] == caller))
        elif len(self._calls) >= MAX_CALLS:
            self._forget(next(iter(self._calls)))
        made = self._calls[caller, key] = _Call(request, trio.current_time())
        self._counts[caller] = self._counts.get(caller, 0) + 1
        return made

    def _forget(self, key: tuple[Identity, str]) -> None:
        if self._calls.pop(key, None) is not None:
            self._counts[key[0]] -= 1
            if not self._counts[key[0]]:
                del self._counts[key[0]]


def _again(answer: Response) -> Response:
    """A copy of the answer: middleware may add headers to a response."""
    copy = Response(answer.body, answer.status_code)
    copy.raw_headers = list(answer.raw_headers)
    copy.headers["Idempotency-Replayed"] = "true"
    return copy
