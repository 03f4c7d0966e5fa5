"""Collects what the commit log says of one batch, from its decisions and the rows it changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from actorchat.chat.commit_log import CommitEncoder, LoggedForNodes, LoggedPerson, NodeCommitEncoder
from actorchat.chat.documents import DocumentKind
from actorchat.chat.model import OperatorCounters, PersonRecord
from actorchat.chat.operations import HandedOver
from actorchat.protocol import Operator, Role
from actorchat.storage.changes import Changes
from actorchat.storage.row_cache import RowCache
from actorchat.storage.store import DecisionAndCounters

__all__ = ["CommitRecorder"]


class CommitRecorder:
    """Collects the log entry of a batch at `now`, epoch seconds, in the log's `epoch`.

    `nodes`: other nodes read it too.
    """

    def __init__(self, now: float, epoch: int, *, nodes: bool = False) -> None:
        self._now = now
        self._epoch = epoch
        self._for_nodes = NodeCommitEncoder() if nodes else None
        self._encoder = self._for_nodes or CommitEncoder()

    def add(self, decided: Iterable[DecisionAndCounters], changes: Changes, rows: RowCache) -> None:
        """Add decisions. Call this before `changes` are applied to `rows`."""
        self._encoder.add_changes(_each(decided))
        for operator_id in self._shown_operators(changes, rows):
            person = changes.people.get((True, operator_id)) or rows.people.get((True, operator_id))
            if person is not None:
                self._add_operator(person, changes.operators.get(operator_id) or rows.operators.get(operator_id))
        for counters in changes.sources.values():
            self._encoder.add_source(counters)
        if self._for_nodes is not None:
            self._for_nodes.add_for_nodes(_for_nodes(changes, rows))

    def payload(self) -> bytes | None:
        """The payload of the log's row, None if the batch needs none."""
        return self._encoder.payload(self._epoch)

    def _shown_operators(self, changes: Changes, rows: RowCache) -> Iterable[int]:
        """The operators of whom something changed that consoles are shown."""
        shown = dict.fromkeys(changes.operators)
        for (is_operator, id_), person in changes.people.items():
            if is_operator and self._view(person) != self._view(rows.people.get((True, id_))):
                shown[id_] = None
        return shown

    def _view(self, person: PersonRecord | None) -> object:
        return None if person is None else (person.user, person.is_online, person.sources(self._now))

    def _add_operator(self, person: PersonRecord, counters: OperatorCounters | None) -> None:
        counters = counters or OperatorCounters(person.user.id)
        operator = Operator(person.user, person.is_online, counters.new_chats, counters.open_chats)
        self._encoder.add_operator(operator, person.sources(self._now))


def _each(decided: Iterable[DecisionAndCounters]) -> Iterator[DecisionAndCounters]:
    """The decisions, with each chat that a hand-over has changed by itself."""
    for decision, counters in decided:
        if isinstance(decision, HandedOver):
            yield from decision.counted(counters)
        else:
            yield decision, counters


def _for_nodes(changes: Changes, rows: RowCache) -> LoggedForNodes:
    return LoggedForNodes(
        tuple([_logged(person, rows.people.get(key)) for key, person in changes.people.items()]),
        tuple([draft.before.uuid.bytes for draft in changes.deleted]),
        bool(changes.accounts),
        bool(changes.blocks),
        tuple([key.scope for key in changes.documents if key.kind is DocumentKind.WIDGET]),
        tuple([taker.id for taker in changes.givers.values()]),
    )


def _logged(person: PersonRecord, before: PersonRecord | None) -> LoggedPerson:
    signed_out = person.signed_out_at > (0.0 if before is None else before.signed_out_at)
    renamed = before is not None and before.user != person.user
    return LoggedPerson(person.user.role is Role.OPERATOR, person.user.id, signed_out, renamed)
