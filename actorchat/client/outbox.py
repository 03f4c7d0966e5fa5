"""Queues outgoing messages and decides when the next one may be sent.

Only one message is in flight at a time. The next is sent when the one before is stored or refused for good, so that a
message that has to be retried is never overtaken by a later one.
"""

import math
from collections import deque
from collections.abc import Callable

import attrs
import outcome

from actorchat.client.backoff import Backoff
from actorchat.client.delivery import Delivery
from actorchat.client.errors import NotAdded, Undelivered
from actorchat.protocol.entities import Message
from actorchat.protocol.events import MessageAdded, MessageNotAdded


@attrs.define(eq=False)
class Outbox:
    """The queue of one room connection, oldest message first.

    ``on_settled`` is called once for each message that leaves the queue. The room bounds the length of the queue.
    """

    backoff: Backoff
    on_settled: Callable[[], None]
    _waiting: deque[Delivery] = attrs.field(factory=deque, init=False)
    _in_flight: bool = attrs.field(default=False, init=False)
    _in_doubt: bool = attrs.field(default=False, init=False)
    """The oldest message was sent on a socket that was lost, so it may be stored already."""
    _not_before: float = attrs.field(default=-math.inf, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def repeats(self) -> bool:
        """Whether the oldest message may be stored already, because it or its ``client_id`` was sent before."""
        return self._in_doubt or (bool(self._waiting) and self._waiting[0].repeats)

    def append(self, delivery: Delivery) -> None:
        """Queue a message."""
        self._waiting.append(delivery)

    def ready_at(self) -> float:
        """The time at which the oldest message may be sent; inf if there is none, or while one is in flight."""
        return math.inf if self._in_flight or not self._waiting else self._not_before

    def take(self) -> Delivery:
        """Return the oldest message for sending, and mark it as in flight."""
        self._in_flight = True
        return self._waiting[0]

    def stored(self, event: MessageAdded, *, known: bool) -> bool:
        """Settle the oldest message if the event confirms it. ``known``: the event's message has come before.

        A stored message may have another text, because it was edited. Then the event confirms the oldest message if its
        ``client_id`` was never used before, or if the event is the answer to it: only an answer repeats a message.
        Returns True if the event may be the answer to a repeated ``client_id``, which comes out of order.
        """
        if not self._is_oldest(event.client_id):
            return False
        oldest = self._waiting[0]
        may_be_out_of_order = self._in_flight and self.repeats
        is_answer = self._in_flight and known
        if oldest.repeats and not is_answer and not oldest.is_stored_as(event.message):
            return may_be_out_of_order
        self.backoff.reset()
        self._settle(outcome.Value(event.message))
        return may_be_out_of_order

    def refused(self, event: MessageNotAdded, now: float) -> None:
        """Settle the oldest message if the event refuses it for good; schedule a retry if the refusal is temporary."""
        is_oldest = self._is_oldest(event.client_id) or (event.client_id is None and self._in_flight)
        if not is_oldest:
            return
        if event.retryable:
            self._in_flight = self._in_doubt = False
            self._not_before = now + self.backoff.next_delay(event.retry_after)
            return
        oldest = self._waiting[0]
        self._settle(
            outcome.Error(
                NotAdded(
                    event.code,
                    event.detail,
                    text=oldest.text,
                    client_id=oldest.client_id,
                    retry_after=event.retry_after,
                    attachments=event.attachments,
                )
            )
        )

    def socket_lost(self) -> None:
        """Send the message in flight again on the next socket, because it may or may not be stored."""
        self._in_doubt = self._in_doubt or self._in_flight
        self._in_flight = False
        self._not_before = -math.inf

    def fail_in_flight(self, code: str, detail: str) -> bool:
        """Fail the message in flight, whose frame made the server close the socket. Returns whether there was one."""
        if not self._in_flight:
            return False
        oldest = self._waiting[0]
        self._settle(outcome.Error(NotAdded(code, detail, text=oldest.text, client_id=oldest.client_id)))
        return True

    def fail_all(self) -> None:
        """Fail all messages with `Undelivered`, because the connection has ended."""
        while self._waiting:
            oldest = self._waiting[0]
            self._settle(outcome.Error(Undelivered(oldest.text, oldest.client_id, oldest.attachments)))

    def _is_oldest(self, client_id: str | None) -> bool:
        return bool(self._waiting) and self._waiting[0].client_id == client_id

    def _settle(self, result: outcome.Maybe[Message]) -> None:
        self._in_flight = self._in_doubt = False
        self._not_before = -math.inf
        self._waiting.popleft().settle(result)
        self.on_settled()
