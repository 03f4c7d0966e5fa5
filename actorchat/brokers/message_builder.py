"""Turns entries of the commit log into the messages of the four broker channels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final
from uuid import UUID

import attrs

from actorchat.chat.commit_log import (
    LogEntry,
    LoggedChange,
    LoggedCommit,
    LoggedMessage,
    LoggedOperator,
    decode_commit,
)
from actorchat.chat.links import Links, attachments_for
from actorchat.chat.model import Identity
from actorchat.protocol import (
    BrokerChannel,
    BrokerMessage,
    Chat,
    GlobalData,
    Message,
    MessageType,
    Operator,
    Role,
    User,
    Widget,
    encode_broker_body,
    wire_time,
)

__all__ = ["GROUPS_PER_SECOND", "MessageBuilder"]

OTHER_PROGRAMS: Final = Identity(Role.OPERATOR, 0)
"""The reader that links to files are signed for; no operator has this id."""

GROUPS_PER_SECOND = 10
"""Operators and counters of commits within one such part of a second are published once, as they are at its end."""


@attrs.define
class _Group:
    """The latest operators and counters of one part of a second.

    `begun` and `time` are the `seq` and the time of its first commit.
    """

    period: int
    time: float
    begun: int
    seq: int = 0
    epoch: int = 0
    operators: dict[str, dict[int, Operator]] = attrs.Factory(dict)
    counters: dict[str, tuple[int, int]] = attrs.Factory(dict)


class MessageBuilder:
    """Builds messages from entries in the order of the log.

    Groups depend on the entries only, so entries that are read again produce the same messages with the same ids.
    `unreadable` is called with each entry that can't be read, which is left out.
    """

    def __init__(self, links: Links, unreadable: Callable[[LogEntry, Exception], object]) -> None:
        self._links = links
        self._unreadable = unreadable
        self._group: _Group | None = None

    @property
    def waits(self) -> bool:
        """Whether operators or counters wait for the end of their group."""
        return self._group is not None

    @property
    def waiting_since(self) -> float | None:
        """When the first commit of the group that waits was made, None if none waits."""
        return None if self._group is None else self._group.time

    def complete_before(self, seq: int) -> int:
        """The newest entry of which all messages are built, if those up to `seq` were added."""
        return seq if self._group is None else self._group.begun - 1

    def add(self, entry: LogEntry) -> list[BrokerMessage]:
        """The messages of `entry`, behind those of the group that it ends."""
        period = int(entry.time * GROUPS_PER_SECOND)
        messages = self.flush() if self._group is not None and self._group.period != period else []
        if not entry.payload:
            return messages
        try:
            commit = decode_commit(entry.payload)
            built = [message for change in commit.changes for message in _chat_messages(commit, change, self._links)]
            states = [(commit.users[each.user], each) for each in commit.operators]
        except (ValueError, LookupError) as error:
            # Later entries must not wait for it: what is lost is lost.
            self._unreadable(entry, error)
            return messages
        messages += built
        if states or commit.sources:
            if self._group is None:
                self._group = _Group(period, entry.time, entry.seq)
            self._collect(self._group, commit, states, entry.seq)
        return messages

    def flush(self) -> list[BrokerMessage]:
        """End the group: its messages, in no more than one body for each source and channel."""
        group, self._group = self._group, None
        if group is None:
            return []
        messages = [
            BrokerMessage(
                BrokerChannel.OPERATORS,
                source,
                f"operators/{source}/{group.epoch}/{group.seq}",
                encode_broker_body(list(operators.values())),
            )
            for source, operators in group.operators.items()
        ]
        for source, (unread, rev) in group.counters.items():
            body = encode_broker_body(GlobalData(unread))
            messages.append(BrokerMessage(BrokerChannel.GLOBAL, source, f"global/{source}/{group.epoch}/{rev}", body))
        return messages

    def _collect(
        self, group: _Group, commit: LoggedCommit, states: Iterable[tuple[User, LoggedOperator]], seq: int
    ) -> None:
        group.seq, group.epoch = seq, commit.epoch
        for user, logged in states:
            operator = Operator(user, logged.is_online, logged.new_chats, logged.open_chats)
            for source in logged.sources:
                group.operators.setdefault(source, {})[operator.user.id] = operator
        for counters in commit.sources:
            group.counters[counters.source] = (counters.unread_chats, counters.rev)


def _chat_messages(commit: LoggedCommit, change: LoggedChange, links: Links) -> Iterator[BrokerMessage]:
    users = commit.users
    uuid = UUID(bytes=change.chat)
    chat = Chat(
        uuid=uuid,
        widget=Widget(change.source),
        status=change.stage.status,
        owner_user=users[change.owner],
        operator_user=users.get(change.operator),
    )
    name = f"{uuid}/{commit.epoch}/{change.rev}"
    if change.changed:
        yield BrokerMessage(BrokerChannel.CHAT, change.source, f"{name}/0", encode_broker_body(chat))
    for number, logged in enumerate(change.messages, 1):
        body = encode_broker_body(_message(commit, chat, logged, links))
        yield BrokerMessage(BrokerChannel.MESSAGE, change.source, f"{name}/{number}", body)


def _message(commit: LoggedCommit, chat: Chat, logged: LoggedMessage, links: Links) -> Message:
    return Message(
        id=logged.id,
        type=MessageType.SYSTEM if logged.is_system else MessageType.STANDARD,
        type_role=Role.OPERATOR if logged.for_operators else Role.USER,
        # As of the logged commit.
        status=logged.status,
        text=logged.text,
        send_time=wire_time(logged.time),
        message_index=logged.index,
        chat=chat,
        user=commit.users.get(logged.author),
        attachments=attachments_for(logged.attachments, OTHER_PROGRAMS, links),
    )
