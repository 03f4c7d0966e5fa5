"""Defines what one row of the commit log says, how it is encoded, and the port to read the log.

A row holds what other programs are shown of one batch: changed chats and messages in commit order, then operators and
counters as they stand after the batch. It is written for each message while a broker is configured, so it is as
compact as it can be without losing anything. With several nodes it also holds what the other nodes need to show the
batch without reading storage (`actorchat.chat.node_commits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol, cast

import attrs
import msgspec

from actorchat.chat.model import (
    ChatState,
    OperatorCounters,
    SourceCounters,
    Stage,
    StoredAttachment,
    StoredMessage,
    message_status,
)
from actorchat.chat.operations import Changed, Decision
from actorchat.protocol import MessageStatus, MessageType, Operator, Role, User

__all__ = [
    "MOST_TRIMMED",
    "CommitEncoder",
    "CommitLog",
    "LogEntry",
    "LoggedChange",
    "LoggedCommit",
    "LoggedForNodes",
    "LoggedMessage",
    "LoggedOperator",
    "LoggedOperatorCounters",
    "LoggedPerson",
    "LoggedSource",
    "LoggedState",
    "NodeCommitEncoder",
    "TooOld",
    "Trimmed",
    "decode_commit",
]

MOST_TRIMMED: Final = 2_000
"""Entries that one `CommitLog.record` deletes at most."""

_VERSION: Final = 1
_PAYLOAD: Final = msgspec.msgpack.Encoder(uuid_format="bytes")


@attrs.frozen
class LogEntry:
    """One row: entries are in commit order of `seq`, which is never used twice. `time` is that of the batch."""

    seq: int
    time: float
    payload: bytes


class LoggedMessage(msgspec.Struct, array_like=True, frozen=True):
    """A stored message. `author` is a key in `LoggedCommit.users`; a key that isn't there is nobody.

    `status` is written for changed messages only: nobody can have received a new one. Only nodes get what follows it.
    """

    id: int
    index: int
    is_system: bool
    for_operators: bool
    text: str
    author: int
    time: int
    attachments: tuple[StoredAttachment, ...]
    status: MessageStatus = MessageStatus.NEW
    client_id: str | None = None
    edited_at: int | None = None
    redacted: bool = False
    edit_rev: int = 0
    rev: int = 0


class LoggedOperatorCounters(msgspec.Struct, array_like=True, frozen=True):
    """An operator's counters after one change."""

    operator_id: int
    new_chats: int
    open_chats: int
    rev: int


class LoggedState(msgspec.Struct, array_like=True, frozen=True):
    """The rest of a chat's state after one change, and the counters that the change has moved.

    The first `added` messages of the change are new, the others were edited or redacted.
    """

    added: int
    next_index: int
    visitor_delivered: int
    visitor_read: int
    operators_delivered: int
    operators_read: int
    last_visitor_index: int
    last_activity: int
    awaiting_since: int | None
    place: int
    assigned_at: int | None
    operators: tuple[LoggedOperatorCounters, ...] = ()
    sources: tuple[LoggedSource, ...] = ()


class LoggedChange(msgspec.Struct, array_like=True, frozen=True):
    """Revision `rev` of a chat. `changed` says whether the feed gets `chat_updated`. `messages` are new or changed.

    `owner` and `operator` are keys in `LoggedCommit.users`; a key that isn't there is nobody. `state` is for nodes.
    """

    chat: bytes
    source: str
    stage: Stage
    owner: int
    operator: int
    rev: int
    changed: bool
    messages: tuple[LoggedMessage, ...]
    state: LoggedState | None = None


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


class LoggedPerson(msgspec.Struct, array_like=True, frozen=True):
    """A person whose record has changed. `signed_out`: tokens that were worth something are worthless now.

    `renamed`: a known person has a new profile.
    """

    is_operator: bool
    id: int
    signed_out: bool
    renamed: bool


class LoggedForNodes(msgspec.Struct, array_like=True, frozen=True):
    """The records that other nodes have to read again, or to forget.

    `removed` are deleted chats. `accounts` and `blocks`: at least one has changed. `widgets` are the sources whose
    widget has another configuration. `takers` are visitors who got the chats of others.
    """

    people: tuple[LoggedPerson, ...] = ()
    removed: tuple[bytes, ...] = ()
    accounts: bool = False
    blocks: bool = False
    widgets: tuple[str, ...] = ()
    takers: tuple[int, ...] = ()


class LoggedCommit(msgspec.Struct, array_like=True, frozen=True):
    """The content of a row of the log. Keys of `users` are valid in this row only. `nodes` is for nodes.

    `epoch` grows with each start of a server. A chat at a revision is one and the same only within an epoch: after an
    older database was restored, revisions are given again.
    """

    version: int
    users: dict[int, User]
    changes: tuple[LoggedChange, ...]
    operators: tuple[LoggedOperator, ...]
    sources: tuple[LoggedSource, ...]
    epoch: int = 0
    nodes: LoggedForNodes | None = None


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
            # Receipts are not shown to other programs.
            if not messages and not shown and not change.updated:
                continue
            chat = change.chat
            owner, holder = chat.owner, chat.operator
            users[id(owner)] = owner
            if holder is not None:
                users[id(holder)] = holder
            logged: list[tuple[object, ...]] = []
            for message in messages:
                author = message.author
                if author is not owner and author is not None:
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
            if change.updated:
                logged.extend(self._changed(chat, message) for message in change.updated)
            add(
                (
                    chat.uuid,
                    chat.source,
                    chat.stage,
                    id(owner),
                    id(holder),
                    chat.rev,
                    shown,
                    logged,
                )
            )

    def _changed(self, chat: ChatState, message: StoredMessage) -> tuple[object, ...]:
        author = message.author
        if author is not None:
            self._users[id(author)] = author
        return (
            message.id,
            message.index,
            message.type is MessageType.SYSTEM,
            message.type_role is Role.OPERATOR,
            message.text,
            id(author),
            message.time,
            message.attachments,
            message_status(chat, message),
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

    def payload(self, epoch: int) -> bytes | None:
        """The row's payload, None if nobody has to be shown anything."""
        if not (self._changes or self._operators or self._sources):
            return None
        return _PAYLOAD.encode(self._content(epoch))

    def _content(self, epoch: int) -> tuple[object, ...]:
        operators, sources = [*self._operators.values()], [*self._sources.values()]
        return _VERSION, self._users, self._changes, operators, sources, epoch


class NodeCommitEncoder(CommitEncoder):
    """Collects what one batch changed, for other programs and for the other nodes.

    Receipts and tags are in it too, and each change has the whole state of its chat.
    """

    __slots__ = ("_for_nodes",)

    def __init__(self) -> None:
        super().__init__()
        self._for_nodes = LoggedForNodes()

    def add_changes(self, decisions: Iterable[tuple[Decision, object]]) -> None:
        """Add the chats that changed, with the counters that each decision has moved."""
        for change, counters in decisions:
            # Revision 0 is a reservation, which nobody is shown.
            if type(change) is Changed and change.chat.rev:
                self._add_change(change, cast("Iterable[OperatorCounters | SourceCounters]", counters))

    def add_for_nodes(self, logged: LoggedForNodes) -> None:
        """Add what the other nodes have to read again."""
        known = self._for_nodes
        self._for_nodes = LoggedForNodes(
            (*known.people, *logged.people),
            (*known.removed, *logged.removed),
            known.accounts or logged.accounts,
            known.blocks or logged.blocks,
            (*known.widgets, *logged.widgets),
            (*known.takers, *logged.takers),
        )

    def payload(self, epoch: int) -> bytes | None:
        """The row's payload, None if no node and no other program has to be told anything."""
        if self._for_nodes == LoggedForNodes():
            return super().payload(epoch)
        return _PAYLOAD.encode((*self._content(epoch), self._for_nodes))

    def _add_change(self, change: Changed, counters: Iterable[OperatorCounters | SourceCounters]) -> None:
        chat = change.chat
        self._changes.append(
            (
                chat.uuid,
                chat.source,
                chat.stage,
                self._key(chat.owner),
                self._key(chat.operator),
                chat.rev,
                change.chat_changed,
                [self._message(chat, message) for message in (*change.messages, *change.updated)],
                _state(change, counters),
            )
        )

    def _message(self, chat: ChatState, message: StoredMessage) -> tuple[object, ...]:
        return (
            *self._changed(chat, message),
            message.client_id,
            message.edited_at,
            message.redacted,
            message.edit_rev,
            message.rev,
        )

    def _key(self, user: User | None) -> int:
        if user is not None:
            self._users[id(user)] = user
        return id(user)


def _state(change: Changed, counters: Iterable[OperatorCounters | SourceCounters]) -> tuple[object, ...]:
    """The fields of a `LoggedState`."""
    chat = change.chat
    operators: list[tuple[object, ...]] = []
    sources: list[tuple[object, ...]] = []
    for each in counters:
        if isinstance(each, SourceCounters):
            sources.append((each.source, each.unread_chats, each.rev))
        else:
            operators.append((each.operator_id, each.new_chats, each.open_chats, each.rev))
    return (
        len(change.messages),
        chat.next_index,
        chat.visitor_delivered,
        chat.visitor_read,
        chat.operators_delivered,
        chat.operators_read,
        chat.last_visitor_index,
        chat.last_activity,
        chat.awaiting_since,
        chat.place,
        chat.assigned_at,
        operators,
        sources,
    )


@attrs.frozen
class TooOld:
    """Which entries are too old to wait for a broker: those up to `aged`, and those up to `upto` from before `time`."""

    aged: int
    upto: int
    time: float

    def covers(self, seq: int, time: float) -> bool:
        return seq <= self.aged or (seq <= self.upto and time < self.time)


@attrs.frozen
class Trimmed:
    """How many entries were deleted, and how many of them a broker had not confirmed, because they were too old.

    `newest` is the `seq` of the newest entry, 0 before the first one.
    """

    deleted: int
    lost: int
    newest: int


class CommitLog(Protocol):
    """The log as relays read it. Every method may raise `actorchat.chat.ports.StorageUnavailable`: try again later."""

    async def positions(self) -> Mapping[str, int]:
        """For each broker the `seq` up to which it has confirmed everything."""

    async def entries(self, *, after: int, size: int) -> Sequence[LogEntry]:
        """The oldest entries with a `seq` above `after`, at least one if there are any, about `size` bytes."""

    async def record(self, positions: Mapping[str, int], *, expired: TooOld) -> Trimmed:
        """Store how far brokers have confirmed. Then delete some entries that all have or that `expired` covers, the
        oldest ones first.
        """
