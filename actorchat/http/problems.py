"""Defines error responses: their status, code, detail and path, and their JSON.

Codes are API. Details are for people and may change.
"""

from __future__ import annotations

from hashlib import blake2b
from math import ceil
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from actorchat.chat.submitter import ChatRefused
from actorchat.protocol import encode_entity

__all__ = ["Problem", "ResponseCutOff", "json_response", "problem_of_refusal", "with_tag"]

STATUSES: Final = {
    "malformed": 422,
    "empty": 422,
    "too_long": 422,
    "attachment_unknown": 422,
    "attachment_rejected": 422,
    "too_many_attachments": 422,
    "not_authenticated": 401,
    "not_participant": 403,
    "not_allowed": 403,
    "new_password_needed": 403,
    "blocked": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "not_owner": 409,
    "chat_closed": 409,
    "over_capacity": 409,
    "too_late": 409,
    "too_large": 413,
    "upgrade_required": 426,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
    "storage_unavailable": 503,
    "draining": 503,
}
"""The HTTP status of each code."""

_PATHS: Final = {
    "empty": "text",
    "too_long": "text",
    "attachment_unknown": "attachments",
    "attachment_rejected": "attachments",
    "too_many_attachments": "attachments",
}
"""The request field that a refusal code of the chat concerns."""

_PRIVATE: Final = {"Cache-Control": "no-store"}
"""Responses are meant for one user, so caches must not store them."""

_DEFAULT_RETRY_AFTER: Final = 1.0
"""Seconds, for a 429 or 503 without a time of its own."""


class ResponseCutOff(Exception):  # noqa: N818 - describes the response
    """The rest of a response can't be sent, for a reason that is logged already. The connection is closed."""


class Problem(Exception):  # noqa: N818 - describes the request
    """A request is answered with an error response. `path` names the field at fault.

    `status` is by default that of the code. `retry_after` is in seconds.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        path: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.path = path
        self.status: int = STATUSES[code] if status is None else status
        self.retry_after = retry_after

    def body(self) -> bytes:
        return encode_entity({"error": {"code": self.code, "detail": self.detail, "path": self.path}})

    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        if self.status == 426:
            return {"Upgrade": "websocket", "Connection": "Upgrade"}
        if self.status in (408, 413):
            # The rest of the body is not read.
            return {"Connection": "close"}
        if self.status in (429, 503):
            return {"Retry-After": str(ceil(self.retry_after or _DEFAULT_RETRY_AFTER))}
        return {}

    def response(self) -> Response:
        return Response(self.body(), self.status, {**_PRIVATE, **self.headers()}, media_type="application/json")


def problem_of_refusal(refused: ChatRefused) -> Problem:
    """Convert a refusal of the chat to an error response."""
    path = _PATHS.get(refused.code, "")
    return Problem(refused.code, refused.detail, path=path, retry_after=refused.retry_after)


def with_tag(request: Request, answer: Response) -> Response:
    """Return `answer` with an `ETag`, or 304 without a body if the client has the same answer already."""
    tag = f'"{blake2b(answer.body, digest_size=16).hexdigest()}"'
    known = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
    if tag in known or known == ["*"]:
        return Response(status_code=304, headers={**_PRIVATE, "ETag": tag})
    answer.headers["ETag"] = tag
    return answer


def json_response(value: object, status: int = 200) -> Response:
    """Return a JSON response with a protocol value, or a container of such values."""
    return Response(encode_entity(value), status, _PRIVATE, media_type="application/json")
