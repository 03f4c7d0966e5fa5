"""Checks what a store records of people: profiles, presence, memberships and documents."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.documents import ChangeDocument, DocumentChanged, DocumentKey, DocumentKind
from actorchat.chat.model import (
    ENDLESS,
    Identity,
    PersonRecord,
    Stage,
    endless,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    CloseChat,
    EndLeaving,
    ExpireChat,
    Operation,
    PersonRecorded,
    RecordPerson,
    RefreshPeople,
    Refused,
    ReleaseChat,
    ReopenChat,
    ReserveChat,
    SetOnline,
    TransferChat,
    Unchanged,
)
from actorchat.chat.ports import ChatFilter
from actorchat.protocol import Role, User
from actorchat.testing._store_writer import (
    ANN,
    BOB,
    CHAT,
    EVE,
    GUEST,
    NOW,
    SHOP,
    StoreWriter,
)

__all__ = [
    "check_documents",
    "check_memberships",
    "check_people",
    "check_presence",
]


def check_people(writer: StoreWriter) -> None:
    """Profiles are merged by claim; a changed profile is reported, and shown in every chat from then on."""
    writer.talk("hi")
    [(same, _)] = writer.batch(RecordPerson(ANN, frozenset({"firstname"})))
    assert same == PersonRecorded(PersonRecord(ANN), False)
    renamed = User(ANN.id, Role.USER, lastname="Lee")
    decided = writer.batch(RecordPerson(renamed, frozenset({"lastname"})), AddMessage(CHAT, ANN, "me"))
    ann = attrs.evolve(ANN, lastname="Lee")
    assert decided[0][0] == PersonRecorded(PersonRecord(ann), True, True)
    assert isinstance(decided[1][0], Changed)
    assert decided[1][0].chat.owner == decided[1][0].messages[0].author == ann
    assert writer.store.person(Identity(Role.USER, ANN.id)) == PersonRecord(ann)
    assert writer.store.person(Identity(Role.USER, 99)) is None
    people = [Identity(Role.USER, ANN.id), Identity(Role.OPERATOR, EVE.id), Identity(Role.USER, 99)]
    stored = sorted(writer.store.people([*people, Identity(Role.OPERATOR, 99)]), key=lambda record: record.user.role)
    assert stored == [writer.store.person(people[1]), PersonRecord(ann)]
    assert writer.store.people([]) == ()
    [chat] = writer.store.chats(ChatFilter()).chats
    assert chat.owner == ann
    refreshed = writer.changed(RefreshPeople(CHAT), now=NOW + 9)
    assert (refreshed.chat, refreshed.messages, refreshed.chat_changed) == (replace(chat, rev=chat.rev + 1), (), True)
    assert writer.store.chat(CHAT) == refreshed.chat
    online = writer.one(SetOnline(EVE.id, True))[0]
    assert online == PersonRecorded(PersonRecord(EVE, endless({SHOP}), True), True)
    assert writer.one(SetOnline(EVE.id, True))[0] == PersonRecorded(online.person, False)
    assert [record.person.online for record in writer.store.operators([SHOP])] == [True, False]
    stranger = User(7, Role.OPERATOR, firstname="Gus")
    writer.changed(AcceptChat(CHAT, stranger))
    assert [record.person.user.id for record in writer.store.operators(None)] == [1, 2, 7]
    assert writer.store.chats(ChatFilter()).chats[0].operator == stranger


def check_presence(writer: StoreWriter) -> None:
    """An operator who goes offline with chats is leaving until they are returned; then chats reopen in the queue."""
    other = UUID(int=2)
    writer.batch(ReserveChat(other, SHOP, BOB))
    writer.talk("hi")
    writer.talk("hi", chat=other, author=BOB)
    writer.batch(AcceptChat(CHAT, EVE), AcceptChat(other, EVE))

    def presence(operation: Operation) -> tuple[bool, bool]:
        decision, _ = writer.one(operation)
        assert isinstance(decision, PersonRecorded)
        stored = writer.store.person(Identity(Role.OPERATOR, EVE.id))
        assert stored == decision.person
        return stored.online, stored.leaving

    release = ReleaseChat(CHAT, EVE.id)
    assert isinstance(writer.one(release)[0], Unchanged)
    assert presence(SetOnline(EVE.id, False)) == (False, False)
    assert presence(SetOnline(EVE.id, True)) == (True, False)
    writer.batch(CloseChat(CHAT, ANN))
    assert writer.changed(AddMessage(CHAT, ANN, "again")).chat.operator == EVE
    assert isinstance(writer.one(release)[0], Unchanged)
    assert presence(SetOnline(EVE.id, False)) == (False, True)
    assert presence(EndLeaving(EVE.id)) == (False, True)
    assert writer.changed(release).chat.operator is None
    assert presence(EndLeaving(EVE.id)) == (False, True)
    writer.batch(CloseChat(other, BOB))
    assert presence(EndLeaving(EVE.id)) == (False, False)
    # A later operation sees the effect of an earlier one, also within a batch.
    reopened = writer.changed(AddMessage(other, BOB, "again")).chat
    assert (reopened.stage, reopened.operator) == (Stage.NEW, None)
    decided = writer.batch(
        AcceptChat(other, EVE),
        SetOnline(EVE.id, True),
        CloseChat(other, BOB),
        ReopenChat(other, BOB),
        SetOnline(EVE.id, False),
        ReleaseChat(other, EVE.id),
        SetOnline(EVE.id, True),
        AcceptChat(other, EVE),
        ReleaseChat(other, EVE.id),
    )
    states = [decision.chat.operator for decision, _ in decided if isinstance(decision, Changed | Unchanged)]
    assert states == [EVE, EVE, EVE, None, EVE, EVE]
    assert writer.one(EndLeaving(77))[0] == Refused("not_found", "there is no such operator")


def check_memberships(writer: StoreWriter) -> None:
    """Each token of an operator adds its sources until it expires; the profile of an older token is ignored."""
    writer.talk("hi")
    gus, names, far = User(7, Role.OPERATOR, firstname="Gus"), frozenset({"firstname"}), ENDLESS
    older = RecordPerson(gus, names, frozenset({SHOP}), NOW + 60, "older", NOW - 60.5)
    newer = RecordPerson(attrs.evolve(gus, firstname="Augustus"), names, frozenset({"mall"}), far, "newer", NOW - 30.0)
    assert [decision for decision, _ in writer.batch(older, newer, older)][2] == PersonRecorded(
        writer.person(gus), changed=False
    )
    record = writer.person(gus)
    assert record.user.firstname == "Augustus"
    assert record.sources(NOW + 60) == {SHOP, "mall"}
    # Reads go by the clock, decisions by the time of their batch.
    assert gus.id not in [each.person.user.id for each in writer.store.operators([SHOP])]
    assert writer.store.operators(["mall"])[0].person == record
    assert writer.store.feed_snapshot(["mall"], 1).operators[0].person == record
    refused, _ = writer.one(TransferChat(CHAT, EVE, gus.id), now=NOW + 600)
    assert isinstance(refused, Refused)
    assert refused.code == "not_found"
    writer.changed(TransferChat(CHAT, EVE, gus.id), now=NOW + 59)
    # Expired memberships are forgotten. Tokens without a time of issue are ordered by their first use.
    undated = [RecordPerson(attrs.evolve(gus, firstname=name), names, None, far, name) for name in "abc"]
    writer.batch(*undated, now=NOW + 601)
    assert writer.one(undated[1], now=NOW + 602)[0] == PersonRecorded(writer.person(gus), changed=False)
    assert writer.person(gus).user.firstname == "c"
    assert writer.person(gus).memberships == {"mall": far}


def check_documents(writer: StoreWriter) -> None:
    """A document is changed in its transaction, on the result of the changes before it."""
    store, key = writer.store, DocumentKey(DocumentKind.REPLY, SHOP, "b")

    def appended(text: str) -> ChangeDocument:
        return ChangeDocument(key, lambda before: (before or "") + text)

    assert store.documents(DocumentKind.REPLY, SHOP) == ()
    assert writer.batch(appended("1"), appended("2"))[1][0] == DocumentChanged("12")
    assert writer.batch(appended("3"))[0][0] == DocumentChanged("123")
    writer.batch(ChangeDocument(DocumentKey(DocumentKind.REPLY, SHOP, "a"), lambda _: "x"))
    writer.batch(ChangeDocument(DocumentKey(DocumentKind.REPLY, "mall", "a"), lambda _: "y"))
    writer.batch(ChangeDocument(DocumentKey(DocumentKind.WIDGET, SHOP), lambda _: "z"))
    assert store.documents(DocumentKind.REPLY, SHOP) == (("a", "x"), ("b", "123"))
    assert store.documents(DocumentKind.WIDGET, SHOP) == (("", "z"),)

    def fail(_: str | None) -> str | None:
        raise ValueError("as scripted")

    decisions = writer.batch(ChangeDocument(key, lambda _: None), ChangeDocument(key, fail), appended("4"))
    assert isinstance(decisions[1][0], Refused)
    assert store.documents(DocumentKind.REPLY, SHOP) == (("a", "x"), ("b", "4"))

    # What a visitor has viewed is deleted with the record of an anonymous visitor.
    chat, viewed = UUID(int=30), DocumentKey(DocumentKind.VISIT, str(GUEST.id))
    writer.batch(ReserveChat(chat, SHOP, GUEST), ChangeDocument(viewed, lambda _: "page"))
    assert store.documents(DocumentKind.VISIT, str(GUEST.id)) == (("", "page"),)
    writer.batch(ExpireChat(chat, NOW + 1, False), now=NOW + 9)
    assert store.documents(DocumentKind.VISIT, str(GUEST.id)) == ()
