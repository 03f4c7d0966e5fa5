"""Finds out what a batch has to lock before it can be decided. Pure functions without SQL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

import attrs

from actorchat.chat.accounts import AccountOperation
from actorchat.chat.documents import ChangeDocument, visit_of
from actorchat.chat.operations import (
    AddMessage,
    EndLeaving,
    ExpireChat,
    HandOver,
    Operation,
    RecordPerson,
    RefuseMessage,
    ReserveChat,
    SetOnline,
)
from actorchat.chat.privacy import ErasePerson
from actorchat.protocol import Role
from actorchat.storage.postgres.advisory import ACCOUNTS, Locks, lock_number
from actorchat.storage.preload import missing_chats, people_of
from actorchat.storage.row_cache import PersonKey, RowCache, person_key

__all__ = ["Wanted", "person_lock", "wanted_locks"]

_NOTHING = RowCache()


@attrs.define(eq=False)
class Wanted:
    """The rows that a batch locks.

    `people` are those whose records may change; `locks` are for them and for what has no row. `counted` are operators
    whose counters decide or are shown though no chat of theirs changes. `new_chats` is how many chats it may create.
    `expiring` are chats that may be deleted, whose owners have to be locked too.
    """

    chats: set[UUID]
    people: set[PersonKey]
    locks: Locks
    counted: set[int]
    expiring: set[UUID]
    accounts: bool = False
    new_chats: int = 0

    def lock_people(self, people: Iterable[PersonKey], *, shared: bool = False) -> None:
        for key in people:
            number = person_lock(key)
            self.locks[number] = self.locks.get(number, False) or not shared


def wanted_locks(operations: Sequence[Operation]) -> Wanted:
    """Return the rows that `operations` lock."""
    wanted = Wanted(missing_chats(operations, _NOTHING), set(), {}, set(), set())
    for operation in operations:
        # Most operations by far, which lock nothing but their chat.
        if isinstance(operation, AddMessage | RefuseMessage):
            continue
        match operation:
            case RecordPerson(user=user):
                wanted.people.add(person_key(user))
                if user.role is Role.OPERATOR:
                    wanted.counted.add(user.id)
            case ReserveChat(owner=owner):
                wanted.people.add(person_key(owner))
                wanted.new_chats += 1
            case HandOver(anonymous=anonymous, to=to):
                wanted.people |= {(False, anonymous), person_key(to)}
                for visitor in (anonymous, to.id):
                    wanted.locks[lock_number("document", *visit_of(visitor))] = True
            case SetOnline(operator_id=id_) | EndLeaving(operator_id=id_):
                wanted.people.add((True, id_))
                wanted.counted.add(id_)
            case ExpireChat(chat=chat):
                wanted.expiring.add(chat)
            case ErasePerson(audit=audit):
                if audit.subject is not None:
                    wanted.people.add((audit.subject.role is Role.OPERATOR, audit.subject.id))
            case ChangeDocument(key=key):
                wanted.locks[lock_number("document", *key)] = True
            case AccountOperation():
                wanted.accounts = True
                wanted.locks[ACCOUNTS] = True
                wanted.people.update(people_of(operation))
            case _:
                pass
    wanted.counted.update(id_ for is_operator, id_ in wanted.people if is_operator)
    wanted.lock_people(wanted.people)
    return wanted


def person_lock(person: PersonKey) -> int:
    """The number of the lock of a person, whose record may not exist yet. A change of the record holds it."""
    return lock_number("person", *person)
