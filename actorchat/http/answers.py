"""Defines the JSON bodies of answers that are no entities of the protocol, for the OpenAPI document.

The schemas of the document are made from them, and tests compare the answers of a real server with the schemas.
"""

from __future__ import annotations

from typing import Literal

import attrs
import msgspec

from actorchat.chat.accounts import Rights
from actorchat.chat.privacy import AuditAction
from actorchat.protocol import Chat, ChatSummary, Message, Role, User
from actorchat.protocol.entities import SafeInt, WireTime

__all__ = [
    "AccountAdded",
    "AccountAnswer",
    "AuditAnswer",
    "BlockAnswer",
    "BrokerHealth",
    "BrokerNumbers",
    "CountUpTo",
    "ErasedAnswer",
    "Error",
    "ErrorAnswer",
    "Health",
    "HistoryPage",
    "MessageEdit",
    "OneTimePassword",
    "ServerNumbers",
    "SignedInAnswer",
    "SummaryPage",
    "TagCount",
    "TagsAnswer",
    "TagsChanged",
    "VisitAnswer",
]


@attrs.frozen(slots=False)
class VisitAnswer:
    """A visitor with its token, valid for this server, and its open chat."""

    token: str
    user: User
    chat: Chat


@attrs.frozen(slots=False)
class MessageEdit:
    """A message of the page that was edited or redacted."""

    message_index: int
    edited_at: WireTime | None
    redacted: bool


@attrs.frozen(slots=False)
class HistoryPage:
    """Messages in ascending order, and the range of indexes that is shown, null if it is empty.

    `edits` is there if messages of the page were edited or redacted.
    """

    messages: list[Message]
    from_index: int | None
    to_index: int | None
    has_more: bool
    edits: list[MessageEdit] | msgspec.UnsetType = msgspec.UNSET


@attrs.frozen(slots=False)
class SummaryPage:
    """A page of a list of chats, and the cursor of the next page, null on the last one."""

    chats: list[ChatSummary]
    next: str | None


@attrs.frozen(slots=False)
class TagsAnswer:
    """The tags of a chat, sorted."""

    tags: list[str]


@attrs.frozen(slots=False)
class SignedInAnswer:
    """An operator's token, the seconds until it expires, and the operator."""

    token: str
    expires_in: int
    user: User


@attrs.frozen(slots=False)
class BlockAnswer:
    """A blocked visitor, or a blocked network in `address`; the other one is null.

    `by` is the id of the operator who has blocked. `until` is null for a block without an end.
    """

    id: SafeInt
    user: SafeInt | None
    address: str | None
    reason: str
    by: SafeInt
    created: WireTime
    until: WireTime | None


@attrs.frozen(slots=False)
class BrokerHealth:
    """A message broker: whether it takes messages, and how many seconds it is behind."""

    broker: str
    status: Literal["ok", "unavailable"]
    behind_seconds: float


@attrs.frozen(slots=False)
class Health:
    """The server works. `brokers` is there if there are any, and `bus` if several servers share a database."""

    status: Literal["ok"]
    brokers: list[BrokerHealth] | msgspec.UnsetType = msgspec.UNSET
    bus: Literal["ok", "unavailable"] | msgspec.UnsetType = msgspec.UNSET


@attrs.frozen(slots=False)
class Error:
    """`code` is API, `detail` is for people, `path` names the field or parameter at fault, "" for none."""

    code: str
    detail: str
    path: str


@attrs.frozen(slots=False)
class ErrorAnswer:
    """Why a request was refused."""

    error: Error


@attrs.frozen(slots=False)
class ErasedAnswer:
    """How much an erasure has removed."""

    chats: int
    messages: int
    files: int


@attrs.frozen(slots=False)
class AuditAnswer:
    """The record of what an administrator, a supervisor or the server did: who did it, when, and how much it was.

    `role` and `id` are the person; null if it concerns nobody in particular. `detail` says what changed, if that is not
    clear from the action.
    """

    number: int
    at: WireTime
    by: str
    action: AuditAction
    role: Role | None
    id: SafeInt | None
    counts: dict[str, int]
    detail: str


@attrs.frozen(slots=False)
class AccountAnswer:
    """An operator's account. `last_sign_in` is null before the first sign-in.

    `password` is `one_time` if the next sign-in has to replace it, and `none` if no password works. `is_online` is what
    colleagues see of the operator.
    """

    id: SafeInt
    login: str
    rights: Rights
    sources: list[str]
    disabled: bool
    password: Literal["set", "one_time", "none"]
    created: WireTime
    last_sign_in: WireTime | None
    user: User
    is_online: bool


@attrs.frozen(slots=False)
class AccountAdded:
    """A new account, and its one-time password, which is shown only here."""

    account: AccountAnswer
    password: str = attrs.field(repr=False)


@attrs.frozen(slots=False)
class OneTimePassword:
    """A password that the next sign-in has to replace. It is shown only here."""

    password: str = attrs.field(repr=False)


@attrs.frozen(slots=False)
class TagCount:
    """A tag, and how many chats have it."""

    tag: str
    chats: int


@attrs.frozen(slots=False)
class TagsChanged:
    """How many chats were changed. Unless it is `complete`, repeat the request for the others."""

    chats: int
    complete: bool


@attrs.frozen(slots=False)
class CountUpTo:
    """How many values are at most `limit`; null is no limit."""

    limit: float | None
    count: int


@attrs.frozen(slots=False)
class BrokerNumbers:
    """A message broker: whether it takes messages, and how many seconds it is behind."""

    broker: str
    available: bool
    behind_seconds: float


@attrs.frozen(slots=False)
class ServerNumbers:
    """Numbers of this server process at `time`, in epoch seconds.

    `messages_stored`, `commit_seconds`, `slow_sockets`, `actor_restarts`, `actors_given_up` and `dead_letters` count
    since the start; all others are of this moment. `slow_sockets` were closed because their peers did not read.
    `commit_seconds` counts commits by their duration.
    """

    time: float
    version: str
    draining: bool
    storage_available: bool
    sockets: int
    http_connections: int
    rooms: int
    consoles: int
    feed_items_waiting: int
    operations_waiting: int
    messages_stored: int
    commit_seconds: list[CountUpTo]
    slow_sockets: int
    actor_restarts: int
    actors_given_up: int
    dead_letters: int
    brokers: list[BrokerNumbers]
