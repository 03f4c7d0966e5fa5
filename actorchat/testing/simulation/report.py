"""What a person reads of a failed run: the promise, the plan, and the last of what happened."""

from __future__ import annotations

from collections.abc import Iterator

from actorchat.testing.simulation.chat_world import ChatVerdict
from actorchat.testing.simulation.invariants import sentence_of
from actorchat.testing.simulation.plan import Setup

__all__ = ["describe", "describe_failure", "describe_plan"]


def describe(played: ChatVerdict) -> str:
    """One or two lines: whether it failed, its hash, and how much happened."""
    verdict = played.verdict
    outcome = "ok" if verdict.violation is None else str(verdict.violation)
    pace = verdict.virtual / verdict.real if verdict.real else 0.0
    return (
        f"seed {verdict.seed}: {outcome}\n"
        f"  hash {verdict.digest}, {verdict.virtual:.0f} virtual seconds in {verdict.real:.2f} s ({pace:.0f} a second), "
        f"{played.operations} operations in {played.commits} commits, {len(verdict.lines)} events"
    )


def describe_plan(played: ChatVerdict) -> Iterator[str]:
    """The settings that are not the usual ones, and every step."""
    setup, usual = played.plan.setup, Setup()
    odd = {name: getattr(setup, name) for name in Setup.__annotations__ if getattr(setup, name) != getattr(usual, name)}
    yield f"setup: {', '.join(f'{name}={value}' for name, value in odd.items()) or 'as usual'}"
    for step in played.plan.steps:
        yield f"  {step.at:8.3f} {step.who:8} {step.verb} {step.a} {step.b} {step.c}"


def describe_failure(played: ChatVerdict, *, last: int = 30) -> Iterator[str]:
    """The broken promise, the plan, and the `last` events before it."""
    violation = played.violation
    if violation is None:
        return
    sentence = sentence_of(violation.kind)
    yield f"seed {played.plan.seed} breaks {violation.kind!r} at {violation.at:.3f} s"
    if sentence is not None:
        yield f"  the promise: {sentence}"
    yield f"  what was seen: {violation.detail}"
    yield from describe_plan(played)
    yield f"the last {last} of {len(played.verdict.lines)} events:"
    for line in played.verdict.lines[-last:]:
        yield f"  {_short(line)}"


def _short(line: str, most: int = 220) -> str:
    return line if len(line) <= most else f"{line[: most - 1]}…"
