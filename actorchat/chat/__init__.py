"""The chat: its rules are pure functions, its rooms and feeds are actors. Does not use websockets, SQL or HTTP."""

from actorchat.chat.limits import Limits
from actorchat.chat.ports import StorageUnavailable
from actorchat.chat.service import ChatService, open_chats, settle_dead_letter
from actorchat.chat.submitter import ChatRefused

__all__ = ["ChatRefused", "ChatService", "Limits", "StorageUnavailable", "open_chats", "settle_dead_letter"]
