"""Requests and their replies."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, Self, TypeVar

import attrs
import trio
from outcome import Error, Outcome, Value
from trio.lowlevel import current_task, reschedule

from actorchat.actors._errors import AskTimeout, NoReply

if TYPE_CHECKING:
    from actorchat.actors._clock import Alarm
    from actorchat.actors._ref import Ref

R = TypeVar("R")
M_co = TypeVar("M_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class Askable(Protocol[M_co, R_co]):
    """The argument of `Ref.ask`: a message that names the type of its reply. Subclass `Request` to write one."""

    def __asks__(self) -> tuple[M_co, R_co]: ...


class Request(Generic[R]):
    """Base class of messages that are answered with an `R`. If it is sent with `tell`, the reply is dropped."""

    __slots__ = ()

    def __asks__(self) -> tuple[Self, R]:
        raise TypeError("only type checkers ask a request what it asks")


@attrs.define(eq=False)
class Call:
    """One task that waits for one answer.

    For an ask, it is in the inbox in place of its request, then with the handler until it is answered. For a `send`
    that waits for room, the inbox holds it. For a start, the address holds it.
    """

    message: object
    target: Ref[NoReturn]
    asker: Ref[NoReturn] | None = None
    deadline: float = inf
    """Also limits the requests that the handler asks before it has answered."""
    alarm: Alarm | None = None
    begun: bool = False
    still_open: set[Call] | None = None
    """The deferred answers of the incarnation, if this is one of them."""
    done: bool = False
    task: trio.lowlevel.Task = attrs.Factory(current_task)

    def reply(self, value: object) -> None:
        self.deadline = inf
        if self.done:
            self.target._system.late_replies += 1
        else:
            self._end(Value(value))

    def fail(self, error: BaseException) -> None:
        self.deadline = inf
        if not self.done:
            self._end(Error(error))

    def time_out(self) -> None:
        self._end(Error(AskTimeout(self.target.name, type(self.message), self.target.queued, begun=self.begun)))

    def abort(self, _: object) -> trio.lowlevel.Abort:
        """The asker was cancelled. A request that has not begun never begins."""
        self._end(None)
        return trio.lowlevel.Abort.SUCCEEDED

    def defer(self, still_open: set[Call]) -> None:
        """Anyone may reply from now on, so drop the wait-for edge from the asker to this actor."""
        self.still_open = still_open
        still_open.add(self)
        if self.asker is not None:
            self.asker._waits_for = None

    def end_handling(self) -> None:
        """The handler has returned. Without an answer and without `defer`, the asker gets `NoReply`."""
        if not self.done and self.still_open is None:
            self.fail(NoReply(self.target.name, type(self.message)))

    def _end(self, result: Outcome[object] | None) -> None:
        self.done = True
        if self.still_open is not None:
            self.still_open.discard(self)
        # The edge is removed in the step that ends the wait, so a cycle of edges is always a cycle of waits.
        if self.asker is not None:
            self.asker._waits_for = None
        if self.alarm is not None:
            self.alarm.cancel()
        if result is not None:
            reschedule(self.task, result)


class Pending(Generic[R]):
    """A deferred answer, made by `Actor.defer`. Answer once, from any code in this thread; later answers are dropped.

    It fails when the incarnation that deferred it ends.
    """

    __slots__ = ("_call",)

    def __init__(self, call: Call | None) -> None:
        self._call = call

    @property
    def expired(self) -> bool:
        """Whether nobody is waiting: it was answered, timed out, was cancelled, or was told rather than asked."""
        return self._call is None or self._call.done

    def reply(self, value: R) -> None:
        """Answer with `value`. Never waits; an answer that nobody waits for any more is dropped."""
        if self._call is not None:
            self._call.reply(value)

    def fail(self, error: Exception) -> None:
        """Raise `error` in the asker and nowhere else."""
        if self._call is not None:
            self._call.fail(error)
