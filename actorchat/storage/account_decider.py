"""Decides the operations on accounts and sign-in sessions, on the rows of a batch and its changes. Has no IO."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import attrs

from actorchat.chat.accounts import (
    MAX_SESSIONS,
    Account,
    AccountOperation,
    AccountStored,
    AddAccount,
    ChangeAccount,
    EndSession,
    LoginSession,
    OpenSession,
    Rights,
    RotateSession,
    SessionEnded,
    SessionStored,
    SetAway,
    SignOut,
    signed_out,
    with_account,
)
from actorchat.chat.blocks import MAX_BLOCKS, AddBlock, Block, BlockRemoved, BlockStored, RemoveBlock
from actorchat.chat.model import PersonRecord
from actorchat.chat.operations import Decision, PersonRecorded, RecordPerson, Refused
from actorchat.chat.person_records import record_person
from actorchat.chat.privacy import AuditEntry
from actorchat.protocol import RefusalCode
from actorchat.storage.changes import Changes
from actorchat.storage.row_cache import PersonKey, RowCache, person_key

__all__ = ["AccountDecider"]

_NO_ACCOUNT: Final = Refused("not_found", "there is no such account")
_NO_OPERATOR: Final = Refused("not_found", "there is no such operator")
_LAST_ADMIN: Final = Refused(RefusalCode.CONFLICT, "this is the last administrator: make another one first")
_NO_BLOCK: Final = Refused("not_found", "there is no such block")
_NO_SESSION: Final = Refused("not_authenticated", "the sign-in has ended")
_DISABLED: Final = Refused("not_authenticated", "the account is disabled")


class AccountDecider:
    """Decides on `rows`, which stay as committed, and on `changes`, to which it adds."""

    def __init__(self, rows: RowCache, changes: Changes, now: int) -> None:
        self._rows = rows
        self._changes = changes
        self._now = now

    def decide(self, operation: AccountOperation) -> Decision:
        match operation:
            case AddAccount():
                return self._add(operation)
            case ChangeAccount():
                return self._change(operation)
            case SignOut():
                return self._sign_out(operation)
            case SetAway():
                return self._set_away(operation)
            case OpenSession():
                return self._open(operation.session)
            case RotateSession():
                return self._rotate(operation)
            case EndSession():
                self._end(operation.id)
                return SessionEnded()
            case AddBlock():
                return self._block(operation.block)
            case RemoveBlock():
                return self._unblock(operation.id)
            case _:
                raise TypeError(f"{type(operation).__name__} is not an operation on accounts")

    def _add(self, operation: AddAccount) -> Decision:
        account = operation.account
        for other in self._accounts():
            if other.login == account.login:
                return Refused(RefusalCode.CONFLICT, f"there is already an account with the login {account.login}")
            if other.id == account.id:
                return Refused(RefusalCode.CONFLICT, f"the operator {account.id} already has the login {other.login}")
        self._record(operation.audit)
        return self._store(account, None, RecordPerson(operation.user, _claimed(operation)))

    def _change(self, operation: ChangeAccount) -> Decision:
        before = self._account(operation.id)
        if before is None:
            return _NO_ACCOUNT
        if operation.expected is not None and operation.expected != before.password:
            return Refused(RefusalCode.CONFLICT, "the password was changed meanwhile")
        given = {name: getattr(operation, name) for name in ("password", "one_time", "disabled", "rights", "sources")}
        after = attrs.evolve(before, **{name: value for name, value in given.items() if value is not None})
        others = (other for other in self._accounts() if other.id != before.id)
        if operation.keeps_admin and _administers(before) and not any(map(_administers, (after, *others))):
            return _LAST_ADMIN
        self._record(operation.audit)
        profile = None if operation.user is None else RecordPerson(operation.user, operation.claimed)
        return self._store(after, before, profile, operation.sign_out_at)

    def _record(self, audit: AuditEntry | None) -> None:
        if audit is not None:
            self._changes.audits.append(audit)

    def _store(
        self, account: Account, before: Account | None, profile: RecordPerson | None, sign_out_at: float | None = None
    ) -> Decision:
        stored = self._person((True, account.id))
        if profile is not None:
            person = record_person(stored, profile, self._now)
        elif stored is None:
            return _NO_OPERATOR
        else:
            person = stored
        person = with_account(person, account, before)
        if sign_out_at is not None:
            person = signed_out(person, sign_out_at)
            self._end_all(account.id)
        renamed = self._put_person(stored, person)
        self._changes.accounts[account.id] = account
        return AccountStored(account, person, renamed)

    def _sign_out(self, operation: SignOut) -> Decision:
        key = person_key(operation.user)
        stored = self._person(key)
        person = signed_out(stored or PersonRecord(operation.user), operation.at)
        if key[0]:
            self._end_all(operation.user.id)
        self._put_person(stored, person)
        return PersonRecorded(person, person != stored)

    def _set_away(self, operation: SetAway) -> Decision:
        stored = self._person((True, operation.operator_id))
        if stored is None:
            return _NO_OPERATOR
        person = attrs.evolve(stored, away=operation.away)
        self._put_person(stored, person)
        return PersonRecorded(person, person != stored)

    def _open(self, session: LoginSession) -> Decision:
        account = self._account(session.operator_id)
        if account is None:
            return _NO_ACCOUNT
        if account.disabled:
            return _DISABLED
        person = self._person((True, account.id))
        if person is not None and person.signed_out_at >= session.opened:
            return _NO_SESSION
        others = sorted(self._sessions_of(account.id), key=lambda other: (other.rotated, other.id))
        for other in others:
            if other.expires <= self._now:
                self._end(other.id)
        living = [other for other in others if other.expires > self._now]
        for other in living[: max(0, len(living) - MAX_SESSIONS + 1)]:
            self._end(other.id)
        self._changes.sessions[session.id] = session
        account = self._changes.accounts[account.id] = attrs.evolve(account, last_sign_in=int(session.opened))
        return SessionStored(session, account)

    def _rotate(self, operation: RotateSession) -> Decision:
        session = self._session(operation.id)
        if session is None or operation.now >= session.expires:
            return _NO_SESSION
        account = self._account(session.operator_id)
        if account is None or account.disabled:
            return _DISABLED
        behind = session.generation - operation.generation
        if behind == 0:
            session = attrs.evolve(session, generation=session.generation + 1, rotated=operation.now)
            self._changes.sessions[session.id] = session
        elif behind < 0:
            # Signed by this server, but unknown: the database is a restored backup.
            return _NO_SESSION
        elif behind > 1 or operation.now > session.rotated + operation.grace:
            self._end(session.id)
            return SessionEnded(reused=True)
        return SessionStored(session, account)

    def _block(self, block: Block) -> Decision:
        blocks = self._blocks()
        ended = tuple([other for other in blocks.values() if not other.holds(self._now)])
        for other in ended:
            self._changes.blocks[other.id] = None
            del blocks[other.id]
        target = (block.user, block.network)
        known = next((other for other in blocks.values() if (other.user, other.network) == target), None)
        if known is None and len(blocks) >= MAX_BLOCKS:
            return Refused(RefusalCode.CONFLICT, f"there are {MAX_BLOCKS} blocks already: remove some")
        block_id = max([0, *self._rows.blocks, *self._changes.blocks]) + 1 if known is None else known.id
        block = self._changes.blocks[block_id] = attrs.evolve(block, id=block_id)
        return BlockStored(block, ended)

    def _unblock(self, block_id: int) -> Decision:
        block = self._blocks().get(block_id)
        if block is None:
            return _NO_BLOCK
        self._changes.blocks[block_id] = None
        return BlockRemoved(block)

    def _blocks(self) -> dict[int, Block]:
        blocks = self._rows.blocks.copy()
        for id_, block in self._changes.blocks.items():
            if block is None:
                blocks.pop(id_, None)
            else:
                blocks[id_] = block
        return blocks

    def _end_all(self, operator_id: int) -> None:
        for session in list(self._sessions_of(operator_id)):
            self._end(session.id)

    def _end(self, session_id: str) -> None:
        if self._session(session_id) is not None:
            self._changes.sessions[session_id] = None

    def _put_person(self, stored: PersonRecord | None, person: PersonRecord) -> bool:
        """Store the record if it differs. Returns whether a known user has a new profile."""
        return person != stored and self._changes.put_person(person_key(person.user), person, stored)

    def _account(self, operator_id: int) -> Account | None:
        return self._changes.accounts.get(operator_id) or self._rows.accounts.get(operator_id)

    def _accounts(self) -> Iterator[Account]:
        changed = self._changes.accounts
        yield from changed.values()
        yield from (account for id_, account in self._rows.accounts.items() if id_ not in changed)

    def _session(self, session_id: str) -> LoginSession | None:
        if session_id in self._changes.sessions:
            return self._changes.sessions[session_id]
        return self._rows.sessions.get(session_id)

    def _sessions_of(self, operator_id: int) -> Iterator[LoginSession]:
        changed = self._changes.sessions
        for session in changed.values():
            if session is not None and session.operator_id == operator_id:
                yield session
        for id_, session in self._rows.sessions.items():
            if id_ not in changed and session.operator_id == operator_id:
                yield session

    def _person(self, key: PersonKey) -> PersonRecord | None:
        return self._changes.people.get(key) or self._rows.people.get(key)


def _administers(account: Account) -> bool:
    return account.rights is Rights.ADMIN and not account.disabled


def _claimed(operation: AddAccount) -> frozenset[str]:
    user = operation.user
    names = ("avatar", "lastname", "firstname", "patronymic")
    return frozenset([name for name in names if getattr(user, name)])
