"""Defines the access control that the HTTP API needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import UUID

import attrs

from actorchat.chat.model import ChatState, Identity
from actorchat.protocol import Attachment, Role, User

__all__ = ["Access", "Caller", "FileAnswer", "Files", "Incoming", "Visit"]


@attrs.frozen
class Caller:
    """The user that sends a request: the stored profile, the sources in the token, and its expiry in epoch seconds.

    `session_at` is when an anonymous visitor's session began, in epoch seconds; None for other tokens.
    """

    user: User
    sources: frozenset[str]
    expires: float
    session_at: float | None = None

    @property
    def is_operator(self) -> bool:
        return self.user.role is Role.OPERATOR


@attrs.frozen
class Visit:
    """The result of `Access.visit`: a visitor, its token and its chat. `anonymous` if the visitor is new."""

    token: str
    user: User
    chat: ChatState
    anonymous: bool


class Access(Protocol):
    """Authenticates callers and checks what they may use. Every method raises Problem for a refusal."""

    async def caller(self, authorization: str | None) -> Caller:
        """Return the user that an `Authorization: Bearer` header identifies. Raises 401 if it is missing or invalid."""

    async def visit(self, authorization: str | None, source: str, address: str) -> Visit:
        """Create a visitor and reserve a chat; with a visitor's token, return that visitor's open chat or reserve one.

        `address` is the client's, for rate limits. Raises 429 over a limit, 403 for an operator's token.
        """

    async def reserve(self, caller: Caller, source: str, owner: User) -> tuple[ChatState, bool]:
        """Return the open chat of `owner` at one of the operator's sources, or reserve one; and whether it is new."""

    async def chat(self, caller: Caller, chat: UUID) -> ChatState:
        """Return the chat. Raises 404 if it does not exist, 403 if the caller may not see it."""

    def sources(self, caller: Caller, requested: Collection[str]) -> frozenset[str]:
        """Return the `requested` sources, or all of the operator's if empty.

        Raises 404 for a source that does not exist, and 403 for one that the operator's token does not name.
        """

    def check_source(self, source: str) -> None:
        """Raise 404 for a source that this deployment does not have."""


class Incoming(Protocol):
    """An upload in progress. Both methods raise Problem."""

    async def write(self, data: bytes) -> bool:
        """Write the next bytes. Returns False if the file is too large."""

    async def finish(self, filename: str) -> Attachment:
        """Check and store the complete file under its cleaned name. A message of the uploader may then use it."""


@attrs.frozen
class FileAnswer:
    """A file or a preview to send.

    `seconds` is how long the link remains valid. `read(start, size)` returns `size` bytes from the offset `start` on.
    """

    filename: str
    media_type: str
    size: int
    inline: bool
    seconds: int
    read: Callable[[int, int], Awaitable[bytes]]


class Files(Protocol):
    """Receives uploads and opens stored files."""

    @property
    def max_bytes(self) -> int:
        """The maximum size of a file."""

    def receive(self, caller: Caller, address: str) -> AbstractAsyncContextManager[Incoming]:
        """Receive a file from `caller` at the network address. An upload that is not finished in the block is removed.

        Raises Problem if the caller may not upload now.
        """

    async def open(self, file: UUID, ticket: str, reader: Identity | None, *, preview: bool) -> FileAnswer:
        """Open the file of a link with `ticket`. `reader` is the user of the request's token, None without a token.

        Raises Problem: 403 for an invalid ticket and for one of another reader, 404 if the file does not exist.
        """
