"""Reduces a failing plan to fewer steps, people and unusual settings that still break the same promise."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import attrs

from actorchat.testing.simulation.chat_world import ChatVerdict, play
from actorchat.testing.simulation.interpreter import real_seconds
from actorchat.testing.simulation.plan import Plan, Setup, Step

__all__ = ["Shrunk", "shrink"]

_PLAIN: Final = {
    "store": "memory",
    "transport": "reactor",
    "on_closed": "reopen",
    "capacity": 0,
    "rate": 0,
    "answer_timeout": 0,
    "idle_timeout": 0,
    "reserved_timeout": 86_400.0,
    "upload_timeout": 86_400.0,
    "edit_within": 900.0,
    "retention": 0,
}


@attrs.frozen(kw_only=True)
class Shrunk:
    """The smallest failing plan that was found, its result, and the number of runs it took to find it."""

    played: ChatVerdict
    runs: int

    @property
    def plan(self) -> Plan:
        return self.played.plan


def shrink(
    plan: Plan,
    kind: str,
    *,
    known: Collection[str] = (),
    seconds: float = 50.0,
    play: Callable[..., ChatVerdict] = play,
    on_progress: Callable[[int, int], object] = lambda steps, runs: None,
) -> Shrunk:
    """Return the smallest part of `plan`, found within `seconds`, that still breaks the promise `kind`.

    `on_progress` is called with the number of steps that are left and the number of runs. Raises ValueError if the
    whole plan does not break that promise.
    """
    smaller = _Shrinking(kind, known, real_seconds() + seconds, play, on_progress)
    if not smaller.fails(plan):
        raise ValueError(f"seed {plan.seed} does not fail with {kind}")
    smaller.drop_late_steps()
    smaller.drop(lambda step: step.verb)
    smaller.drop(lambda step: step.who)
    smaller.simplify()
    smaller.drop_pieces()
    smaller.drop_people()
    return Shrunk(played=smaller.best, runs=smaller.runs)


class _Shrinking:
    best: ChatVerdict

    def __init__(
        self,
        kind: str,
        known: Collection[str],
        until: float,
        play: Callable[..., ChatVerdict],
        on_progress: Callable[[int, int], object],
    ) -> None:
        self._kind, self._known, self._until, self._play, self._on_progress = kind, known, until, play, on_progress
        self.runs = 0

    @property
    def _plan(self) -> Plan:
        return self.best.plan

    def fails(self, plan: Plan) -> bool:
        if self.runs and real_seconds() > self._until:
            return False
        self.runs += 1
        played = self._play(plan, known=self._known)
        if played.violation is None or played.violation.kind != self._kind:
            return False
        self.best = played
        self._on_progress(len(plan.steps), self.runs)
        return True

    def _without(self, keep: Callable[[Step], bool]) -> bool:
        steps = tuple(step for step in self._plan.steps if keep(step))
        return len(steps) < len(self._plan.steps) and self.fails(attrs.evolve(self._plan, steps=steps))

    def drop_late_steps(self) -> None:
        """Leave out the steps after the violation, which can't have caused it."""
        violation = self.best.violation
        assert violation is not None  # noqa: S101 - the best one failed
        at = violation.at
        self._without(lambda step: step.at <= at)

    def drop(self, kind: Callable[[Step], str]) -> None:
        """Leave out whole kinds of steps, the most frequent first."""
        every = [kind(step) for step in self._plan.steps]
        for one in sorted(set(every), key=lambda name: (-every.count(name), name)):
            self._without(lambda step, one=one: kind(step) != one)  # type: ignore[misc] # a default argument binds it

    def simplify(self) -> None:
        """Replace each unusual setting by its default."""
        for name, value in _PLAIN.items():
            if getattr(self._plan.setup, name) != value:
                self._with_setup(attrs.evolve(self._plan.setup, **{name: value}))  # type: ignore[arg-type] # by name
        for bound in list(self._plan.setup.bounds):
            bounds = {name: value for name, value in self._plan.setup.bounds.items() if name != bound}
            self._with_setup(attrs.evolve(self._plan.setup, bounds=bounds))

    def _with_setup(self, setup: Setup) -> None:
        self.fails(attrs.evolve(self._plan, setup=setup))

    def drop_pieces(self) -> None:
        """Leave out halves of the steps, then quarters, and so on down to single steps."""
        size = max(1, len(self._plan.steps) // 2)
        while size:
            place = 0
            while place < len(self._plan.steps):
                steps = self._plan.steps[:place] + self._plan.steps[place + size :]
                if not self.fails(attrs.evolve(self._plan, steps=steps)):
                    place += size
            size //= 2

    def drop_people(self) -> None:
        """Leave out people without steps, from the highest number down."""
        for field, letter in (("visitors", "v"), ("operators", "o")):
            who = {step.who for step in self._plan.steps}
            busy = [int(name[1:]) + 1 for name in who if name[0] == letter and name[1:].isdigit()]
            fewest = max([1, *busy])
            if fewest < getattr(self._plan.setup, field):
                self._with_setup(attrs.evolve(self._plan.setup, **{field: fewest}))  # type: ignore[arg-type] # by name
