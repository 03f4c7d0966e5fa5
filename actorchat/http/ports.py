"""Owns what the HTTP side needs of others: somebody at the door who knows people and their rights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol
from uuid import UUID

import attrs

from actorchat.chat.model import ChatState
from actorchat.protocol import Role, User

__all__ = ["Access", "Caller", "Visit"]


@attrs.frozen
class Caller:
    """Whoever calls: the stored profile, the sources that the token names, and its end in epoch seconds.

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
    """A visitor with a token and a chat; `anonymous` if the visitor was made for this call."""

    token: str
    user: User
    chat: ChatState
    anonymous: bool


class Access(Protocol):
    """Says who calls and what they may see. Every method raises Problem for what it refuses."""

    async def caller(self, authorization: str | None) -> Caller:
        """Who an `Authorization` header speaks for: 401 if nobody. Only the scheme `Bearer` counts as a header."""

    async def visit(self, authorization: str | None, source: str, address: str) -> Visit:
        """A new visitor with a reserved chat; with a user's token the same visitor and open chat again."""

    async def reserve(self, caller: Caller, source: str, owner: User) -> tuple[ChatState, bool]:
        """The open chat of `owner`, or a new one, at an operator's source; and whether it is new."""

    async def chat(self, caller: Caller, chat: UUID) -> ChatState:
        """The chat as it is now: 404 if there is none, 403 if it is not theirs to see."""

    def sources(self, caller: Caller, asked: Collection[str]) -> frozenset[str]:
        """The sources asked for, all the operator's if none: 404 if unknown, 403 if not theirs."""

    def check_source(self, source: str) -> None:
        """404 for a source that this deployment hasn't."""
