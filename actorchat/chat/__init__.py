"""The chat: its rules as pure functions, its rooms and feeds as actors. Knows no websockets, no SQL, no HTTP."""

from actorchat.chat.limits import Limits
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatRefused, ChatService, open_chats, settle_dead_letter

__all__ = ["ChatRefused", "ChatService", "Limits", "StorageUnavailable", "open_chats", "settle_dead_letter"]
