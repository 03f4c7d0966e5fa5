"""Owns how a room's events become JSON: cached fragments of chat and users, joined around each message.

Knows no sessions. What it returns are payloads; `Frames` frames them. The links to a message's files are left open in
them, for `fill_links` to fill in for each reader.
"""

from __future__ import annotations

from actorchat.chat.links import Links, unfilled_attachments
from actorchat.chat.model import ChatState, StoredMessage, message_status
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
)

__all__ = ["Encoder"]

_CACHED_USERS = 64


class Encoder:
    """Encodes for one chat. Cheap while chat, people and second stay the same."""

    __slots__ = ("_chat_json", "_chat_key", "_links", "_second", "_second_text", "_users")

    def __init__(self, links: Links) -> None:
        self._links = links
        self._chat_key: tuple[object, ...] = ()
        self._chat_json = b""
        self._users: dict[tuple[Role, int], tuple[User, bytes]] = {}
        self._second = -1
        self._second_text = ""

    def added(self, chat: ChatState, message: StoredMessage, client_id: str | None = None) -> bytes:
        return message_added_payload(
            id=message.id,
            type=message.type,
            type_role=message.type_role,
            status=message_status(chat, message),
            text=message.text,
            send_time=self._time(message.time),
            message_index=message.index,
            chat_fragment=self._chat(chat),
            user_fragment=self._user(message.author),
            attachments_fragment=unfilled_attachments(message.attachments, self._links)
            if message.attachments
            else b"[]",
            client_id=client_id,
        )

    def updated(self, chat: ChatState, message: StoredMessage) -> bytes:
        return message_updated_payload(
            id=message.id,
            type=message.type,
            type_role=message.type_role,
            status=message_status(chat, message),
            text=message.text,
            send_time=self._time(message.time),
            message_index=message.index,
            chat_fragment=self._chat(chat),
            user_fragment=self._user(message.author),
            attachments_fragment=unfilled_attachments(message.attachments, self._links)
            if message.attachments
            else b"[]",
        )

    def chat_updated(self, chat: ChatState) -> bytes:
        return encode_event(ChatUpdated(chat.wire()), Profile.EXTENDED)

    def receipts(self, chat: ChatState, side: Role) -> bytes:
        if side is Role.USER:
            delivered, read = chat.visitor_delivered, chat.visitor_read
        else:
            delivered, read = chat.operators_delivered, chat.operators_read
        return encode_event(Receipts(chat.uuid, side, delivered, read), Profile.EXTENDED)

    def _chat(self, chat: ChatState) -> bytes:
        key = (chat.stage, chat.operator, chat.owner)
        if key != self._chat_key:
            self._chat_key, self._chat_json = key, chat_fragment(chat.wire())
        return self._chat_json

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

    def _time(self, second: int) -> str:
        if second != self._second:
            self._second, self._second_text = second, wire_time(second)
        return self._second_text
