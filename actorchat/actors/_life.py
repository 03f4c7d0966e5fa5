"""Owns the task of an incarnation: from making the actor to what follows its end. The one loop that handles messages.

Knows neither who supervises (a `Keeper` says what follows a crash) nor what the messages mean.
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
from actorchat.actors._events import Cause, End, Loss, What
from actorchat.actors._inbox import NOTHING, Coalesce, Inbox, message_of
from actorchat.actors._message import Call
from actorchat.actors._ref import OfIncarnation, Order, Ref, State, error_of

_log = logging.getLogger("actorchat.actors")

BURST = 64
"""Messages after which an actor yields to the rest of the program."""


async def live(ref: Ref[NoReturn]) -> None:
    """One incarnation. Raises what its keeper lets propagate, and what is no `Exception`, after `on_stop`."""
    system, scope, task = ref._system, ref._scope, current_task()
    assert scope is not None  # noqa: S101 - made by `Ref._start`
    system._tasks[task] = ref
    end = ref._ordered()
    raised: BaseException | None = None
    try:
        with scope:
            try:
                if ref._order < Order.STOP:
                    actor = await _begin(ref)
                    end = await _serve(ref, actor, ref._inbox)
            except BaseExceptionGroup as group:
                sifted = _sift(group, ref)
                if sifted is group:
                    raise
                raise sifted from None
        if scope.cancelled_caught:
            end = ref._ordered()
    except BaseException as error:
        raised, end = error, _end_of(error, ref)
    returns = ref._order < Order.STOP and (
        end.cause is Cause.RESTARTED
        or (isinstance(raised, Exception) and ref._keeper._restart is not None and ref._starter is None)
        or (ref._keeper.virtual and end.cause in (Cause.PASSIVATED, Cause.STOPPED))
    )
    try:
        await _wind_up(ref, end, returns)
    except BaseException as error:
        raised = error
    del system._tasks[task]
    raised = _follow(ref, end, raised, returns)
    if raised is not None:
        raise raised


async def _begin(ref: Ref[NoReturn]) -> Actor[NoReturn]:
    actor = ref._actor = ref._keeper._make(ref)
    actor._ref, ref._kind = ref, type(actor)
    if type(actor).on_start is not Actor.on_start:
        with trio.fail_after(ref._system._limit):
            await actor.on_start()
    ref._move(State.RUNNING)
    starter, ref._starter = ref._starter, None
    if starter is not None:
        starter.reply(None)
    ref._system._emit(What.STARTED, ref)
    return actor


async def _serve(ref: Ref[NoReturn], actor: Actor[NoReturn], inbox: Inbox) -> End:
    """Handle messages until the incarnation is to end. Costs nothing while there are none."""
    system, settlers, task = ref._system, ref._system._settlers, current_task()
    receive, take, trap = actor.receive, inbox.take, _trap(inbox.leave)
    whole = type(actor).receive_batch is not Actor.receive_batch
    plain = not (whole or system._instrument is not None or isinstance(ref._keeper._overflow, Coalesce))
    if plain and type(actor).receive_now is not Actor.receive_now:
        inbox.now = actor.receive_now  # type: ignore[assignment] # the address takes what the actor does
    burst = 0
    # A crash may have come between seeing to the control lane and the rest of it.
    inbox.attention = True
    while True:
        if inbox.attention:
            end = await _attend(ref, actor, inbox)
            if end is not None:
                return end
        if inbox.handed is not NOTHING and plain:
            # The hot path of a parked actor that is told one message.
            item, inbox.handed, count = inbox.handed, NOTHING, 1
        else:
            count = inbox.accepted - inbox.begun - inbox.dropped
            if not count:
                if inbox.attention:
                    continue
                if settlers:
                    system._look_settled()
                inbox.sleeper = task
                await _park(trap)
                burst = 0
                continue
            if burst >= BURST:
                await checkpoint()
                burst = 0
                continue
            if not plain:
                await _handle(ref, actor, inbox, actor.batch_max if whole else 1)
                burst += BURST if whole else 1
                continue
            if count > BURST:
                count = BURST
            item = take()
        burst += count
        while True:
            inbox.begun += 1
            if item.__class__ is not Call:
                actor._current = item
                await receive(item)  # type: ignore[arg-type] # the address takes what the actor does
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
        # What attention broke off was not done.
        burst -= count
        actor._current = None


def _trap(abort: Callable[[object], trio.lowlevel.Abort]) -> object:
    """What `wait_task_rescheduled(abort)` yields to Trio's scheduler.

    It is the same each time, and making it anew for each wait is a good part of what a wake-up costs (docs/adr/0007).
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
    """What `_serve` does with plain messages: for a batch as one, for coalesced ones, and with an instrument."""
    instrument = ref._system._instrument
    items: list[object] = []
    if ref._order is Order.DRAIN:
        most = min(most, ref._until - inbox.begun - inbox.dropped)
    actor._batch = items
    while inbox.queued and len(items) < most:
        item = inbox.take_next()
        inbox.begun += 1
        item = inbox.unwrap(item)
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
    """See to orders, waiting senders and the control lane. An `End` if the incarnation is to end here."""
    inbox.attention = False
    order = ref._order
    if order is Order.PASSIVATE:
        ref._order = order = Order.NONE
        if inbox.empty and not actor._open and not actor._pipes and actor.can_passivate():
            return End(Cause.PASSIVATED)
    if inbox.waiters is not None:
        ref._admit()
    done = 0
    while inbox.control and ref._order is order and order in (Order.NONE, Order.DRAIN):
        item = inbox.control.popleft()
        if isinstance(item, OfIncarnation):
            item = item.make() if item.actor is actor else NOTHING
        if item is not NOTHING:
            inbox.signals += 1
            actor._current = item
            await actor.receive(item)  # type: ignore[arg-type] # made by the actor's own typed methods
            actor._current = None
        done += 1
        if done % BURST == 0:
            await checkpoint()
    if inbox.control or ref._order:
        # An order stays in force: look again before each message, and when there is none left.
        inbox.attention = True
    else:
        inbox.control = None
    order = ref._order
    drained = inbox.begun + inbox.dropped >= ref._until and not inbox.control
    ends = order is Order.RESTART or order >= Order.STOP or (order is Order.DRAIN and drained)
    return ref._ordered() if ends else None


def _sift(group: BaseExceptionGroup[BaseException], ref: Ref[NoReturn]) -> BaseException:
    """A group that holds `Cancelled` goes on as a cancellation; its plain errors are reported here."""
    cancelled, others = group.split(trio.Cancelled)
    if cancelled is None or others is None:
        return group
    fatal, plain = others.split(lambda one: not isinstance(one, (Exception, BaseExceptionGroup)))
    if plain is not None:
        _log.error("%s raised while it was cancelled", ref._name, exc_info=plain)
    return cancelled if fatal is None else BaseExceptionGroup(group.message, [cancelled, fatal])


def _end_of(raised: BaseException, ref: Ref[NoReturn]) -> End:
    group = isinstance(raised, BaseExceptionGroup) and raised.subgroup(trio.Cancelled) is not None
    if group or isinstance(raised, trio.Cancelled):
        return End(Cause.CANCELLED)
    _log.error("%s crashed", ref._name, exc_info=raised)
    return ref._ordered(raised) if ref._order >= Order.KILL else End(Cause.CRASHED, raised)


async def _wind_up(ref: Ref[NoReturn], end: End, returns: bool) -> None:
    """What had begun is lost, what belongs to the incarnation ends, `on_stop`."""
    actor, system, started = ref._actor, ref._system, ref._state is State.RUNNING
    ref._move(State.LEAVING if returns else State.ENDING)
    ref._inbox.now = None
    if not returns:
        ref._inbox.close()
    if actor is None:
        return
    # With an instrument user messages are a batch, if of one; a control message it has not heard of.
    hearing = system._instrument if actor._batch else None
    items = actor._batch or (() if actor._current is None else (actor._current,))
    actor._batch, actor._current = (), None
    for item in items:
        system._lose_queued(ref, item, Loss.CRASHED, lambda: error_of(ref, end), end.error)
        if hearing is not None:
            hearing.end(ref._name, message_of(item), end.error)
    actor._release(lambda: error_of(ref, end))
    if started and type(actor).on_stop is not Actor.on_stop:
        now = trio.current_time()
        cut = ref._order >= Order.KILL or trio.current_effective_deadline() <= now
        # Shielded for at most `limit` seconds; `Ref._cut` makes that `grace` when it is cut short meanwhile.
        seconds = system._grace if cut else system._limit
        scope = ref._shield = trio.CancelScope(deadline=now + seconds, shield=True)
        try:
            with scope:
                await actor.on_stop(end)
        except Exception as error:
            if error.__context__ is None:
                error.__context__ = end.error
            _log.exception("on_stop of %s failed", ref._name)
        finally:
            ref._shield = None
            # What it set up for itself has nobody left to come to.
            actor._release(lambda: error_of(ref, end))
        if scope.cancelled_caught:
            _log.error("on_stop of %s took too long and was cut", ref._name)


def _follow(ref: Ref[NoReturn], end: End, raised: BaseException | None, returns: bool) -> BaseException | None:
    """The last step of the task, without a gap: the next incarnation is on its way, or the address is at rest.

    Gives what is to propagate.
    """
    keeper, order = ref._keeper, ref._order
    delay: float | None = None
    ref._actor = None
    if isinstance(raised, Exception):
        error, raised = raised, None
        if end.cause is Cause.CRASHED and ref._starter is None and (order < Order.STOP or keeper._restart is None):
            try:
                delay = keeper._crashed(ref, error)
            except ActorError as verdict:
                raised = verdict
    elif returns and (end.cause is Cause.RESTARTED or not ref._inbox.empty):
        delay = inf if end.cause is Cause.RESTARTED else 0.0
    if delay is None or order >= Order.STOP or trio.current_effective_deadline() <= trio.current_time():
        if returns and order >= (Order.STOP if end.cause is Cause.CRASHED else Order.DRAIN):
            end = ref._ordered(end.error)
        elif delay is not None:
            # It was to come back, and its nursery is cancelled: what waits for it must hear.
            end = ref._ordered(end.error)
        ref._rest(end)
        return raised
    ref._restarts += end.cause in (Cause.CRASHED, Cause.RESTARTED)
    if end.cause in (Cause.PASSIVATED, Cause.STOPPED):
        ref._tell_ended()
    if order < Order.DRAIN or (
        end.cause is Cause.STOPPED and keeper._receptive(order) and ref._inbox.begun + ref._inbox.dropped >= ref._until
    ):
        ref._order = Order.NONE
    ref._start(0.0 if ref._order and delay < inf else delay)
    return raised
