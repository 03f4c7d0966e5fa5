"""The task of an active address: it runs incarnation after incarnation and the loop that handles messages.

What follows a crash is decided by the address's `ChildSpec`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from math import inf
from types import coroutine
from typing import NoReturn

import trio
from outcome import Error, Outcome
from trio.lowlevel import checkpoint, current_task, wait_task_rescheduled

from actorchat.actors._actor import Actor
from actorchat.actors._errors import ActorError
from actorchat.actors._events import Cause, DeadLetterReason, End, EventKind
from actorchat.actors._inbox import NOTHING, Inbox, message_of
from actorchat.actors._ref import Directive, IncarnationMessage, Ref, State
from actorchat.actors._request import Call

_log = logging.getLogger("actorchat.actors")

BURST = 64
"""The number of messages after which an actor yields to other tasks."""


async def live(ref: Ref[NoReturn]) -> None:
    """Run the incarnations of an address, one after another, until it is inactive.

    Raises, after `on_stop`, errors that the `ChildSpec` propagates, and exceptions that are not an `Exception`.
    """
    ref._system._tasks[current_task()] = ref
    again = False
    try:
        # The result is not bound to a name: this frame sleeps between incarnations, and an error in it would keep its
        # actor alive.
        while again := _follow(ref, *await _wind_up(ref, *await _run(ref, again))):
            pass
    finally:
        del ref._system._tasks[current_task()]


async def _run(ref: Ref[NoReturn], again: bool) -> tuple[End, BaseException | None]:
    """Run one incarnation up to its `on_stop`: how it ended, and what it raised. `again`: it is not the first."""
    end = None
    try:
        with ref._scope as scope:
            try:
                if ref._pause is not None:
                    with ref._pause:
                        await trio.sleep_forever()
                    ref._move(State.STARTING)
                elif again:
                    await checkpoint()
                ref._pause = ref._before = None
                if ref._directive < Directive.STOP:
                    actor = await _begin(ref)
                    end = await _serve(ref, actor, ref._inbox)
            except BaseExceptionGroup as group:
                if not _cancels(group):
                    raise
                # The whole group continues as a cancellation.
                plain, others = group.split(Exception)
                if plain is not None:
                    _log.error("%s raised while it was cancelled", ref._name, exc_info=plain)
                raise others or group from None
        return ref._directed_end() if end is None or scope.cancelled_caught else end, None
    except BaseException as error:
        if _cancels(error):
            return ref._before or End(Cause.CANCELLED), error
        _log.error("%s crashed", ref._name, exc_info=error)
        return ref._directed_end(error) if ref._directive >= Directive.KILL else End(Cause.CRASHED, error), error


def _cancels(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)


async def _begin(ref: Ref[NoReturn]) -> Actor[NoReturn]:
    made = ref._spec._make(ref)
    if not isinstance(made, Actor):
        raise TypeError(f"the factory of {ref._name} must return an Actor, not {made!r}")
    if made._ref is not None:
        raise TypeError(f"the factory of {ref._name} must return a new Actor each time, not {made!r} again")
    actor = ref._actor = made
    actor._ref, ref._kind = ref, type(actor)
    if type(actor).on_start is not Actor.on_start:
        with trio.fail_after(ref._system._limit):
            await actor.on_start()
    ref._move(State.RUNNING)
    starter, ref._starter = ref._starter, None
    if starter is not None:
        starter.reply(None)
    ref._system._emit(EventKind.STARTED, ref)
    return actor


async def _serve(ref: Ref[NoReturn], actor: Actor[NoReturn], inbox: Inbox) -> End:
    """Handle messages until the incarnation has to end. Parked in between, it costs nothing."""
    system, task = ref._system, current_task()
    receive, take, trap = actor.receive, inbox.take, _trap(inbox.leave)
    whole = type(actor).receive_batch is not Actor.receive_batch
    plain = ref._spec._plain and not whole
    if plain and type(actor).receive_now is not Actor.receive_now:
        inbox.now = actor.receive_now  # type: ignore[assignment] # the address accepts the messages of its actor
    burst = 0
    # The last incarnation may have crashed before it finished the control lane.
    inbox.attention = True
    while True:
        if inbox.attention:
            end = await _attend(ref, actor, inbox)
            if end is not None:
                return end
        if inbox.handed is not NOTHING and plain:
            # The hot path: a parked actor was told one message.
            item, inbox.handed, count = inbox.handed, NOTHING, 1
        elif not (count := inbox.accepted - inbox.begun - inbox.dropped):
            if inbox.attention:
                continue
            if system._unsettled is not None:
                system._look_settled()
            inbox.sleeper = task
            await _park(trap)
            burst = 0
            continue
        elif burst >= BURST:
            await checkpoint()
            burst = 0
            continue
        elif not plain:
            await _handle(ref, actor, inbox, actor.batch_max if whole else 1)
            burst += BURST if whole else 1
            continue
        else:
            item, count = take(), min(count, BURST)
        burst += count
        while True:
            inbox.begun += 1
            if item.__class__ is not Call:
                actor._current = item
                await receive(item)  # type: ignore[arg-type] # the address accepts the messages of its actor
            elif item.done:
                inbox.skip()
                system.abandoned += 1
            else:
                item.begun = True
                actor._current = item
                await receive(item.message)  # type: ignore[arg-type] # as above
                if not item.done:
                    item.end_handling()
            count -= 1
            if not count or inbox.attention:
                break
            item = take()
        # Messages left over when `attention` ended the burst were not handled.
        burst -= count
        actor._current = None


def _trap(abort: Callable[[object], trio.lowlevel.Abort]) -> object:
    """The object that `wait_task_rescheduled(abort)` yields to Trio's scheduler.

    It is the same each time, and creating it for each wait is a large part of the cost of a wake-up (docs/adr/0007).
    """
    waiting = wait_task_rescheduled(abort)  # noqa: ASYNC105 - driven by hand
    trap: object = waiting.send(None)
    waiting.close()
    return trap


@coroutine
def _park(trap: object) -> Generator[object, Outcome[object], None]:
    result = yield trap
    if type(result) is Error:  # `isinstance` would ask an abstract base class at each wake-up
        result.unwrap()


async def _handle(ref: Ref[NoReturn], actor: Actor[NoReturn], inbox: Inbox, most: int) -> None:
    """Handle the next messages as `_serve` does, for batches, coalesced messages and with an instrument."""
    instrument = ref._system._instrument
    items: list[object] = []
    if ref._directive is Directive.DRAIN:
        most = min(most, ref._until - inbox.begun - inbox.dropped)
    actor._batch = items
    while inbox.queued and len(items) < most:
        item = inbox.take_next()
        inbox.begun += 1
        if isinstance(item, Call):
            if item.done:
                inbox.skip()
                ref._system.abandoned += 1
                continue
            item.begun = True
        items.append(item)
        if instrument is not None:
            instrument.begin(ref._name, message_of(item))
    if items:
        actor._current = items[0] if most == 1 else None
        await actor.receive_batch([message_of(item) for item in items])  # type: ignore[misc] # as above
    actor._batch, actor._current = (), None
    for item in items:
        if isinstance(item, Call):
            item.end_handling()
        if instrument is not None:
            instrument.end(ref._name, message_of(item), None)


async def _attend(ref: Ref[NoReturn], actor: Actor[NoReturn], inbox: Inbox) -> End | None:
    """Process directives, waiting senders and the control lane. Returns an `End` if the incarnation has to end."""
    inbox.attention = False
    directive = ref._directive
    if directive is Directive.PASSIVATE:
        ref._directive = directive = Directive.NONE
        if inbox.empty and not actor._open and not actor._pipes and actor.can_passivate():
            return End(Cause.PASSIVATED)
    if inbox.waiters is not None:
        ref._admit()
    done = 0
    while inbox.control and ref._directive is directive and directive in (Directive.NONE, Directive.DRAIN):
        item = inbox.control.popleft()
        if isinstance(item, IncarnationMessage):
            item = item.make() if item.actor is actor else NOTHING
        if item is not NOTHING:
            inbox.signals += 1
            actor._current = item
            await actor.receive(item)  # type: ignore[arg-type] # made by the actor's own typed methods
            actor._current = None
        done += 1
        if done % BURST == 0:
            await checkpoint()
    if inbox.control or ref._directive:
        # A directive stays in force: check again before each message, and when none is left.
        inbox.attention = True
    else:
        inbox.control = None
    directive = ref._directive
    drained = inbox.begun + inbox.dropped >= ref._until and not inbox.control
    ends = directive is Directive.RESTART or directive >= Directive.STOP or (directive is Directive.DRAIN and drained)
    return ref._directed_end() if ends else None


async def _wind_up(ref: Ref[NoReturn], end: End, raised: BaseException | None) -> tuple[End, BaseException | None]:
    """Make dead letters of the messages that had begun, release what belongs to the incarnation, run `on_stop`."""
    actor, system, started = ref._actor, ref._system, ref._state is State.RUNNING
    ref._move(State.LEAVING)
    ref._inbox.now = None
    if raised is not None and not (isinstance(raised, Exception) and ref._spec._restart and not ref._starter):
        # There is no next incarnation: accept no more messages.
        ref._apply(Directive.STOP)
    if actor is None:
        return end, raised
    # With an instrument, user messages are always in a batch. It is not notified of control messages.
    hearing = system._instrument if actor._batch else None
    items = actor._batch or (() if actor._current is None else (actor._current,))
    actor._batch, actor._current = (), None
    for item in items:
        ref._make_dead_letter(item, DeadLetterReason.CRASHED, end)
        if hearing is not None:
            hearing.end(ref._name, message_of(item), end.error)
    actor._release(end)
    if not started or type(actor).on_stop is Actor.on_stop:
        return end, raised
    now = trio.current_time()
    cut = ref._directive >= Directive.KILL or trio.current_effective_deadline() <= now
    # Shielded for at most `limit` seconds. `Ref._cut` shortens that to `grace` if the actor is killed meanwhile.
    ref._shield = trio.CancelScope(deadline=now + (system._grace if cut else system._limit), shield=True)
    try:
        with ref._shield as scope:
            await actor.on_stop(end)
        if scope.cancelled_caught:
            _log.error("on_stop of %s took too long and was cut", ref._name)
    except Exception as error:
        error.__context__ = error.__context__ or end.error
        _log.exception("on_stop of %s failed", ref._name)
    except BaseException as error:
        raised = error  # `_follow` raises it once the address is inactive
    ref._shield = None
    # Timers and pipes that `on_stop` started have no recipient any more.
    actor._release(end)
    return end, raised


def _follow(ref: Ref[NoReturn], end: End, raised: BaseException | None) -> bool:
    """In one step: schedule the next incarnation (True) or make the address inactive. Raises errors that propagate."""
    spec, directive = ref._spec, ref._directive
    delay: float | None = None
    ref._actor = None
    if isinstance(raised, Exception):
        error, raised = raised, None
        if end.cause is Cause.CRASHED and ref._starter is None:
            if directive >= Directive.STOP and spec._restart is not None:
                end = ref._directed_end(error)
            else:
                try:
                    delay = spec._crashed(ref, error)
                except ActorError as verdict:
                    raised = verdict
    elif end.cause is Cause.RESTARTED:
        delay = inf
    elif spec.virtual and end.cause in (Cause.PASSIVATED, Cause.STOPPED):
        if not ref._inbox.empty:
            delay = 0.0
        elif directive >= Directive.DRAIN:
            end = ref._directed_end()
    if delay is not None and (directive >= Directive.STOP or trio.current_effective_deadline() <= trio.current_time()):
        # It would restart but must not: fail everything that waits for it.
        delay, end = None, ref._directed_end(end.error)
    if delay is None:
        ref._deactivate(end)
        if raised is not None:
            raise raised
        return False
    if end.cause in (Cause.PASSIVATED, Cause.STOPPED):
        ref._tell_ended()
    else:
        ref._restarts += 1
    if directive < Directive.DRAIN or (
        end.cause is Cause.STOPPED
        and spec._receptive(directive)
        and ref._inbox.begun + ref._inbox.dropped >= ref._until
    ):
        ref._directive = Directive.NONE
    if delay < inf:
        ref._schedule(0.0 if ref._directive else delay)
    else:
        ref._schedule(delay, end if end.cause is Cause.CRASHED else None)
    return True
