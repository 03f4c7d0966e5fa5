"""Defines the access control that the HTTP API needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from uuid import UUID

import attrs

from actorchat.chat.accounts import Rights
from actorchat.chat.model import ChatState, Identity
from actorchat.protocol import Attachment, Role, User

__all__ = [
    "Access",
    "Caller",
    "FileAnswer",
    "Files",
    "Incoming",
    "OperatorProfile",
    "Sender",
    "SignIns",
    "SignedIn",
    "Visit",
]


@attrs.frozen
class Sender:
    """Where a request comes from: the client's address, and its headers `Origin` and `Host`."""

    address: str = ""
    origin: str | None = None
    host: str | None = None


@attrs.frozen
class Caller:
    """The user that sends a request: the stored profile, the sources in the token, and its expiry in epoch seconds.

    `session_at` is when an anonymous visitor's session began, in epoch seconds; None for other tokens. `rights` are an
    operator's. `issued` is when the token was issued, None if unknown; `by_token` is false for a user whom the program
    that embeds the server has authenticated.
    """

    user: User
    sources: frozenset[str]
    expires: float
    session_at: float | None = None
    rights: Rights = Rights.OPERATOR
    issued: float | None = None
    by_token: bool = True
    sender: Sender = Sender()

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


@attrs.frozen
class SignedIn:
    """The tokens of an operator's sign-in. `seconds` and `refresh_seconds` are how long they are valid from now on."""

    token: str = attrs.field(repr=False)
    seconds: int
    refresh_token: str = attrs.field(repr=False)
    refresh_seconds: int
    user: User


@attrs.frozen
class OperatorProfile:
    """An operator as the console shows them to themselves. `login` is None without an account.

    `settings` are those of the operator's console.
    """

    user: User
    login: str | None
    rights: Rights
    sources: tuple[str, ...]
    capacity: int
    away: bool
    settings: dict[str, Any] = attrs.field(factory=dict)  # Any: JSON


class SignIns(Protocol):
    """Signs operators in and out. The methods raise Problem, ChatRefused and StorageUnavailable."""

    async def sign_in(self, login: str, password: str, address: str, new_password: str | None = None) -> SignedIn:
        """Sign in with a password, which `new_password` replaces. `address` is the client's, for rate limits."""

    async def sign_in_once(self, code: str, address: str) -> SignedIn:
        """Sign in with a one-time code."""

    async def renew(self, refresh_token: str | None) -> SignedIn:
        """Exchange a refresh token for a new one and an access token."""

    async def end(self, refresh_token: str | None) -> None:
        """End the sign-in of a refresh token, if there is one."""

    async def sign_out(self, caller: Caller) -> None:
        """Make all tokens of the caller worthless that were issued until now, and close all their sockets."""

    async def set_away(self, caller: Caller, away: bool) -> object:
        """Set whether an operator is away."""

    async def profile(self, caller: Caller) -> OperatorProfile:
        """Return what an operator sees about themselves."""


class Access(Protocol):
    """Authenticates callers and checks what they may use. Every method raises Problem for a refusal."""

    async def caller(self, authorization: str | None, sender: Sender) -> Caller:
        """Return the user that an `Authorization: Bearer` header identifies.

        Raises 401 if it is missing or invalid, and 403 for visitors that are blocked or may not use this page.
        """

    async def visit(
        self, authorization: str | None, source: str, sender: Sender, anonymous: str | None = None
    ) -> Visit:
        """Create a visitor and reserve a chat; with a visitor's token, return that visitor's open chat or reserve one.

        `anonymous` is the token of an anonymous visitor who has signed in: its chats become those of the token's user.

        Raises 429 over a limit, 403 for an operator's token and for tokens that don't go together.
        """

    async def reserve(self, caller: Caller, source: str, owner: User) -> tuple[ChatState, bool]:
        """Return the open chat of `owner` at one of the operator's sources, or reserve one; and whether it is new."""

    async def chat(self, caller: Caller, chat: UUID) -> ChatState:
        """Return the chat. Raises 404 if it does not exist, 403 if the caller may not see it."""

    def moderates(self, caller: Caller, chat: ChatState) -> bool:
        """Whether the caller may remove the messages of others in this chat, which it may see."""

    def sources(self, caller: Caller, requested: Collection[str]) -> frozenset[str]:
        """Return the `requested` sources, or all of the operator's if empty.

        Raises 404 for a source that does not exist, and 403 for one that the operator's token does not name.
        """

    def require(self, caller: Caller, rights: Rights, action: str) -> None:
        """Raise 403 unless the caller is an operator with `rights`. `action` completes "only … can"."""

    def count_widget(self, sender: Sender) -> None:
        """Count a request for what a widget shows, which needs no token. Raises 429 if the address sends too many."""

    def check_source(self, source: str) -> None:
        """Raise 404 for a source that this deployment does not have."""


class Incoming(Protocol):
    """An upload in progress. Both methods raise Problem."""

    async def write(self, data: bytes) -> None:
        """Write the next bytes. Raises Problem `too_large` if there are too many."""

    async def finish(self, filename: str) -> Attachment:
        """Check and store the complete file under its cleaned name. A message of the uploader may then use it."""


@attrs.frozen
class FileAnswer:
    """A file or a preview to send.

    `seconds` is how long the link remains valid. `read(start, size)` returns `size` bytes from the offset `start` on;
    `read_bytes` is how much to read at a time.
    """

    filename: str
    media_type: str
    size: int
    inline: bool
    seconds: int
    read_bytes: int
    read: Callable[[int, int], Awaitable[bytes]]


class Files(Protocol):
    """Receives uploads and opens stored files."""

    @property
    def max_bytes(self) -> int:
        """The maximum size of a file, of any caller."""

    def receive(self, caller: Caller, address: str) -> AbstractAsyncContextManager[Incoming]:
        """Receive a file from `caller` at the network address. An upload that is not finished in the block is removed.

        Raises Problem if the caller may not upload now.
        """

    async def open(self, file: UUID, ticket: str, reader: Identity | None, *, preview: bool) -> FileAnswer:
        """Open the file of a link with `ticket`. `reader` is the user of the request's token, None without a token.

        Raises Problem: 403 for an invalid ticket and for one of another reader, 404 if the file does not exist.
        """
