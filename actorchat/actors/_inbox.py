"""The inbox of an address: two lanes, the bound, the overflow policies, and senders that wait for room."""

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
    """The policy of a full inbox for another message. Lost messages become dead letters.

    `Ref.send` waits for room with any policy. `Coalesce` is a fifth policy, `Stop` is `STOP` with a hint.
    """

    REJECT = "reject"
    """Refuse it: `tell` returns False, `ask` raises `MailboxFull`."""
    DROP_NEW = "drop_new"
    """Like REJECT, but counted separately, as an intended loss."""
    DROP_OLD = "drop_old"
    """Drop the oldest waiting message (its asker gets `MailboxFull`) and accept the new one."""
    STOP = "stop"
    """Cancel the actor, even inside its handler, so that a slow consumer does not slow down the others."""


@attrs.frozen
class Coalesce(Generic[M_contra]):
    """Keep one message per key: a newer message replaces the waiting one. The bound counts keys.

    Messages whose key is None, messages for which `key` raises, and all requests that are asked are queued unchanged.
    A full inbox rejects.
    """

    key: Callable[[M_contra], Hashable | None]


@attrs.frozen
class Stop:
    """Like `Overflow.STOP`, with a hint: the number of seconds to wait before trying again.

    `Actor.on_stop` and watchers get the hint with the end of the actor, an asker with its `MailboxFull`.
    """

    retry_after: float


@attrs.define(eq=False)
class Slot:
    """A place in the queue that holds the newest message of its key."""

    key: Hashable
    message: object


NOTHING = object()
"""No message."""

AWAKE: Final = Value(None)
"""The outcome that wakes a sleeping task. It is shared, because it is never unwrapped (docs/adr/0007)."""


@attrs.define(eq=False)
class Inbox:
    """The two lanes of one address. It belongs to the address: restarts and passivation don't empty it.

    Always, `accepted` = `begun` + `dropped` + the number of waiting messages. The bound is `accepted < begun + base`,
    where `base` is the bound plus what was dropped, or minus infinity while messages can't simply be appended.
    """

    bound: int
    newest: dict[Hashable, Slot] | None
    """With `Coalesce`: the keys that are waiting."""
    base: float = -inf
    accepted: int = 0
    begun: int = 0
    dropped: int = 0
    signals: int = 0
    """The number of control messages handled."""
    ticks: int = 0
    """The number of these that came from timers."""
    put: Callable[[object], None] = attrs.field(init=False)
    take: Callable[[], object] = attrs.field(init=False)
    handed: object = NOTHING
    """A message given directly to the parked task. It is older than all queued messages."""
    control: deque[object] | None = None
    attention: bool = False
    """Directives, control messages or waiting senders have to be processed before the next user message."""
    sleeper: trio.lowlevel.Task | None = None
    now: Callable[[object], bool] | None = None
    """`Actor.receive_now`, if it has to be tried before the sleeping task is woken."""
    left: bool = False
    """The sleeping task was cancelled."""
    waiters: dict[Call, None] | None = None

    def __attrs_post_init__(self) -> None:
        sender, receiver = trio.open_memory_channel[object](inf)
        self.put, self.take = sender.send_nowait, receiver.receive_nowait

    @property
    def queued(self) -> int:
        """The number of user messages that were accepted and have not begun."""
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
        self.attention = True
        task, self.sleeper = self.sleeper, None
        if task is not None:
            reschedule(task, AWAKE)

    def call_attention(self) -> None:
        self.attention = True
        self.wake()

    def wake(self) -> None:
        task, self.sleeper = self.sleeper, None
        if task is not None:
            reschedule(task, AWAKE)

    def leave(self, _: object) -> trio.lowlevel.Abort:
        """Called when the sleeping task is cancelled."""
        self.sleeper, self.left = None, True
        return trio.lowlevel.Abort.SUCCEEDED

    def take_next(self) -> object:
        """The oldest item; with `Coalesce`, the newest message of its key. The caller counts it as begun or dropped."""
        item, self.handed = self.handed, NOTHING
        if item is NOTHING:
            item = self.take()
        if isinstance(item, Slot) and self.newest is not None:
            del self.newest[item.key]
            item = item.message
        return item

    def drop_one(self) -> None:
        """Count one accepted message as dropped."""
        self.dropped += 1
        self.base += 1

    def skip(self) -> None:
        """Count the message that just began as dropped: its asker had given up before."""
        self.begun -= 1
        self.drop_one()

    def drop_oldest(self) -> object:
        self.drop_one()
        return self.take_next()

    async def wait_for_room(self, call: Call) -> None:
        """Wait until the message of `call` was accepted. If cancelled, it was not."""
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
        """Accept nothing more; senders that wait for room get `error`."""
        self.base = -inf
        waiters, self.waiters = self.waiters, None
        for call in waiters or ():
            call.fail(error())


def message_of(item: object) -> object:
    """The message of an item, whether it was asked or told."""
    return item.message if isinstance(item, Call) else item
