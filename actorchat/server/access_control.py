"""Owns who may come in and see what: callers by their tokens, chats and sources by their rights.

Refuses to know HTTP and sockets: both sides of the port ask here and are refused with a `Problem`.
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
    """One server's door, also for HTTP. Beside Problem it raises ChatRefused and StorageUnavailable.

    `sources` are the deployment's; empty means that every name is one.
    """

    def __init__(
        self,
        chats: ChatService,
        tokens: Tokens,
        people: UserCache,
        *,
        sources: Collection[str],
        visitors_per_minute: float,
        chats_per_minute: float,
        address_chats_per_minute: float,
    ) -> None:
        self._chats = chats
        self._tokens = tokens
        self._people = people
        self._sources = frozenset(sources)
        self._visitors = AddressLimiter(visitors_per_minute)
        self._chats_by: MinuteLimiter[Identity] = MinuteLimiter(chats_per_minute)
        self._chats_from = AddressLimiter(address_chats_per_minute)

    async def caller(self, authorization: str | None) -> Caller:
        """Who a request speaks for: 401 if nobody. What its token claims of them is stored if it is news."""
        claims = self._claims(authorization)
        return _caller(await self._people.record(claims), claims)

    def caller_nowait(self, authorization: str | None) -> Caller:
        """As `caller`, if nothing has to be waited for; else WouldBlock."""
        claims = self._claims(authorization)
        return _caller(self._people.record_nowait(claims), claims)

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
            wait = self._visitors.take(address, trio.current_time())
            if wait:
                raise Problem("rate_limited", "too many visitors from your address", retry_after=wait)
            self.check_source(source)
            user = await self._people.new_visitor()
            chat, _ = await self._chats.reserve_chat(source, user)
            return Visit(self._tokens.open_session(user, source), user, chat, anonymous=True)
        caller = await self.caller(authorization)
        if caller.is_operator:
            raise Problem("not_allowed", "operators are no visitors")
        self.check_source(source)
        user = caller.user
        chat, _ = await self._reserve(source, user, user, address)
        # Without the profile: a claim would undo what newer tokens said of it.
        bearer = User(user.id, user.role)
        token = self._tokens.renew(bearer, source, expires=caller.expires, session_at=caller.session_at)
        return Visit(token, user, chat, anonymous=False)

    async def reserve(self, caller: Caller, source: str, owner: User) -> tuple[ChatState, bool]:
        self.sources(caller, (source,))
        return await self._reserve(source, owner, caller.user, None)

    async def _reserve(self, source: str, owner: User, by: User, address: str | None) -> tuple[ChatState, bool]:
        """A chat that was there costs nothing; a new one is refused while `by`, or the address, has had too many."""
        now, identity = trio.current_time(), identity_of(by)
        wait = self._chats_by.wait(identity, now)
        if address is not None:
            wait = max(wait, self._chats_from.wait(address, now))
        if wait:
            refusal = Refused(RefusalCode.RATE_LIMITED, "too many new chats", wait)
            return await self._chats.reserve_chat(source, owner, refusal)
        self._chats_by.take(identity, now)
        if address is not None:
            self._chats_from.take(address, now)
        # A call that is cancelled may have made one all the same.
        new = True
        try:
            chat, new = await self._chats.reserve_chat(source, owner)
        except (ChatRefused, StorageUnavailable):
            new = False
            raise
        finally:
            if not new:
                self._chats_by.give_back(identity, now)
                if address is not None:
                    self._chats_from.give_back(address, now)
        return chat, new

    async def chat(self, caller: Caller, chat: UUID) -> ChatState:
        state = await self._chats.chat_reader.chat(chat)
        if state is None:
            raise Problem("not_found", "there is no such chat")
        return _theirs(caller, state)

    def chat_nowait(self, caller: Caller, chat: UUID) -> ChatState:
        """As `chat`, if its room is open; else WouldBlock. What was committed just now it may not show yet."""
        return _theirs(caller, self._chats.chat_nowait(chat))

    def sources(self, caller: Caller, asked: Collection[str]) -> frozenset[str]:
        if caller.user.role is not Role.OPERATOR:
            raise Problem("not_allowed", "only operators have sources")
        if not asked:
            return caller.sources & self._sources if self._sources else caller.sources
        for source in asked:
            self.check_source(source)
            if source not in caller.sources:
                raise Problem("not_allowed", f"your token does not name the source {source[:64]!r}", path="source")
        return frozenset(asked)

    def check_source(self, source: str) -> None:
        known = source in self._sources if self._sources else is_source_name(source)
        if not known:
            raise Problem("not_found", f"there is no source {source[:64]!r}", path="source")


def _bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization` header. Another scheme counts as no header: sites use basic authentication."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _caller(record: PersonRecord, claims: Claims) -> Caller:
    return Caller(record.user, claims.sources or frozenset(), claims.expires, claims.session_at)


def _theirs(caller: Caller, chat: ChatState) -> ChatState:
    if caller.is_operator:
        if chat.source not in caller.sources:
            raise Problem("not_allowed", "the chat is of a source that is not yours")
    elif chat.owner.id != caller.user.id:
        raise Problem("not_participant", "the chat is somebody else's")
    return chat
