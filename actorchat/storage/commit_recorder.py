"""Collects what the commit log says of one batch, from its decisions and the rows it changes."""

from __future__ import annotations

from collections.abc import Iterable

from actorchat.chat.commit_log import CommitEncoder
from actorchat.chat.model import OperatorCounters, PersonRecord
from actorchat.protocol import Operator
from actorchat.storage.decider import Changes
from actorchat.storage.row_cache import RowCache
from actorchat.storage.store import DecisionAndCounters

__all__ = ["CommitRecorder"]


class CommitRecorder:
    """Collects the log entry of a batch at `now`, epoch seconds."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._encoder = CommitEncoder()

    def add(self, decided: Iterable[DecisionAndCounters], changes: Changes, rows: RowCache) -> None:
        """Add what was decided. To be called before `rows` are made what `changes` say."""
        self._encoder.add_changes(decided)
        for operator_id in self._shown_operators(changes, rows):
            person = changes.people.get((True, operator_id)) or rows.people.get((True, operator_id))
            if person is not None:
                self._add_operator(person, changes.operators.get(operator_id) or rows.operators.get(operator_id))
        for counters in changes.sources.values():
            self._encoder.add_source(counters)

    def payload(self) -> bytes | None:
        """The payload of the log's row, None if the batch needs none."""
        return self._encoder.payload()

    def _shown_operators(self, changes: Changes, rows: RowCache) -> Iterable[int]:
        """The operators of whom something changed that consoles are shown."""
        shown = dict.fromkeys(changes.operators)
        for (is_operator, id_), person in changes.people.items():
            if is_operator and self._view(person) != self._view(rows.people.get((True, id_))):
                shown[id_] = None
        return shown

    def _view(self, person: PersonRecord | None) -> object:
        return None if person is None else (person.user, person.online, person.sources(self._now))

    def _add_operator(self, person: PersonRecord, counters: OperatorCounters | None) -> None:
        counters = counters or OperatorCounters(person.user.id)
        operator = Operator(person.user, person.online, counters.new_chats, counters.open_chats)
        self._encoder.add_operator(operator, person.sources(self._now))
