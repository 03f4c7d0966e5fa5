"""Owns the messages on their way, in the order of their sends, and which may leave now.

Refuses to know sockets and clocks: callers bring the time and tell what happened.

The rule of order: one message is in flight at a time. The next leaves when the one before it is stored or
finally refused, so a refused message that is tried again later is never overtaken by a later one.
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
    """Deliveries, oldest first; ``on_settled`` is called once for each that leaves it.

    Its bound is its owner's: a delivery is appended only by who holds one of the places.
    """

    backoff: Backoff
    on_settled: Callable[[], None]
    _waiting: deque[Delivery] = attrs.field(factory=deque, init=False)
    _in_flight: bool = attrs.field(default=False, init=False)
    _in_doubt: bool = attrs.field(default=False, init=False)
    _not_before: float = attrs.field(default=-math.inf, init=False)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def repeats(self) -> bool:
        """The oldest message may be stored already: it left on a socket that was lost, or its key was used before."""
        return self._in_doubt or (bool(self._waiting) and self._waiting[0].repeats)

    def append(self, delivery: Delivery) -> None:
        """Add the newest message."""
        self._waiting.append(delivery)

    def ready_at(self) -> float:
        """When the oldest message may leave; never (inf) with none, or while one is in flight."""
        return math.inf if self._in_flight or not self._waiting else self._not_before

    def take(self) -> Delivery:
        """Give the oldest message to a socket: it is in flight now."""
        self._in_flight = True
        return self._waiting[0]

    def stored(self, event: MessageAdded) -> bool:
        """A message was announced. True: it may be the answer to a repeated ``client_id``, which is in no order."""
        if not self._is_ours(event.client_id) or not self._waiting[0].is_stored_as(event.message):
            return False
        may_be_an_answer = self._in_flight and self.repeats
        self.backoff.reset()
        self._settle(outcome.Value(event.message))
        return may_be_an_answer

    def refused(self, event: MessageNotAdded, now: float) -> None:
        """A message was refused: for good, or to be tried again after a while."""
        ours = self._is_ours(event.client_id) or (event.client_id is None and self._in_flight)
        if not ours:
            return
        if event.retryable:
            self._in_flight = self._in_doubt = False
            self._not_before = now + self.backoff.next_delay(event.retry_after)
            return
        head = self._waiting[0]
        self._settle(
            outcome.Error(
                NotAdded(
                    event.code,
                    event.detail,
                    text=head.text,
                    client_id=head.client_id,
                    retry_after=event.retry_after,
                    attachments=event.attachments,
                )
            )
        )

    def socket_lost(self) -> None:
        """What was in flight may be stored or not: it leaves again on the next socket, in doubt."""
        self._in_doubt = self._in_doubt or self._in_flight
        self._in_flight = False
        self._not_before = -math.inf

    def blame(self, code: str, detail: str) -> bool:
        """A frame of ours broke the socket: refuse the message in flight. Whether there was one."""
        if not self._in_flight:
            return False
        head = self._waiting[0]
        self._settle(outcome.Error(NotAdded(code, detail, text=head.text, client_id=head.client_id)))
        return True

    def give_up(self) -> None:
        """The connection ended: nobody knows what became of the rest."""
        while self._waiting:
            head = self._waiting[0]
            self._settle(outcome.Error(Undelivered(head.text, head.client_id, head.attachments)))

    def _is_ours(self, client_id: str | None) -> bool:
        return bool(self._waiting) and self._waiting[0].client_id == client_id

    def _settle(self, result: outcome.Maybe[Message]) -> None:
        self._in_flight = self._in_doubt = False
        self._not_before = -math.inf
        self._waiting.popleft().settle(result)
        self.on_settled()
