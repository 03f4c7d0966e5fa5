"""Checks of accounts, sign-ins and sign-outs that every store has to pass; a part of `check_store`."""

# ruff: noqa: S101, S106 - a failed check raises AssertionError; the passwords are no secrets

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from actorchat.chat.accounts import (
    MAX_SESSIONS,
    Account,
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
)
from actorchat.chat.blocks import AddBlock, Block, BlockRemoved, BlockStored, RemoveBlock
from actorchat.chat.model import Identity
from actorchat.chat.operations import Decision, Operation, PersonRecorded, Refused
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.protocol import Role, User
from actorchat.storage.store import Store

__all__ = [
    "check_accounts",
    "check_blocks",
    "check_sessions",
    "check_sign_out",
    "check_stored_accounts",
    "store_accounts",
]

Commit = Callable[[Operation, float], Decision]
"""Commits one operation at a time in epoch seconds, and returns its decision."""

NOW: Final = 1_700_000_000
ANNA: Final = Account(id=71, login="anna", sources=("shop",), password="$hash", created=NOW)
SIGNED_IN: Final = attrs.evolve(ANNA, last_sign_in=NOW)
SESSION: Final = LoginSession(id="a" * 32, operator_id=71, opened=NOW + 0.5, expires=NOW + 1000.0, rotated=NOW + 0.5)
USER: Final = User(71, Role.OPERATOR, firstname="Anna")
VISITOR: Final = User(72, Role.USER)


def check_accounts(store: Store, commit: Commit) -> None:
    """Logins and ids are unique; an operator belongs to the sources of an account that is not disabled."""
    assert _stored(commit(AddAccount(ANNA, USER), NOW)) == ANNA
    for other in (attrs.evolve(ANNA, id=73), attrs.evolve(ANNA, login="bob")):
        _refused(commit(AddAccount(other, User(other.id, Role.OPERATOR)), NOW), "conflict")
    assert store.accounts() == (ANNA,)
    assert _sources(store) == {"shop"}
    changed = _stored(commit(ChangeAccount(id=71, rights=Rights.ADMIN, sources=("lk",)), NOW))
    assert (changed.rights, changed.password, _sources(store)) == (Rights.ADMIN, "$hash", {"lk"})
    commit(ChangeAccount(id=71, disabled=True, user=User(71, Role.OPERATOR, lastname="Li"), claimed=_LASTNAME), NOW)
    assert _sources(store) == set()
    person = store.person(Identity(Role.OPERATOR, 71))
    assert person is not None
    assert (person.user.firstname, person.user.lastname) == ("Anna", "Li")
    commit(ChangeAccount(id=71, disabled=False), NOW)
    assert _sources(store) == {"lk"}
    _refused(commit(ChangeAccount(id=71, password="$new", expected="$other"), NOW), "conflict")
    _refused(commit(ChangeAccount(id=99, password="$new"), NOW), "not_found")
    assert store.accounts() == (attrs.evolve(ANNA, rights=Rights.ADMIN, sources=("lk",)),)
    _check_last_admin(store, commit)


def _check_last_admin(store: Store, commit: Commit) -> None:
    """Anna is the only administrator. A refused change leaves no record, another one is stored with its record."""
    operator, subject = Identity(Role.OPERATOR, 71), Identity(Role.OPERATOR, 74)
    record = AuditEntry(NOW, "operator 71", AuditAction.ACCOUNT_CHANGED, operator, {}, detail="role: operator")
    added = AuditEntry(NOW, "operator 71", AuditAction.ACCOUNT_ADDED, subject, {"sources": 1}, detail="role: admin")
    demotion = ChangeAccount(id=71, rights=Rights.SUPERVISOR, keeps_admin=True, audit=record)
    for change in (demotion, ChangeAccount(id=71, disabled=True, keeps_admin=True, audit=record)):
        _refused(commit(change, NOW), "conflict")
    assert store.audits(9, 9) == ()
    other = Account(id=74, login="chief", rights=Rights.ADMIN, one_time=True)
    commit(AddAccount(other, User(74, Role.OPERATOR), added), NOW)
    assert _stored(commit(demotion, NOW)).rights is Rights.SUPERVISOR
    assert store.audits(9, 9) == (attrs.evolve(record, number=2), attrs.evolve(added, number=1))
    assert store.accounts()[1] == other
    assert not _stored(commit(ChangeAccount(id=74, password="$new", one_time=False), NOW)).one_time
    # The command line may do it, because it can add an administrator again.
    assert _stored(commit(ChangeAccount(id=74, disabled=True), NOW)).disabled


_LASTNAME: Final = frozenset({"lastname"})


def check_sessions(store: Store, commit: Commit) -> None:
    """A refresh token works once, the one before for the grace; an older one ends the sign-in."""
    commit(AddAccount(ANNA, USER), NOW)
    assert _session(commit(OpenSession(SESSION), NOW)) == SESSION
    assert store.accounts() == (SIGNED_IN,)
    assert _session(commit(RotateSession(SESSION.id, 0, NOW + 10, 30), NOW)).generation == 1
    assert _session(commit(RotateSession(SESSION.id, 0, NOW + 40, 30), NOW)).generation == 1
    assert _session(commit(RotateSession(SESSION.id, 1, NOW + 50, 30), NOW)).generation == 2
    _refused(commit(RotateSession(SESSION.id, 3, NOW + 60, 30), NOW), "not_authenticated")
    assert commit(RotateSession(SESSION.id, 1, NOW + 81, 30), NOW) == SessionEnded(reused=True)
    _refused(commit(RotateSession(SESSION.id, 2, NOW + 81, 30), NOW), "not_authenticated")

    commit(OpenSession(SESSION), NOW)
    assert commit(EndSession(SESSION.id), NOW) == SessionEnded()
    _refused(commit(RotateSession(SESSION.id, 0, NOW + 1, 30), NOW), "not_authenticated")

    commit(OpenSession(SESSION), NOW)
    _refused(commit(RotateSession(SESSION.id, 0, SESSION.expires, 30), NOW), "not_authenticated")

    for number in range(MAX_SESSIONS):
        commit(OpenSession(attrs.evolve(SESSION, id=f"{number:032x}", rotated=NOW + 1.0 + number)), NOW)
    _refused(commit(RotateSession(SESSION.id, 0, NOW + 1, 30), NOW), "not_authenticated")
    _session(commit(RotateSession(f"{0:032x}", 0, NOW + 1, 30), NOW))

    commit(ChangeAccount(id=71, disabled=True, sign_out_at=NOW + 2.0), NOW)
    _refused(commit(RotateSession(f"{1:032x}", 0, NOW + 3, 30), NOW), "not_authenticated")
    _refused(commit(OpenSession(attrs.evolve(SESSION, opened=NOW + 3.0)), NOW), "not_authenticated")
    commit(ChangeAccount(id=71, disabled=False), NOW)
    _refused(commit(RotateSession(f"{1:032x}", 0, NOW + 3, 30), NOW), "not_authenticated")
    _refused(commit(OpenSession(SESSION), NOW), "not_authenticated")
    _session(commit(OpenSession(attrs.evolve(SESSION, opened=NOW + 3.0)), NOW))


def check_sign_out(store: Store, commit: Commit) -> None:
    """The time of a sign-out never goes back; being away is stored; both work for people without an account."""
    for at, stored in ((NOW + 5.0, NOW + 5.0), (NOW + 3.0, NOW + 5.0), (NOW + 7.25, NOW + 7.25)):
        decision = commit(SignOut(VISITOR, at), NOW)
        assert isinstance(decision, PersonRecorded), decision
        assert decision.person.signed_out_at == stored
        person = store.person(Identity(Role.USER, VISITOR.id))
        assert person == decision.person
    _refused(commit(SetAway(71, True), NOW), "not_found")
    commit(AddAccount(ANNA, USER), NOW)
    for away in (True, False):
        commit(SetAway(71, away), NOW)
        person = store.person(Identity(Role.OPERATOR, 71))
        assert person is not None
        assert person.away is away


def check_blocks(store: Store, commit: Commit) -> None:
    """A visitor or network has one block; blocks that have ended go with the next one; ids of blocks are unique."""
    first = _block(commit(AddBlock(Block(id=0, user=72, by=71, created=NOW, until=NOW + 10)), NOW))
    other = _block(commit(AddBlock(Block(id=0, network="10.0.0.0/8", by=71, created=NOW)), NOW))
    again = _block(commit(AddBlock(attrs.evolve(first, id=0, reason="spam")), NOW))
    assert (again.id, again.id == other.id) == (first.id, False)
    assert store.blocks() == tuple(sorted((again, other), key=lambda block: block.id))
    decision = commit(AddBlock(Block(id=0, user=73, by=71, created=NOW)), NOW + 10)
    assert isinstance(decision, BlockStored), decision
    assert decision.ended == (again,)
    assert commit(RemoveBlock(other.id), NOW) == BlockRemoved(other)
    assert store.blocks() == (decision.block,)
    _refused(commit(RemoveBlock(other.id), NOW), "not_found")


def _block(decision: Decision) -> Block:
    assert isinstance(decision, BlockStored), decision
    return decision.block


def store_accounts(commit: Commit) -> None:
    """Store an account, a sign-in, an absence and a sign-out, for `check_stored_accounts` after a restart."""
    commit(AddAccount(ANNA, USER), NOW)
    commit(OpenSession(SESSION), NOW)
    commit(SetAway(71, True), NOW)
    commit(SignOut(VISITOR, NOW + 5.5), NOW)
    commit(AddBlock(Block(id=0, network="10.0.0.0/8", by=71, created=NOW)), NOW)


def check_stored_accounts(store: Store, commit: Commit) -> None:
    """Everything that `store_accounts` has stored is there."""
    assert store.accounts() == (SIGNED_IN,)
    assert [block.network for block in store.blocks()] == ["10.0.0.0/8"]
    operator = store.person(Identity(Role.OPERATOR, 71))
    visitor = store.person(Identity(Role.USER, VISITOR.id))
    assert operator is not None
    assert visitor is not None
    assert (operator.away, operator.user, visitor.signed_out_at) == (True, USER, NOW + 5.5)
    assert _session(commit(RotateSession(SESSION.id, 0, NOW + 1, 30), NOW)).generation == 1


def _stored(decision: Decision) -> Account:
    assert isinstance(decision, AccountStored), decision
    return decision.account


def _session(decision: Decision) -> LoginSession:
    assert isinstance(decision, SessionStored), decision
    return decision.session


def _refused(decision: Decision, code: str) -> None:
    assert isinstance(decision, Refused), decision
    assert decision.code == code, decision


def _sources(store: Store) -> set[str]:
    person = store.person(Identity(Role.OPERATOR, 71))
    assert person is not None
    return set(person.memberships)
