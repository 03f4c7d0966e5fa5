"""Identifies callers by their tokens and decides which chats and sources they may use.

The HTTP API and the websocket routes both ask here; every refusal is a `Problem`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import trio

from actorchat.chat.accounts import Rights
from actorchat.chat.model import ChatState, Identity, PersonRecord, identity_of
from actorchat.chat.operations import Refused
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.origins import AllowedOrigins
from actorchat.http.ports import Caller, Sender, Visit
from actorchat.http.problems import Problem
from actorchat.http.source_names import is_source_name
from actorchat.protocol import RefusalCode, Role, User
from actorchat.server.accounts import Accounts
from actorchat.server.auth import FIRST_ANONYMOUS_ID, BadToken, Claims, Tokens, UnknownKey
from actorchat.server.blocks import Blocks
from actorchat.server.jwks import KeySet
from actorchat.server.rate_limits import AddressLimiter, MinuteLimiter
from actorchat.server.user_cache import UserCache

__all__ = ["AccessControl"]


_ONLY_SIGNED_IN: Final = "visitors of this chat have to be signed in by the site"

WIDGETS_PER_VISITOR: Final = 10
"""How many widgets an address may load for each new visitor that it may make: most visitors of a page don't write."""

_NAMES: Final = {
    Rights.OPERATOR: "operators",
    Rights.SUPERVISOR: "supervisors and administrators",
    Rights.ADMIN: "administrators",
}


class AccessControl:
    """Implements `actorchat.http.ports.Access`. Besides Problem it raises ChatRefused and StorageUnavailable.

    Without `anonymous`, visitors have to be signed in by the site. `origins` has the origins of single sources, from
    which visitors may use them; `other_origins` are those of all other sources, None if any is allowed. `sources` are
    the widget sources of this deployment; empty means that every valid name is accepted. The limits count per minute,
    0 = unlimited: new anonymous visitors per address, new chats per user, and new chats per address.
    """

    def __init__(
        self,
        chats: ChatService,
        tokens: Tokens,
        users: UserCache,
        accounts: Accounts,
        blocks: Blocks,
        *,
        anonymous: bool = True,
        origins: Mapping[str, AllowedOrigins] | None = None,
        other_origins: AllowedOrigins | None = None,
        key_set: KeySet | None = None,
        sources: Collection[str],
        visitors_per_minute: float,
        chats_per_minute: float,
        address_chats_per_minute: float,
    ) -> None:
        self._chats = chats
        self._tokens = tokens
        self._users = users
        self._accounts = accounts
        self._blocks = blocks
        self._anonymous = anonymous
        self._origins = origins or {}
        self._other_origins = other_origins
        self._key_set = key_set
        self._sources = frozenset(sources)
        self._visitors_by_address = AddressLimiter(visitors_per_minute)
        self._widgets_by_address = AddressLimiter(WIDGETS_PER_VISITOR * visitors_per_minute)
        self._chats_by_user: MinuteLimiter[Identity] = MinuteLimiter(chats_per_minute)
        self._chats_by_address = AddressLimiter(address_chats_per_minute)

    async def caller(self, authorization: str | None, sender: Sender) -> Caller:
        """Verify the token of an `Authorization` header, and store its profile and sources if they are new.

        Raises Problem 401 if there is no valid token, or if its user has signed out since or is disabled.
        """
        with _bad_tokens_refused():
            try:
                claims = self._claims(authorization)
            except UnknownKey:
                if self._key_set is None:
                    raise
                # The issuer may have a new key.
                await self._key_set.refresh()
                claims = self._claims(authorization)
            return self._caller(await self._users.record(claims), claims, sender)

    def caller_nowait(self, authorization: str | None, sender: Sender) -> Caller:
        """Like `caller`, but raises WouldBlock if that has to wait for storage or for the keys of an issuer."""
        with _bad_tokens_refused():
            try:
                claims = self._claims(authorization)
            except UnknownKey:
                if self._key_set is None or not self._key_set.may_refresh():
                    raise
                raise trio.WouldBlock from None
            return self._caller(self._users.record_nowait(claims), claims, sender)

    def _caller(self, record: PersonRecord, claims: Claims, sender: Sender) -> Caller:
        self._accounts.check_enabled(record.user)
        self._check_visitor(record.user, sender.address)
        return Caller(
            record.user,
            self._accounts.sources(claims),
            claims.expires,
            claims.session_at,
            self._accounts.rights(claims),
            claims.issued,
            sender=sender,
        )

    def _check_visitor(self, user: User, address: str) -> None:
        """Raise Problem if this visitor may not use the chat."""
        if user.role is not Role.USER:
            return
        if not self._anonymous and user.id >= FIRST_ANONYMOUS_ID:
            raise Problem("not_authenticated", _ONLY_SIGNED_IN)
        if self._blocks.blocks_user(user) or self._blocks.blocks_address(address):
            raise Problem("blocked", "you may not use this chat")

    def check_current(self, caller: Caller) -> None:
        """Raise Problem if the caller was signed out, disabled or blocked since `caller` returned. Reads no storage."""
        with _bad_tokens_refused():
            self._accounts.check_enabled(caller.user)
            self._users.check_current(caller.user, caller.issued)
        self._check_visitor(caller.user, caller.sender.address)

    def _claims(self, authorization: str | None) -> Claims:
        """Verify the token. Raises BadToken, and Problem 401 without one."""
        token = _bearer(authorization)
        if token is None:
            raise Problem("not_authenticated", "a token is needed: Authorization: Bearer …")
        return self._tokens.verify(token)

    async def visit(
        self, authorization: str | None, source: str, sender: Sender, anonymous: str | None = None
    ) -> Visit:
        address = sender.address
        if _bearer(authorization) is None:
            if anonymous is not None:
                raise Problem("not_authenticated", "chats are handed over to the user of a token, and there is none")
            if not self._anonymous:
                raise Problem("not_authenticated", _ONLY_SIGNED_IN)
            if self._blocks.blocks_address(address):
                raise Problem("blocked", "you may not use this chat")
            wait = self._visitors_by_address.take(address, trio.current_time())
            if wait:
                raise Problem("rate_limited", "too many visitors from your address", retry_after=wait)
            self.check_source(source)
            self._check_page(source, sender)
            user = await self._users.new_visitor()
            chat, _ = await self._chats.reserve_chat(source, user)
            return Visit(self._tokens.open_session(user, source), user, chat, anonymous=True)
        caller = await self.caller(authorization, sender)
        if caller.is_operator:
            raise Problem("not_allowed", "only visitors can start a chat here, and this token is an operator's")
        self.check_source(source)
        self._check_page(source, sender)
        user = caller.user
        if anonymous is not None:
            await self._hand_over(caller, anonymous, source)
        chat, _ = await self._reserve(source, user, user, address)
        # Otherwise the new token would outlast a sign-out that was committed meanwhile.
        self.check_current(caller)
        # The new token carries no profile: claims from an old token would overwrite newer ones.
        bearer = User(user.id, user.role)
        token = self._tokens.renew(bearer, source, expires=caller.expires, session_at=caller.session_at)
        return Visit(token, user, chat, anonymous=False)

    async def _hand_over(self, caller: Caller, anonymous: str, source: str) -> None:
        """Give the caller the chats of the visitor with the token `anonymous`. Raises Problem and ChatRefused."""
        if caller.user.id >= FIRST_ANONYMOUS_ID:
            raise Problem("not_allowed", "chats are handed over to visitors whom the site has signed in")
        if caller.sources and source not in caller.sources:
            raise Problem("not_allowed", "your token does not name the source", path="source")
        try:
            claims = self._tokens.verify(anonymous)
        except BadToken as error:
            raise Problem("not_authenticated", f"anonymous: {error}", path="anonymous") from None
        if claims.user.id < FIRST_ANONYMOUS_ID or claims.user.role is not Role.USER:
            raise Problem("not_allowed", "anonymous: this is not the token of an anonymous visitor", path="anonymous")
        if source not in (claims.sources or ()):
            raise Problem("not_allowed", "anonymous: the token is for another source", path="anonymous")
        self._check_visitor(claims.user, caller.sender.address)
        await self._accounts.hand_over(claims.user.id, caller, claims.issued)

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
        return self._check_access(caller, state)

    def chat_nowait(self, caller: Caller, chat: UUID) -> ChatState:
        """Like `chat`, but raises WouldBlock if the chat's room is not running. May lag behind the newest commit."""
        return self._check_access(caller, self._chats.chat_nowait(chat))

    def _check_access(self, caller: Caller, chat: ChatState) -> ChatState:
        _check_access(caller, chat)
        if not caller.is_operator:
            self._check_page(chat.source, caller.sender)
        return chat

    def _check_page(self, source: str, sender: Sender) -> None:
        """Raise Problem 403 if visitors may not use the source from pages of this origin."""
        allowed = self._origins.get(source, self._other_origins)
        if allowed is not None and not allowed.allow(sender.origin, sender.host):
            raise Problem("not_allowed", "pages of this origin may not use the source")

    def moderates(self, caller: Caller, chat: ChatState) -> bool:
        return caller.is_operator and caller.rights.include(Rights.SUPERVISOR) and chat.source in caller.sources

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

    def require(self, caller: Caller, rights: Rights, action: str) -> None:
        if not caller.is_operator or not caller.rights.include(rights):
            raise Problem("not_allowed", f"only {_NAMES[rights]} can {action}")

    def count_widget(self, sender: Sender) -> None:
        wait = self._widgets_by_address.take(sender.address, trio.current_time())
        if wait:
            raise Problem("rate_limited", "too many requests for widgets from your address", retry_after=wait)

    def check_source(self, source: str) -> None:
        known = source in self._sources if self._sources else is_source_name(source)
        if not known:
            raise Problem("not_found", f"there is no source {source[:64]!r}", path="source")


def _bearer(authorization: str | None) -> str | None:
    """Return the bearer token, or None. Other schemes are ignored: a site may use basic authentication as well."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


@contextmanager
def _bad_tokens_refused() -> Iterator[None]:
    try:
        yield
    except BadToken as error:
        raise Problem("not_authenticated", str(error)) from None


def _check_access(caller: Caller, chat: ChatState) -> None:
    if caller.is_operator:
        if chat.source not in caller.sources:
            raise Problem("not_allowed", "the chat belongs to a source that your token does not name")
    elif chat.owner.id != caller.user.id:
        raise Problem("not_participant", "the chat belongs to another visitor")
