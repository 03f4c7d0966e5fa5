"""Families of virtual actors: one address per key, activated by a message and passivated when idle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from math import inf
from typing import ClassVar, Generic, NoReturn, TypeVar, cast
from weakref import WeakValueDictionary

import attrs
import trio

from actorchat.actors._ref import Directive, Ref, State
from actorchat.actors._supervise import ChildSpec

K = TypeVar("K")
M = TypeVar("M")
A = TypeVar("A")

_log = logging.getLogger("actorchat.actors")


@attrs.define(eq=False, kw_only=True)
class Virtual(ChildSpec, Generic[K, M, A]):
    """A family of virtual actors, made by `ActorSystem.virtual`. `family[key]` is an address; nothing runs yet.

    A message or signal activates an actor. It is passivated after `idle` seconds (at most twice that) without one, if
    its inbox is empty and `can_passivate` agrees. There are never two incarnations of one key at once; a message that
    arrives during `on_stop` waits and activates the next one. An address and its anchor live as long as the `Ref` is
    held or an incarnation lives; until then, each look-up returns the same one.

    A crash never leaves the family. If the restart budget is spent, or without `restart`, the incarnation is given up:
    waiting messages become dead letters, `on_give_up` is called, watchers get their `Down`, and the next message
    activates a new incarnation after the backoff.

    Actors have the context variables of the code that made the family.
    """

    virtual: ClassVar[bool] = True

    _anchor: Callable[[K], A] | None
    _idle: float
    _on_give_up: Callable[[K, A, BaseException], object] | None
    _refs: WeakValueDictionary[K, Ref[M]] = attrs.field(factory=WeakValueDictionary, init=False)
    _live: dict[Ref[NoReturn], int] = attrs.field(factory=dict, init=False)
    """For each address, the number of messages it had handled at the last check."""
    _looking: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _context: Context = attrs.field(factory=copy_context, init=False)
    """The context variables of its actors. Without it they would have those of whatever task activates them."""

    def __getitem__(self, key: K) -> Ref[M]:
        ref = self._refs.get(key)
        if ref is None:
            ref = self._refs[key] = Ref(self._system, self, str(key), State.DORMANT, key)
            if self._anchor is not None:
                try:
                    # The anchor's factory may look up the address that it is made for.
                    ref._anchor = self._anchor(key)
                except BaseException:
                    del self._refs[key]
                    raise
        return ref

    def anchor(self, key: K) -> A:
        """The state that the address of `key` keeps across incarnations. Made by `anchor(key)`, once per address.

        The anchor doesn't keep its address alive: hold the `Ref`, or send a message.
        """
        return cast("A", self[key]._anchor)

    def held_anchor(self, key: K) -> A | None:
        """The anchor of `key` if its address exists, because somebody holds it or an incarnation lives; None if not."""
        ref = self._refs.get(key)
        return None if ref is None else cast("A", ref._anchor)

    def held_keys(self) -> tuple[K, ...]:
        """The keys of all addresses that exist."""
        return tuple(self._refs)

    @property
    def active(self) -> int:
        """The number of live incarnations."""
        return len(self._live)

    def _close(self) -> None:
        """Accept no more messages; live incarnations drain and stop."""
        self._closed = True
        for ref in list(self._live):
            ref._apply(Directive.DRAIN)

    def _spawn(self, ref: Ref[NoReturn]) -> None:
        self._context.run(super()._spawn, ref)

    def _make(self, ref: Ref[NoReturn]) -> object:
        return self._factory(ref._key) if self._anchor is None else self._factory(ref._key, ref._anchor)

    def _activate(self, ref: Ref[NoReturn]) -> None:
        if self._closed or not self._system._open:
            return
        self._live[ref] = -1
        ref._start(0.0 if ref._budget is None else ref._budget.not_before - trio.current_time())
        if not self._looking and self._idle < inf:
            self._looking = True
            self._context.run(partial(self._nursery.start_soon, self._look, name=f"{self._parent} idle"))

    def _receptive(self, directive: Directive) -> bool:
        return directive < Directive.STOP and not self._closed

    def _give_up(self, ref: Ref[NoReturn], error: Exception) -> None:
        if ref._budget is not None:
            # The clock holds the address for as long as its budget matters, because nothing else may hold it.
            until = ref._budget.remembered
            self._system._clock.at(until if until < inf else ref._budget.not_before, lambda: ref)
        if self._on_give_up is not None:
            try:
                self._on_give_up(cast("K", ref._key), cast("A", ref._anchor), error)
            except Exception:
                _log.exception("on_give_up for %s failed", ref._name)

    def _ended(self, ref: Ref[NoReturn]) -> None:
        del self._live[ref]

    async def _look(self) -> None:
        """Passivate actors that have handled nothing since the last check. No clock is read per message."""
        while self._live:
            await trio.sleep(self._idle)
            self._look_once()
        self._looking = False

    def _look_once(self) -> None:
        # A separate frame: its variables would keep an address alive while `_look` sleeps.
        for ref, before in list(self._live.items()):
            inbox = ref._inbox
            handled = inbox.begun + inbox.signals - inbox.ticks
            if handled == before and inbox.sleeper is not None and inbox.empty:
                ref._apply(Directive.PASSIVATE)
            else:
                self._live[ref] = handled
