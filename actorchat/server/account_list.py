"""Administers operators' accounts for administrators over HTTP, with one-time passwords and records."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Literal

import trio

from actorchat.chat.accounts import Account, InvalidLogin, Rights
from actorchat.chat.model import Identity
from actorchat.chat.ports import OperatorRecord
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.chat.service import ChatService
from actorchat.http.account_administration import AccountBody, AccountChangeBody
from actorchat.http.answers import AccountAdded, AccountAnswer
from actorchat.http.ports import Caller
from actorchat.http.problems import Problem
from actorchat.protocol import Role, User, wire_time
from actorchat.server.accounts import Accounts
from actorchat.server.passwords import new_one_time_password

__all__ = ["AccountAdministration"]

_MOST_NAMED: Final = 20
"""Sources that a record names. Of more, it has the number."""


class AccountAdministration:
    """Implements `actorchat.http.account_administration.AccountList`. `clock` returns epoch seconds."""

    def __init__(self, chats: ChatService, accounts: Accounts, clock: Callable[[], float]) -> None:
        self._chats = chats
        self._accounts = accounts
        self._clock = clock
        # Two accounts that are added at once would get the same unused id, and one would be refused.
        self._adding = trio.Lock()

    async def all(self) -> Collection[AccountAnswer]:
        """Return all accounts by login."""
        operators = {record.person.user.id: record for record in await self._chats.chat_reader.operators(None)}
        return [_answer(account, operators.get(account.id)) for account in self._accounts.all()]

    async def add(self, caller: Caller, wanted: AccountBody) -> AccountAdded:
        """Add an account with a one-time password. Raises Problem and ChatRefused."""
        _check_sources(wanted.rights, wanted.sources)
        password = new_one_time_password()
        detail = f"role: {wanted.rights}; sources: {_sources(wanted.rights, wanted.sources)}"
        try:
            async with self._adding:
                account = await self._accounts.add(
                    wanted.login,
                    password=await self._accounts.hash(password),
                    one_time=True,
                    rights=wanted.rights,
                    sources=wanted.sources,
                    firstname=wanted.firstname,
                    lastname=wanted.lastname,
                    audit=self._record(caller, AuditAction.ACCOUNT_ADDED, None, detail),
                )
        except InvalidLogin as error:
            raise Problem("malformed", f"login: {error}", path="login") from None
        return AccountAdded(await self._shown(account), password)

    async def change(self, caller: Caller, account: int, wanted: AccountChangeBody) -> AccountAnswer:
        """Change an account. Raises Problem and ChatRefused."""
        before = self._find(account)
        if wanted.disabled and before.id == caller.user.id:
            raise Problem("not_allowed", "you can't disable your own account", path="disabled")
        rights = before.rights if wanted.rights is None else wanted.rights
        sources = before.sources if wanted.sources is None else tuple(sorted(set(wanted.sources)))
        if wanted.rights is not None or wanted.sources is not None:
            _check_sources(rights, sources)
        changes = []
        if rights is not before.rights:
            changes.append(f"role: {before.rights} → {rights}")
        if sources != before.sources:
            changes.append(f"sources: {_sources(before.rights, before.sources)} → {_sources(rights, sources)}")
        if wanted.disabled is not None and wanted.disabled is not before.disabled:
            changes.append("disabled" if wanted.disabled else "enabled")
        if wanted.firstname is not None or wanted.lastname is not None:
            # Not the name itself, which an erasure has to remove everywhere.
            changes.append("name")
        if not changes:
            return await self._shown(before)
        after = await self._accounts.change(
            before,
            rights=wanted.rights,
            sources=wanted.sources,
            disabled=wanted.disabled,
            firstname=wanted.firstname,
            lastname=wanted.lastname,
            keeps_admin=True,
            audit=self._record(caller, AuditAction.ACCOUNT_CHANGED, before, "; ".join(changes)),
        )
        return await self._shown(after)

    async def reset_password(self, caller: Caller, account: int) -> str:
        """Give an account a one-time password, and return it. Raises Problem and ChatRefused."""
        found, password = self._find(account), new_one_time_password()
        audit = self._record(caller, AuditAction.PASSWORD_RESET, found)
        hashed = await self._accounts.hash(password)
        await self._accounts.change(found, password=hashed, one_time=True, audit=audit)
        return password

    async def sign_out(self, caller: Caller, account: int) -> None:
        """End all sign-ins and sockets of an account. Raises Problem and ChatRefused."""
        found = self._find(account)
        await self._accounts.change(found, sign_out=True, audit=self._record(caller, AuditAction.SIGNED_OUT, found))

    def _find(self, account: int) -> Account:
        found = self._accounts.get(account)
        if found is None:
            raise Problem("not_found", "there is no such account")
        return found

    def _record(self, caller: Caller, action: AuditAction, account: Account | None, detail: str = "") -> AuditEntry:
        subject = None if account is None else Identity(Role.OPERATOR, account.id)
        by = f"{caller.user.role} {caller.user.id}"
        return AuditEntry(int(self._clock()), by, action, subject, {}, detail=detail)

    async def _shown(self, account: Account) -> AccountAnswer:
        person = await self._chats.chat_reader.person(Identity(Role.OPERATOR, account.id))
        user = None if person is None else person.user
        return _account(account, user, is_online=person is not None and person.is_online)


def _answer(account: Account, record: OperatorRecord | None) -> AccountAnswer:
    person = None if record is None else record.person
    return _account(account, None if person is None else person.user, is_online=person is not None and person.is_online)


def _account(account: Account, user: User | None, *, is_online: bool) -> AccountAnswer:
    password: Literal["set", "one_time", "none"] = "set" if account.password else "none"
    return AccountAnswer(
        id=account.id,
        login=account.login,
        rights=account.rights,
        sources=list(account.sources),
        disabled=account.disabled,
        password="one_time" if account.one_time else password,
        created=wire_time(account.created),
        last_sign_in=None if account.last_sign_in is None else wire_time(account.last_sign_in),
        user=user or User(account.id, Role.OPERATOR),
        is_online=is_online,
    )


def _check_sources(rights: Rights, sources: Collection[str]) -> None:
    if not sources and rights is not Rights.ADMIN:
        detail = "sources: an operator sees only the chats of its sources: name at least one"
        raise Problem("malformed", detail, path="sources")


def _sources(rights: Rights, sources: Collection[str]) -> str:
    if rights is Rights.ADMIN:
        return "all"
    return ", ".join(sorted(set(sources))) if len(sources) <= _MOST_NAMED else str(len(sources))
