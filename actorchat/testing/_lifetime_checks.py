"""Checks that a store reserves chats and uploads, and deletes them when their time has come."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.chat.documents import ChangeDocument, DocumentKey, DocumentKind
from actorchat.chat.model import (
    Identity,
    PersonRecord,
    Retention,
    SourceCounters,
    Stage,
    identity_of,
)
from actorchat.chat.operations import (
    AddMessage,
    Changed,
    CloseChat,
    Decision,
    EditMessage,
    ExpireChat,
    Expired,
    ExpireUploads,
    MarkMessage,
    RecordUpload,
    Refused,
    ReopenChat,
    ReserveChat,
    SetTags,
    Unchanged,
    UploadRecorded,
    UploadsExpired,
)
from actorchat.chat.ports import ChatFilter, ChatPage
from actorchat.chat.privacy import AuditAction, AuditEntry
from actorchat.protocol import Role
from actorchat.testing._store_writer import (
    ANN,
    BOB,
    CHAT,
    EVE,
    GUEST,
    NOW,
    SHOP,
    StoreWriter,
    new_upload,
    refuses,
    state_of,
)

__all__ = [
    "check_expiring_uploads",
    "check_expiry",
    "check_reserve",
    "check_retention",
    "check_uploads",
]


def check_reserve(writer: StoreWriter) -> None:
    """An owner has one chat at a source until it is closed; a reserved chat is in no list."""
    first = writer.store.chat(CHAT)
    assert first is not None
    assert (first.stage, first.rev, first.owner) == (Stage.RESERVED, 0, ANN)
    assert writer.store.chats(ChatFilter()) == ChatPage(())
    assert writer.one(ReserveChat(UUID(int=2), SHOP, ANN))[0] == Unchanged(first)
    [(bobs, _), (same, _), (elsewhere, _)] = writer.batch(
        ReserveChat(UUID(int=3), SHOP, BOB),
        ReserveChat(UUID(int=4), SHOP, BOB),
        ReserveChat(UUID(int=5), "mall", BOB),
    )
    assert isinstance(bobs, Changed)
    assert same == Unchanged(bobs.chat)
    assert isinstance(elsewhere, Changed)
    writer.talk("hello")
    decided = writer.batch(CloseChat(CHAT, ANN), ReserveChat(UUID(int=6), SHOP, ANN), ReopenChat(CHAT, ANN))
    assert [type(decision) for decision, _ in decided] == [Changed, Changed, Changed]
    writer.changed(AddMessage(CHAT, ANN, "later"), now=NOW + 9)
    unchanged, _ = writer.one(ReserveChat(UUID(int=7), SHOP, ANN))
    assert isinstance(unchanged, Unchanged)
    assert unchanged.chat.uuid == CHAT
    # A chat that is reserved and used in the same batch is counted like any other.
    _, (_, counters) = writer.batch(ReserveChat(UUID(int=8), "mall", ANN), AddMessage(UUID(int=8), ANN, "hi"), now=NOW)
    assert counters == (SourceCounters("mall", 1, 1),)


def check_expiry(writer: StoreWriter) -> None:
    """Unused reserved chats are found and deleted, and so are anonymous owners without another chat."""
    store, later = writer.store, NOW + 50
    chats = [UUID(int=n) for n in range(11, 16)]
    owners = (GUEST, GUEST, BOB, attrs.evolve(GUEST, id=GUEST.id + 1), attrs.evolve(GUEST, id=GUEST.id + 2))
    for n, (chat, owner) in enumerate(zip(chats, owners, strict=True)):
        writer.batch(ReserveChat(chat, f"made-up-{n}", owner), now=NOW + n)
    assert store.unused(NOW - 1, 9) == ()
    assert store.unused(later, 3) == (CHAT, *chats[:2])
    assert store.unused(NOW + 2, 9) == (CHAT, *chats[:3])
    # A chat that is requested again, or has somebody in it, is kept as long as a new one; one with a message for ever.
    again = writer.one(ReserveChat(UUID(int=99), "made-up-0", GUEST), now=later)[0]
    assert isinstance(again, Unchanged)
    assert (again.chat.uuid, again.chat.last_activity, again.chat.rev) == (chats[0], later, 0)
    assert isinstance(writer.one(ExpireChat(chats[1], later, True), now=later)[0], Unchanged)
    writer.changed(AddMessage(chats[3], owners[3], "hi"), now=later)
    assert store.unused(later - 1, 9) == (CHAT, chats[2], chats[4])
    assert store.unused(later, 9) == (CHAT, chats[2], chats[4], *chats[:2])
    decided = writer.batch(
        *(ExpireChat(chat, later - 1, False) for chat in chats),
        AddMessage(chats[2], BOB, "too late"),
        ReserveChat(chats[2], "made-up-2", BOB),
        ExpireChat(UUID(int=98), later, False),
        now=later + 1,
    )
    kinds = [Unchanged, Unchanged, Expired, Unchanged, Expired, Refused, Changed, Refused]
    assert [type(decision) for decision, _ in decided] == kinds
    assert [store.chat(chat) is None for chat in chats] == [False, False, False, False, True]
    # Only the anonymous owner without another chat is deleted, and may be stored again.
    known = [store.person(Identity(Role.USER, owner.id)) is not None for owner in owners]
    assert known == [True, True, True, True, False]
    writer.batch(ExpireChat(chats[0], later, False), now=later + 2)
    assert store.person(Identity(Role.USER, GUEST.id)) is not None
    writer.batch(ExpireChat(chats[1], later, False), now=later + 2)
    assert store.person(Identity(Role.USER, GUEST.id)) is None
    writer.changed(ReserveChat(chats[1], "made-up-1", GUEST), now=later + 3)
    assert store.person(Identity(Role.USER, GUEST.id)) == PersonRecord(GUEST)
    # A chat can be reserved and deleted in one batch.
    gus = attrs.evolve(GUEST, id=GUEST.id + 9)
    decided = writer.batch(ReserveChat(chats[4], SHOP, gus), ExpireChat(chats[4], later + 4, False), now=later + 4)
    assert decided[1][0] == Expired(chats[4])
    assert store.chat(chats[4]) is None
    # Refusing a message creates neither the chat nor the person, and changes nothing about a chat that exists.
    slowly = Refused("rate_limited", "slowly", 1.0)
    nobody = attrs.evolve(GUEST, id=GUEST.id + 10)
    decided = writer.batch(ReserveChat(chats[4], SHOP, nobody, slowly), ReserveChat(chats[4], SHOP, ANN, slowly))
    assert decided[0][0] == slowly
    assert isinstance(decided[1][0], Unchanged)
    assert store.person(Identity(Role.USER, nobody.id)) is None


def check_retention(writer: StoreWriter) -> None:
    """Closed chats are found when their source keeps them no longer, and deleted with all that belongs to them."""
    store, kept, other, guests = writer.store, UUID(int=21), UUID(int=22), UUID(int=23)
    writer.batch(*(ReserveChat(chat, SHOP, BOB) for chat in (kept,)), ReserveChat(other, "help", ANN))
    writer.batch(ReserveChat(guests, "help", GUEST), RecordUpload(new_upload(1)))
    [first, _] = writer.talk("hello", "world")
    writer.batch(
        AddMessage(CHAT, ANN, "", (UUID(int=1),), "file"),
        EditMessage(CHAT, ANN, first, "edited"),
        SetTags(CHAT, ("tag",)),
        ChangeDocument(DocumentKey(DocumentKind.VISIT, str(GUEST.id)), lambda _: "{}"),
        *(AddMessage(chat, owner, "x") for chat, owner in ((kept, BOB), (other, ANN), (guests, GUEST))),
        SetTags(guests, ("tag",)),
    )
    for chat, at in ((CHAT, 10), (other, 20), (guests, 30)):
        writer.changed(CloseChat(chat, EVE), now=NOW + at)
    retention, now = Retention(100, {SHOP: 50}), NOW + 125
    past = ((other, now - 100), (CHAT, now - 50))
    assert set(store.past_retention(retention, now, 9)) == set(past)
    assert len(store.past_retention(retention, now, 1)) == 1
    assert store.past_retention(Retention(0, {SHOP: 50}), now, 9) == (past[1],)
    assert store.past_retention(Retention(100, {SHOP: 0}), now, 9) == (past[0],)
    assert store.past_retention(Retention(), now, 9) == ()
    assert store.past_retention(retention, NOW + 59, 9) == ()
    before, number = store.feed_snapshot([SHOP, "help"], 9).counters, store.newest_number()

    def delete(chat: UUID, record: AuditEntry, *, before: float = now - 50, in_use: bool = False) -> Decision:
        return writer.one(ExpireChat(chat, before, in_use, record), now=now)[0]

    record = AuditEntry(int(now), "retention", AuditAction.RETENTION, None, {})
    # In use, active since, not closed, and without a record, which is for reserved chats.
    assert isinstance(delete(CHAT, record, in_use=True), Unchanged)
    assert isinstance(delete(CHAT, record, before=NOW + 9), Unchanged)
    assert isinstance(delete(kept, record), Unchanged)
    assert isinstance(writer.one(ExpireChat(CHAT, now, False))[0], Unchanged)
    # A chat that its batch changes waits for the next one.
    busy = writer.batch(SetTags(CHAT, ("new",)), ExpireChat(CHAT, now - 50, False, record), now=now)
    assert isinstance(busy[1][0], Unchanged)
    assert store.audits(9, 9) == ()
    # Closing the chat added a message.
    assert delete(CHAT, record) == Expired(CHAT, 4, (UUID(int=1),))
    assert isinstance(delete(CHAT, record), Refused)
    assert (store.chat(CHAT), store.since(CHAT, rev=0, limit=9), store.located(first)) == (None, None, None)
    assert store.edited(CHAT, rev=0, limit=9) is None
    assert (store.found([first]), store.uploads([UUID(int=1)]), store.uploads_of(identity_of(ANN))) == ((), (), ())
    searchable = [UUID(hex=message.chat) for message in store.searchable(0, 9)]
    assert searchable == [kept, other, guests, other, guests]
    assert store.searchable_edits(0, 9) == ()
    assert store.chats(ChatFilter(tag="new")).chats == ()
    assert [chat.uuid for chat in store.chats(ChatFilter(sources=frozenset({SHOP}))).chats] == [kept]
    assert store.feed_snapshot([SHOP, "help"], 9).counters == before
    # The record of the run is replaced, in the transaction of each chat.
    counts = {"chats": 1, "messages": 4, "files": 1}
    assert [(entry.counts, entry.subject) for entry in store.audits(9, 9)] == [(counts, None)]
    assert isinstance(delete(guests, attrs.evolve(record, counts=counts), before=now), Expired)
    [entry] = store.audits(9, 9)
    assert (entry.at, entry.counts) == (int(now), {"chats": 2, "messages": 6, "files": 1})
    # Only the anonymous visitor is forgotten.
    assert store.person(identity_of(GUEST)) is None
    assert store.documents(DocumentKind.VISIT, str(GUEST.id)) == ()
    assert store.person(identity_of(ANN)) is not None
    removed = store.removed_chats(0, 9)
    assert [(each.chat, each.owner_id) for each in removed] == [(CHAT, ANN.id), (guests, GUEST.id)]
    assert number < removed[0].place < removed[1].place <= store.newest_number()
    assert store.removed_chats(removed[0].place, 9) == removed[1:]
    # The owner can begin anew, and no number of a deleted message is known in a new chat.
    writer.changed(ReserveChat(CHAT, SHOP, ANN), now=now)
    assert isinstance(writer.changed(AddMessage(CHAT, ANN, "again", client_id="file"), now=now), Changed)
    refuses(writer, MarkMessage(CHAT, EVE, first, True), "message_not_found", now=now)
    page = store.after(CHAT, Role.OPERATOR, after=-1, limit=9)
    assert page is not None
    assert [(message.index, message.text) for message in page.messages] == [(0, "again")]
    assert store.summaries([CHAT])[0].tags == ()


def check_uploads(writer: StoreWriter) -> None:
    """An upload can be used by one message of its uploader, which shows it everywhere, and is then kept."""
    one, two, three, bobs = new_upload(1), new_upload(2), new_upload(3), new_upload(4, BOB)
    recorded = writer.batch(*map(RecordUpload, (one, two, three, bobs)), RecordUpload(one))
    assert [decision for decision, _ in recorded] == [UploadRecorded()] * 5
    store = writer.store
    ids = [upload.file.uuid for upload in (one, two, three, bobs)]
    found = sorted(store.uploads([*ids, UUID(int=99)]), key=lambda upload: upload.file.uuid)
    assert found == [one, two, three, bobs]
    assert store.uploads([]) == ()
    send = AddMessage(CHAT, ANN, "", (ids[1], ids[0]), client_id="k")
    message = writer.changed(send).messages[0]
    assert message.attachments == (two.file, one.file)
    assert writer.one(send)[0] == Unchanged(state_of(writer), message)
    for other in (tuple(ids[:2]), (), (ids[1],)):
        refuses(writer, replace(send, text="x", attachments=other), "conflict")
    refuses(writer, replace(send, attachments=tuple(ids[:2])), "conflict")
    # These are refused: an unknown file, one in use, another user's, and one that is named twice.
    nothing = UUID(int=99)
    for files, offending in (
        ((nothing, ids[2]), (nothing,)),
        ((ids[2], ids[0], ids[1]), (ids[0], ids[1])),
        ((ids[3],), (ids[3],)),
        ((ids[2], ids[2]), (ids[2],)),
    ):
        refused = refuses(writer, AddMessage(CHAT, ANN, "x", files), "attachment_unknown")
        assert refused.attachments == offending
    # The refused messages have not used the file, and a user with the same id and another role can't.
    refuses(writer, AddMessage(CHAT, EVE, "x", (ids[2],)), "attachment_unknown")
    # Of two messages in one batch the first one gets the file, even if the batch has just created its chat.
    new = UUID(int=7)
    decided = writer.batch(
        ReserveChat(new, "mall", ANN), AddMessage(new, ANN, "a", (ids[2],)), AddMessage(CHAT, ANN, "b", (ids[2],))
    )
    assert isinstance(decided[1][0], Changed)
    assert isinstance(decided[2][0], Refused)
    for page in (
        store.newest(CHAT, Role.USER, before=None, limit=9),
        store.after(CHAT, Role.OPERATOR, after=-1, limit=9),
        store.since(CHAT, rev=0, limit=9),
        store.authored(CHAT, Role.USER, after=-1, upto=9, limit=9),
    ):
        assert page is not None
        assert [each.attachments for each in page.messages] == [(two.file, one.file)]
    assert all(upload.bound for upload in store.uploads(ids[:3]))
    assert store.unbound_uploads(NOW, 9) == (ids[3],)
    # Uploads can be recorded and used, or recorded and deleted, in one batch.
    five, six = new_upload(5), new_upload(6)
    writer.batch(
        RecordUpload(five),
        AddMessage(CHAT, ANN, "five", (five.file.uuid,)),
        RecordUpload(six),
        ExpireUploads((six.file.uuid,), NOW),
    )
    assert [upload.bound for upload in store.uploads((five.file.uuid, six.file.uuid))] == [True]


def check_expiring_uploads(writer: StoreWriter) -> None:
    """Uploads that no message takes in time are forgotten; the oldest are found first."""
    store = writer.store
    writer.batch(*(RecordUpload(new_upload(n, created=NOW + n)) for n in (3, 1, 2, 4)))
    ids = [UUID(int=n) for n in range(1, 5)]
    assert store.unbound_uploads(NOW + 3, 2) == tuple(ids[:2])
    assert store.unbound_uploads(NOW + 3, 9) == tuple(ids[:3])
    writer.changed(AddMessage(CHAT, ANN, "x", (ids[0],)), now=NOW + 5)
    expired, _ = writer.one(ExpireUploads((*ids, UUID(int=99)), NOW + 3), now=NOW + 5)
    assert expired == UploadsExpired((ids[1], ids[2]))
    assert {upload.file.uuid for upload in store.uploads(ids)} == {ids[0], ids[3]}
    # The upload expired a second ago, but is not deleted yet.
    refuses(writer, AddMessage(CHAT, ANN, "x", (ids[3],)), "attachment_unknown", now=NOW + 4 + 86_400)
    writer.changed(AddMessage(CHAT, ANN, "x", (ids[3],)), now=NOW + 3 + 86_400)
