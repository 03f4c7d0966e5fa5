"""Owns the task of an actor: from activation through its incarnations to its end. The one loop that handles messages.

Knows neither who supervises (a `Keeper` says what follows a crash) nor what the messages mean.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NoReturn

import trio
from trio.lowlevel import wait_task_rescheduled

from actorchat.actors._actor import Actor, Fault, Later, Timer
from actorchat.actors._errors import ActorCrashed, ActorStopped
from actorchat.actors._events import Cause, End, Loss, What
from actorchat.actors._inbox import NOTHING, Coalesce, Slot, request_of
from actorchat.actors._message import Call
from actorchat.actors._ref import Order, Ref, State

if TYPE_CHECKING:
    from actorchat.actors._inbox import Inbox

__all__ = ["rest", "run"]

_log = logging.getLogger("actorchat.actors")

BURST = 64
"""Messages after which an actor yields to the rest of the program."""


async def run(ref: Ref[NoReturn]) -> None:
    """The body of an actor's task: incarnation after incarnation, as its keeper says."""
    system, keeper, scope = ref._system, ref._spec.keeper, ref._scope
    assert scope is not None  # noqa: S101 - made by whoever starts the task
    task = trio.lowlevel.current_task()
    system.tasks[task] = ref
    ref._since, ref._restarts = trio.current_time(), 0
    end = End(Cause.CANCELLED)
    try:
        with scope:
            await keeper.admit(ref)
            while ref._order not in (Order.STOP, Order.KILL):
                end = await _incarnation(ref)
                if not await _comes_back(ref, end):
                    break
                ref._restarts += end.cause in (Cause.CRASHED, Cause.RESTARTED)
            else:
                end = End(Cause.STOPPED)
        if scope.cancel_called:
            end = End(Cause.KILLED)
        elif end.cause is Cause.PASSIVATED and ref._order is not None:
            # It was leaving anyway when it was told to stop.
            end = End(Cause.STOPPED)
    except Exception as error:
        end = End(Cause.CRASHED, error.__cause__ or error)
        raise
    except BaseException as error:
        end = _end_of(error, ref)
        raise
    finally:
        del system.tasks[task]
        _finish(ref, end)


async def _comes_back(ref: Ref[NoReturn], end: End) -> bool:
    """Wait till the next incarnation may start. False: the address comes to rest now."""
    keeper = ref._spec.keeper
    if end.cause is Cause.CRASHED:
        assert end.error is not None  # noqa: S101 - what a crash is
        ready, ref._ready = ref._ready, None
        if ready is not None and ready(end.error):
            return False
        if not await keeper.recover(ref, end.error):
            return False
    elif end.cause is Cause.RESTARTED:
        await keeper.rejoin(ref)
    elif not keeper.revives(ref, end) or ref._inbox.empty:
        return False
    if ref._order in (Order.PASSIVATE, Order.RESTART) or (ref._order is Order.DRAIN and keeper.receptive(Order.DRAIN)):
        ref._order = None
    return True


async def _incarnation(ref: Ref[NoReturn]) -> End:
    """One life of one actor object. Raises only what is no `Exception`, after `on_stop`."""
    system, inbox = ref._system, ref._inbox
    actor: Actor[NoReturn] | None = None
    raised: BaseException | None = None
    started = False
    ref._state = State.STARTING
    if ref._spec.keeper.receptive(ref._order):
        ref._open()
    try:
        actor = ref._spec.keeper.make(ref)
        actor._ref, ref._actor, ref._kind = ref, actor, type(actor)
        if type(actor).on_start is not Actor.on_start:
            with trio.fail_after(system.limit):
                await actor.on_start()
        started = True
        ref._state = State.RUNNING
        ready, ref._ready = ref._ready, None
        if ready is not None:
            ready(None)
        system.emit(What.STARTED, ref)
        if ref._spec.keeper.cuts:
            end = End(Cause.RESTARTED)
            with trio.CancelScope() as ref._cut:
                end = await _serve(ref, actor, inbox)
            ref._cut = None
        else:
            end = await _serve(ref, actor, inbox)
    except Exception as error:
        end = End(Cause.CRASHED, error)
    except BaseException as error:
        raised = _sift(error, ref)
        end = _end_of(raised, ref)
    if end.cause is Cause.CRASHED:
        _log.error("%s crashed", ref._name, exc_info=end.error)
        if ref._order is Order.KILL:
            end = End(Cause.KILLED, end.error)
    ref._state = State.LEAVING if raised is None and ref._spec.keeper.revives(ref, end) else State.ENDING
    if ref._state is State.ENDING:
        inbox.close()
    if actor is not None:
        _lose_current(ref, actor, end)
        actor._release(lambda: _error_for(ref, end))
        if started and type(actor).on_stop is not Actor.on_stop:
            await _stop(ref, actor, end)
    ref._actor = None
    if raised is not None:
        raise raised
    return end


def _sift(error: BaseException, ref: Ref[NoReturn]) -> BaseException:
    """A group that holds `Cancelled` goes on as a cancellation; its plain errors are reported here."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    cancelled, others = error.split(trio.Cancelled)
    if cancelled is None or others is None:
        return error
    fatal, plain = others.split(lambda one: not isinstance(one, (Exception, BaseExceptionGroup)))
    if plain is not None:
        _log.error("%s raised while it was cancelled", ref._name, exc_info=plain)
    return cancelled if fatal is None else BaseExceptionGroup(error.message, [cancelled, fatal])


def _end_of(raised: BaseException, ref: Ref[NoReturn]) -> End:
    group = isinstance(raised, BaseExceptionGroup) and raised.subgroup(trio.Cancelled) is not None
    if group or isinstance(raised, trio.Cancelled):
        return End(Cause.KILLED if ref._order is Order.KILL else Cause.CANCELLED)
    return End(Cause.CRASHED, raised)


def _error_for(ref: Ref[NoReturn], end: End) -> Exception:
    """What those get whose requests this incarnation had."""
    if end.cause is not Cause.CRASHED:
        return ActorStopped(ref._name)
    error = ActorCrashed(ref._name)
    error.__cause__ = end.error
    return error


async def _stop(ref: Ref[NoReturn], actor: Actor[NoReturn], end: End) -> None:
    system = ref._system
    now = trio.current_time()
    cut = end.cause in (Cause.KILLED, Cause.CANCELLED) or trio.current_effective_deadline() <= now
    # Shielded for at most `limit` seconds; `Ref._hurry` makes that `grace` when it is cut short meanwhile.
    with trio.CancelScope(deadline=now + (system.grace if cut else system.limit), shield=True) as ref._cut:
        try:
            await actor.on_stop(end)
        except Exception as error:
            if error.__context__ is None:
                error.__context__ = end.error
            _log.exception("on_stop of %s failed", ref._name)
    if ref._cut.cancelled_caught:
        _log.error("on_stop of %s took too long and was cut", ref._name)
    ref._cut = None


async def _serve(ref: Ref[NoReturn], actor: Actor[NoReturn], inbox: Inbox) -> End:
    """Handle messages until the incarnation is to end. Costs nothing while there are none."""
    settlers = ref._system.settlers
    receive, take, leave = actor.receive, inbox.take, inbox.leave
    task = trio.lowlevel.current_task()
    whole = type(actor).receive_batch is not Actor.receive_batch
    plain = not (whole or ref._system.instrument is not None or isinstance(ref._spec.overflow, Coalesce))
    burst = 0
    # A crash may have come between seeing to the control lane and the rest of it.
    inbox.attention = True
    while True:
        if inbox.attention:
            end = await _attend(ref, actor, inbox)
            if end is not None:
                return end
        taken = inbox.taken
        if not taken:
            waiting = inbox.accepted - inbox.begun - inbox.dropped
            if not waiting:
                if settlers:
                    ref._system.look_settled()
                inbox.sleeper = task
                await wait_task_rescheduled(leave)
                burst = 0
                continue
            if burst >= BURST:
                await trio.lowlevel.checkpoint()
                burst = 0
                continue
            if waiting == 1:
                taken.append(take())
                burst += 1
            elif not whole:
                burst += len(inbox.take_up(BURST))
        if not plain:
            await _handle_taken(ref, actor, inbox, whole)
            burst += BURST * whole
            continue
        while taken:
            item = taken.pop()
            inbox.begun += 1
            if item.__class__ is Call:
                if item.done:
                    inbox.skip()
                    ref._system.abandoned += 1
                    continue
                item.begun = True
                actor._current = item
                await receive(item.message)  # type: ignore[arg-type] # the address takes what the actor does
                if not item.done:
                    item.end_handling()
            else:
                actor._current = item
                await receive(item)  # type: ignore[arg-type] # as above
            if inbox.attention:
                break
        actor._current = None


async def _handle_taken(ref: Ref[NoReturn], actor: Actor[NoReturn], inbox: Inbox, whole: bool) -> None:
    """What `_serve` does with plain messages, for a batch as one (`whole`), coalesced ones, and with an instrument."""
    instrument = ref._system.instrument
    items: list[object] = []
    actor._batch = items
    messages: list[object] = []
    most = actor.batch_max if whole else 1
    taken = inbox.take_up(most)
    while taken and len(items) < most:
        item = taken.pop()
        inbox.begun += 1
        if isinstance(item, Slot):
            item = inbox.unwrap(item)
        if isinstance(item, Call):
            if item.done:
                inbox.skip()
                ref._system.abandoned += 1
                continue
            item.begun = True
        items.append(item)
        messages.append(request_of(item))
        if instrument is not None:
            instrument.begin(ref._name, messages[-1])
    if messages:
        actor._current = None if whole else items[0]
        await actor.receive_batch(messages)  # type: ignore[arg-type] # the address takes what the actor does
    actor._batch = actor._current = None
    for item in items:
        if isinstance(item, Call):
            item.end_handling()
        if instrument is not None:
            instrument.end(ref._name, request_of(item), None)


async def _attend(ref: Ref[NoReturn], actor: Actor[NoReturn], inbox: Inbox) -> End | None:
    """See to orders, waiting senders and the control lane. An `End` if the incarnation is to end here."""
    inbox.attention = False
    order = ref._order
    if order is Order.KILL:
        return End(Cause.KILLED)
    if order is Order.STOP:
        return End(Cause.STOPPED)
    if order is Order.RESTART:
        return End(Cause.RESTARTED)
    if order is Order.PASSIVATE:
        ref._order = None
        if inbox.empty and not actor._open and not actor._pipes and actor.can_passivate():
            return End(Cause.PASSIVATED)
    if inbox.waiters is not None:
        inbox.admit()
    urgent, done = inbox.urgent, 0
    while urgent or inbox.control:
        if not urgent:
            urgent = inbox.urgent = inbox.control[::-1]
            inbox.control = NOTHING
        await _handle_control(actor, inbox, urgent.pop())
        done += 1
        if done % BURST == 0:
            await trio.lowlevel.checkpoint()
        if ref._order is not order:
            break
    if ref._order is not None or urgent or inbox.control:
        # An order stays in force: look again before each message, and when there is none left.
        inbox.attention = True
    if ref._order is Order.DRAIN and inbox.empty:
        return End(Cause.STOPPED)
    return None


async def _handle_control(actor: Actor[NoReturn], inbox: Inbox, item: object) -> None:
    message = item
    if isinstance(item, (Timer, Later, Fault)):
        if item.actor is not actor:
            return
        if isinstance(item, Fault):
            raise item.error
        if isinstance(item, Later):
            message = item.make()
        else:
            item.queued = False
            if not item.live:
                return
            if item.period is None:
                item.live = False
                assert actor._timers is not None  # noqa: S101 - a live timer is in it
                del actor._timers[item.key]
            message = item.message
    inbox.handled += 1
    actor._current = message
    await actor.receive(message)  # type: ignore[arg-type] # made by the actor's own typed methods
    actor._current = None


def _lose_current(ref: Ref[NoReturn], actor: Actor[NoReturn], end: End) -> None:
    """What had begun and was not finished is lost: dead letter, and its asker hears why."""
    items, current = actor._batch or [], actor._current
    if current is not None and not any(item is current for item in items):
        items = [*items, current]
    actor._batch = actor._current = None
    for item in items:
        ref._system.lose_queued(ref, item, Loss.CRASHED, end.error, lambda: _error_for(ref, end))
        if ref._system.instrument is not None:
            ref._system.instrument.end(ref._name, request_of(item), end.error)


def _finish(ref: Ref[NoReturn], end: End) -> None:
    """The last step of the task, without a gap: from here on the address is at rest."""
    if end.cause is Cause.PASSIVATED:
        ref._system.emit(What.PASSIVATED, ref)
    else:
        ref._system.emit(What.ENDED, ref, end.error, end.cause.value)
    ref._spec.keeper.ended(ref)
    rest(ref, end)


def rest(ref: Ref[NoReturn], end: End) -> None:
    """Bring the address to rest: what waits is lost, those who wait hear of it."""
    system, inbox = ref._system, ref._inbox
    ref._actor = ref._scope = ref._order = None
    inbox.close()
    virtual = ref._spec.keeper.virtual
    ref._state = State.DORMANT if virtual else State.STOPPED
    ready, ref._ready = ref._ready, None
    if ready is not None:
        ready(end.error or ActorStopped(ref._name))
    if end.cause is not Cause.PASSIVATED:
        for item in inbox.empty_out():
            system.lose_queued(ref, item, Loss.STOPPED, end.error, lambda: _error_for(ref, end))
        for item in inbox.empty_control():
            if not isinstance(item, (Timer, Later, Fault)):
                system.lose(ref, item, Loss.STOPPED, end.error)
        inbox.refuse_waiters(lambda: ActorStopped(ref._name))
        watchers, ref._watchers = ref._watchers, None
        for down in (watchers or {}).values():
            down(end)
        for group in list(ref._groups or ()):
            group.discard(ref)
    inbox.attention = False
    ended, ref._ended = ref._ended, None
    if ended is not None:
        ended.set()
    system.look_settled()
