"""Decides what an operation does to a chat: `decide(chat, operation, context)`. Pure functions without IO or clock.

The store calls `decide` inside the transaction, on the chat's current row and in commit order, so preconditions are
checked only here.
"""

from __future__ import annotations

from math import inf
from typing import assert_never
from uuid import UUID

import attrs
import msgspec
from msgspec.structs import replace

from actorchat.chat.model import (
    ChatState,
    OnClosed,
    PersonRecord,
    Policy,
    Stage,
    StoredAttachment,
    StoredMessage,
    Upload,
    identity_of,
)
from actorchat.chat.operations import (
    AcceptChat,
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    Decision,
    EditMessage,
    EndLeaving,
    GiveChat,
    MarkMessage,
    RedactMessage,
    RefreshPeople,
    Refused,
    ReleaseChat,
    ReopenChat,
    ReplaceTag,
    ReturnChat,
    SetOnline,
    SetTags,
    SweepChat,
    TransferChat,
    Unchanged,
)
from actorchat.protocol import MessageType, RefusalCode, Role, User, wire_time

__all__ = [
    "CLOSING_TEXTS",
    "TOO_LATE",
    "DecisionContext",
    "MarkedMessage",
    "decide",
    "prospective_operator",
    "record_presence",
]

TOO_LATE = "too_late"
"""The code of the refusal to change a message that is older than `Policy.edit_within`."""


class MarkedMessage(msgspec.Struct, frozen=True, gc=False):
    """The fields of a message that the decision on a mark reads."""

    index: int
    type: MessageType
    type_role: Role


class DecisionContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The input of a decision besides the chat itself, as of the transaction.

    `now` is in epoch seconds, rounded down; `rounded` is 1 if it was not a whole number, so timers start at
    `now + rounded`. `message_id` is the first free message id. A decision uses one id for each message that it stores,
    or one as the new place of a chat that changes without a message. `load` is the number of `new` and `open` chats of
    the operator that would get the chat. `prior` is the stored message with the same chat, author and `client_id`.
    `marked` is the message of a mark, None if this chat has no such message. `target` is the operator of a transfer.
    `holder` is the chat's operator, for operations on closed chats and `ReleaseChat`. `uploads` are those of a message,
    with None for each that does not exist. `edited` is the message of an edit or redaction, None if this chat has no
    such message.
    """

    policy: Policy
    now: int
    message_id: int
    rounded: int = 0
    load: int = 0
    prior: StoredMessage | None = None
    marked: MarkedMessage | None = None
    target: PersonRecord | None = None
    holder: PersonRecord | None = None
    uploads: tuple[Upload | None, ...] = ()
    edited: StoredMessage | None = None


def decide(chat: ChatState, operation: ChatOperation | GiveChat, context: DecisionContext) -> Decision:
    """The result of `operation`: a `Changed` with the chat's next revision, an `Unchanged`, or a `Refused`."""
    match operation:
        case AddMessage():
            return _add_message(chat, operation, context)
        case MarkMessage():
            return _mark(chat, operation, context)
        case EditMessage():
            return _edit(chat, operation, context)
        case RedactMessage():
            return _redact(chat, operation, context)
        case AcceptChat(by=by):
            return _accept(chat, by, context)
        case CloseChat(by=by):
            return _close(chat, by, context)
        case ReopenChat(by=by):
            return _reopen(chat, by, context)
        case TransferChat(by=by):
            return _transfer(chat, by, context)
        case ReturnChat(by=by):
            return _return(chat, by, context)
        case ReleaseChat(operator_id=operator_id):
            return _release(chat, operator_id, context)
        case SweepChat():
            return _sweep(chat, context)
        case RefreshPeople():
            # A new revision, so that all readers of the chat see this change at the same place in its order.
            return Changed(replace(chat, rev=chat.rev + 1), (), True) if chat.active else Unchanged(chat)
        case SetTags() | ReplaceTag():
            if chat.stage is Stage.RESERVED:
                return Refused(RefusalCode.CONFLICT, "the chat has no message yet")
            # Not an activity: neither the chat's place in lists nor its timers change.
            return Changed(replace(chat, rev=chat.rev + 1))
        case GiveChat():
            return _give(chat, operation, context)
        case _:
            assert_never(operation)


# The texts of system messages, for people. Clients use `chat.status` and `operator_user`.
_CLOSED = "The chat was closed."
_REOPENED = "The chat was reopened."
_TRANSFERRED = "The chat was passed to another operator."
_RETURNED = "The chat was returned to the queue."
_UNANSWERED = "The chat was returned to the queue: nobody answered in time."
_OFFLINE = "The chat was returned to the queue: its operator went offline."
_IDLE = "The chat was closed: nobody wrote for a while."
_CONTINUED = "The chat was closed: it continues in another chat."
_JOINED = "The customer has signed in. This chat continues another one, which was closed."
_TEXTS_OF_SERVER = frozenset(
    {_CLOSED, _REOPENED, _TRANSFERRED, _RETURNED, _UNANSWERED, _OFFLINE, _IDLE, _CONTINUED, _JOINED}
)


CLOSING_TEXTS = frozenset({_CLOSED, _IDLE})
"""The message to the owner of a chat when it is closed, unless it continues in another one."""

_NOT_PARTICIPANT = Refused(RefusalCode.NOT_PARTICIPANT, "the chat belongs to another visitor")


def _add_message(chat: ChatState, operation: AddMessage, context: DecisionContext) -> Decision:
    type_role = operation.type_role if operation.type is MessageType.SYSTEM else operation.author.role
    prior = context.prior
    if prior is not None:
        if prior.edited_at is not None:
            # The original text is not stored any more, so a repetition can't be compared with it.
            return Unchanged(chat, prior)
        same = (prior.text, prior.type, prior.type_role) == (operation.text, operation.type, type_role)
        if same and tuple([file.uuid for file in prior.attachments]) == operation.attachments:
            return Unchanged(chat, prior)
        return Refused(RefusalCode.CONFLICT, "this client_id was used for another message")
    files: tuple[StoredAttachment, ...] = ()
    if operation.attachments:
        taken_files = _take_uploads(chat, operation, context)
        if isinstance(taken_files, Refused):
            return taken_files
        files = taken_files
    author, now, index = operation.author, context.now, chat.next_index
    timers_from = now + context.rounded
    stage, operator, awaiting, assigned = chat.stage, chat.operator, chat.awaiting_since, chat.assigned_at
    place = context.message_id
    last_visitor_index = chat.last_visitor_index
    if operation.type is MessageType.SYSTEM:
        if stage is Stage.RESERVED:
            return Refused(RefusalCode.CONFLICT, "the chat has no message yet")
    elif author.role is Role.USER:
        if author.id != chat.owner.id:
            return _NOT_PARTICIPANT
        if stage is Stage.RESERVED:
            stage = Stage.NEW
        elif stage is Stage.CLOSED:
            reopened = _reopened_for_visitor(chat, context)
            if isinstance(reopened, Refused):
                return reopened
            stage, operator = reopened
            assigned = None if operator is None else timers_from
        last_visitor_index = index
        awaiting = timers_from if awaiting is None else awaiting
    else:
        taken = _taken_by(chat, author, context)
        if isinstance(taken, Refused):
            return taken
        if stage is not Stage.OPEN:
            assigned = timers_from
        stage, operator, awaiting = Stage.OPEN, taken, None
    # Made with positional arguments, which is faster than `replace`: this runs for every message.
    after = ChatState(
        chat.uuid,
        chat.source,
        chat.owner,
        stage,
        operator,
        chat.rev + 1,
        index + 1,
        chat.visitor_delivered,
        chat.visitor_read,
        chat.operators_delivered,
        chat.operators_read,
        last_visitor_index,
        timers_from,
        awaiting,
        place,
        assigned,
    )
    message = StoredMessage(
        place,
        index,
        after.rev,
        operation.type,
        type_role,
        operation.text,
        author,
        now,
        operation.client_id,
        files,
    )
    # Most messages change neither, so nothing has to be compared.
    changed = stage is not chat.stage or (operator is not chat.operator and _changed(chat, after))
    return Changed(after, (message,), changed)


def _take_uploads(
    chat: ChatState, operation: AddMessage, context: DecisionContext
) -> tuple[StoredAttachment, ...] | Refused:
    """The files of the message, or a refusal. It doesn't say why, so that nobody learns what others have uploaded."""
    author = identity_of(operation.author)
    timeout = context.policy.upload_timeout
    oldest = context.now - timeout if timeout else -inf
    files: list[StoredAttachment] = []
    refused: list[UUID] = []
    for uuid, upload in zip(operation.attachments, context.uploads, strict=True):
        usable = upload is not None and not upload.bound and upload.uploader == author and upload.created > oldest
        if upload is not None and usable and upload.file not in files:
            files.append(upload.file)
        else:
            refused.append(uuid)
    if refused:
        return Refused(RefusalCode.ATTACHMENT_UNKNOWN, "there is no such attachment", attachments=tuple(refused))
    return _check_files(chat, operation, context) or tuple(files)


def _check_files(chat: ChatState, operation: AddMessage, context: DecisionContext) -> Refused | None:
    """Why the source of the chat does not accept the files: when they were uploaded, the source was not known."""
    if context.policy.files is None:
        return None
    rule = context.policy.files.of(chat.source)
    if len(operation.attachments) > rule.per_message:
        detail = f"there are {len(operation.attachments)} attachments, at most {rule.per_message} are allowed here"
        return Refused(RefusalCode.TOO_MANY_ATTACHMENTS, detail, attachments=operation.attachments)
    uploads = [upload for upload in context.uploads if upload is not None]
    if large := [upload.file.uuid for upload in uploads if upload.file.size > rule.size]:
        detail = f"a file may have at most {rule.size} bytes here"
        return Refused(RefusalCode.ATTACHMENT_REJECTED, detail, attachments=tuple(large))
    wrong = [upload.file.uuid for upload in uploads if not rule.accepts(upload.file.type, upload.media_type)]
    if wrong:
        detail = "files of this type are not accepted here"
        return Refused(RefusalCode.ATTACHMENT_REJECTED, detail, attachments=tuple(wrong))
    return None


def _taken_by(chat: ChatState, operator: User, context: DecisionContext) -> User | Refused:
    """The chat's operator after `operator` accepted it or wrote a standard message."""
    current = chat.operator
    if chat.stage is Stage.OPEN:
        if current is not None and current.id == operator.id:
            return current
        return _not_owner(chat)
    counted = chat.active and current is not None and current.id == operator.id
    if not counted and _full(context):
        return Refused(RefusalCode.OVER_CAPACITY, f"you have {context.load} chats already")
    return operator


def _not_owner(chat: ChatState) -> Refused:
    """Refuse with the name and id of the chat's operator, and the time since which it is theirs."""
    operator, since = chat.operator, chat.assigned_at
    if operator is None:
        return Refused(RefusalCode.NOT_OWNER, "the chat is not yours")
    name = f"{operator.firstname} {operator.lastname}".strip() or "an operator"
    detail = f"the chat belongs to {name} (id {operator.id})"
    return Refused(RefusalCode.NOT_OWNER, detail if since is None else f"{detail} since {wire_time(since)}")


def _full(context: DecisionContext) -> bool:
    return 0 < context.policy.capacity <= context.load


def _reopened_for_visitor(chat: ChatState, context: DecisionContext) -> tuple[Stage, User | None] | Refused:
    match context.policy.on_closed:
        case OnClosed.REFUSE:
            return Refused(RefusalCode.CHAT_CLOSED, "the chat is closed")
        case OnClosed.QUEUE:
            return Stage.NEW, None
        case OnClosed.REOPEN:
            # The queue gets the chat if its operator is away, has left the source or has no capacity.
            holder = context.holder
            if (
                holder is None
                or not holder.is_online
                or chat.source not in holder.sources(context.now)
                or _full(context)
            ):
                return Stage.NEW, None
            return Stage.OPEN, chat.operator
        case _:
            assert_never(context.policy.on_closed)


def _edit(chat: ChatState, operation: EditMessage, context: DecisionContext) -> Decision:
    message = _changeable(operation, context)
    if isinstance(message, Refused):
        return message
    if message.redacted:
        return Refused(RefusalCode.CONFLICT, "the message was redacted")
    if message.text == operation.text:
        return Unchanged(chat, message)
    if not operation.text and not message.attachments:
        return Refused(RefusalCode.EMPTY, "a message needs text or attachments")
    rev = chat.rev + 1
    edited = replace(message, text=operation.text, edited_at=context.now, edit_rev=rev)
    return Changed(replace(chat, rev=rev), updated=(edited,))


def _redact(chat: ChatState, operation: RedactMessage, context: DecisionContext) -> Decision:
    message = _changeable(operation, context)
    if isinstance(message, Refused):
        return message
    if message.redacted:
        return Unchanged(chat, message)
    rev = chat.rev + 1
    redacted = replace(message, text="", attachments=(), edited_at=context.now, redacted=True, edit_rev=rev)
    removed = tuple([file.uuid for file in message.attachments])
    return Changed(replace(chat, rev=rev), updated=(redacted,), removed=removed)


def _changeable(operation: EditMessage | RedactMessage, context: DecisionContext) -> StoredMessage | Refused:
    """The message, if `by` may change it now."""
    message, by = context.edited, operation.by
    if message is not None and isinstance(operation, RedactMessage) and operation.erases:
        return message
    if message is None or (message.type is MessageType.SYSTEM and message.type_role is not by.role):
        return Refused("not_found", "there is no such message")
    author = message.author
    if author is None or (message.type is MessageType.SYSTEM and message.text in _TEXTS_OF_SERVER):
        return Refused("not_allowed", "messages of the server can't be changed")
    if isinstance(operation, RedactMessage) and operation.moderates:
        return message
    if identity_of(author) != identity_of(by):
        return Refused("not_allowed", "only the author can change a message")
    if context.now - message.time >= context.policy.edit_within:
        return Refused(TOO_LATE, "the message is too old to be changed")
    return message


def _mark(chat: ChatState, operation: MarkMessage, context: DecisionContext) -> Decision:
    side, marked = operation.reader.role, context.marked
    if marked is None or (marked.type is MessageType.SYSTEM and marked.type_role is not side):
        return Refused("message_not_found", "there is no such message in this chat")
    if marked.type is MessageType.SYSTEM or marked.type_role is side:
        return Refused("not_markable", "only messages of the other side are marked")
    if side is Role.USER:
        delivered, read = chat.visitor_delivered, chat.visitor_read
    else:
        delivered, read = chat.operators_delivered, chat.operators_read
    to_delivered = max(delivered, marked.index)
    to_read = max(read, marked.index) if operation.read else read
    if (to_delivered, to_read) == (delivered, read):
        return Unchanged(chat)
    if side is Role.USER:
        after = replace(chat, rev=chat.rev + 1, visitor_delivered=to_delivered, visitor_read=to_read)
    else:
        after = replace(chat, rev=chat.rev + 1, operators_delivered=to_delivered, operators_read=to_read)
    return Changed(after)


def _accept(chat: ChatState, by: User, context: DecisionContext) -> Decision:
    if chat.stage is Stage.CLOSED:
        return Refused(RefusalCode.CHAT_CLOSED, "the chat is closed")
    taken = _taken_by(chat, by, context)
    if isinstance(taken, Refused):
        return taken
    if chat.stage is Stage.OPEN:
        return Unchanged(chat)
    return _transition(chat, context, stage=Stage.OPEN, operator=taken)


def _close(chat: ChatState, by: User, context: DecisionContext) -> Decision:
    refused = _not_active(chat)
    if refused is not None:
        return refused
    if by.role is Role.OPERATOR and chat.operator is not None and chat.operator.id != by.id:
        return _not_owner(chat)
    if by.role is Role.USER and by.id != chat.owner.id:
        return _NOT_PARTICIPANT
    return _closed(chat, by, _CLOSED, context)


def _closed(chat: ChatState, by: User | None, text: str, context: DecisionContext) -> Changed:
    return _transition(chat, context, stage=Stage.CLOSED, awaiting_since=None, say=((Role.USER, text),), by=by)


def _reopen(chat: ChatState, by: User, context: DecisionContext) -> Decision:
    if chat.stage is not Stage.CLOSED:
        return Refused(RefusalCode.CONFLICT, "the chat is not closed")
    awaiting = None
    if by.role is Role.USER:
        if by.id != chat.owner.id:
            return _NOT_PARTICIPANT
        reopened = _reopened_for_visitor(chat, context)
        if isinstance(reopened, Refused):
            return reopened
        stage, operator = reopened
        awaiting = context.now + context.rounded
    else:
        taken = _taken_by(chat, by, context)
        if isinstance(taken, Refused):
            return taken
        stage, operator = Stage.OPEN, taken
    say = ((Role.USER, _REOPENED),)
    return _transition(chat, context, stage=stage, operator=operator, awaiting_since=awaiting, say=say, by=by)


def _transfer(chat: ChatState, by: User, context: DecisionContext) -> Decision:
    refused = _not_active(chat)
    if refused is not None:
        return refused
    target = context.target
    if target is None or chat.source not in target.sources(context.now):
        return Refused("not_found", "there is no such operator at this chat's source")
    if chat.operator is not None and chat.operator.id == target.user.id:
        return Unchanged(chat)
    if _full(context):
        return Refused(RefusalCode.OVER_CAPACITY, f"that operator has {context.load} chats already")
    return _hand_over(chat, target.user, by, _TRANSFERRED, context)


def _return(chat: ChatState, by: User, context: DecisionContext) -> Decision:
    refused = _not_active(chat)
    if refused is not None:
        return refused
    if chat.operator is None or chat.operator.id != by.id:
        return _not_owner(chat)
    return _hand_over(chat, None, by, _RETURNED, context)


def _hand_over(chat: ChatState, to: User | None, by: User | None, text: str, context: DecisionContext) -> Changed:
    """Make the chat new, with the operator `to`. `by` is None for the server. The customer's waiting time goes on."""
    awaiting = chat.awaiting_since
    if awaiting is None and by is not None:
        # If a person hands the chat on, the customer waits for an answer from now on.
        awaiting = context.now + context.rounded
    say = ((Role.USER, text), (Role.OPERATOR, text))
    return _transition(chat, context, stage=Stage.NEW, operator=to, awaiting_since=awaiting, say=say, by=by)


def _release(chat: ChatState, operator_id: int, context: DecisionContext) -> Decision:
    theirs = chat.active and chat.operator is not None and chat.operator.id == operator_id
    holder = context.holder
    # An operator who is away still sees the chats they have answered.
    if not theirs or holder is None or not (holder.leaving or (holder.away and chat.stage is Stage.NEW)):
        return Unchanged(chat)
    return _hand_over(chat, None, None, _OFFLINE, context)


def _sweep(chat: ChatState, context: DecisionContext) -> Decision:
    due = chat.due_at(context.policy)
    if due is None or context.now < due:
        return Unchanged(chat)
    if chat.awaiting_since is None:
        return _closed(chat, None, _IDLE, context)
    return _hand_over(chat, None, None, _UNANSWERED, context)


def _give(chat: ChatState, operation: GiveChat, context: DecisionContext) -> Changed:
    given = replace(chat, owner=operation.to)
    if operation.ended:
        told = ((Role.USER, _CONTINUED), (Role.OPERATOR, _CONTINUED))
        return _transition(given, context, stage=Stage.CLOSED, awaiting_since=None, say=told)
    if not operation.joined:
        # Not an activity: neither the chat's place in lists nor its timers change.
        return Changed(replace(given, rev=chat.rev + 1), (), chat.listed)
    waiting = [since for since in (chat.awaiting_since, operation.awaiting_since) if since is not None]
    say = ((Role.OPERATOR, _JOINED),)
    joined = _transition(given, context, stage=chat.stage, awaiting_since=min(waiting, default=None), say=say)
    return replace(joined, chat_changed=chat.owner.id != operation.to.id)


def _not_active(chat: ChatState) -> Refused | None:
    if chat.stage is Stage.CLOSED:
        return Refused(RefusalCode.CHAT_CLOSED, "the chat is closed")
    if chat.stage is Stage.RESERVED:
        return Refused(RefusalCode.CONFLICT, "the chat has no message yet")
    return None


class _Same:
    """The type of `_SAME`, the default of a value that a transition does not change."""


_SAME = _Same()


def _transition(
    chat: ChatState,
    context: DecisionContext,
    *,
    stage: Stage,
    operator: User | _Same | None = _SAME,
    awaiting_since: int | _Same | None = _SAME,
    say: tuple[tuple[Role, str], ...] = (),
    by: User | None = None,
) -> Changed:
    """The next revision, with a system message for each (role, text) of `say`."""
    rev, now = chat.rev + 1, context.now
    messages = tuple(
        StoredMessage(
            id=context.message_id + offset,
            index=chat.next_index + offset,
            rev=rev,
            type=MessageType.SYSTEM,
            type_role=role,
            text=text,
            author=by,
            time=now,
        )
        for offset, (role, text) in enumerate(say)
    )
    timers_from = now + context.rounded
    holder, assigned_at = chat.operator if isinstance(operator, _Same) else operator, chat.assigned_at
    if holder is None:
        assigned_at = None
    elif holder.id != _operator_id(chat) or (stage is Stage.OPEN and chat.stage is not Stage.OPEN):
        assigned_at = timers_from
    after = replace(
        chat,
        stage=stage,
        operator=holder,
        place=messages[-1].id if messages else context.message_id,
        assigned_at=assigned_at,
        awaiting_since=chat.awaiting_since if isinstance(awaiting_since, _Same) else awaiting_since,
        rev=rev,
        next_index=chat.next_index + len(messages),
        last_activity=timers_from,
    )
    return Changed(after, messages, _changed(chat, after))


def _changed(before: ChatState, after: ChatState) -> bool:
    """Whether `chat_updated` is due."""
    return before.stage is not after.stage or _operator_id(before) != _operator_id(after)


def _operator_id(chat: ChatState) -> int | None:
    return None if chat.operator is None else chat.operator.id


def prospective_operator(chat: ChatState, operation: ChatOperation | GiveChat) -> int | None:
    """The operator that `operation` may give the chat to. `DecisionContext.load` is this operator's."""
    match operation:
        case AddMessage(author=user) | AcceptChat(by=user) | ReopenChat(by=user):
            return user.id if user.role is Role.OPERATOR else _operator_id(chat)
        case TransferChat(to=operator_id):
            return operator_id
        case _:
            return None


def record_presence(stored: PersonRecord, operation: SetOnline | EndLeaving, chats: int) -> PersonRecord:
    """The operator's record after `operation`; `chats` of theirs are new or open."""
    match operation:
        case SetOnline(online=True):
            return attrs.evolve(stored, online=True, leaving=False)
        case SetOnline():
            # An operator loses its chats only by going offline, not by being offline.
            leaving = chats > 0 if stored.online else stored.leaving
            return attrs.evolve(stored, online=False, leaving=leaving)
        case EndLeaving():
            return attrs.evolve(stored, leaving=stored.leaving and chats > 0)
        case _:
            assert_never(operation)
