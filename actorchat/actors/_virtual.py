"""Owns families of virtual actors: one address per key, activated by its first message, passivated when idle.

Knows neither what an actor does nor what its anchor holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
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

    A message or signal activates; `idle` seconds (at most twice that) without one, an empty inbox and the actor's
    `can_passivate` passivate. Never two incarnations of one key at once; a message that comes during `on_stop` waits
    and activates the next. An address, and its anchor with it, lives as long as somebody holds the `Ref`, or an
    incarnation lives: till then each look-up gives the same one.

    A crash is the family's own affair and never leaves it. With the restart budget spent, or no `restart` at all, the
    incarnation is given up: what waits becomes dead letters, `on_give_up` is called, watchers get their `Down`, and
    the next message activates anew, after the backoff.
    """

    virtual: ClassVar[bool] = True

    _anchor: Callable[[K], A] | None
    _idle: float
    _on_give_up: Callable[[K, A, BaseException], object] | None
    _refs: WeakValueDictionary[K, Ref[M]] = attrs.field(factory=WeakValueDictionary, init=False)
    _live: dict[Ref[NoReturn], int] = attrs.field(factory=dict, init=False)
    """With each address the count of what it had handled at the last look."""
    _looking: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __getitem__(self, key: K) -> Ref[M]:
        ref = self._refs.get(key)
        if ref is None:
            ref = self._refs[key] = Ref(self._system, self, str(key), State.DORMANT, key)
            if self._anchor is not None:
                try:
                    # It may look up the address that it is to hang on.
                    ref._anchor = self._anchor(key)
                except BaseException:
                    del self._refs[key]
                    raise
        return ref

    def anchor(self, key: K) -> A:
        """What the address of `key` carries from incarnation to incarnation. Made by `anchor(key)`, once per address.

        Hold the `Ref`, or send a message, to keep it: by itself it doesn't keep the address.
        """
        return cast("A", self[key]._anchor)

    @property
    def active(self) -> int:
        """How many incarnations live."""
        return len(self._live)

    def _close(self) -> None:
        """Take no more messages; the incarnations that live drain and stop."""
        self._closed = True
        for ref in list(self._live):
            ref._give(Directive.DRAIN)

    def _make(self, ref: Ref[NoReturn]) -> object:
        return self._factory(ref._key) if self._anchor is None else self._factory(ref._key, ref._anchor)

    def _activate(self, ref: Ref[NoReturn]) -> None:
        if self._closed or not self._system._open:
            return
        self._live[ref] = -1
        ref._start(0.0 if ref._budget is None else ref._budget.not_before - trio.current_time())
        if not self._looking and self._idle < inf:
            self._looking = True
            self._nursery.start_soon(self._look, name=f"{self._parent} idle")

    def _receptive(self, order: Directive) -> bool:
        return order < Directive.STOP and not self._closed

    def _give_up(self, ref: Ref[NoReturn], error: Exception) -> None:
        if ref._budget is not None:
            # The clock keeps the address, and its budget with it, as long as that counts: perhaps nobody else does.
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
        """Passivate what has handled nothing since the last look: no clock is read per message."""
        while self._live:
            await trio.sleep(self._idle)
            self._look_once()
        self._looking = False

    def _look_once(self) -> None:
        # In a frame of its own: what it holds would keep an address alive while `_look` sleeps.
        for ref, before in list(self._live.items()):
            inbox = ref._inbox
            handled = inbox.begun + inbox.signals - inbox.ticks
            if handled == before and inbox.sleeper is not None and inbox.empty:
                ref._give(Directive.PASSIVATE)
            else:
                self._live[ref] = handled
