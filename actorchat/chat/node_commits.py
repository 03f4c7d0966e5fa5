"""Reads from the commit log what another node has committed, as the values that its own rooms were given."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import UUID

import attrs

from actorchat.chat.commit_log import LoggedChange, LoggedForNodes, LoggedMessage, LoggedState, decode_commit
from actorchat.chat.model import ChatState, Identity, OperatorCounters, SourceCounters, StoredMessage, identity_of
from actorchat.chat.operations import Changed, Counters
from actorchat.protocol import MessageType, Role, User

__all__ = ["NodeCommit", "NodeCommitReader"]

_KNOWN_USERS: Final = 10_000


@attrs.frozen
class NodeCommit:
    """One batch of another node.

    `changes` are in commit order, each with the counters that it has moved. `people` are those whose records have
    changed; of these, the tokens of `signed_out` have become worthless, and `renamed` have a new profile. `removed` are
    deleted chats. `accounts` and `blocks`: at least one has changed. `widgets` are the sources whose widget has another
    configuration. `epoch` is that of the log; a higher one than before: storage has lost commits since then. `takers`
    are visitors who got the chats of others.
    """

    changes: tuple[tuple[Changed, Counters], ...] = ()
    people: tuple[Identity, ...] = ()
    signed_out: frozenset[Identity] = frozenset()
    renamed: frozenset[Identity] = frozenset()
    removed: tuple[UUID, ...] = ()
    accounts: bool = False
    blocks: bool = False
    widgets: tuple[str, ...] = ()
    epoch: int = 0
    takers: tuple[Identity, ...] = ()


class NodeCommitReader:
    """Reads payloads of the log. A user that it has met before is the same object, which makes encoding faster."""

    def __init__(self) -> None:
        self._users: OrderedDict[Identity, User] = OrderedDict()

    def read(self, payload: bytes) -> NodeCommit:
        """Raises ValueError if this version of the program does not understand the payload."""
        commit = decode_commit(payload)
        users = {key: self._known(user) for key, user in commit.users.items()}
        changes: list[tuple[Changed, Counters]] = []
        for change in commit.changes:
            if change.state is None:
                raise ValueError("the log was written for brokers only")
            try:
                changes.append(_change(change, change.state, users))
            except LookupError:
                raise ValueError("a user is missing in an entry of the log") from None
        logged = commit.nodes or LoggedForNodes()
        people = [(Identity(Role.OPERATOR if each.is_operator else Role.USER, each.id), each) for each in logged.people]
        return NodeCommit(
            tuple(changes),
            tuple([identity for identity, _ in people]),
            frozenset([identity for identity, each in people if each.signed_out]),
            frozenset([identity for identity, each in people if each.renamed]),
            tuple([UUID(bytes=chat) for chat in logged.removed]),
            logged.accounts,
            logged.blocks,
            logged.widgets,
            commit.epoch,
            tuple([Identity(Role.USER, id_) for id_ in logged.takers]),
        )

    def _known(self, user: User) -> User:
        identity = identity_of(user)
        known = self._users.get(identity)
        if known == user and known is not None:
            return known
        self._users.pop(identity, None)
        self._users[identity] = user
        if len(self._users) > _KNOWN_USERS:
            self._users.popitem(last=False)
        return user


def _change(logged: LoggedChange, state: LoggedState, users: dict[int, User]) -> tuple[Changed, Counters]:
    chat = ChatState(
        uuid=UUID(bytes=logged.chat),
        source=logged.source,
        owner=users[logged.owner],
        stage=logged.stage,
        operator=users.get(logged.operator),
        rev=logged.rev,
        next_index=state.next_index,
        visitor_delivered=state.visitor_delivered,
        visitor_read=state.visitor_read,
        operators_delivered=state.operators_delivered,
        operators_read=state.operators_read,
        last_visitor_index=state.last_visitor_index,
        last_activity=state.last_activity,
        awaiting_since=state.awaiting_since,
        place=state.place,
        assigned_at=state.assigned_at,
    )
    messages = tuple([_message(each, users) for each in logged.messages])
    counters: Counters = (
        *[OperatorCounters(each.operator_id, each.new_chats, each.open_chats, each.rev) for each in state.operators],
        *[SourceCounters(each.source, each.unread_chats, each.rev) for each in state.sources],
    )
    return Changed(chat, messages[: state.added], logged.changed, messages[state.added :]), counters


def _message(logged: LoggedMessage, users: dict[int, User]) -> StoredMessage:
    return StoredMessage(
        id=logged.id,
        index=logged.index,
        rev=logged.rev,
        type=MessageType.SYSTEM if logged.is_system else MessageType.STANDARD,
        type_role=Role.OPERATOR if logged.for_operators else Role.USER,
        text=logged.text,
        author=users.get(logged.author),
        time=logged.time,
        client_id=logged.client_id,
        attachments=logged.attachments,
        edited_at=logged.edited_at,
        redacted=logged.redacted,
        edit_rev=logged.edit_rev,
    )
