"""Checks of the hand-over of an anonymous visitor's chats that every store has to pass; a part of `check_store`."""

# ruff: noqa: S101 - a failed check raises AssertionError

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from uuid import UUID

from actorchat.chat.documents import ChangeDocument, DocumentKind, visit_of
from actorchat.chat.model import (
    ANONYMOUS_IDS,
    Identity,
    Policy,
    SourceCounters,
    Stage,
    StoredAttachment,
    Upload,
    contribution,
    identity_of,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    CloseChat,
    EditMessage,
    ExpireChat,
    HandedOver,
    HandOver,
    Operation,
    RecordPerson,
    RecordUpload,
    Refused,
    ReopenChat,
    ReserveChat,
    Unchanged,
    UploadRecorded,
)
from actorchat.chat.page_views import has_taken_over, with_page
from actorchat.chat.ports import ChatFilter
from actorchat.protocol import AttachmentType, MessageType, PageContext, Role, User
from actorchat.storage.store import DecisionAndCounters, Store

__all__ = ["check_hand_over"]

Commit = Callable[..., list[DecisionAndCounters]]
"""Commits operations in one batch, at `now` in epoch seconds, and returns the decisions."""

NOW: Final = 1_700_000_000
SHOP: Final = "shop"
DORA: Final = User(41, Role.USER, firstname="Dora")
EVE: Final = User(1, Role.OPERATOR, firstname="Eve")
_POLICY: Final = Policy()


def check_hand_over(store: Store, commit: Commit) -> None:
    """Everything of an anonymous visitor becomes the signed-in visitor's, in one transaction and once."""
    commit(RecordPerson(DORA, frozenset({"firstname"})))
    _check_everything_moves(store, commit)
    _check_one_chat_goes_on(store, commit)
    _check_one_batch(store, commit)
    _check_proofs(store, commit)


def _guest(n: int) -> User:
    return User(ANONYMOUS_IDS + 100 + n, Role.USER)


def _upload(uuid: UUID, uploader: User) -> RecordUpload:
    file = StoredAttachment(uuid, AttachmentType.FILE, "plan.txt", "txt", 5)
    return RecordUpload(Upload(file, identity_of(uploader), SHOP, "text/plain", NOW))


def _handed_over(decided: DecisionAndCounters) -> HandedOver:
    assert isinstance(decided[0], HandedOver), decided
    return decided[0]


def _check_everything_moves(store: Store, commit: Commit) -> None:
    guest, chat, elsewhere, closed = _guest(1), UUID(int=101), UUID(int=102), UUID(int=103)
    used, unused = UUID(int=104), UUID(int=105)
    commit(ReserveChat(closed, SHOP, guest), AddMessage(closed, guest, "old"), CloseChat(closed, guest))
    commit(ReserveChat(chat, SHOP, guest), ReserveChat(elsewhere, "mall", guest))
    commit(_upload(used, guest), _upload(unused, guest))
    hello = AddMessage(chat, guest, "hello", client_id="k")
    [(first, _), _, _] = commit(hello, AddMessage(chat, EVE, "yes?"), AddMessage(chat, guest, "", (used,), "file"))
    assert isinstance(first, Changed)
    message = first.messages[0].id
    commit(EditMessage(chat, guest, message, "hello!"))
    pages = [with_page(None, PageContext(url=f"https://shop.example/{name}"), (), NOW) for name in "ab"]
    commit(
        ChangeDocument(visit_of(guest.id), lambda _: pages[0]), ChangeDocument(visit_of(DORA.id), lambda _: pages[1])
    )
    before = store.feed_snapshot([SHOP], 9).counters
    listed = [found.uuid for found in store.chats(ChatFilter()).chats]

    operation = HandOver(guest.id, DORA, NOW + 5.5, NOW, NOW)
    done = _handed_over(commit(operation)[0])
    assert done.anonymous is not None
    assert {change.chat.uuid: change.chat_changed for change in done.changes} == {
        chat: True,
        closed: True,
        elsewhere: False,
    }
    assert all(change.chat.owner == DORA and not change.messages for change in done.changes)
    assert [store.chat(each) for each in (chat, closed, elsewhere)] == [
        next(change.chat for change in done.changes if change.chat.uuid == each) for each in (chat, closed, elsewhere)
    ]
    # Nothing else of the chats has changed: neither their order nor what is unread.
    assert store.feed_snapshot([SHOP], 9).counters == before
    assert [found.uuid for found in store.chats(ChatFilter()).chats] == listed
    assert store.chats(ChatFilter(owner_id=guest.id)).chats == ()
    assert {found.uuid for found in store.chats(ChatFilter(owner_id=DORA.id)).chats} == {chat, closed}
    page = store.after(chat, Role.OPERATOR, after=-1, limit=9)
    assert page is not None
    assert [message.author for message in page.messages] == [DORA, EVE, DORA]
    assert (page.chat.owner, page.messages[0].edited_at) == (DORA, NOW)
    assert len(store.written_by(identity_of(DORA), 0, 99)) == 4
    assert store.written_by(identity_of(guest), 0, 99) == ()
    assert {each.owner_id for each in store.searchable(0, 99) if UUID(hex=each.chat) in (chat, closed)} == {DORA.id}
    [person] = store.searchable_people([identity_of(DORA)])
    assert person.sources == {SHOP}
    assert [each.sources for each in store.searchable_people([identity_of(guest)])] == [frozenset()]
    # The pages, and that a repetition is the same call, are in one document.
    [(_, visit)] = store.documents(DocumentKind.VISIT, str(DORA.id))
    assert has_taken_over(visit, guest.id)
    assert [f"/{name}" in visit for name in "ab"] == [True, True]
    assert store.documents(DocumentKind.VISIT, str(guest.id)) == ()
    record = store.person(identity_of(guest))
    assert record == done.anonymous
    assert record is not None
    assert record.signed_out_at == NOW + 5.5

    # What the anonymous visitor has sent is known as Dora's, and she may change it and use the files.
    again = commit(AddMessage(chat, DORA, "hello", client_id="k"))[0][0]
    assert isinstance(again, Unchanged)
    assert again.message is not None
    assert (again.message.id, again.message.author) == (message, DORA)
    assert set(store.uploads_of(identity_of(DORA))) == {used, unused}
    assert store.uploads_of(identity_of(guest)) == ()
    [(edited, _), (filed, _)] = commit(EditMessage(chat, DORA, message, "hi"), AddMessage(chat, DORA, "", (unused,)))
    assert isinstance(edited, Changed)
    assert isinstance(filed, Changed)
    _refused(commit, AddMessage(chat, guest, "late"), "not_participant")
    _refused(commit, CloseChat(chat, guest), "not_participant")
    _refused(commit, ReopenChat(closed, guest), "not_participant")
    _refused(commit, EditMessage(chat, guest, message, "late"), "not_allowed")
    current = commit(ReserveChat(UUID(int=190), SHOP, DORA))[0][0]
    assert isinstance(current, Unchanged)
    assert current.chat.uuid == chat
    # A repeated call changes nothing, and for anybody else the proof is worthless now.
    assert commit(operation)[0][0] == HandedOver()
    stranger = User(42, Role.USER)
    _refused(commit, HandOver(guest.id, stranger, NOW + 6, NOW, NOW), "not_authenticated")
    assert store.chat(chat) == filed.chat
    # The record of the anonymous visitor stays, or its tokens would be worth something again.
    commit(ExpireChat(elsewhere, NOW + 99, False))
    assert store.chat(elsewhere) is None
    assert store.person(identity_of(guest)) is not None


def _check_one_chat_goes_on(store: Store, commit: Commit) -> None:
    """Of two chats that are not closed, the newest goes on, with the longer waiting time of both."""
    fred, eve = User(43, Role.USER, firstname="Fred"), identity_of(EVE)
    for n, guest_is_newer in enumerate((True, False)):
        guest = _guest(10 + n)
        owned, theirs = UUID(int=110 + 10 * n), UUID(int=111 + 10 * n)
        first, second = ((owned, fred), (theirs, guest)) if guest_is_newer else ((theirs, guest), (owned, fred))
        for at, (chat, owner) in enumerate((first, second)):
            commit(ReserveChat(chat, "desk", owner), AddMessage(chat, owner, "hi"), now=NOW + 10 * at)
        commit(AcceptChat(first[0], EVE), AddMessage(second[0], EVE, "answered"), now=NOW + 30)
        commit(AddMessage(second[0], second[1], "thanks"), AddMessage(second[0], EVE, "bye"), now=NOW + 40)
        [decided] = commit(HandOver(guest.id, fred, NOW + 50, NOW, NOW), now=NOW + 50)
        done = _handed_over(decided)
        ended, joined = done.changes
        assert (ended.chat.uuid, ended.chat.stage, ended.chat.owner.id) == (first[0], Stage.CLOSED, fred.id)
        assert [message.type_role for message in ended.messages] == [Role.USER, Role.OPERATOR]
        assert (joined.chat.uuid, joined.chat.stage, joined.chat.owner.id) == (second[0], Stage.OPEN, fred.id)
        assert (joined.chat.awaiting_since, joined.chat_changed) == (NOW, guest_is_newer)
        assert [(message.type, message.type_role) for message in joined.messages] == [
            (MessageType.SYSTEM, Role.OPERATOR)
        ]
        assert [store.chat(chat) for chat in (first[0], second[0])] == [ended.chat, joined.chat]
        # The counters follow: Eve has one chat less.
        record = next(each for each in store.operators(None) if identity_of(each.person.user) == eve)
        shares = [contribution(chat) for chat in store.chats(ChatFilter(operator_id=EVE.id, limit=99)).chats]
        assert record.counters.open_chats == sum(share.open for share in shares)
        assert record.counters in decided[1]
        [unread] = store.feed_snapshot(["desk"], 9).counters
        assert unread == next(each for each in reversed(decided[1]) if isinstance(each, SourceCounters))
        commit(CloseChat(second[0], EVE), now=NOW + 60)


def _check_one_batch(store: Store, commit: Commit) -> None:
    """Operations of one batch see the hand-over between them."""
    guest, chat = _guest(20), UUID(int=130)
    gina = User(44, Role.USER, firstname="Gina")
    commit(ReserveChat(UUID(int=131), SHOP, guest), ReserveChat(UUID(int=132), SHOP, gina))
    send = AddMessage(UUID(int=131), guest, "hello", client_id="k")
    decided = commit(
        _upload(chat, guest),
        send,
        ReserveChat(chat, "mall", guest),
        AddMessage(chat, guest, "elsewhere", client_id="k"),
        HandOver(guest.id, gina, NOW + 1, NOW, NOW),
        AddMessage(UUID(int=131), gina, "hello", client_id="k"),
        AddMessage(chat, gina, "elsewhere", client_id="k"),
        AddMessage(chat, guest, "late"),
        ReserveChat(UUID(int=133), "mall", gina),
        AddMessage(chat, gina, "more", client_id="l"),
        ExpireChat(UUID(int=132), NOW + 9, False),
        HandOver(guest.id, gina, NOW + 1, NOW, NOW),
    )
    kinds = [type(decision) for decision, _ in decided]
    assert kinds == [
        UploadRecorded,
        Changed,
        Changed,
        Changed,
        HandedOver,
        Unchanged,
        Unchanged,
        Refused,
        Unchanged,
        Changed,
        type(decided[10][0]),
        HandedOver,
    ]
    assert len(_handed_over(decided[4]).changes) == 2
    assert decided[11][0] == HandedOver()
    for uuid, texts in ((UUID(int=131), ["hello"]), (chat, ["elsewhere", "more"])):
        page = store.after(uuid, Role.USER, after=-1, limit=9)
        assert page is not None
        assert [(message.text, message.author) for message in page.messages] == [(text, gina) for text in texts]
        assert page.chat.owner == gina
    for key, text in (("k", "elsewhere"), ("l", "more")):
        assert isinstance(commit(AddMessage(chat, gina, text, client_id=key))[0][0], Unchanged)
    assert store.uploads_of(identity_of(gina)) == (chat,)


def _check_proofs(store: Store, commit: Commit) -> None:
    """A token that is worthless by now proves nothing, and nothing moves. A visitor may have nothing to hand over."""
    guest, hugo = _guest(30), User(45, Role.USER, firstname="Hugo")
    nothing = _handed_over(commit(HandOver(guest.id, hugo, NOW + 1.0, NOW, NOW))[0])
    assert nothing.changes == ()
    assert store.person(Identity(Role.USER, guest.id)) == nothing.anonymous
    other = _guest(31)
    commit(ReserveChat(UUID(int=140), SHOP, other), HandOver(hugo.id + 1, other, NOW, None, None))
    commit(HandOver(_guest(32).id, User(46, Role.USER), NOW + 3.0))
    _refused(commit, HandOver(other.id, User(_guest(32).id, Role.USER), NOW + 4, NOW, NOW + 2.0), "not_authenticated")
    state = store.chat(UUID(int=140))
    assert state is not None
    assert state.owner == other


def _refused(commit: Commit, operation: Operation, code: str) -> None:
    decision = commit(operation)[0][0]
    assert isinstance(decision, Refused), decision
    assert decision.code == code
