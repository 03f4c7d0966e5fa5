"""Random sessions agree with a plain model of the contract's semantics, and every frame with the document."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actorchat.chat import Limits
from actorchat.chat.model import OnClosed, Policy
from actorchat.testing.simulation.model import Model
from tests.system.model_session import WEIGHTS, Session, Step, saboteur
from tests.system.virtual_time_chat import FrameValidator, open_virtual_time_chat

DOCUMENT = FrameValidator()
LONGEST = 50


def play(
    steps: list[Step], *, on_closed: str = "reopen", capacity: int = 0, url: str = "memory://", nodes: int = 1
) -> None:
    clock = MockClock()

    async def main() -> None:
        policy = Policy(on_closed=OnClosed(on_closed), capacity=capacity)
        limits = Limits(messages_per_second=0, text_length=LONGEST)
        model = Model(on_closed=on_closed, capacity=capacity, longest=LONGEST)
        with saboteur() as crash:
            async with open_virtual_time_chat(
                clock, DOCUMENT, url=url, policy=policy, limits=limits, nodes=nodes
            ) as chat_driver:
                await Session(chat_driver, model, crash).run(steps)

    trio.run(main, clock=clock)


def random_steps(seed: int, count: int) -> list[Step]:
    rng = Random(seed)
    kinds = rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)
    return [(kind, rng.randrange(1_000), rng.randrange(1_000), rng.randrange(1_000)) for kind in kinds]


NUMBER = st.integers(0, 999)
STEPS = st.lists(st.tuples(st.sampled_from(list(WEIGHTS)), NUMBER, NUMBER, NUMBER), max_size=40)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, on_closed=st.sampled_from(["reopen", "queue", "refuse"]), capacity=st.sampled_from([0, 2]))
def test_short_sessions_agree_with_the_model(steps: list[Step], on_closed: str, capacity: int) -> None:
    play(steps, on_closed=on_closed, capacity=capacity)


@pytest.mark.slow
def test_a_session_of_a_thousand_steps_agrees_with_the_model() -> None:
    play(random_steps(1, 1_000))


@pytest.mark.slow
@pytest.mark.parametrize(("on_closed", "capacity"), [("queue", 2), ("refuse", 3)])
def test_sessions_under_other_policies_agree_with_the_model(on_closed: str, capacity: int) -> None:
    play(random_steps(2, 200), on_closed=on_closed, capacity=capacity)


@pytest.mark.slow
def test_a_session_on_sqlite_agrees_with_the_model(tmp_path: Path) -> None:
    play(random_steps(3, 150), url=f"sqlite:///{tmp_path / 'chat.db'}")


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 2])
def test_a_session_on_postgresql_agrees_with_the_model(nodes: int, new_postgres: Callable[[], str]) -> None:
    play(random_steps(1, 1_000), url=new_postgres(), nodes=nodes)
