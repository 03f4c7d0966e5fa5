"""Defines what one row of the commit log says, how it is encoded, and the port to read the log.

A row holds what other programs are shown of one batch: changed chats and messages in commit order, then operators and
counters as they stand after the batch. It is written for each message while a broker is configured, so it is as
compact as it can be without losing anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import attrs
import msgspec

from actorchat.chat.model import SourceCounters, Stage, StoredAttachment
from actorchat.chat.operations import Changed, Decision
from actorchat.protocol import MessageType, Operator, Role, User

__all__ = [
    "MOST_TRIMMED",
    "CommitEncoder",
    "CommitLog",
    "LogEntry",
    "LoggedChange",
    "LoggedCommit",
    "LoggedMessage",
    "LoggedOperator",
    "Trimmed",
    "decode_commit",
]

MOST_TRIMMED: Final = 2_000
"""Entries that one `CommitLog.record` deletes at most."""

_VERSION: Final = 1
_PAYLOAD: Final = msgspec.msgpack.Encoder()


@attrs.frozen
class LogEntry:
    """One row: entries are in commit order of `seq`, which is never used twice. `time` is that of the batch."""

    seq: int
    time: float
    payload: bytes


class LoggedMessage(msgspec.Struct, array_like=True, frozen=True):
    """A stored message. `author` is a key in `LoggedCommit.users`; a key that isn't there is nobody."""

    id: int
    index: int
    is_system: bool
    for_operators: bool
    text: str
    author: int
    time: int
    attachments: tuple[StoredAttachment, ...]


class LoggedChange(msgspec.Struct, array_like=True, frozen=True):
    """Revision `rev` of a chat. `changed` says whether the feed gets `chat_updated`.

    `owner` and `operator` are keys in `LoggedCommit.users`; a key that isn't there is nobody.
    """

    chat: bytes
    source: str
    stage: Stage
    owner: int
    operator: int
    rev: int
    changed: bool
    messages: tuple[LoggedMessage, ...]


class LoggedOperator(msgspec.Struct, array_like=True, frozen=True):
    """An operator after the batch, with the sources that the operator belongs to."""

    user: int
    sources: tuple[str, ...]
    is_online: bool
    new_chats: int
    open_chats: int


class LoggedSource(msgspec.Struct, array_like=True, frozen=True):
    """A source's counter after the batch."""

    source: str
    unread_chats: int
    rev: int


class LoggedCommit(msgspec.Struct, array_like=True, frozen=True):
    """The content of a row of the log. Keys of `users` are valid in this row only."""

    version: int
    users: dict[int, User]
    changes: tuple[LoggedChange, ...]
    operators: tuple[LoggedOperator, ...]
    sources: tuple[LoggedSource, ...]


_decoder: Final = msgspec.msgpack.Decoder(LoggedCommit)


def decode_commit(payload: bytes) -> LoggedCommit:
    """Decode a row's payload. Raises ValueError if this version of the program did not write it."""
    commit = _decoder.decode(payload)
    if commit.version != _VERSION:
        raise ValueError(f"version {commit.version} of a log entry, expected {_VERSION}")
    return commit


class CommitEncoder:
    """Collects what one batch changed, and encodes it. Added objects must not be freed before that."""

    __slots__ = ("_changes", "_operators", "_sources", "_users")

    def __init__(self) -> None:
        # By id(): each of a person's profiles in the batch is another object, and is encoded once.
        self._users: dict[int, User] = {}
        self._changes: list[tuple[object, ...]] = []
        self._operators: dict[int, tuple[object, ...]] = {}
        self._sources: dict[str, tuple[object, ...]] = {}

    def add_changes(self, decisions: Iterable[tuple[Decision, object]]) -> None:
        """Add the chats that changed. This runs for each message, so it is spelled out."""
        users, add, system, operator = self._users, self._changes.append, MessageType.SYSTEM, Role.OPERATOR
        for change, _ in decisions:
            if type(change) is not Changed:
                continue
            messages, shown = change.messages, change.chat_changed
            # Receipts show nothing to other programs.
            if not messages and not shown:
                continue
            chat = change.chat
            owner, holder = chat.owner, chat.operator
            users[id(owner)] = owner
            if holder is not None:
                users[id(holder)] = holder
            logged = []
            for message in messages:
                author = message.author
                if author is not None:
                    users[id(author)] = author
                logged.append(
                    (
                        message.id,
                        message.index,
                        message.type is system,
                        message.type_role is operator,
                        message.text,
                        id(author),
                        message.time,
                        message.attachments,
                    )
                )
            add(
                (
                    chat.uuid.int.to_bytes(16, "big"),
                    chat.source,
                    chat.stage,
                    id(owner),
                    id(holder),
                    chat.rev,
                    shown,
                    logged,
                )
            )

    def add_operator(self, operator: Operator, sources: Iterable[str]) -> None:
        """Add an operator's state after the batch."""
        user = operator.user
        self._users[id(user)] = user
        self._operators[user.id] = (
            id(user),
            sorted(sources),
            operator.is_online,
            operator.new_chats,
            operator.open_chats,
        )

    def add_source(self, counters: SourceCounters) -> None:
        """Set what a source's counter is after the batch."""
        self._sources[counters.source] = (counters.source, counters.unread_chats, counters.rev)

    def payload(self) -> bytes | None:
        """The row's payload, None if nobody has to be shown anything."""
        if not (self._changes or self._operators or self._sources):
            return None
        return _PAYLOAD.encode(
            (_VERSION, self._users, self._changes, list(self._operators.values()), list(self._sources.values()))
        )


@attrs.frozen
class Trimmed:
    """How many entries were deleted, and how many of them some broker had not got: they were too old."""

    deleted: int
    lost: int


class CommitLog(Protocol):
    """The log as relays read it. Every method may raise `actorchat.chat.ports.StorageUnavailable`: try again later."""

    async def positions(self) -> Mapping[str, int]:
        """For each broker the `seq` up to which it has confirmed everything."""

    async def entries(self, *, after: int, size: int) -> Sequence[LogEntry]:
        """The oldest entries with a `seq` above `after`, at least one if there are any, about `size` bytes."""

    async def record(self, positions: Mapping[str, int], *, expired: float) -> Trimmed:
        """Store how far brokers have confirmed. Then delete some entries that all have, or that are older than
        `expired` (epoch seconds).
        """
