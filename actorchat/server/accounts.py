"""Signs operators in and out, renews their tokens, and administers their accounts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from math import ceil
from random import Random, SystemRandom
from typing import Final

import attrs
import trio

from actorchat.chat.accounts import (
    ACCOUNT_IDS,
    Account,
    AccountOperation,
    AccountStored,
    AddAccount,
    ChangeAccount,
    EndSession,
    InvalidLogin,
    LoginSession,
    OpenSession,
    Rights,
    RotateSession,
    SessionEnded,
    SessionStored,
    SetAway,
    SignOut,
    normal_login,
)
from actorchat.chat.limits import TokenBucket
from actorchat.chat.model import Identity, PersonRecord
from actorchat.chat.operations import HandOver, PersonRecorded
from actorchat.chat.privacy import AuditEntry
from actorchat.chat.service import ChatService
from actorchat.chat.submitter import ChatRefused
from actorchat.http.ports import Caller, OperatorProfile, SignedIn
from actorchat.http.problems import Problem
from actorchat.protocol import Role, User
from actorchat.server.auth import BadToken, Claims, Tokens
from actorchat.server.one_time_codes import OneTimeCodes
from actorchat.server.passwords import InvalidPassword, Passwords, check_password
from actorchat.server.rate_limits import AddressLimiter, MinuteLimiter
from actorchat.server.settings import AccountSettings

__all__ = ["ACCESS_SECONDS", "Accounts", "UnknownAccount"]

ACCESS_SECONDS: Final = 900.0
"""How long an access token of a sign-in is valid. A console gets a new one in time."""

ROTATION_GRACE: Final = 30.0
"""Seconds in which the refresh token that was replaced last may be used again: an answer may be lost, and several tabs
of a browser share one token."""

_MAX_SOURCES: Final = 100
"""Sources in an access token, so that it fits into a request head."""

_FIRST_ADMIN: Final = "admin"
"""The login of the account that the first one-time link creates."""

_LOGGED_A_MINUTE: Final = 10
"""Refused sign-ins that are logged."""

_log: Final = logging.getLogger("actorchat.server")


class UnknownAccount(LookupError):  # noqa: N818 - named as what it is about
    """There is no account with that login."""


def _milliseconds_up(time: float) -> float:
    return ceil(time * 1000) / 1000


class Accounts:
    """The accounts of a server. All of them are in memory, because each use of an operator's token needs them.

    `sources` are the configured widget sources, empty if any name is one. `clock` returns epoch seconds. `random` makes
    the ids of sign-ins; without one they come from the operating system.
    """

    def __init__(
        self,
        chats: ChatService,
        tokens: Tokens,
        settings: AccountSettings,
        *,
        sources: Collection[str],
        capacity: int,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self._chats = chats
        self._tokens = tokens
        self._settings = settings
        self._sources = tuple(sources)
        self._capacity = capacity
        self._clock = clock
        self._random = random or SystemRandom()
        self._passwords = Passwords()
        self._codes = OneTimeCodes(chats, tokens.derive_key("one-time codes"), clock)
        self._by_id: dict[int, Account] = {}
        self._by_login: dict[str, Account] = {}
        self._attempts_by_address = AddressLimiter(settings.address_attempts_per_minute)
        self._attempts_by_login: MinuteLimiter[str] = MinuteLimiter(settings.attempts_per_minute)
        self._log_bucket: TokenBucket | None = None
        self.changes: int = 0
        """How many accounts this server has stored."""
        chats.people.on_account = self._stored

    def load(self, stored: Iterable[Account]) -> None:
        """Take over the accounts that were read from storage."""
        for account in stored:
            self._remember(account)

    def _stored(self, account: Account) -> None:
        self.changes += 1
        self._remember(account)

    def _remember(self, account: Account) -> None:
        self._by_id[account.id] = account
        self._by_login[account.login] = account

    # For access control

    def get(self, operator_id: int) -> Account | None:
        return self._by_id.get(operator_id)

    def check_enabled(self, user: User) -> None:
        """Raise BadToken if the user is an operator whose account is disabled."""
        if self.is_disabled(user):
            raise BadToken("the account is disabled")

    def is_disabled(self, user: User) -> bool:
        """Whether the user is an operator whose account is disabled."""
        account = self._by_id.get(user.id) if user.role is Role.OPERATOR else None
        return account is not None and account.disabled

    def rights(self, claims: Claims) -> Rights:
        """Return what the operator of a token may do: for a sign-in, what the account says now."""
        account = self._by_id.get(claims.user.id) if claims.session else None
        return account.rights if account is not None else claims.rights or Rights.OPERATOR

    def sources(self, claims: Claims) -> frozenset[str]:
        """Return the sources of a token: for a sign-in, at most those that the account has now."""
        named = claims.sources or frozenset()
        account = self._by_id.get(claims.user.id) if claims.session else None
        if account is None or account.rights is Rights.ADMIN:
            return named
        return named.intersection(account.sources)

    # Signing in

    async def sign_in(self, login: str, password: str, address: str, new_password: str | None = None) -> SignedIn:
        """Sign in with a password, and replace it by `new_password`, which ends all other sign-ins.

        Raises Problem: 401 for a wrong login or password, 403 for a disabled account and for a one-time password
        without a new one, 422 for a new password that can't be used.
        """
        now = trio.current_time()
        try:
            name = normal_login(login)
        except InvalidLogin:
            name = ""
        wait = max(self._attempts_by_address.wait(address, now), self._attempts_by_login.wait(name, now))
        if wait:
            raise Problem("rate_limited", "too many attempts to sign in; try again later", retry_after=wait)
        self._attempts_by_address.take(address, now)
        self._attempts_by_login.take(name, now)
        opened = self._clock()
        account = self._by_login.get(name)
        stored = "" if account is None else account.password
        if not await self._passwords.verify(password, stored) or account is None:
            self._log_refusal(account, address)
            raise Problem("not_authenticated", "the login or the password is wrong")
        if account.disabled:
            raise Problem("not_allowed", "the account is disabled")
        self._attempts_by_address.give_back(address, now)
        self._attempts_by_login.give_back(name, now)
        if new_password is not None:
            return await self._open(account, await self._replace_password(account, password, new_password, opened))
        if account.one_time:
            detail = "this password works once, together with a new one"
            raise Problem("new_password_needed", detail, path="new_password")
        rehashed = await self._passwords.rehash(password, stored)
        if rehashed is not None:
            await self._decide(ChangeAccount(id=account.id, password=rehashed, expected=stored))
        return await self._open(account, opened)

    async def _replace_password(self, account: Account, password: str, new_password: str, begun: float) -> float:
        """Store the new password, end all sign-ins since before `begun`, and return a later time."""
        try:
            check_password(new_password)
        except InvalidPassword as error:
            raise Problem("malformed", f"new_password: {error}", path="new_password") from None
        if new_password == password:
            raise Problem("malformed", "new_password: choose another password than the old one", path="new_password")
        hashed = await self._passwords.hash(new_password)
        ended = _milliseconds_up(begun)
        change = ChangeAccount(
            id=account.id, password=hashed, expected=account.password, one_time=False, sign_out_at=ended
        )
        if not isinstance(await self._decide(change), AccountStored):
            raise Problem("conflict", "the password was changed meanwhile: sign in again")
        return max(self._clock(), ended + 0.001)

    def _log_refusal(self, account: Account | None, address: str) -> None:
        now = trio.current_time()
        if self._log_bucket is None:
            self._log_bucket = TokenBucket(_LOGGED_A_MINUTE / 60, _LOGGED_A_MINUTE, now)
        if not self._log_bucket.take(now):
            # An unknown login may be a password that was typed into the wrong field.
            name = "an unknown login" if account is None else account.login
            _log.warning("refused a sign-in as %s from %s", name, address)

    async def sign_in_once(self, code: str, address: str) -> SignedIn:
        """Sign in with a one-time code. Raises Problem 401 if it is unknown, used or expired."""
        wait = self._attempts_by_address.take(address, trio.current_time())
        if wait:
            raise Problem("rate_limited", "too many attempts to sign in; try again later", retry_after=wait)
        opened = self._clock()
        found = await self._codes.redeem(code)
        if found is None:
            raise Problem("not_authenticated", "the link was used before, or it has expired")
        account = await self._admin() if found.operator_id is None else self._by_id.get(found.operator_id)
        if account is None or account.disabled:
            raise Problem("not_allowed", "the account is disabled")
        return await self._open(account, opened)

    def one_time_code(self, account: Account | None = None) -> str:
        """Return a new code for `sign_in_once`: for that account, or for an administrator's, which it may create."""
        return self._codes.issue(None if account is None else account.id)

    async def _admin(self) -> Account:
        """Return the first administrator's account that is not disabled; create one if there is none."""
        for _, account in sorted(self._by_id.items()):
            if account.rights is Rights.ADMIN and not account.disabled:
                return account
        login, number = _FIRST_ADMIN, 1
        while login in self._by_login:
            number += 1
            login = f"{_FIRST_ADMIN}-{number}"
        return await self.add(login, rights=Rights.ADMIN, sources=self._sources)

    async def _open(self, account: Account, opened: float) -> SignedIn:
        session = LoginSession(
            id=f"{self._random.getrandbits(128):032x}",
            operator_id=account.id,
            opened=opened,
            expires=opened + self._settings.session_age,
            rotated=opened,
        )
        decision = await self._decide(OpenSession(session))
        if not isinstance(decision, SessionStored):
            raise Problem("not_authenticated", "the sign-in has ended")
        return await self._signed_in(decision)

    async def renew(self, refresh_token: str | None) -> SignedIn:
        """Exchange a refresh token for a new one and an access token. Raises Problem 401 if the sign-in has ended."""
        if refresh_token is None:
            raise Problem("not_authenticated", "nobody has signed in: the cookie is missing")
        try:
            session_id, generation = self._tokens.read_refresh_token(refresh_token)
        except BadToken as error:
            raise Problem("not_authenticated", str(error)) from None
        decision = await self._decide(RotateSession(session_id, generation, self._clock(), ROTATION_GRACE))
        if isinstance(decision, SessionEnded):
            _log.warning("a refresh token was used twice: the sign-in %s has ended", session_id[:8])
        if not isinstance(decision, SessionStored):
            raise Problem("not_authenticated", "the sign-in has ended")
        return await self._signed_in(decision)

    async def end(self, refresh_token: str | None) -> None:
        """End the sign-in of a refresh token, if there is one."""
        try:
            session_id, _ = self._tokens.read_refresh_token(refresh_token or "")
        except BadToken:
            return
        await self._decide(EndSession(session_id))

    async def _signed_in(self, stored: SessionStored) -> SignedIn:
        session, account = stored.session, stored.account
        now = self._clock()
        expires = min(now + ACCESS_SECONDS, session.expires)
        sources = await self._sources_of(account)
        bearer = User(account.id, Role.OPERATOR)
        person = await self._chats.chat_reader.person(Identity(Role.OPERATOR, account.id))
        return SignedIn(
            token=self._tokens.issue_for_session(bearer, sources, account.rights, session.id, expires=expires),
            seconds=max(0, int(expires - now)),
            refresh_token=self._tokens.refresh_token(session.id, session.generation),
            refresh_seconds=max(0, int(session.expires - now)),
            user=bearer if person is None else person.user,
        )

    async def _sources_of(self, account: Account) -> Sequence[str]:
        """Return the sources for a token.

        An administrator has all: the configured ones, or else those of accounts and those with chats.
        """
        if account.rights is not Rights.ADMIN:
            return account.sources[:_MAX_SOURCES]
        known = [*account.sources, *self._sources]
        if not self._sources:
            known += [source for each in self.all() for source in each.sources]
            known += await self._chats.chat_reader.sources(_MAX_SOURCES) or ("lk",)
        return sorted(list(dict.fromkeys(known))[:_MAX_SOURCES])

    # Signed in

    async def sign_out(self, caller: Caller) -> None:
        """End all sign-ins and sockets of the caller, and make their tokens worthless. Raises ChatRefused."""
        now = self._now()
        # The issuer's clock may be ahead of this one.
        at = now if caller.issued is None else max(now, caller.issued)
        await self._chats.people.decide_on_account(SignOut(User(caller.user.id, caller.user.role), at))

    async def hand_over(self, anonymous: int, caller: Caller, issued: float | None = None) -> None:
        """Give the caller the chats of an anonymous visitor, whose tokens become worthless. Raises ChatRefused.

        `issued` is when the visitor's token was issued that the caller has, None without one.
        """
        # The clock may have been set back since the token was issued.
        at = max(self._now(), issued or 0.0)
        to = User(caller.user.id, caller.user.role)
        await self._chats.hand_over(HandOver(anonymous, to, at, issued, caller.issued))

    def _now(self) -> float:
        """Return the time for a sign-out, which no earlier `iat` exceeds: they are rounded to milliseconds."""
        return _milliseconds_up(self._clock())

    async def set_away(self, caller: Caller, away: bool) -> PersonRecord:
        """Set whether the operator is away, and return the operator's record. Raises ChatRefused."""
        decision = await self._chats.people.decide_on_account(SetAway(caller.user.id, away))
        assert isinstance(decision, PersonRecorded)  # noqa: S101 - what this operation comes to
        return decision.person

    async def profile(self, caller: Caller) -> OperatorProfile:
        """Return what `GET /api/operators/me` shows. Raises StorageUnavailable."""
        account = self._by_id.get(caller.user.id)
        person = await self._chats.chat_reader.person(Identity(Role.OPERATOR, caller.user.id))
        return OperatorProfile(
            user=caller.user if person is None else person.user,
            login=None if account is None else account.login,
            rights=caller.rights,
            sources=tuple(sorted(caller.sources)),
            capacity=self._capacity,
            away=person is not None and person.away,
        )

    # Administration

    def all(self) -> tuple[Account, ...]:
        """Return all accounts by login."""
        return tuple([account for _, account in sorted(self._by_login.items())])

    def find(self, login: str) -> Account:
        """Return the account. Raises UnknownAccount, and InvalidLogin for a text that can't be a login."""
        account = self._by_login.get(normal_login(login))
        if account is None:
            raise UnknownAccount(f"there is no account with the login {login}")
        return account

    async def hash(self, password: str) -> str:
        """Return the hash of a password for `add` and `change`."""
        return await self._passwords.hash(password)

    async def add(
        self,
        login: str,
        *,
        password: str = "",
        one_time: bool = False,
        rights: Rights = Rights.OPERATOR,
        sources: Collection[str] = (),
        operator_id: int | None = None,
        firstname: str = "",
        lastname: str = "",
        audit: AuditEntry | None = None,
    ) -> Account:
        """Add an account; `password` is a hash, "" if no password is to work. Raises InvalidLogin and ChatRefused.

        With `one_time`, the password has to be replaced at the first sign-in. `operator_id` is an existing operator's
        id, or None for an unused one. Without a name, the login is shown. `audit` is stored with the account, about it.
        """
        name = normal_login(login)
        if operator_id is None:
            operator_id = await self._unused_id()
            firstname = firstname or ("" if lastname else login.strip())
        account = Account(
            id=operator_id,
            login=name,
            rights=rights,
            sources=tuple(sorted(set(sources))),
            password=password,
            one_time=one_time,
            created=int(self._clock()),
        )
        user = User(operator_id, Role.OPERATOR, firstname=firstname, lastname=lastname)
        if audit is not None:
            audit = attrs.evolve(audit, subject=Identity(Role.OPERATOR, operator_id))
        decision = await self._chats.people.decide_on_account(AddAccount(account, user, audit))
        assert isinstance(decision, AccountStored)  # noqa: S101 - what this operation comes to
        return decision.account

    async def _unused_id(self) -> int:
        operator_id = max([ACCOUNT_IDS, *self._by_id]) + 1
        while await self._chats.chat_reader.person(Identity(Role.OPERATOR, operator_id)) is not None:
            operator_id += 1
        return operator_id

    async def change(
        self,
        account: Account,
        *,
        password: str | None = None,
        one_time: bool = False,
        disabled: bool | None = None,
        rights: Rights | None = None,
        sources: Collection[str] | None = None,
        firstname: str | None = None,
        lastname: str | None = None,
        sign_out: bool = False,
        keeps_admin: bool = False,
        audit: AuditEntry | None = None,
    ) -> Account:
        """Change an account. Raises ChatRefused.

        A new password, disabling it and `sign_out` end all its sign-ins and sockets. With `one_time`, the new password
        has to be replaced at the next sign-in. With `keeps_admin`, the last administrator stays one. `audit` is stored
        with the change.
        """
        names = {name: value for name, value in (("firstname", firstname), ("lastname", lastname)) if value is not None}
        ends = password is not None or bool(disabled) or sign_out
        operation = ChangeAccount(
            id=account.id,
            password=password,
            one_time=None if password is None else one_time,
            disabled=disabled,
            rights=rights,
            sources=None if sources is None else tuple(sorted(set(sources))),
            user=User(account.id, Role.OPERATOR, **names) if names else None,
            claimed=frozenset(names),
            sign_out_at=self._now() if ends else None,
            keeps_admin=keeps_admin,
            audit=audit,
        )
        decision = await self._chats.people.decide_on_account(operation)
        assert isinstance(decision, AccountStored)  # noqa: S101 - what this operation comes to
        return decision.account

    async def _decide(
        self, operation: AccountOperation
    ) -> AccountStored | SessionStored | SessionEnded | PersonRecorded | None:
        """Return the decision, None if the rules refuse the operation. Raises ChatRefused for other refusals."""
        try:
            return await self._chats.people.decide_on_account(operation)
        except ChatRefused as refused:
            if refused.code in ("not_authenticated", "not_found", "conflict"):
                return None
            raise
