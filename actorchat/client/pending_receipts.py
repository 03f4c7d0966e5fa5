"""Holds the latest receipts and typing update that have to be sent; a newer value replaces an unsent one."""

import math
from typing import Final

import attrs

from actorchat.client.backoff import Backoff
from actorchat.protocol.commands import MarkMessageDelivered, MarkMessageRead, UpdateTyping
from actorchat.protocol.limits import DEFAULT_MAX_TEXT_CHARS

REFUSAL_MEMORY_SECONDS: Final = 60.0
"""How long after a refused receipt the client sends receipts more slowly."""

THROTTLED_INTERVAL: Final = 0.5
"""Seconds between two receipts after one was refused."""

TYPING_INTERVAL: Final = 0.25
"""Seconds between two typing updates; the server does not forward them to the feed more often."""


@attrs.define(eq=False)
class _Mark:
    """The highest message to mark. An index of None is an unknown message, which is assumed to be the newest."""

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
    """The highest delivered and read messages, and the latest typing update, of one room connection."""

    backoff: Backoff
    _delivered: _Mark = attrs.field(factory=_Mark, init=False)
    _read: _Mark = attrs.field(factory=_Mark, init=False)
    _not_before: float = attrs.field(default=-math.inf, init=False)
    _refused_at: float = attrs.field(default=-math.inf, init=False)
    _typing: UpdateTyping | None = attrs.field(default=None, init=False)
    _typing_not_before: float = attrs.field(default=-math.inf, init=False)

    def delivered(self, message_id: int, index: int | None) -> None:
        """Mark all messages up to this one as delivered. A message lower than an earlier one changes nothing."""
        self._delivered.raise_to(message_id, index)

    def read(self, message_id: int, index: int | None) -> None:
        """Mark all messages up to this one as read. A message lower than an earlier one changes nothing."""
        self._read.raise_to(message_id, index)

    def typing(self, text: str, *, stopped: bool) -> None:
        """Report the text of the input field, cut to the maximum length of a message."""
        self._typing = UpdateTyping(text[:DEFAULT_MAX_TEXT_CHARS].replace("\0", ""), stopped)

    def clear_typing(self) -> None:
        """Drop the typing update that is not sent yet."""
        self._typing = None

    @property
    def due(self) -> bool:
        """Whether a receipt waits to be sent."""
        return self._delivered.due or self._read.due

    def ready_at(self) -> float:
        """The time at which the next command may be sent; inf if there is none."""
        marks = self._not_before if self.due else math.inf
        return marks if self._typing is None else min(marks, self._typing_not_before)

    def take(self, now: float) -> MarkMessageDelivered | MarkMessageRead | UpdateTyping | None:
        """Return the next command that may be sent now, receipts before typing, or None."""
        if now >= self._not_before:
            mark = self._take_mark()
            if mark is not None:
                if now - self._refused_at < REFUSAL_MEMORY_SECONDS:
                    # One at a time: an overloaded server that refuses two at once may accept a single one.
                    self._not_before = now + THROTTLED_INTERVAL
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
        """Send both receipts again after a backoff: the server refused one for now and did not say which."""
        if now - self._refused_at >= REFUSAL_MEMORY_SECONDS:
            self.backoff.reset()
        self._refused_at = now
        self._not_before = now + self.backoff.next_delay(THROTTLED_INTERVAL)
        self._resend()

    def socket_lost(self) -> None:
        """Send the receipts again on the next socket, because they may not have arrived. Typing is dropped."""
        self._not_before = -math.inf
        self._resend()
        self.clear_typing()

    def _resend(self) -> None:
        # A repeated receipt changes nothing on the server.
        for mark in (self._delivered, self._read):
            mark.due = mark.message_id is not None

    def discard(self) -> None:
        """Forget everything: the server closed the socket because of it, or the messages are of an old history."""
        self._delivered, self._read = _Mark(), _Mark()
        self.clear_typing()
