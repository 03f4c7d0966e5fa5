"""Owns what waits at one address: two lanes, the bound, the overflow policies, senders that wait for room.

Knows neither what the messages mean nor who handles them.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Hashable
from math import inf
from typing import TYPE_CHECKING, Final, Generic, NoReturn, TypeVar

import attrs
import outcome
import trio
from trio.lowlevel import reschedule

from actorchat.actors._message import Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from actorchat.actors._ref import Ref

__all__ = ["Coalesce", "Inbox", "Overflow", "Slot"]

M_contra = TypeVar("M_contra", contravariant=True)


class Overflow(enum.Enum):
    """What a full inbox does with one message more. Whatever is lost becomes a dead letter.

    `Ref.send` waits for room whatever the policy. `Coalesce` is the fifth.
    """

    REJECT = "reject"
    """Refuse it: `tell` gives False, `ask` raises `MailboxFull`."""
    DROP_NEW = "drop_new"
    """As REJECT, under a reason of its own: the loss was agreed on."""
    DROP_OLD = "drop_old"
    """Drop the message that waits longest (its asker gets `MailboxFull`) and take the new one."""
    STOP = "stop"
    """Kill the actor, even inside its handler: a slow consumer goes, rather than slow everyone down."""


@attrs.frozen
class Coalesce(Generic[M_contra]):
    """Keep one message per key: a newer one takes the place of the waiting one. Only keys are bounded.

    A message whose key is None, and every ask, is queued as it is. A full inbox rejects.
    """

    key: Callable[[M_contra], Hashable | None]


class Slot:
    """Stands in the channel for the newest message of its key."""

    __slots__ = ("key",)

    def __init__(self, key: Hashable) -> None:
        self.key = key


class Waiter:
    """A task in `Ref.send` without room; its message is here, so whoever drains can take it in."""

    __slots__ = ("asker", "message", "task")

    def __init__(self, message: object, asker: Ref[NoReturn] | None) -> None:
        self.task = trio.lowlevel.current_task()
        self.message, self.asker = message, asker

    def wake(self, result: outcome.Outcome[None]) -> None:
        if self.asker is not None:
            self.asker._waits_for = None
        trio.lowlevel.reschedule(self.task, result)


NOTHING: Final[list[object]] = []
"""Stands for every empty control lane, which most are. Never filled."""


class Inbox:
    """The two lanes of one address. Belongs to the address: no restart and no passivation empties it.

    `accepted` = `begun` + `dropped` + what waits, always. The bound is kept by `accepted < begun + base`, where
    `base` is the bound and what was dropped, or minus infinity while a message can't simply be put in.
    """

    __slots__ = (
        "accepted",
        "attention",
        "base",
        "begun",
        "bound",
        "channel",
        "control",
        "dropped",
        "handled",
        "newest",
        "put",
        "sleeper",
        "take",
        "taken",
        "urgent",
        "waiters",
    )

    def __init__(self, bound: int) -> None:
        if bound < 1:
            raise ValueError("an inbox holds at least one message")
        self.channel, receiver = trio.open_memory_channel[object](inf)
        self.put, self.take = self.channel.send_nowait, receiver.receive_nowait
        self.bound = bound
        self.base: float = -inf
        self.accepted = self.begun = self.dropped = 0
        self.handled = 0
        """Control messages handled."""
        # Newest first, so that the next one is popped from the end.
        self.taken: list[object] = []
        self.urgent = self.control = NOTHING
        self.attention = False
        """Something besides user messages is to be seen to before the next of them."""
        self.sleeper: trio.lowlevel.Task | None = None
        self.waiters: deque[Waiter] | None = None
        self.newest: dict[Hashable, object] | None = None

    @property
    def queued(self) -> int:
        """User messages accepted and not begun."""
        return self.accepted - self.begun - self.dropped

    @property
    def empty(self) -> bool:
        return not (self.accepted - self.begun - self.dropped or self.control or self.urgent)

    @property
    def full(self) -> bool:
        return self.accepted - self.begun - self.dropped >= self.bound

    def open(self) -> None:
        """From now on `Ref.tell` may put messages in by itself, up to the bound."""
        self.base = self.bound + self.dropped

    def close(self) -> None:
        """From now on every message takes the way that asks first."""
        self.base = -inf

    def add(self, item: object) -> None:
        self.accepted += 1
        if self.sleeper is None:
            self.put(item)
        else:
            # As the channel itself would: what a parked receiver is given does not pass through the buffer.
            self.taken.append(item)
            self.wake()

    def add_newest(self, key: Hashable, message: object) -> tuple[object] | None:
        """Put `message` in under its key; the waiting one that it replaces, in a tuple, else None."""
        if self.newest is None:
            self.newest = {}
        if key in self.newest:
            replaced = (self.newest[key],)
            self.newest[key] = message
            # The replaced one is the one lost; the newest has its place.
            self.accepted += 1
            self.drop_one()
            return replaced
        self.newest[key] = message
        self.add(Slot(key))
        return None

    def add_control(self, item: object) -> None:
        if self.control is NOTHING:
            self.control = [item]
        else:
            self.control.append(item)
        self.call_attention()

    def call_attention(self) -> None:
        self.attention = True
        if self.sleeper is not None:
            self.wake()

    def wake(self) -> None:
        task, self.sleeper = self.sleeper, None
        if task is not None:
            reschedule(task)

    def leave(self, _: object) -> trio.lowlevel.Abort:
        """The sleeper is cancelled."""
        self.sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED

    def take_up(self, most: int) -> list[object]:
        """Move up to `most` waiting messages out of the channel into `taken`; those count as waiting still."""
        take, taken = self.take, self.taken
        buffered = self.accepted - self.begun - self.dropped - len(taken)
        most = min(buffered, most - len(taken))
        if most > 0:
            taken[:0] = reversed([take() for _ in range(most)])
        return taken

    def unwrap(self, slot: Slot) -> object:
        assert self.newest is not None  # noqa: S101 - a slot is made together with its entry
        return self.newest.pop(slot.key)

    def drop_one(self) -> None:
        """One accepted message will never begin."""
        self.dropped += 1
        self.base += 1

    def skip(self) -> None:
        """The message just begun turned out to be abandoned: it never began."""
        self.begun -= 1
        self.drop_one()

    def drop_oldest(self) -> object:
        item = self.taken.pop() if self.taken else self.take()
        self.drop_one()
        return self.unwrap(item) if isinstance(item, Slot) else item

    def admit(self) -> None:
        """Take in the messages of waiting senders, in their order, as far as there is room."""
        waiters = self.waiters
        while waiters and not self.full:
            waiter = waiters.popleft()
            self.add(waiter.message)
            waiter.wake(outcome.Value(None))
        if waiters:
            # Look again after the next message: that is when there is room.
            self.attention = True
        else:
            self.waiters = None

    async def wait_for_room(self, message: object, asker: Ref[NoReturn] | None) -> None:
        waiter = Waiter(message, asker)
        if self.waiters is None:
            self.waiters = deque()
        waiters = self.waiters
        waiters.append(waiter)
        self.attention = True

        def leave(_: object) -> trio.lowlevel.Abort:
            waiters.remove(waiter)
            if asker is not None:
                asker._waits_for = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def empty_out(self) -> Iterator[object]:
        """Drop and give all that waits, oldest first. Coalesced messages come as themselves."""
        while self.accepted - self.begun - self.dropped:
            yield self.drop_oldest()

    def empty_control(self) -> Iterator[object]:
        while self.urgent:
            yield self.urgent.pop()
        control, self.control = self.control, NOTHING
        yield from control

    def refuse_waiters(self, error: Callable[[], Exception]) -> None:
        waiters, self.waiters = self.waiters, None
        for waiter in waiters or ():
            waiter.wake(outcome.Error(error()))

    def check(self) -> bool:
        """The count agrees with what is really there."""
        return self.queued == self.channel.statistics().current_buffer_used + len(self.taken)


def request_of(item: object) -> object:
    """The message itself, whether asked or told."""
    return item.message if isinstance(item, Call) else item
