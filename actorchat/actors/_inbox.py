"""Owns what waits at one address: two lanes, the bound, the overflow policies, senders that wait for room.

Knows neither what the messages mean nor who handles them.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Hashable
from math import inf
from typing import Final, Generic, TypeVar

import attrs
import trio
from outcome import Value
from trio.lowlevel import reschedule, wait_task_rescheduled

from actorchat.actors._request import Call

M_contra = TypeVar("M_contra", contravariant=True)


class Overflow(enum.Enum):
    """What a full inbox does with one message more. Whatever is lost becomes a dead letter.

    `Ref.send` waits for room whatever the policy. `Coalesce` is the fifth, `Stop` is `STOP` with a hint.
    """

    REJECT = "reject"
    """Refuse it: `tell` gives False, `ask` raises `MailboxFull`."""
    DROP_NEW = "drop_new"
    """As REJECT, under a reason of its own: the loss was agreed on."""
    DROP_OLD = "drop_old"
    """Drop the message that waits longest (its asker gets `MailboxFull`) and take the new one."""
    STOP = "stop"
    """Cancel the actor, even inside its handler: a slow consumer goes, rather than slow everyone down."""


@attrs.frozen
class Coalesce(Generic[M_contra]):
    """Keep one message per key: a newer one takes the place of the waiting one. Only keys are bounded.

    A message whose key is None, and every ask, is queued as it is; so is one for which `key` raises. A full inbox
    rejects.
    """

    key: Callable[[M_contra], Hashable | None]


@attrs.frozen
class Stop:
    """As `Overflow.STOP`, with a hint: in how many seconds it is worth coming back.

    `Actor.on_stop` and watchers get it with the end of the actor, an asker with its `MailboxFull`.
    """

    retry_after: float


@attrs.define(eq=False)
class Slot:
    """Stands in the channel for the newest message of its key."""

    key: Hashable
    message: object


NOTHING = object()
"""No message."""

AWAKE: Final = Value(None)
"""What a sleeper is woken with. The same for each, since a sleeper never unwraps it (docs/adr/0007)."""


@attrs.define(eq=False)
class Inbox:
    """The two lanes of one address. Belongs to the address: no restart and no passivation empties it.

    `accepted` = `begun` + `dropped` + what waits, always. The bound is kept by `accepted < begun + base`, where
    `base` is the bound and what was dropped, or minus infinity while a message can't simply be put in.
    """

    bound: int
    newest: dict[Hashable, Slot] | None
    """Under `Coalesce`: which keys wait."""
    base: float = -inf
    accepted: int = 0
    begun: int = 0
    dropped: int = 0
    signals: int = 0
    """Control messages handled."""
    ticks: int = 0
    """Those of them that timers made."""
    put: Callable[[object], None] = attrs.field(init=False)
    take: Callable[[], object] = attrs.field(init=False)
    handed: object = NOTHING
    """As a channel would: what a parked receiver is given does not pass through the buffer. Older than the buffer."""
    control: deque[object] | None = None
    attention: bool = False
    """Something besides user messages is to be seen to before the next of them."""
    sleeper: trio.lowlevel.Task | None = None
    now: Callable[[object], bool] | None = None
    """Whether a sleeper is asked first, and what with: `Actor.receive_now`."""
    left: bool = False
    """A sleeper was cancelled."""
    waiters: dict[Call, None] | None = None

    def __attrs_post_init__(self) -> None:
        sender, receiver = trio.open_memory_channel[object](inf)
        self.put, self.take = sender.send_nowait, receiver.receive_nowait

    @property
    def queued(self) -> int:
        """User messages accepted and not begun."""
        return self.accepted - self.begun - self.dropped

    @property
    def empty(self) -> bool:
        return not (self.queued or self.control)

    @property
    def full(self) -> bool:
        return self.queued >= self.bound

    def add(self, item: object) -> None:
        self.accepted += 1
        if self.sleeper is None:
            self.put(item)
        else:
            self.handed = item
            self.wake()

    def signal(self, item: object) -> None:
        if self.control is None:
            self.control = deque()
        self.control.append(item)
        self.call_attention()

    def call_attention(self) -> None:
        self.attention = True
        self.wake()

    def wake(self) -> None:
        task, self.sleeper = self.sleeper, None
        if task is not None:
            reschedule(task, AWAKE)

    def leave(self, _: object) -> trio.lowlevel.Abort:
        """The sleeper is cancelled."""
        self.sleeper, self.left = None, True
        return trio.lowlevel.Abort.SUCCEEDED

    def take_next(self) -> object:
        """The oldest item, under `Coalesce` the newest message of its key. The caller counts it as begun or dropped."""
        item, self.handed = self.handed, NOTHING
        if item is NOTHING:
            item = self.take()
        if isinstance(item, Slot) and self.newest is not None:
            del self.newest[item.key]
            item = item.message
        return item

    def drop_one(self) -> None:
        """One accepted message will never begin."""
        self.dropped += 1
        self.base += 1

    def skip(self) -> None:
        """The message just begun turned out to be abandoned: it never began."""
        self.begun -= 1
        self.drop_one()

    def drop_oldest(self) -> object:
        self.drop_one()
        return self.take_next()

    async def wait_for_room(self, call: Call) -> None:
        """Cancelled, its message is not in."""
        if self.waiters is None:
            self.waiters = {}
        waiters = self.waiters
        waiters[call] = None
        self.attention = True

        def leave(_: object) -> trio.lowlevel.Abort:
            del waiters[call]
            return call.abort(_)

        await wait_task_rescheduled(leave)

    def close(self, error: Callable[[], Exception]) -> None:
        """Nothing more is taken in the short way, and who waits for room gets `error`."""
        self.base = -inf
        waiters, self.waiters = self.waiters, None
        for call in waiters or ():
            call.fail(error())


def message_of(item: object) -> object:
    """The message itself, whether asked or told."""
    return item.message if isinstance(item, Call) else item
