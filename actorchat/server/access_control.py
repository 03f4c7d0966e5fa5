"""Identifies callers by their tokens and decides which chats and sources they may use.

The HTTP API and the websocket routes both ask here; every refusal is a `Problem`.
"""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

import trio

from actorchat.chat.model import ChatState, Identity, PersonRecord, identity_of
from actorchat.chat.operations import Refused
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatRefused, ChatService
from actorchat.http.ports import Caller, Visit
from actorchat.http.problems import Problem
from actorchat.http.source_names import is_source_name
from actorchat.protocol import RefusalCode, Role, User
from actorchat.server.auth import BadToken, Claims, Tokens
from actorchat.server.rate_limits import AddressLimiter, MinuteLimiter
from actorchat.server.user_cache import UserCache

__all__ = ["AccessControl"]


class AccessControl:
    """Implements `actorchat.http.ports.Access`. Besides Problem it raises ChatRefused and StorageUnavailable.

    `sources` are the widget sources of this deployment; empty means that every valid name is accepted. The limits count
    per minute, 0 = unlimited: new anonymous visitors per address, new chats per user, and new chats per address.
    """

    def __init__(
        self,
        chats: ChatService,
        tokens: Tokens,
        users: UserCache,
        *,
        sources: Collection[str],
        visitors_per_minute: float,
        chats_per_minute: float,
        address_chats_per_minute: float,
    ) -> None:
        self._chats = chats
        self._tokens = tokens
        self._users = users
        self._sources = frozenset(sources)
        self._visitors_by_address = AddressLimiter(visitors_per_minute)
        self._chats_by_user: MinuteLimiter[Identity] = MinuteLimiter(chats_per_minute)
        self._chats_by_address = AddressLimiter(address_chats_per_minute)

    async def caller(self, authorization: str | None) -> Caller:
        """Verify the token of an `Authorization` header, and store its profile and sources if they are new.

        Raises Problem 401 if there is no valid token.
        """
        claims = self._claims(authorization)
        return _caller(await self._users.record(claims), claims)

    def caller_nowait(self, authorization: str | None) -> Caller:
        """Like `caller`, but raises WouldBlock if storage has to be read or written."""
        claims = self._claims(authorization)
        return _caller(self._users.record_nowait(claims), claims)

    def _claims(self, authorization: str | None) -> Claims:
        token = _bearer(authorization)
        if token is None:
            raise Problem("not_authenticated", "a token is needed: Authorization: Bearer …")
        try:
            return self._tokens.verify(token)
        except BadToken as error:
            raise Problem("not_authenticated", str(error)) from None

    async def visit(self, authorization: str | None, source: str, address: str) -> Visit:
        if _bearer(authorization) is None:
            wait = self._visitors_by_address.take(address, trio.current_time())
            if wait:
                raise Problem("rate_limited", "too many visitors from your address", retry_after=wait)
            self.check_source(source)
            user = await self._users.new_visitor()
            chat, _ = await self._chats.reserve_chat(source, user)
            return Visit(self._tokens.open_session(user, source), user, chat, anonymous=True)
        caller = await self.caller(authorization)
        if caller.is_operator:
            raise Problem("not_allowed", "only visitors can start a chat here, and this token is an operator's")
        self.check_source(source)
        user = caller.user
        chat, _ = await self._reserve(source, user, user, address)
        # The new token carries no profile: claims from an old token would overwrite newer ones.
        bearer = User(user.id, user.role)
        token = self._tokens.renew(bearer, source, expires=caller.expires, session_at=caller.session_at)
        return Visit(token, user, chat, anonymous=False)

    async def reserve(self, caller: Caller, source: str, owner: User) -> tuple[ChatState, bool]:
        self.sources(caller, (source,))
        return await self._reserve(source, owner, caller.user, None)

    async def _reserve(self, source: str, owner: User, by: User, address: str | None) -> tuple[ChatState, bool]:
        """Return the owner's open chat, or reserve one. Only a new chat counts against the limits of `by` and address.

        Over a limit, an open chat is still returned and a new one is refused.
        """
        now, identity = trio.current_time(), identity_of(by)
        wait = self._chats_by_user.wait(identity, now)
        if address is not None:
            wait = max(wait, self._chats_by_address.wait(address, now))
        if wait:
            refusal = Refused(RefusalCode.RATE_LIMITED, "too many new chats", wait)
            return await self._chats.reserve_chat(source, owner, refusal)
        self._chats_by_user.take(identity, now)
        if address is not None:
            self._chats_by_address.take(address, now)
        # A cancelled call may have reserved a chat, so it counts.
        new = True
        try:
            chat, new = await self._chats.reserve_chat(source, owner)
        except (ChatRefused, StorageUnavailable):
            new = False
            raise
        finally:
            if not new:
                self._chats_by_user.give_back(identity, now)
                if address is not None:
                    self._chats_by_address.give_back(address, now)
        return chat, new

    async def chat(self, caller: Caller, chat: UUID) -> ChatState:
        state = await self._chats.chat_reader.chat(chat)
        if state is None:
            raise Problem("not_found", "there is no such chat")
        return _check_access(caller, state)

    def chat_nowait(self, caller: Caller, chat: UUID) -> ChatState:
        """Like `chat`, but raises WouldBlock if the chat's room is not running. May lag behind the newest commit."""
        return _check_access(caller, self._chats.chat_nowait(chat))

    def sources(self, caller: Caller, requested: Collection[str]) -> frozenset[str]:
        if caller.user.role is not Role.OPERATOR:
            raise Problem("not_allowed", "only operators have sources")
        if not requested:
            return caller.sources & self._sources if self._sources else caller.sources
        for source in requested:
            self.check_source(source)
            if source not in caller.sources:
                raise Problem("not_allowed", f"your token does not name the source {source[:64]!r}", path="source")
        return frozenset(requested)

    def check_source(self, source: str) -> None:
        known = source in self._sources if self._sources else is_source_name(source)
        if not known:
            raise Problem("not_found", f"there is no source {source[:64]!r}", path="source")


def _bearer(authorization: str | None) -> str | None:
    """Return the bearer token, or None. Other schemes are ignored: a site may use basic authentication as well."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _caller(record: PersonRecord, claims: Claims) -> Caller:
    return Caller(record.user, claims.sources or frozenset(), claims.expires, claims.session_at)


def _check_access(caller: Caller, chat: ChatState) -> ChatState:
    if caller.is_operator:
        if chat.source not in caller.sources:
            raise Problem("not_allowed", "the chat belongs to a source that your token does not name")
    elif chat.owner.id != caller.user.id:
        raise Problem("not_participant", "the chat belongs to another visitor")
    return chat
