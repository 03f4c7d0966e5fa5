"""Plans: the setup and the steps of a run, made from its seed and stored as JSON.

A plan can be shortened and run again: every step has its own random generators, so that leaving one out does not
change the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from random import Random
from typing import Final

import attrs
import cattrs
import orjson

from actorchat.testing.simulation.bounds import BOUNDS

__all__ = ["FAULTS", "OPERATOR", "VISITOR", "Plan", "Setup", "Step", "load_plan", "make_plan", "save_plan"]

VISITOR: Final = {
    "tab": 5, "send": 14, "burst": 3, "mark": 8, "typing": 5, "leave": 3, "raw": 2, "raw_send": 5, "wrong": 2,
    "post": 2, "close": 1, "reopen": 1, "history": 2, "look": 1, "visit": 1, "wrong_request": 1, "stall": 2,
    "rename": 1, "again": 2, "twice": 2, "edit": 3, "redact": 2, "upload": 2, "attach": 2, "fetch": 1, "sign_out": 1,
}  # fmt: skip
"""The verbs of visitors, with their weights."""

OPERATOR: Final = {
    "tab": 5, "send": 9, "burst": 2, "mark": 8, "typing": 3, "leave": 3, "raw": 2, "raw_send": 3, "wrong": 1,
    "post": 2, "console": 4, "console_off": 2, "accept": 4, "close": 3, "reopen": 2, "transfer": 2, "give_back": 2,
    "reserve": 1, "note": 3, "history": 2, "look": 1, "wrong_request": 1, "stall": 1, "rename": 1, "expire": 1,
    "again": 1, "twice": 2, "edit": 3, "redact": 2, "upload": 2, "attach": 2, "fetch": 1, "sign_out": 1, "account": 2,
    "disable": 1, "login": 3, "away": 1, "block": 1, "erase": 1,
}  # fmt: skip

FAULTS: Final = {
    "crash": 3, "restart": 2, "crash_draining": 1, "away": 2, "doubt": 3, "slow_disk": 2, "unreadable": 2, "cut": 8,
    "silence": 4, "slow_net": 2, "refuse": 2, "sabotage": 3, "kill_room": 2, "clock": 1,
    "files_away": 1,
}  # fmt: skip

NEMESIS: Final = "nemesis"


@attrs.frozen
class Step:
    """At the time `at`, `who` does `verb`. The meaning of the three numbers depends on the verb."""

    at: float
    who: str
    verb: str
    a: int
    b: int
    c: int


@attrs.frozen(kw_only=True)
class Setup:
    """The settings of the server, how many people there are, and for how many seconds they and the faults act.

    `store` is `memory` or `sqlite`.
    """

    visitors: int = 1
    operators: int = 1
    seconds: float = 20.0
    store: str = "memory"
    transport: str = "reactor"
    on_closed: str = "reopen"
    capacity: int = 0
    rate: float = 0
    burst: float = 30
    answer_timeout: float = 0
    idle_timeout: float = 0
    reserved_timeout: float = 86_400.0
    upload_timeout: float = 86_400.0
    edit_within: float = 900.0
    retention: float = 0
    bounds: Mapping[str, float] = attrs.Factory(dict)

    @property
    def people(self) -> tuple[str, ...]:
        """The names of the people: `v0`, `v1`, … are visitors, `o0`, `o1`, … operators."""
        return (*(f"v{n}" for n in range(self.visitors)), *(f"o{n}" for n in range(self.operators)))


@attrs.frozen
class Plan:
    """The setup and the steps of a run. `seed` also seeds everything random while the plan runs."""

    seed: int
    setup: Setup
    steps: tuple[Step, ...]


def make_plan(seed: int, *, faults: Collection[str] | None = None) -> Plan:
    """Make the plan of a seed. `faults` are the kinds of faults it may contain, None for all."""
    setup = _make_setup(Random(f"{seed}/plan"))  # noqa: S311 - must be repeatable
    steps: list[Step] = []
    for who in setup.people:
        chance = Random(f"{seed}/plan/{who}")  # noqa: S311 - must be repeatable
        verbs = VISITOR if who[0] == "v" else OPERATOR
        steps += _steps(who, verbs, chance, setup.seconds, pace=chance.choice((0.3, 0.8, 1.6)), begin=chance.random())
    chance = Random(f"{seed}/plan/{NEMESIS}")  # noqa: S311 - must be repeatable
    kinds = {
        kind: weight for kind, weight in FAULTS.items() if (faults is None or kind in faults) and chance.random() < 0.6
    }
    pace = chance.choice((1.5, 4.0, 10.0))
    if kinds:
        steps += _steps(NEMESIS, kinds, chance, setup.seconds, pace=pace, begin=chance.uniform(0.5, 3.0))
    return Plan(seed, setup, tuple(sorted(steps, key=lambda step: step.at)))


def _make_setup(chance: Random) -> Setup:
    setup = Setup(
        visitors=chance.choice((1, 2, 2, 3)),
        operators=chance.choice((1, 2, 2, 3)),
        seconds=chance.choice((20.0, 40.0, 70.0)),
        store=chance.choice(("memory", "memory", "sqlite")),
        transport=chance.choice(("reactor", "reactor", "reactor", "trio-websocket")),
        on_closed=chance.choice(("reopen", "reopen", "queue", "refuse")),
        capacity=chance.choice((0, 0, 1, 2)),
        rate=chance.choice((0, 0, 10, 1)),
        burst=chance.choice((3, 30)),
        answer_timeout=chance.choice((0, 0, 0, 8)),
        idle_timeout=chance.choice((0, 0, 0, 15)),
        bounds={name: chance.choice(bound.values) for name, bound in BOUNDS.items() if chance.random() < 0.25},
        reserved_timeout=chance.choice((86_400.0, 86_400.0, 20.0, 2.0)),
        upload_timeout=chance.choice((86_400.0, 60.0)),
        edit_within=chance.choice((900.0, 900.0, 4.0)),
        retention=chance.choice((0, 0, 20.0, 5.0, 400.0)),
    )
    # Otherwise the deletion of old chats would run once.
    return attrs.evolve(setup, bounds={"retention_interval": 3, **setup.bounds}) if setup.retention else setup


def _steps(
    who: str, verbs: Mapping[str, int], chance: Random, seconds: float, *, pace: float, begin: float
) -> Iterable[Step]:
    at = begin
    while at < seconds:
        [verb] = chance.choices(list(verbs), list(verbs.values()))
        yield Step(round(at, 3), who, verb, *(chance.randrange(1_000) for _ in range(3)))
        at += chance.expovariate(1 / pace)


def save_plan(plan: Plan, path: Path, **more: object) -> None:
    """Write `plan` as JSON, one step a line, with the additional keys in `more`."""
    data = {**more, **cattrs.unstructure(attrs.evolve(plan, steps=()))}
    head = orjson.dumps(data, option=orjson.OPT_INDENT_2).removesuffix(b"[]\n}")
    steps = b",\n    ".join(orjson.dumps(attrs.astuple(step)) for step in plan.steps)
    path.write_bytes(head + b"[\n    " + steps + b"\n  ]\n}\n")


def load_plan(path: Path) -> Plan:
    data = orjson.loads(path.read_bytes())
    # Not converted to the fields' types: an integer bound must stay an integer.
    return Plan(data["seed"], Setup(**data["setup"]), tuple(Step(*step) for step in data["steps"]))
