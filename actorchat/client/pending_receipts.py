"""Owns what a client tells of itself where only the latest counts: marks and typing.

Refuses to know sockets and clocks.

Overflow policy: a newer value replaces the one that waits, so nothing here grows.
"""

import math
from typing import Final

import attrs

from actorchat.client.backoff import Backoff
from actorchat.protocol.commands import MarkMessageDelivered, MarkMessageRead, UpdateTyping
from actorchat.protocol.limits import DEFAULT_MAX_TEXT_CHARS

CALM_SECONDS: Final = 60.0
"""A refused mark this long after the last one is the first again."""

CAREFUL_INTERVAL: Final = 0.5
"""Seconds between two marks after one was refused."""

TYPING_INTERVAL: Final = 0.25
"""Seconds between two typing updates; the server tells the feed no more often."""


@attrs.define(eq=False)
class _Mark:
    """The highest message marked; an index of None is a message not seen lately, taken for the newest."""

    message_id: int | None = None
    index: int | None = None
    due: bool = False

    def raise_to(self, message_id: int, index: int | None) -> None:
        if self.message_id is not None and self.index is not None and index is not None and index <= self.index:
            return
        self.message_id, self.index, self.due = message_id, index, True

    def take(self) -> int | None:
        due, self.due = self.due, False
        return self.message_id if due else None


@attrs.define(eq=False)
class PendingReceipts:
    """The highest delivered and read marks, and what stands in the input field."""

    backoff: Backoff
    _delivered: _Mark = attrs.field(factory=_Mark, init=False)
    _read: _Mark = attrs.field(factory=_Mark, init=False)
    _not_before: float = attrs.field(default=-math.inf, init=False)
    _refused_at: float = attrs.field(default=-math.inf, init=False)
    _typing: UpdateTyping | None = attrs.field(default=None, init=False)
    _typing_not_before: float = attrs.field(default=-math.inf, init=False)

    def delivered(self, message_id: int, index: int | None) -> None:
        """Everything up to this message arrived; a lower one than told before changes nothing."""
        self._delivered.raise_to(message_id, index)

    def read(self, message_id: int, index: int | None) -> None:
        """Everything up to this message was read; a lower one than told before changes nothing."""
        self._read.raise_to(message_id, index)

    def typing(self, text: str, *, stopped: bool) -> None:
        """The input field changed; text over the limit of a message is cut."""
        self._typing = UpdateTyping(text[:DEFAULT_MAX_TEXT_CHARS].replace("\0", ""), stopped)

    def forget_typing(self) -> None:
        """The text was sent, or nobody is there to see it."""
        self._typing = None

    @property
    def due(self) -> bool:
        """Whether a mark waits to be sent."""
        return self._delivered.due or self._read.due

    def ready_at(self) -> float:
        """When the next one may leave; never (inf) if nothing waits."""
        marks = self._not_before if self.due else math.inf
        return marks if self._typing is None else min(marks, self._typing_not_before)

    def take(self, now: float) -> MarkMessageDelivered | MarkMessageRead | UpdateTyping | None:
        """What may leave now, marks before typing."""
        if now >= self._not_before:
            mark = self._take_mark()
            if mark is not None:
                if now - self._refused_at < CALM_SECONDS:
                    # One at a time: a full server may have room for one and never for two.
                    self._not_before = now + CAREFUL_INTERVAL
                return mark
        if self._typing is None or now < self._typing_not_before:
            return None
        update, self._typing = self._typing, None
        self._typing_not_before = now + TYPING_INTERVAL
        return update

    def _take_mark(self) -> MarkMessageDelivered | MarkMessageRead | None:
        if (message_id := self._delivered.take()) is not None:
            return MarkMessageDelivered(message_id)
        if (message_id := self._read.take()) is not None:
            return MarkMessageRead(message_id)
        return None

    def refused(self, now: float) -> None:
        """The server can't take a mark now, and does not say which: tell them again after a while."""
        if now - self._refused_at >= CALM_SECONDS:
            self.backoff.reset()
        self._refused_at = now
        self._not_before = now + self.backoff.next_delay(CAREFUL_INTERVAL)
        self._tell_again()

    def socket_lost(self) -> None:
        """Tell the marks again on the next socket, for they may have been lost."""
        self._not_before = -math.inf
        self._tell_again()
        self.forget_typing()

    def _tell_again(self) -> None:
        # A repeat changes nothing.
        for mark in (self._delivered, self._read):
            mark.due = mark.message_id is not None

    def drop(self) -> None:
        """Tell none of this again: it broke the socket, or its messages are of another history."""
        self._delivered, self._read = _Mark(), _Mark()
        self.forget_typing()
