"""Checks that a store keeps messages as it should: order, idempotency, receipts, edits and redactions."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

from uuid import UUID

from msgspec.structs import replace

from actorchat.chat.model import (
    Policy,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    EditMessage,
    MarkMessage,
    RecordUpload,
    RedactMessage,
    Refused,
    RefuseMessage,
    ReserveChat,
    SetOnline,
    TransferChat,
    Unchanged,
)
from actorchat.protocol import MessageType, Role
from actorchat.testing._store_writer import (
    ANN,
    BOB,
    CHAT,
    EVE,
    FAY,
    NOW,
    SHOP,
    StoreWriter,
    new_upload,
)

__all__ = [
    "check_bad_value",
    "check_edits",
    "check_idempotency",
    "check_key_horizon",
    "check_marks",
    "check_order",
    "check_redactions",
    "check_refusals",
    "check_refused_keys",
]


def check_order(writer: StoreWriter) -> None:
    """Revisions and indexes have no gaps and ids are unique; decisions come in the order of their operations."""
    decided = writer.batch(*(AddMessage(CHAT, ANN, str(n)) for n in range(5)))
    decided += writer.batch(AddMessage(CHAT, EVE, "5"), TransferChat(CHAT, EVE, FAY.id))
    changes = [decision for decision, _ in decided if isinstance(decision, Changed)]
    assert [change.chat.rev for change in changes] == list(range(1, 8))
    messages = [message for change in changes for message in change.messages]
    assert [message.index for message in messages] == list(range(8))
    assert len({message.id for message in messages}) == 8
    page = writer.store.after(CHAT, Role.OPERATOR, after=-1, limit=100)
    assert page is not None
    assert [message.index for message in page.messages] == [0, 1, 2, 3, 4, 5, 7]
    assert page.chat == changes[-1].chat == writer.store.chat(CHAT)
    assert page.messages == tuple(message for message in messages if message.index != 6)


def check_refusals(writer: StoreWriter) -> None:
    """An operation on something that does not exist is refused; the rest of its batch is stored."""
    nowhere = UUID(int=99)
    decided = writer.batch(
        AddMessage(nowhere, ANN, "?"),
        AddMessage(CHAT, ANN, "here"),
        MarkMessage(nowhere, ANN, 1, True),
        SetOnline(77, True),
        AcceptChat(CHAT, EVE),
        AcceptChat(CHAT, FAY),
    )
    codes = [decision.code if isinstance(decision, Refused) else None for decision, _ in decided]
    assert codes == ["not_found", None, "not_found", "not_found", None, "not_owner"]
    assert writer.store.chat(nowhere) is None
    assert writer.store.newest(nowhere, Role.USER, before=None, limit=1) is None


def check_idempotency(writer: StoreWriter) -> None:
    """A repeated key with the same body returns the stored message, with another body a conflict, in any batch."""
    send = AddMessage(CHAT, ANN, "once", client_id="k")
    [(first, _), (again, _), (other, _)] = writer.batch(send, send, replace(send, text="twice"))
    assert isinstance(first, Changed)
    assert again == Unchanged(first.chat, first.messages[0])
    assert isinstance(other, Refused)
    assert other.code == "conflict"
    assert writer.one(send)[0] == Unchanged(first.chat, first.messages[0])
    # A key belongs to its author and its chat.
    writer.batch(ReserveChat(UUID(int=2), SHOP, BOB))
    writer.changed(replace(send, author=EVE, text="mine"))
    writer.changed(replace(send, chat=UUID(int=2), author=BOB))


def check_refused_keys(writer: StoreWriter) -> None:
    """Refusing a message whose key is known returns the stored message instead."""
    first, second = (AddMessage(CHAT, ANN, text, client_id=text) for text in ("first", "second"))
    other, refused = replace(first, text="other"), Refused("overloaded", "")
    unknown = AddMessage(UUID(int=9), ANN, "nowhere", client_id="first")
    writer.changed(first)
    refusals = [RefuseMessage(message, refused) for message in (first, second, other, unknown)]
    batch = writer.batch(*refusals, second, refusals[1])
    [again, new, conflict, nowhere] = [decision for decision, _ in writer.store.look_up(refusals)]
    for decision, expected in ((batch[0][0], first), (again, first), (batch[5][0], second), (new, second)):
        assert isinstance(decision, Unchanged)
        assert decision.message is not None
        assert decision.message.text == expected.text
    assert [batch[1][0], batch[3][0], nowhere] == [refused] * 3
    for decision in (batch[2][0], conflict):
        assert isinstance(decision, Refused)
        assert decision.code == "conflict"
    assert not any(writer.store.is_new(refusals[place]) for place in (0, 1, 2))


def check_key_horizon(writer: StoreWriter) -> None:
    """The newest 256 keys of an author in a chat are known; older ones are forgotten."""

    def key(n: int) -> AddMessage:
        return AddMessage(CHAT, ANN, "x", client_id=f"k{n}")

    writer.batch(*map(key, range(200)))
    writer.batch(*map(key, range(200, 256)))
    assert isinstance(writer.one(key(0))[0], Unchanged)
    writer.changed(AddMessage(CHAT, ANN, "no key"))
    writer.changed(replace(key(0), author=EVE))
    assert isinstance(writer.one(key(0))[0], Unchanged)
    # The horizon also moves inside a batch: here key 256 pushes out key 0, which is then stored as a new one.
    decisions = [decision for decision, _ in writer.batch(key(256), key(1), key(0), key(1))]
    assert [type(decision) for decision in decisions] == [Changed, Unchanged, Changed, Changed]
    assert isinstance(writer.one(key(0))[0], Unchanged)


def check_marks(writer: StoreWriter) -> None:
    """A mark names a message of its own chat; the id of another chat's message is refused as unknown."""
    ids = writer.talk("one", "two")
    writer.batch(ReserveChat(UUID(int=2), SHOP, BOB))
    [foreign] = writer.talk("theirs", chat=UUID(int=2), author=BOB)
    change = writer.changed(MarkMessage(CHAT, EVE, ids[1], True))
    assert (change.chat.operators_delivered, change.chat.operators_read) == (1, 1)
    assert isinstance(writer.one(MarkMessage(CHAT, EVE, ids[0], True))[0], Unchanged)
    for unknown in (foreign, 10**9, -1, 0):
        refused, _ = writer.one(MarkMessage(CHAT, EVE, unknown, True))
        assert isinstance(refused, Refused)
        assert refused.code == "message_not_found"
    # A message can be marked in the batch that adds it, if its id is guessed.
    # Ids need not be consecutive, but the next one is known.
    guess = writer.store.newest_number() + 1
    decided = writer.batch(AddMessage(CHAT, ANN, "three"), MarkMessage(CHAT, EVE, guess, True))
    assert isinstance(decided[1][0], Changed)
    decided = writer.batch(AddMessage(CHAT, ANN, "4"), MarkMessage(UUID(int=2), EVE, guess + 1, True))
    assert isinstance(decided[1][0], Refused)


def check_bad_value(writer: StoreWriter) -> None:
    """An operation that can't be stored or decided is refused; the rest of its batch is stored in order."""
    no_text: object = object()
    decided = writer.batch(
        AddMessage(CHAT, ANN, "before", client_id="b"),
        AddMessage(CHAT, no_text, "bad"),  # type: ignore[arg-type]  # wrong on purpose
        AddMessage(CHAT, ANN, "after", client_id="a"),
        AddMessage(CHAT, ANN, "after", client_id="a"),
    )
    codes = [decision.code if isinstance(decision, Refused) else None for decision, _ in decided]
    assert codes == [None, "malformed", None, None]
    page = writer.store.after(CHAT, Role.USER, after=-1, limit=9)
    assert page is not None
    assert [(message.index, message.text) for message in page.messages] == [(0, "before"), (1, "after")]


def check_edits(writer: StoreWriter) -> None:
    """An edit replaces the text wherever the message is read, also in the batch that adds it, and adds a revision."""
    [first, second] = writer.talk("helo", "world")
    edit = EditMessage(CHAT, ANN, first, "hello")
    changed = writer.changed(edit, NOW + 5)
    [edited] = changed.updated
    assert (edited.index, edited.text, edited.edited_at, edited.edit_rev) == (0, "hello", NOW + 5, 3)
    assert (changed.chat.rev, changed.chat.next_index, changed.messages, changed.chat_changed) == (3, 2, (), False)
    assert writer.one(edit, NOW + 6)[0] == Unchanged(changed.chat, edited)
    assert writer.store.located(second) == (CHAT, 1)
    assert writer.store.located(second + 1_000) is None
    for page in (
        writer.store.newest(CHAT, Role.USER, before=1, limit=9),
        writer.store.edited(CHAT, rev=2, limit=9),
        writer.store.edited(CHAT, rev=0, limit=9),
    ):
        assert page is not None
        assert page.messages == (edited,)
    # A repeated client_id still finds the message after its text has changed.
    send = AddMessage(CHAT, ANN, "onec", client_id="k")
    # Ids need not be consecutive: the edit has taken a number as well.
    third = writer.store.newest_number() + 1
    [(added, _), (again, _), (repeated, _)] = writer.batch(send, EditMessage(CHAT, ANN, third, "once"), send)
    assert isinstance(added, Changed)
    assert isinstance(again, Changed)
    assert repeated == Unchanged(again.chat, again.updated[0])
    assert writer.one(send)[0] == repeated
    page = writer.store.edited(CHAT, rev=0, limit=1)
    assert page is not None
    assert (page.messages, page.has_more) == ((edited,), True)
    refused = writer.batch(
        EditMessage(CHAT, ANN, first, ""),
        EditMessage(CHAT, BOB, first, "mine"),
        EditMessage(CHAT, EVE, first, "mine"),
        EditMessage(CHAT, ANN, third + 1_000, "none"),
        now=NOW + 7,
    )
    codes = [decision.code for decision, _ in refused if isinstance(decision, Refused)]
    assert codes == ["empty", "not_allowed", "not_allowed", "not_found"]
    [(late, _)] = writer.batch(EditMessage(CHAT, ANN, first, "late"), now=NOW + Policy().edit_within)
    assert isinstance(late, Refused)
    assert late.code == "too_late"


def check_redactions(writer: StoreWriter) -> None:
    """A redaction removes the text and the files, and forgets the uploads. Index, author and counters stay."""
    upload = new_upload(71)
    writer.batch(RecordUpload(upload))
    before = writer.changed(AddMessage(CHAT, ANN, "secret", (upload.file.uuid,)))
    note = writer.changed(AddMessage(CHAT, EVE, "note", type=MessageType.SYSTEM, type_role=Role.OPERATOR)).messages[0]
    message, unread = before.messages[0], writer.store.feed_snapshot({SHOP}, 1).counters
    for operation in (RedactMessage(CHAT, BOB, message.id), RedactMessage(CHAT, ANN, note.id, moderates=True)):
        assert isinstance(writer.one(operation)[0], Refused)
    changed = writer.changed(RedactMessage(CHAT, EVE, message.id, moderates=True), NOW + 10_000)
    [redacted] = changed.updated
    assert (redacted.text, redacted.attachments, redacted.redacted) == ("", (), True)
    assert (redacted.index, redacted.author, redacted.time) == (message.index, ANN, message.time)
    assert changed.removed == (upload.file.uuid,)
    assert writer.store.uploads((upload.file.uuid,)) == ()
    assert writer.store.feed_snapshot({SHOP}, 1).counters == unread
    page = writer.store.after(CHAT, Role.USER, after=-1, limit=9)
    assert page is not None
    assert page.messages == (redacted,)
    again = writer.one(RedactMessage(CHAT, ANN, message.id))[0]
    assert again == Unchanged(changed.chat, redacted)
    edit = writer.one(EditMessage(CHAT, ANN, message.id, "back"))[0]
    assert isinstance(edit, Refused)
    assert edit.code == "conflict"
