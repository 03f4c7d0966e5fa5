"""Contains an example of each command, event and broker body, for the AsyncAPI document."""

from typing import Final
from uuid import UUID

import attrs

from actorchat.protocol.broker import BrokerBody, BrokerChannel
from actorchat.protocol.commands import (
    Command,
    MarkMessageDelivered,
    MarkMessageRead,
    PageViewed,
    Ping,
    SendMessage,
    UpdateTyping,
)
from actorchat.protocol.entities import (
    Attachment,
    AttachmentType,
    Chat,
    ChatStatus,
    Closing,
    GlobalData,
    LastMessage,
    Message,
    MessageStatus,
    MessageType,
    Operator,
    Role,
    User,
    Widget,
)
from actorchat.protocol.events import (
    ChatSummary,
    ChatUpdated,
    ErrorEvent,
    Event,
    FeedReady,
    GlobalUpdated,
    MessageAdded,
    MessageNotAdded,
    MessageUpdated,
    NoteAdded,
    OperatorUpdated,
    Pong,
    Receipts,
    RefusalCode,
    ResyncRequired,
    TypingUpdated,
    UserConnected,
    UserDisconnected,
)

_ATTACHMENT_ID: Final = UUID("3f439f10-9c19-4bd4-81a8-d6e048b97ba4")
_CHAT_ID: Final = UUID("d599cb9b-a451-4bb3-ac0c-1465b9a1c4de")
_USER: Final = User(id=0, role=Role.USER, avatar="string", lastname="string", firstname="string", patronymic="string")
_CHAT: Final = Chat(uuid=_CHAT_ID, widget=Widget("lk"), status=ChatStatus.NEW, owner_user=_USER, operator_user=_USER)
_MESSAGE: Final = Message(
    id=0,
    type=MessageType.STANDARD,
    type_role=Role.USER,
    status=MessageStatus.NEW,
    text="string",
    send_time="2025-01-20T16:31:04+03:00",
    message_index=0,
    chat=_CHAT,
    user=_USER,
    attachments=(
        Attachment(
            uuid=_ATTACHMENT_ID,
            type=AttachmentType.IMAGE,
            url="string",
            url_preview="string",
            filename="gold sphere_2.gif",
            extension="gif",
            size=1_614_977,
        ),
    ),
)

COMMAND_EXAMPLES: Final[tuple[Command, ...]] = (
    SendMessage(text="string", attachments=(_ATTACHMENT_ID,)),
    MarkMessageDelivered(message_id=0),
    MarkMessageRead(message_id=0),
    UpdateTyping(text="string", stopped=True),
    Ping(n=7),
    PageViewed(url="https://shop.example/cart", title="string", referrer=""),
)

EVENT_EXAMPLES: Final[tuple[Event, ...]] = (
    MessageAdded(_MESSAGE),
    MessageUpdated(_MESSAGE),
    UserConnected(_USER),
    UserDisconnected(_USER),
    ChatUpdated(_CHAT),
    OperatorUpdated(user=_USER, is_online=True, new_chats=0, open_chats=0),
    TypingUpdated(text="string", stopped=True, chat_id=_CHAT_ID, user=_USER),
    GlobalUpdated(unread_chats=0),
    MessageNotAdded(
        code=RefusalCode.RATE_LIMITED,
        detail="10 messages a second are allowed",
        retryable=True,
        retry_after=1.5,
        text="string",
        client_id=None,
        chat_id=_CHAT_ID,
        attachments=(),
    ),
    ErrorEvent(code="malformed", detail="data.text: expected a string, got 5", path="data.text"),
    Receipts(chat_id=_CHAT_ID, role=Role.OPERATOR, delivered=4, read=2),
    ResyncRequired(chat_id=_CHAT_ID, last_index=4),
    Pong(n=7),
    FeedReady(complete=True),
    ChatSummary(
        chat=_CHAT,
        last=LastMessage("string", Role.USER, "string", MessageType.STANDARD, "2025-01-20T16:31:04+03:00"),
        unread=1,
        waiting_since="2025-01-20T16:31:04+03:00",
        activity="2025-01-20T16:31:04+03:00",
        created="2025-01-20T16:30:12+03:00",
        tags=("delivery",),
        viewers=(_USER,),
        closed=Closing(_USER, "2025-01-20T16:52:40+03:00"),
    ),
    NoteAdded(attrs.evolve(_MESSAGE, type=MessageType.SYSTEM, type_role=Role.OPERATOR, attachments=())),
)

BROKER_EXAMPLES: Final[dict[BrokerChannel, BrokerBody]] = {
    BrokerChannel.CHAT: _CHAT,
    BrokerChannel.OPERATORS: [Operator(user=_USER, is_online=True, new_chats=0, open_chats=0)],
    BrokerChannel.MESSAGE: _MESSAGE,
    BrokerChannel.GLOBAL: GlobalData(unread_chats=0),
}
EXAMPLE_SOURCE: Final = _CHAT.widget.source
