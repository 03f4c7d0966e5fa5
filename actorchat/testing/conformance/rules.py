"""Collects the rules, and tries them out on a deployment one after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from enum import StrEnum
from typing import Final

import attrs
import trio

from actorchat.testing.conformance import feed_rules, http_rules, room_rules, socket_rules
from actorchat.testing.conformance.deployment import Broken, Deployment

__all__ = ["RULES", "Outcome", "Result", "Rule", "judge"]

RULE_SECONDS: Final = 60.0
"""How long one rule may take."""

_Check = Callable[[Deployment], Awaitable[None]]


class Outcome(StrEnum):
    """`SKIPPED`: there are too few tokens of operators."""

    KEPT = "kept"
    BROKEN = "broken"
    SKIPPED = "skipped"


@attrs.frozen
class Rule:
    """A rule of the contract. `operators` is how many tokens of operators it needs."""

    name: str
    sentence: str
    check: _Check
    operators: int

    @classmethod
    def of(cls, check: _Check, operators: int) -> Rule:
        """Make a rule of a function: its name and the first line of its docstring."""
        sentence = (check.__doc__ or "").partition("\n")[0]
        return cls(getattr(check, "__name__", "").replace("_", "-"), sentence, check, operators)


@attrs.frozen
class Result:
    """How a deployment did by one rule. `detail` says what was expected and what came, "" if the rule was kept."""

    rule: Rule
    outcome: Outcome
    detail: str = ""


RULES: Final = tuple(
    Rule.of(check, operators)
    for module in (http_rules, socket_rules, room_rules, feed_rules)
    for operators, checks in module.CHECKS.items()
    for check in checks
)


async def judge(deployment: Deployment, only: Collection[str] = ()) -> AsyncIterator[Result]:
    """Yield the result of each rule, or of those named in `only`."""
    for rule in RULES:
        if not only or rule.name in only:
            yield await _try(deployment, rule)


async def _try(deployment: Deployment, rule: Rule) -> Result:
    if rule.operators > len(deployment.operators):
        tokens = "a token of an operator" if rule.operators == 1 else f"tokens of {rule.operators} operators"
        return Result(rule, Outcome.SKIPPED, f"needs {tokens}")
    try:
        with trio.fail_after(RULE_SECONDS):
            await rule.check(deployment)
    except Broken as broken:
        return Result(rule, Outcome.BROKEN, str(broken))
    except trio.TooSlowError:
        return Result(rule, Outcome.BROKEN, f"took longer than {RULE_SECONDS:.0f} s")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, trio.BrokenResourceError) as error:
        # The deployment sent something of another shape than the contract's.
        return Result(rule, Outcome.BROKEN, f"an answer has another shape: {type(error).__name__}: {error}")
    return Result(rule, Outcome.KEPT)
