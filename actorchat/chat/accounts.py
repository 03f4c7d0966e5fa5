"""Defines operators' accounts and sign-in sessions, and the operations on them. Has no IO."""

from __future__ import annotations

import unicodedata
from enum import StrEnum
from typing import Final

import attrs

from actorchat.chat.model import ENDLESS, Identity, PersonRecord
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import User

__all__ = [
    "ACCOUNT_IDS",
    "MAX_LOGIN",
    "MAX_SESSIONS",
    "Account",
    "AccountDecision",
    "AccountOperation",
    "AccountStored",
    "AddAccount",
    "ChangeAccount",
    "EndSession",
    "InvalidLogin",
    "LoginSession",
    "OpenSession",
    "Rights",
    "RotateSession",
    "SessionEnded",
    "SessionStored",
    "SetAway",
    "SignOut",
    "normal_login",
    "signed_out",
    "with_account",
]

ACCOUNT_IDS: Final = 2**51
"""Accounts get operator ids from here on, unless another one is asked for. A site's own ids are usually lower."""

MAX_LOGIN: Final = 128
"""Characters of a login."""

MAX_SESSIONS: Final = 20
"""Sign-in sessions of one account. With one more, the one that was not used for longest ends."""


class Rights(StrEnum):
    """The rights of an operator besides chatting. Each level includes those before it."""

    OPERATOR = "operator"
    SUPERVISOR = "supervisor"
    ADMIN = "admin"

    def include(self, needed: Rights) -> bool:
        """Whether these rights suffice where `needed` are needed."""
        return _LEVELS[self] >= _LEVELS[needed]


_LEVELS: Final = {rights: level for level, rights in enumerate(Rights)}


class InvalidLogin(ValueError):  # noqa: N818 - describes a value
    """No account can have this login. The text says why."""


def normal_login(text: str) -> str:
    """Return the login in its stored form, in which case and compatibility variants don't matter.

    Raises InvalidLogin if it is empty, too long, or has spaces or control characters.
    """
    login = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text.strip()).casefold())
    if not login:
        raise InvalidLogin("a login must not be empty")
    if len(login) > MAX_LOGIN:
        raise InvalidLogin(f"a login has at most {MAX_LOGIN} characters")
    if any(character.isspace() or unicodedata.category(character)[0] == "C" for character in login):
        raise InvalidLogin("a login must not contain spaces or control characters")
    return login


@attrs.frozen(kw_only=True)
class Account:
    """An operator's account. `id` is the operator's id, `login` is a result of `normal_login`.

    `password` is a hash in the PHC format; "" means that no password works. With `one_time`, it is accepted only
    together with a new password. `created` and `last_sign_in` are in epoch seconds; the latter is None before the first
    sign-in.
    """

    id: int
    login: str
    rights: Rights = Rights.OPERATOR
    sources: tuple[str, ...] = ()
    password: str = attrs.field(default="", repr=False)
    disabled: bool = False
    created: int = 0
    one_time: bool = False
    last_sign_in: int | None = None


@attrs.frozen(kw_only=True)
class LoginSession:
    """A sign-in of an operator, which lasts until `expires` at most. Times are in epoch seconds.

    The refresh token of `generation` is current since `rotated`; older ones were used before.
    """

    id: str
    operator_id: int
    opened: float
    expires: float
    generation: int = 0
    rotated: float = 0.0


class AccountOperation:
    """The base class of operations that belong to no chat."""

    __slots__ = ()


@attrs.frozen
class AddAccount(AccountOperation):
    """Store a new account, the `user`'s profile and the `audit` record, if there is one.

    Refused with `conflict` if the login or the id is taken.
    """

    account: Account
    user: User
    audit: AuditEntry | None = None


@attrs.frozen(kw_only=True)
class ChangeAccount(AccountOperation):
    """Change the account of the operator `id`; None leaves a value as it is.

    With `sign_out_at`, in epoch seconds, everything that was signed until then ends. `user` has the profile fields that
    are named in `claimed`. With `expected`, the change is refused with `conflict` if the stored password is another.
    With `keeps_admin`, it is refused with `conflict` if no administrator's account would be enabled afterwards. `audit`
    is stored with the change.
    """

    id: int
    password: str | None = attrs.field(default=None, repr=False)
    expected: str | None = attrs.field(default=None, repr=False)
    one_time: bool | None = None
    disabled: bool | None = None
    rights: Rights | None = None
    sources: tuple[str, ...] | None = None
    user: User | None = None
    claimed: frozenset[str] = frozenset()
    sign_out_at: float | None = None
    keeps_admin: bool = False
    audit: AuditEntry | None = None


@attrs.frozen
class SignOut(AccountOperation):
    """Make every token of `user` worthless that was issued at `at` (epoch seconds) or earlier, and end its sessions."""

    user: User
    at: float

    @property
    def identity(self) -> Identity:
        return Identity(self.user.role, self.user.id)


@attrs.frozen
class SetAway(AccountOperation):
    """An operator goes away or is back."""

    operator_id: int
    away: bool


@attrs.frozen
class OpenSession(AccountOperation):
    """Store a sign-in of an account that is not disabled."""

    session: LoginSession


@attrs.frozen
class RotateSession(AccountOperation):
    """The refresh token of `generation` is used at `now` (epoch seconds).

    The token that was replaced at most `grace` seconds ago gets the current session again, because an answer may be
    lost and several tabs may use the same token. Any other token that was replaced ends the session: it may be stolen.
    """

    id: str
    generation: int
    now: float
    grace: float


@attrs.frozen
class EndSession(AccountOperation):
    """End a session. Nothing happens if it has ended."""

    id: str


@attrs.frozen
class AccountStored:
    """The account as it is stored now, and the record of its operator. `renamed`: a known user has a new profile."""

    account: Account
    person: PersonRecord
    renamed: bool = False


@attrs.frozen
class SessionStored:
    """The session as it is stored now, and its account."""

    session: LoginSession
    account: Account


@attrs.frozen
class SessionEnded:
    """The session has ended. `reused`: because a refresh token was used again that had been replaced."""

    reused: bool = False


AccountDecision = AccountStored | SessionStored | SessionEnded


def with_account(person: PersonRecord, account: Account, before: Account | None) -> PersonRecord:
    """Return the record of an operator whose account was `before` and is `account` now.

    The operator belongs to the account's sources while the account is not disabled.
    """
    memberships = dict(person.memberships)
    for source in () if before is None else before.sources:
        if memberships.get(source) == ENDLESS:
            del memberships[source]
    if not account.disabled:
        memberships.update(dict.fromkeys(account.sources, ENDLESS))
    return person if memberships == person.memberships else attrs.evolve(person, memberships=memberships)


def signed_out(person: PersonRecord, at: float) -> PersonRecord:
    """Return the record after a sign-out at `at`, in epoch seconds. It never goes back."""
    return person if at <= person.signed_out_at else attrs.evolve(person, signed_out_at=at)
