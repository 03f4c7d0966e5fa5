"""Hypothesis strategies for every command, event and entity of the protocol."""

from datetime import datetime, timedelta, timezone
from typing import Final

from hypothesis import strategies as st

from actorchat.protocol import (
    Attachment,
    AttachmentType,
    Chat,
    ChatStatus,
    ChatSummary,
    ChatUpdated,
    Command,
    ErrorEvent,
    Event,
    FeedReady,
    GlobalData,
    GlobalUpdated,
    LastMessage,
    MarkMessageDelivered,
    MarkMessageRead,
    Message,
    MessageAdded,
    MessageNotAdded,
    MessageStatus,
    MessageType,
    MessageUpdated,
    NoteAdded,
    Operator,
    OperatorUpdated,
    PageViewed,
    Ping,
    Pong,
    Receipts,
    RefusalCode,
    ResyncRequired,
    Role,
    SendMessage,
    TypingUpdated,
    UpdateTyping,
    User,
    UserConnected,
    UserDisconnected,
    Widget,
)

# Built from code points, because Hypothesis would first build its table of categories, which takes a second on a
# fresh clone and fails the health check of the first test.
characters: Final = (
    st.sampled_from("aZ09 \"'\\/<>&\b\f\n\r\t\x01\x1f\x7fёж\u2028\ufeff\U0001f600")
    | st.integers(0x1, 0xD7FF).map(chr)
    | st.integers(0xE000, 0x10FFFF).map(chr)
)
texts: Final = st.text(characters)
client_ids: Final = st.text(characters, max_size=64)
integers: Final = st.integers(-(2**53), 2**53)


def _in_zone(moment: datetime, minutes: int) -> str:
    return moment.replace(tzinfo=timezone(timedelta(minutes=minutes)), microsecond=0).isoformat()


send_times: Final = st.builds(_in_zone, st.datetimes(), st.integers(-23 * 60, 23 * 60))
users: Final = st.builds(User, integers, st.sampled_from(Role), texts, texts, texts, texts)
chats: Final = st.builds(
    Chat, st.uuids(), st.builds(Widget, texts), st.sampled_from(ChatStatus), users, st.none() | users
)
attachments: Final = st.builds(
    Attachment, st.uuids(), st.sampled_from(AttachmentType), texts, texts, texts, texts, integers
)
messages: Final = st.builds(
    Message,
    integers,
    st.sampled_from(MessageType),
    st.sampled_from(Role),
    st.sampled_from(MessageStatus),
    texts,
    send_times,
    integers,
    chats,
    st.none() | users,
    st.lists(attachments, max_size=3).map(tuple),
)
operators: Final = st.builds(Operator, users, st.booleans(), integers, integers)
global_data: Final = st.builds(GlobalData, integers)
uuid_tuples: Final = st.lists(st.uuids(), max_size=12).map(tuple)

commands: Final[st.SearchStrategy[Command]] = st.one_of(
    st.builds(SendMessage, texts, uuid_tuples, st.none() | client_ids),
    st.builds(MarkMessageDelivered, integers),
    st.builds(MarkMessageRead, integers),
    st.builds(UpdateTyping, texts, st.booleans()),
    st.builds(Ping, integers),
    st.builds(PageViewed, texts, texts, texts),
)
refusals: Final[st.SearchStrategy[MessageNotAdded]] = st.builds(
    MessageNotAdded,
    st.sampled_from(RefusalCode),
    texts,
    st.booleans(),
    st.none() | st.floats(0, 1e9),
    texts,
    st.none() | client_ids,
    st.uuids(),
    uuid_tuples,
)
events: Final[st.SearchStrategy[Event]] = st.one_of(
    st.builds(MessageAdded, messages, st.none() | client_ids, st.none() | send_times, st.booleans()),
    st.builds(MessageUpdated, messages, st.none() | send_times, st.booleans()),
    st.builds(UserConnected, users),
    st.builds(UserDisconnected, users),
    st.builds(ChatUpdated, chats),
    st.builds(OperatorUpdated, users, st.booleans(), integers, integers, st.booleans()),
    st.builds(TypingUpdated, texts, st.booleans(), st.uuids(), users),
    st.builds(GlobalUpdated, integers),
    refusals,
    st.builds(ErrorEvent, texts, texts, texts),
    st.builds(Receipts, st.uuids(), st.sampled_from(Role), integers, integers),
    st.builds(ResyncRequired, st.uuids(), integers),
    st.builds(Pong, integers),
    st.builds(FeedReady, st.booleans()),
    st.builds(NoteAdded, messages),
    st.builds(
        ChatSummary,
        chats,
        st.none()
        | st.builds(
            LastMessage, texts, st.none() | st.sampled_from(Role), texts, st.sampled_from(MessageType), send_times
        ),
        integers,
        st.none() | send_times,
        send_times,
        send_times,
        st.lists(texts, max_size=3).map(tuple),
        st.lists(users, max_size=2).map(tuple),
    ),
)
