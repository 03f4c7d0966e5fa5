"""Owns who is known: what tokens claim of people, stored when it is news.

Refuses to know tokens' signatures, and rights.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Final

import trio

from actorchat.chat.model import ANONYMOUS_IDS, Identity, PersonRecord, identity_of
from actorchat.chat.person_records import record_person
from actorchat.chat.service import ChatService
from actorchat.protocol import Role, User
from actorchat.server.auth import Claims, anonymous_id

__all__ = ["UserCache"]

_REMEMBERED: Final = 10_000
"""People whose record is kept in memory; over it the ones not seen for longest are read again."""


class UserCache:
    """One server's people. Claims that change nothing cost no operation. `clock` gives epoch seconds."""

    def __init__(
        self, chats: ChatService, random: Random | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._chats = chats
        self._random = random or SystemRandom()
        self._clock = clock
        self._seen: OrderedDict[Identity, PersonRecord] = OrderedDict()
        chats.on_person = self._remember

    def record_nowait(self, claims: Claims) -> PersonRecord:
        """As `record`, for somebody who is remembered and of whom `claims` are no news; else WouldBlock."""
        identity = identity_of(claims.user)
        stored = self._seen.get(identity)
        if stored is None or self._is_news(stored, claims):
            raise trio.WouldBlock
        self._seen.move_to_end(identity)
        return stored

    async def record(self, claims: Claims) -> PersonRecord:
        """The stored record, after `claims`. Raises ChatRefused and StorageUnavailable."""
        identity = identity_of(claims.user)
        stored = self._seen.get(identity)
        if stored is None:
            read = await self._chats.chat_reader.person(identity)
            # A newer one may have been stored meanwhile.
            stored = self._seen.get(identity) or read
        if stored is None and identity.role is Role.USER and identity.id >= ANONYMOUS_IDS and not claims.claimed:
            # An anonymous visitor is stored with a chat, and forgotten with it: nothing is known that could be kept.
            stored = PersonRecord(claims.user)
        elif stored is None or self._is_news(stored, claims):
            recorded = await self._chats.record_person(claims.as_operation())
            # Records come in the order of their commits to `_remember`, but not to the tasks that wait for them.
            return self._seen.get(identity) or recorded
        self._remember(stored)
        return stored

    async def is_known(self, user: User) -> bool:
        """Whether anything is stored of this person. Raises StorageUnavailable."""
        identity = identity_of(user)
        return identity in self._seen or await self._chats.chat_reader.person(identity) is not None

    def _is_news(self, stored: PersonRecord, claims: Claims) -> bool:
        return record_person(stored, claims.as_operation(), self._clock()) != stored

    async def new_visitor(self) -> User:
        """Somebody nobody was before, to be stored with the first chat. Raises StorageUnavailable."""
        while True:
            identity = Identity(Role.USER, anonymous_id(self._random))
            if await self._chats.chat_reader.person(identity) is None:
                return User(identity.id, identity.role)

    def _remember(self, record: PersonRecord) -> None:
        identity = identity_of(record.user)
        self._seen[identity] = record
        self._seen.move_to_end(identity)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
