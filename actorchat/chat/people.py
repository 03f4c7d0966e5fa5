"""Stores changes of users and accounts, and shows them in rooms and consoles, also those that other nodes make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from uuid import UUID

import attrs

from actorchat.actors import Ref
from actorchat.chat.accounts import (
    Account,
    AccountOperation,
    AccountStored,
    ChangeAccount,
    SessionEnded,
    SessionStored,
    SignOut,
)
from actorchat.chat.elsewhere import CONSOLES, RemotePeople
from actorchat.chat.foreign_people import ForeignPeople, PersonNews
from actorchat.chat.model import Identity, PersonRecord, Stage, identity_of
from actorchat.chat.operations import (
    ChatOperation,
    EndLeaving,
    Outcome,
    PersonRecorded,
    RecordPerson,
    RefreshPeople,
    ReleaseChat,
    SetOnline,
)
from actorchat.chat.operator_directory import (
    ConsoleLeft,
    Consoles,
    CountersRead,
    DirectoryMessage,
    PersonRead,
    PersonSeen,
)
from actorchat.chat.ports import ChatFilter, ChatReader, StorageUnavailable
from actorchat.chat.privacy import AuditEntry, ErasePerson
from actorchat.chat.profile_refresh import Renamed
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.submitter import ChatRefused, Submitter
from actorchat.protocol import RefusalCode, Role, User, UserConnected, UserDisconnected

__all__ = ["People"]

MOST_RENAMED = 10_000
"""Active chats of one user that are published again after a change of the profile."""


class People:
    """Stores changes of users and accounts, and shows them in rooms and consoles.

    `perform` performs an operation in a chat's room; `tell_room` shows an event in a room.
    `remote` are the people on other nodes, None if there are none.
    """

    def __init__(
        self,
        *,
        submitter: Submitter,
        chat_reader: ChatReader,
        profiles: RenamedUsers,
        consoles: Consoles,
        directory: Callable[[], Ref[DirectoryMessage]],
        renames: Callable[[], Ref[Renamed]],
        perform: Callable[[ChatOperation], Awaitable[object]],
        tell_room: Callable[[UUID, UserConnected | UserDisconnected], object],
        remote: RemotePeople | None,
    ) -> None:
        self.on_person: Callable[[PersonRecord], object] = lambda _: None
        """Called with each stored record of a person, in commit order."""
        self.on_account: Callable[[Account], object] = lambda _: None
        """Called with each stored account, in commit order."""
        self.on_sign_out: Callable[[User, float], object] = lambda user, issued: None
        """Called for each user whose tokens have become worthless that were issued up to then, after `on_person`.

        Of another node's sign-out this node hears late, when the user may be back. Of its own: all, so up to `inf`.
        """
        self._submitter = submitter
        self._chat_reader = chat_reader
        self._profiles = profiles
        self._directory = directory
        self._renames = renames
        self._perform = perform
        self._tell_room = tell_room
        self._remote = remote
        self.foreign: ForeignPeople = ForeignPeople(chat_reader, self._show_foreign)
        """Reads the records that other nodes have changed."""
        if remote is not None:
            remote.arrived, remote.departed = self._remote_arrived, self._remote_departed
            consoles.elsewhere = remote.has_console
            consoles.on_here = lambda user: remote.on_here(CONSOLES, user)
            consoles.on_gone = lambda id_: remote.on_gone(CONSOLES, Identity(Role.OPERATOR, id_))

    async def record(self, operation: RecordPerson) -> PersonRecord:
        """Store what a token says about its user. Raises `ChatRefused`.

        A changed operator is sent to the consoles. A new profile is shown where its user is present, and in all the
        user's active chats.
        """
        outcome = await self._submitter.submit(operation, self._recorded)
        assert isinstance(outcome.decision, PersonRecorded)  # noqa: S101 - what this operation comes to
        return outcome.decision.person

    def _recorded(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if isinstance(decision, PersonRecorded) and decision.changed:
            self.show(decision.person, renamed=decision.renamed)
        elif isinstance(decision, PersonRecorded):
            self.on_person(decision.person)
            self.foreign.changed_here(identity_of(decision.person.user))

    async def erase(self, audit: AuditEntry) -> None:
        """Remove a person's names and picture, everywhere, and record the erasure. Raises `ChatRefused`."""
        await self._submitter.submit(ErasePerson(audit), self._recorded)

    async def decide_on_account(
        self, operation: AccountOperation
    ) -> AccountStored | SessionStored | SessionEnded | PersonRecorded:
        """Decide and store an operation on accounts, and return its decision. Raises `ChatRefused`."""
        decision = (await self._submitter.submit(operation, self._account_decided)).decision
        assert isinstance(  # noqa: S101 - what these operations come to
            decision, AccountStored | SessionStored | SessionEnded | PersonRecorded
        )
        return decision

    def _account_decided(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if isinstance(decision, AccountStored):
            self.on_account(decision.account)
            self.show(decision.person, renamed=decision.renamed)
        elif isinstance(decision, PersonRecorded):
            self.show(decision.person, renamed=decision.renamed)
        elif isinstance(decision, SessionStored):
            self.on_account(decision.account)
        operation = outcome.operation
        signed_out = isinstance(operation, SignOut) or (
            isinstance(operation, ChangeAccount) and operation.sign_out_at is not None
        )
        if signed_out and isinstance(decision, AccountStored | PersonRecorded):
            self.on_sign_out(decision.person.user, inf)

    def show(self, person: PersonRecord, *, renamed: bool) -> None:
        """Show a record that this node has changed."""
        self.on_person(person)
        self.foreign.changed_here(identity_of(person.user))
        if renamed:
            self._changed_profile(person.user)
            self._renames().signal(Renamed(person.user))
        if person.user.role is Role.OPERATOR:
            self._directory().signal(PersonSeen(person))

    async def show_renamed(self, user: User) -> None:
        """Publish every active chat of `user` again. Raises StorageUnavailable if the caller has to try again."""
        operator = user.role is Role.OPERATOR
        which = ChatFilter(
            stages=frozenset({Stage.NEW, Stage.OPEN}),
            operator_id=user.id if operator else None,
            owner_id=None if operator else user.id,
            limit=MOST_RENAMED,
        )
        for chat in (await self._chat_reader.chats(which)).chats:
            try:
                await self._perform(RefreshPeople(chat.uuid))
            except ChatRefused as refused:
                if refused.code in (RefusalCode.OVERLOADED, RefusalCode.STORAGE_UNAVAILABLE):
                    raise StorageUnavailable(str(refused)) from refused

    # Of operators, for the directory

    def read_operator_again(self, operator_id: int) -> None:
        """Read the record of an operator whom another node has changed, and show it."""
        self.foreign.changed_elsewhere(Identity(Role.OPERATOR, operator_id), PersonNews())

    async def read_operators_again(self) -> None:
        """Read the records and counters of all operators, and show them. Raises `StorageUnavailable`."""
        records = await self._chat_reader.operators(None)
        self._directory().signal(CountersRead(tuple(record.counters for record in records)))
        for record in records:
            self.foreign.changed_elsewhere(identity_of(record.person.user), PersonNews(renamed=True))

    async def store_presence(self, operator_id: int, online: bool) -> PersonRecord:
        """Commit that an operator is online or offline, and return its record. Raises `StorageUnavailable`."""
        return await self._store_presence(SetOnline(operator_id, online))

    async def return_chats(self, operator_id: int) -> PersonRecord:
        """Give the chats of a leaving operator back to the queue, of one who is away the `new` ones. Return its record.

        It is still leaving afterwards if some chats could not be returned. Raises `StorageUnavailable`.
        """
        active = frozenset({Stage.NEW, Stage.OPEN})
        which: ChatFilter | None = ChatFilter(stages=active, operator_id=operator_id, limit=200)
        while which is not None:
            page = await self._chat_reader.chats(which)
            for chat in page.chats:
                # If one chat can't be stored now, the others are still returned.
                with suppress(ChatRefused):
                    await self._perform(ReleaseChat(chat.uuid, operator_id))
            which = None if page.next is None else attrs.evolve(which, before=page.next)
        return await self._store_presence(EndLeaving(operator_id))

    async def _store_presence(self, operation: SetOnline | EndLeaving) -> PersonRecord:
        try:
            outcome = await self._submitter.submit(operation, self._presence_decided)
        except ChatRefused as error:
            raise StorageUnavailable(str(error)) from error
        assert isinstance(outcome.decision, PersonRecorded)  # noqa: S101 - what this operation comes to
        return outcome.decision.person

    def _presence_decided(self, outcome: Outcome) -> None:
        if isinstance(outcome.decision, PersonRecorded):
            self.foreign.changed_here(identity_of(outcome.decision.person.user))

    # On other nodes

    def _show_foreign(self, person: PersonRecord, news: PersonNews) -> None:
        """Show a record that another node has changed."""
        self.on_person(person)
        if news.renamed:
            # The other node publishes the chats of that user again.
            self._changed_profile(person.user)
        if person.user.role is Role.OPERATOR:
            self._directory().signal(PersonRead(person))
        if news.signed_out:
            self.on_sign_out(person.user, person.signed_out_at)

    def _changed_profile(self, user: User) -> None:
        self._profiles.changed(user)
        if self._remote is not None:
            for chat in self._remote.renamed(user):
                self._tell_room(chat, UserConnected(user))

    def _remote_arrived(self, chat: UUID, user: User) -> None:
        if chat != CONSOLES:
            self._tell_room(chat, UserConnected(self._profiles.user(user)))

    def _remote_departed(self, chat: UUID, user: User) -> None:
        if chat == CONSOLES:
            # The other node looks after the operator, unless it has died.
            self._directory().signal(ConsoleLeft(user.id))
        else:
            self._tell_room(chat, UserDisconnected(self._profiles.user(user)))
