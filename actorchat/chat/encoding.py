"""Encodes a room's events as JSON, with cached fragments of the chat and its users. `Frames` frames the payloads.

The links to a message's files are left open, and `fill_links` fills them in for each reader.
"""

from __future__ import annotations

from actorchat.chat.links import Links, unfilled_attachments
from actorchat.chat.model import ChatState, Stage, StoredMessage, message_status
from actorchat.protocol import (
    ChatUpdated,
    Profile,
    Receipts,
    Role,
    User,
    chat_fragment,
    encode_event,
    message_added_payload,
    message_updated_payload,
    user_fragment,
    wire_time,
    with_edit,
)

__all__ = ["Encoder"]

_CACHED_USERS = 64


class Encoder:
    """Encodes the events of one chat. It is fast while the chat, the author and the second stay the same."""

    __slots__ = (
        "_author",
        "_author_json",
        "_chat_json",
        "_links",
        "_operator",
        "_owner",
        "_second",
        "_second_text",
        "_stage",
        "_users",
    )

    def __init__(self, links: Links) -> None:
        self._links = links
        self._stage: Stage | None = None
        self._operator: User | None = None
        self._owner: User | None = None
        self._chat_json = b""
        self._author: User | None = None
        self._author_json = b"null"
        self._users: dict[tuple[Role, int], tuple[User, bytes]] = {}
        self._second = -1
        self._second_text = ""

    def added(self, chat: ChatState, message: StoredMessage, client_id: str | None = None) -> bytes:
        if (
            message.time != self._second
            or message.author is not self._author
            or chat.stage is not self._stage
            or chat.operator is not self._operator
            or chat.owner is not self._owner
        ):
            self._refresh(chat, message)
        return message_added_payload(
            id=message.id,
            type=message.type,
            type_role=message.type_role,
            status=message_status(chat, message),
            text=message.text,
            send_time=self._second_text,
            message_index=message.index,
            chat_fragment=self._chat_json,
            user_fragment=self._author_json,
            attachments_fragment=unfilled_attachments(message.attachments, self._links)
            if message.attachments
            else b"[]",
            client_id=client_id,
        )

    def updated(self, chat: ChatState, message: StoredMessage) -> bytes:
        self._refresh(chat, message)
        return message_updated_payload(
            id=message.id,
            type=message.type,
            type_role=message.type_role,
            status=message_status(chat, message),
            text=message.text,
            send_time=self._second_text,
            message_index=message.index,
            chat_fragment=self._chat_json,
            user_fragment=self._author_json,
            attachments_fragment=unfilled_attachments(message.attachments, self._links)
            if message.attachments
            else b"[]",
        )

    def edit_of(self, payload: bytes, message: StoredMessage) -> bytes:
        """Add the edit of `message`, if it has one, to its encoded event, for extended sockets."""
        if message.edited_at is None:
            return payload
        return with_edit(payload, wire_time(message.edited_at), message.redacted)

    def chat_updated(self, chat: ChatState) -> bytes:
        return encode_event(ChatUpdated(chat.wire()), Profile.EXTENDED)

    def receipts(self, chat: ChatState, side: Role) -> bytes:
        if side is Role.USER:
            delivered, read = chat.visitor_delivered, chat.visitor_read
        else:
            delivered, read = chat.operators_delivered, chat.operators_read
        return encode_event(Receipts(chat.uuid, side, delivered, read), Profile.EXTENDED)

    def _refresh(self, chat: ChatState, message: StoredMessage) -> None:
        """Make the cached fragments those of `chat` and `message`."""
        if chat.stage is not self._stage or chat.operator is not self._operator or chat.owner is not self._owner:
            # Encoded first: if that fails, the next call must not find the fragment of another chat.
            self._chat_json = chat_fragment(chat.wire())
            self._stage, self._operator, self._owner = chat.stage, chat.operator, chat.owner
        if message.author is not self._author:
            self._author_json = self._user(message.author)
            self._author = message.author
        if message.time != self._second:
            self._second_text = wire_time(message.time)
            self._second = message.time

    def _user(self, user: User | None) -> bytes:
        if user is None:
            return b"null"
        identity = user.role, user.id
        cached = self._users.get(identity)
        if cached is not None and (cached[0] is user or cached[0] == user):
            return cached[1]
        if len(self._users) >= _CACHED_USERS:
            self._users.clear()
        fragment = user_fragment(user)
        self._users[identity] = (user, fragment)
        return fragment
