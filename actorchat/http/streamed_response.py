"""A streaming response that closes its generator."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

__all__ = ["StreamedResponse"]


class StreamedResponse(StreamingResponse):
    """Sends what the generator `parts` yields, and closes it however the request ends.

    Starlette's own response leaves a generator open when the client goes in the middle. Its `finally` then runs when
    the garbage is collected, outside of the request's task.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
    ) -> None:
        super().__init__(parts, status, headers, media_type)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._parts):
            await super().__call__(scope, receive, send)
