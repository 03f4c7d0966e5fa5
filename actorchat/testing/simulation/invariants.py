"""Lists the kinds of violations, each with the sentence of the contract that it breaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["INVARIANTS", "sentence_of"]

_DURABLE = "Durable before visible: no event about a change is sent to anyone before its commit."
_ORDER = (
    "Total order: every socket, history page, broker consumer and webhook sees one chat's events in commit order, "
    "messages in message_index order."
)
_DECIDED = (
    "Decided in the transaction: what an operation does is decided on the chat's row as it stands in the transaction, "
    "in commit order."
)
_KEY = (
    "client_id: idempotency key per (chat, user). The same key with the same text and attachments gives the stored "
    "message again, to that socket; another body gives message_not_added conflict. It holds across reconnect, restart, "
    "node, and within one batch, for each user's last 256 keys in that chat."
)
_REFUSED = "message_not_added promises that the message is not stored and will not be."
_ANSWERED = "Every accepted operation is answered, or its socket is closed."
_RECEIPTS = "Receipts are watermarks; watermarks never go back; a repeated mark emits nothing."
_SYSTEM = (
    "System messages go only to those in the room with that role; never on the feed, in unread_chats, or in the other "
    "role's history, search, transcript or resume."
)
_PRESENCE = (
    "Others get user_connected / user_disconnected only for a user's first / last socket, the latter after 5 s of "
    "grace; a user who returns within it causes no event."
)
_RESUME = (
    "A room socket opened with ?after= gets every message after it in index order, receipts for both roles, "
    "chat_updated, then live. No gap, no duplicate."
)
_FEED = "Per chat, the feed shows chat_updated, then the message_added it belongs to, then counters."
_COUNTERS = (
    "Counters are changed in the same transaction as their cause and recounted at start; a difference is a bug. "
    "Latest value wins."
)
_ONLINE = (
    "is_online = the operator has at least one live feed socket, and is not manually away; 30 s grace after a socket "
    "is lost, and after a restart for operators who were online."
)
_TYPING = "A stop is sent on send, disconnect, close and 6 s of silence, only if typing was on."
_STORED = "After kill -9, every message that was broadcast is in storage."
_STRICT = "Strict: only the contract's events and fields."
_PROFILE = "A user whose profile changes while present: user_connected again with the new profile."
_MALFORMED = (
    "Malformed: the third in a row closes with 1008, any valid frame resets the count; each gets error (extended), a "
    "malformed send_message message_not_added, in both profiles. Over 64 KiB 1009, not UTF-8 1007."
)
_DRAIN = "Ctrl-C drains: accepted operations are decided and broadcast, and every socket is closed with 1001."
_CLIENT = (
    "The client yields the room's events in the server's order, each once and none missing, over any number of sockets."
)
_NOTHING_LEFT = "Nothing leaks: no task, socket, session or operation outlives its cause."
_EDITED = (
    "A reader that comes after an edit or a redaction gets the message as it is then; others get one message_updated."
)
_SIGNED_OUT = "POST /api/sign-out ends every socket of that identity with 4410; its tokens are worthless."
_FILES = "Every stored file can be read; a redacted or erased message's files and links die with it."
_HTTP = "Errors are {error: {code, detail, path}} with the codes of the contract; the server never answers 500."

INVARIANTS: Final[Mapping[str, str]] = {
    "after-close": "Nothing follows a Close.",
    "api": _HTTP,
    "blocked": "A block closes the visitor's sockets, and refuses new ones and messages.",
    "bounded": "A session that can't take bytes at once gets a bounded outbox.",
    "chat-order": _ORDER,
    "chat-repeat": "chat_updated: created, or status, owner, operator or widget changed; one per commit.",
    "client": _CLIENT,
    "client-id": "message_added on the sending user's sockets carries data.client_id.",
    "client-repeat-first": _CLIENT,
    "client-story": _CLIENT,
    "content": "Live events carry chat and user as of the commit; history and replay carry them as they are now.",
    "counter-order": _COUNTERS,
    "counters": _COUNTERS,
    "counters-first": _FEED,
    "delivery": "The outcome of a send is the stored message, or that it is not stored.",
    "dense": "message_index: per chat, from 0, +1 for each stored message of either type, never reused.",
    "drain": _DRAIN,
    "drain-close": _DRAIN,
    "drain-over-crash": _DRAIN,
    "durable-before-visible": _DURABLE,
    "edits": _EDITED,
    "erased": "An erasure removes a person's texts, files and names; a visitor's chats lose all their messages.",
    "error-log": "The server logs an error only if a fault caused it.",
    "expiry": "A chat that never got a message is kept for reserved_timeout, from when it was last asked for.",
    "feed-order": _FEED,
    "files": _FILES,
    "foreign": "A visitor may open only its own chat; a feed shows chats of its sources.",
    "history": _ORDER,
    "ids": "id: integer, global, never repeated (also across restarts).",
    "incomplete": "No gap: every live socket gets everything that its role may see.",
    "key-reuse": _KEY,
    "left-behind": _NOTHING_LEFT,
    "list": "Lists show every chat of the reader with a stored message, as it stands.",
    "lost": _STORED,
    "malformed": _MALFORMED,
    "marks": "Only the highest mark counts, and is sent again after a lost socket.",
    "marks-refused": "Only the highest mark counts, and is sent again after a lost socket.",
    "no-end": "Every wait has an end.",
    "notes": _SYSTEM,
    "online": _ONLINE,
    "order": "A room socket gets user_connected for each present user, itself included, then live events.",
    "outcome": _ANSWERED,
    "presence": _PRESENCE,
    "profile": _PROFILE,
    "raised": "No failure of one socket, request or room ends the server.",
    "receipts": _RECEIPTS,
    "refused-though-stored": _REFUSED,
    "reserve": "With a visitor's token: the same open chat back.",
    "resume": _RESUME,
    "rev": "Every commit on a chat adds one to its dense rev.",
    "rights": "Only administrators may erase people and see blocks.",
    "rules": _DECIDED,
    "summary": "chat_summary: after each commit that changes the chat, what a list shows of it; the last one is right.",
    "send-order": "Messages are stored in the order of their sends.",
    "sessions": _NOTHING_LEFT,
    "sign-in": "A wrong password and a disabled account sign nobody in.",
    "signed-out": _SIGNED_OUT,
    "silent-peer": "The server pings every 25 s and closes a silent peer after 60 s.",
    "status": _RECEIPTS,
    "status-repeat": _RECEIPTS,
    "stored-after-refused": _REFUSED,
    "stored-twice": _KEY,
    "strict": _STRICT,
    "tasks": _NOTHING_LEFT,
    "timers": (
        "An operator who gets a chat, in any way, has the whole answer time; the idle timer runs only while the "
        "customer owes the next message."
    ),
    "token-expiry": "At exp a live socket is closed with 4401.",
    "total-order": _ORDER,
    "typing": _TYPING,
    "typing-overflow": "On overflow: drop typing first. A stop that was dropped is sent again.",
    "unknown": _STRICT,
    "uploads": "Only the uploader may bind a file, once, into one chat. Unbound uploads expire after a day.",
}
"""Each sentence by its kind of violation."""


def sentence_of(kind: str) -> str | None:
    """The sentence that a violation of this kind breaks; None for kinds that another program reports."""
    return INVARIANTS.get(kind.removesuffix("-after-crash"))
