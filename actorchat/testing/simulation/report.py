"""Describes a run in text: its result, and after a failure the broken promise, the plan and the last events."""

from __future__ import annotations

import json
from collections.abc import Iterator

from actorchat.testing.simulation.chat_world import ChatVerdict
from actorchat.testing.simulation.invariants import sentence_of
from actorchat.testing.simulation.model import Json
from actorchat.testing.simulation.plan import Setup

__all__ = ["describe", "describe_failure", "describe_plan"]


def describe(played: ChatVerdict) -> str:
    """Summarize the run in two lines: whether it failed, its hash, and how much happened."""
    verdict = played.verdict
    outcome = "ok" if verdict.violation is None else str(verdict.violation)
    pace = verdict.virtual / verdict.real if verdict.real else 0.0
    return (
        f"seed {verdict.seed}: {outcome}\n"
        f"  hash {verdict.digest}, {verdict.virtual:.0f} virtual seconds in {verdict.real:.2f} s, {pace:.0f} a second, "
        f"{played.operations} operations in {played.commits} commits, {len(verdict.lines)} events"
    )


def describe_plan(played: ChatVerdict) -> Iterator[str]:
    """Yield the settings that differ from the defaults, and every step."""
    setup, usual = played.plan.setup, Setup()
    odd = {name: getattr(setup, name) for name in Setup.__annotations__ if getattr(setup, name) != getattr(usual, name)}
    yield f"setup: {', '.join(f'{name}={value}' for name, value in odd.items()) or 'as usual'}"
    for step in played.plan.steps:
        yield f"  {step.at:8.3f} {step.who:8} {step.verb} {step.a} {step.b} {step.c}"


def describe_failure(played: ChatVerdict, *, last: int = 30) -> Iterator[str]:
    """Yield the broken promise, the plan, and the `last` events before the failure."""
    violation = played.violation
    if violation is None:
        return
    sentence = sentence_of(violation.kind)
    yield f"seed {played.plan.seed} breaks {violation.kind!r} at {violation.at:.3f} s"
    if sentence is not None:
        yield f"  expected: {sentence}"
        yield f"  observed: {violation.detail}"
    yield from describe_plan(played)
    lines = played.verdict.lines
    end = next((place for place, line in enumerate(lines, 1) if " VIOLATION: " in line), len(lines))
    yield f"the last {min(last, end)} of {end} events:"
    for line in lines[max(0, end - last) : end]:
        yield f"  {_short(line)}"


def _short(line: str, most: int = 200) -> str:
    head, found, payload = line.partition(" {")
    if found and " told " in head:
        line = f"{head} {_gist(json.loads('{' + payload))}"
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _gist(event: Json) -> str:
    """The important parts of an event."""
    data = event["data"]
    message, chat, user = data.get("message"), data.get("chat"), data.get("user")
    words: list[object] = [event["type"]]
    if message is not None:
        words += [message["message_index"], repr(message["text"]), message["status"], "in", message["chat"]["uuid"][:4]]
    elif chat is not None:
        operator = chat["operator_user"]
        words += [chat["uuid"][:4], chat["status"], "of", None if operator is None else operator["id"]]
    elif user is not None:
        words += [user["role"], user["id"], user["firstname"]]
    words += [f"{name}={value}" for name, value in data.items() if name not in ("message", "chat", "user")]
    return " ".join(map(str, words))
