"""Owns reading a request: its body within bounds of size and time, its query, the classes of its JSON.

Refuses to know what is done with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import aclosing
from typing import Final, TypeVar
from uuid import UUID

import attrs
import trio
from starlette.requests import Request

from actorchat.chat.ports import ListPlace
from actorchat.http.cursors import place_of
from actorchat.http.problems import Problem
from actorchat.http.source_names import SourceName
from actorchat.protocol import ChatStatus, Malformed, MessageType, NotUtf8, Role, parse_json, structure
from actorchat.protocol.entities import ClientId, SafeInt

__all__ = [
    "ChatBody",
    "MessageBody",
    "Query",
    "TransferBody",
    "VisitorBody",
    "check_parameters",
    "read_body",
    "read_json",
]

MAX_BODY_BYTES: Final = 131_072
"""A message of 16,000 characters fits, each escaped as six."""

BODY_SECONDS: Final = 15.0
"""A body that takes longer to arrive is cut off."""

_DISCARDED_BYTES: Final = 1_048_576
"""So much more is read and dropped: a peer that is still sending would lose the answer to a reset."""

MAX_LIMIT: Final = 200
_DEFAULT_LIMIT: Final = 50
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,16}")

T = TypeVar("T")


@attrs.frozen(slots=False)
class VisitorBody:
    source: SourceName


@attrs.frozen(slots=False)
class ChatBody:
    source: SourceName
    owner: SafeInt


@attrs.frozen(slots=False)
class TransferBody:
    operator_id: SafeInt


@attrs.frozen(slots=False)
class MessageBody:
    """`type_role` is the recipients' role of a system message, and means nothing in a standard one."""

    text: str
    attachments: tuple[UUID, ...] = ()
    type: MessageType = MessageType.STANDARD
    type_role: Role | None = None
    client_id: ClientId | None = None


async def read_body(request: Request) -> bytes:
    """The whole body. Raises Problem: 413 if it is too big, 408 if it is too slow."""
    body = bytearray()
    size = 0
    with trio.move_on_after(BODY_SECONDS) as deadline:
        async with aclosing(request.stream()) as parts:
            async for part in parts:
                size += len(part)
                if size <= MAX_BODY_BYTES:
                    body += part
                elif size > MAX_BODY_BYTES + _DISCARDED_BYTES:
                    break
    if deadline.cancelled_caught:
        raise Problem("timeout", f"the body took longer than {BODY_SECONDS:.0f} s")
    if size > MAX_BODY_BYTES:
        raise Problem("too_large", f"at most {MAX_BODY_BYTES} bytes are taken")
    return bytes(body)


def read_json(body: bytes, cls: type[T]) -> T:
    """The body as `cls`. Raises Problem: 400 if it is not JSON, 422 with every fault if it is no `cls`."""
    try:
        value = parse_json(body)
    except (NotUtf8, Malformed) as error:
        raise Problem("malformed", error.detail, path=error.path, status=400) from None
    try:
        return structure(value, cls)
    except Malformed as error:
        raise Problem("malformed", error.detail, path=error.path) from None


def check_parameters(given: Iterable[str], known: Collection[str]) -> None:
    """Raise Problem 400 for the first of the `given` names of query parameters that is not `known`."""
    for name in given:
        if name not in known:
            takes = f"this path takes {', '.join(sorted(known))}" if known else "this path takes none"
            raise _bad(name, f"there is no such query parameter; {takes}")


class Query:
    """A request's query parameters. Every method raises Problem 400 for what is not legal.

    So does the constructor for a parameter that is not among `known`: what is misspelt must not be ignored.
    """

    def __init__(self, request: Request, known: Collection[str] = ()) -> None:
        self._parameters = request.query_params
        check_parameters(self._parameters, known)

    def limit(self) -> int:
        limit = self.number("limit")
        if limit is None:
            return _DEFAULT_LIMIT
        if not 1 <= limit <= MAX_LIMIT:
            raise _bad("limit", f"expected 1 to {MAX_LIMIT}, got {limit}")
        return limit

    def number(self, name: str) -> int | None:
        text = self._one(name)
        if text is None:
            return None
        if not _NUMBER.fullmatch(text) or abs(int(text)) > 2**53:
            raise _bad(name, "expected an integer")
        return int(text)

    def place(self, name: str) -> ListPlace | UUID | None:
        """Where a list goes on: a cursor that a page linked to, or a chat's UUID."""
        text = self._one(name)
        try:
            if text is None or _UUID.fullmatch(text):
                return None if text is None else UUID(text)
            return place_of(text)
        except ValueError:
            raise _bad(name, "expected the cursor of a Link header, or a chat's UUID") from None

    def status(self) -> ChatStatus | None:
        text = self._one("status")
        try:
            return None if text is None else ChatStatus(text)
        except ValueError:
            raise _bad("status", f"expected one of {', '.join(ChatStatus)}") from None

    def every(self, name: str) -> tuple[str, ...]:
        return tuple(self._parameters.getlist(name))

    def _one(self, name: str) -> str | None:
        texts = self._parameters.getlist(name)
        if len(texts) > 1:
            raise _bad(name, "given more than once")
        return texts[0] if texts else None


def _bad(name: str, detail: str) -> Problem:
    return Problem("malformed", f"{name}: {detail}", path=name, status=400)
