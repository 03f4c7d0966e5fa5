"""Caches the stored records of users, and stores what their tokens claim when it differs."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Final

import trio

from actorchat.chat.model import ANONYMOUS_IDS, Identity, PersonRecord, identity_of
from actorchat.chat.person_records import record_person
from actorchat.chat.service import ChatService
from actorchat.protocol import Role, User
from actorchat.server.auth import BadToken, Claims, anonymous_id

__all__ = ["UserCache"]

_MAX_CACHED: Final = 10_000
"""Records kept in memory. Beyond that the least recently used are dropped, and read from storage again."""

_MAX_SIGN_OUTS: Final = 10_000
"""Sign-outs kept in memory: a request that has read an older record must not miss one."""


class UserCache:
    """The users of one server. Claims that change nothing write nothing.

    `random` makes the ids of anonymous visitors. `clock` returns epoch seconds.
    """

    def __init__(
        self, chats: ChatService, random: Random | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._chats = chats
        self._random = random or SystemRandom()
        self._clock = clock
        self._records: OrderedDict[Identity, PersonRecord] = OrderedDict()
        # Whose record is being read.
        self._reading: Counter[Identity] = Counter()
        self._sign_outs: OrderedDict[Identity, float] = OrderedDict()
        chats.people.on_person = self._remember

    def record_nowait(self, claims: Claims) -> PersonRecord:
        """Like `record`, but raises WouldBlock if storage has to be read or written."""
        identity = identity_of(claims.user)
        stored = self._records.get(identity)
        if stored is None:
            raise trio.WouldBlock
        self._check_claims(stored, claims)
        if self._changes(stored, claims):
            raise trio.WouldBlock
        self._records.move_to_end(identity)
        return stored

    async def record(self, claims: Claims) -> PersonRecord:
        """Store `claims` if they change the user's record, and return the record.

        Raises BadToken if the user has signed out since the token was issued, ChatRefused and StorageUnavailable.
        """
        identity = identity_of(claims.user)
        stored = self._records.get(identity)
        if stored is None:
            self._reading[identity] += 1
            try:
                read = await self._chats.chat_reader.person(identity)
            finally:
                self._reading -= Counter((identity,))
            # A newer record may have been stored while this one was read.
            stored = self._records.get(identity) or read
        if stored is not None:
            self._check_claims(stored, claims)
        if stored is None and identity.role is Role.USER and identity.id >= ANONYMOUS_IDS and not claims.claimed:
            # An anonymous visitor is stored and deleted with its chat. Without a profile there is nothing to store yet.
            stored = PersonRecord(claims.user)
        elif stored is None or self._changes(stored, claims):
            recorded = await self._chats.people.record(claims.as_operation())
            # `_remember` receives records in commit order; the tasks that wait for them may wake in another order.
            current = self._records.get(identity) or recorded
            self._check_claims(current, claims)
            return current
        self._remember(stored)
        return stored

    def is_in_memory(self, identity: Identity) -> bool:
        """Whether the record of that person is kept, or will be in a moment."""
        return identity in self._records or identity in self._reading

    def forget(self) -> None:
        """Forget all records, which may be newer than the stored ones."""
        self._records.clear()

    def check_current(self, user: User, issued: float | None) -> None:
        """Raise BadToken if the user is known to have signed out since a token was issued. Reads no storage."""
        _check_signed_out(self._signed_out_at(identity_of(user), self._records.get(identity_of(user))), issued)

    async def is_known(self, user: User) -> bool:
        """Return whether a record of this user is stored. Raises StorageUnavailable."""
        identity = identity_of(user)
        return identity in self._records or await self._chats.chat_reader.person(identity) is not None

    def _changes(self, stored: PersonRecord, claims: Claims) -> bool:
        return record_person(stored, claims.as_operation(), self._clock()) != stored

    async def new_visitor(self) -> User:
        """Return an anonymous visitor with an unused random id, to be stored with the first chat.

        Raises StorageUnavailable.
        """
        while True:
            identity = Identity(Role.USER, anonymous_id(self._random))
            if await self._chats.chat_reader.person(identity) is None:
                return User(identity.id, identity.role)

    def _check_claims(self, record: PersonRecord, claims: Claims) -> None:
        # Without a token, the embedding program has authenticated the user.
        if claims.token:
            _check_signed_out(self._signed_out_at(identity_of(record.user), record), claims.issued)

    def _signed_out_at(self, identity: Identity, record: PersonRecord | None) -> float:
        """When the user signed out last, in epoch seconds. A record that was read may be older than that."""
        return max(0.0 if record is None else record.signed_out_at, self._sign_outs.get(identity, 0.0))

    def _remember(self, record: PersonRecord) -> None:
        identity = identity_of(record.user)
        if record.signed_out_at > self._sign_outs.get(identity, 0.0):
            self._sign_outs[identity] = record.signed_out_at
            self._sign_outs.move_to_end(identity)
            if len(self._sign_outs) > _MAX_SIGN_OUTS:
                self._sign_outs.popitem(last=False)
        self._records[identity] = record
        self._records.move_to_end(identity)
        if len(self._records) > _MAX_CACHED:
            self._records.popitem(last=False)


def _check_signed_out(signed_out_at: float, issued: float | None) -> None:
    if not signed_out_at:
        return
    if issued is None:
        raise BadToken("its user has signed out since; whether the token is newer is unknown, because it has no iat")
    if issued <= signed_out_at:
        raise BadToken("its user has signed out since the token was issued")
