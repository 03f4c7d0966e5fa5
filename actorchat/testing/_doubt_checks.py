"""Checks that a store knows, after a COMMIT whose answer was lost, whether the batch is stored, and for good."""

# ruff: noqa: S101 - a conformance suite consists of assertions

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final, Protocol

from actorchat.chat.operations import AddMessage, Changed, ReserveChat
from actorchat.chat.ports import StorageUnavailable
from actorchat.storage.store import Batch, CommitInDoubt, Store
from actorchat.testing._store_writer import ANN, CHAT, NOW, SHOP

__all__ = ["CommitCut", "CommitLine", "check_doubt"]

_WRITER: Final = "writer"
_MOST_TRIES: Final = 20
_SETTLE_SECONDS: Final = 30.0


class CommitCut(Enum):
    """The outcomes of a COMMIT whose connection is cut."""

    LOST = auto()
    """It never reaches the database."""
    ARRIVED = auto()
    """The database has committed, and its answer is lost."""
    LATE = auto()
    """It reaches the database some time after the store has lost the connection."""


class CommitLine(Protocol):
    """The connections of a store to its database, such as a proxy between both."""

    def cut_next_commit(self, cut: CommitCut, late: float) -> None:
        """Cut the connection on which the next COMMIT is sent. `late` is in seconds, for `CommitCut.LATE`."""

    def wait_settled(self, seconds: float) -> bool:
        """Wait until what was cut can have no further effect. False if it still can after so many seconds."""


def check_doubt(store: Store, line: CommitLine, *, late: Sequence[float] = (0.6, 2.0, 6.0)) -> list[bool]:
    """Cut the COMMITs of an empty `store`, and check that `recover` tells what is stored, now and later.

    One COMMIT is lost, one arrives, and one arrives `late` by each of these seconds. Returns which were stored. Raises
    AssertionError.
    """
    talk = _Talk(store)
    cuts = [(CommitCut.LOST, 0.0), (CommitCut.ARRIVED, 0.0), *((CommitCut.LATE, seconds) for seconds in late)]
    stored = [talk.in_doubt(line, cut, seconds) for cut, seconds in cuts]
    assert stored[:2] == [False, True], "a COMMIT that is lost is not stored, one that arrived is"
    return stored


class _Talk:
    """Adds messages to one chat, and knows which of them have to be stored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 1
        self._texts: list[str] = []
        store.commit([ReserveChat(CHAT, SHOP, ANN)], Batch(_WRITER, 1, NOW))
        self._say("first")

    def _batch(self) -> Batch:
        self._number += 1
        return Batch(_WRITER, self._number, NOW)

    def _say(self, text: str) -> None:
        [(decision, _)] = self._store.commit([AddMessage(CHAT, ANN, text)], self._batch())
        assert isinstance(decision, Changed)
        self._texts.append(text)
        self._check()

    def in_doubt(self, line: CommitLine, cut: CommitCut, late: float) -> bool:
        text, batch = f"{cut.name} by {late} s", self._batch()
        line.cut_next_commit(cut, late)
        try:
            self._store.commit([AddMessage(CHAT, ANN, text)], batch)
        except CommitInDoubt as doubt:
            [(decision, _)] = doubt.decided
            assert isinstance(decision, Changed)
        else:
            raise AssertionError(f"COMMIT was answered, although it was cut ({text})")
        stored = self._recovered(batch)
        if stored:
            self._texts.append(text)
        self._check()
        assert line.wait_settled(_SETTLE_SECONDS)
        # What arrives now has no effect, and the next commit is right on top.
        self._say(f"after {text}")
        return stored

    def _recovered(self, batch: Batch) -> bool:
        """Recover until there is an answer, as the journal does."""
        for _ in range(_MOST_TRIES):
            try:
                return self._store.recover(batch)
            except StorageUnavailable:
                continue
        raise AssertionError("recover has no answer")

    def _check(self) -> None:
        page = self._store.since(CHAT, rev=0, limit=1_000)
        assert page is not None
        assert [message.text for message in page.messages] == self._texts
        assert [message.index for message in page.messages] == list(range(len(self._texts)))
