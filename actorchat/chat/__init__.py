"""The chat: its rules as pure functions, its rooms and feeds as actors. Knows no websockets, no SQL, no HTTP."""

from actorchat.chat.chats import ChatRefused, Chats, open_chats, settle_dead_letter
from actorchat.chat.limits import Limits
from actorchat.chat.ports import StorageUnavailable

__all__ = ["ChatRefused", "Chats", "Limits", "StorageUnavailable", "open_chats", "settle_dead_letter"]
