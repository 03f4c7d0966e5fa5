"""The errors for a factory that does not return a new actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actorchat.actors import Actor, ActorCrashed, Restart, TooManyRestarts, open_supervisor
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Boom, Counter, Total

# Any: the factories are wrong on purpose.
WRONG: list[tuple[Any, str]] = [
    (lambda: 3, "the factory of x must return an Actor, not 3"),
    (lambda: None, "the factory of x must return an Actor, not None"),
    (lambda: Counter, "the factory of x must return an Actor, not <class"),
]


@pytest.mark.parametrize(("factory", "said"), WRONG)
async def test_a_factory_that_returns_no_actor_is_a_clear_type_error(factory: Callable[[], Any], said: str) -> None:
    async with open_system() as system:
        with pytest.raises(TypeError, match=said):
            await system.start(factory, "x")
    with pytest.RaisesGroup(ActorCrashed) as group:
        async with open_system() as system:
            system.spawn(factory, "x")
            await trio.sleep_forever()
    assert said in str(group.value.exceptions[0].__cause__)


async def test_a_virtual_actors_factory_that_returns_none_fails_the_ask() -> None:
    def wrong(key: str) -> Any:  # Any: wrong on purpose
        return None

    async with open_system() as system:
        with pytest.raises(ActorCrashed) as crashed:
            await system.virtual(wrong, name="x")["a"].ask(Total())
    assert "must return an Actor, not None" in str(crashed.value.__cause__)


async def test_a_factory_that_returns_the_same_actor_again_is_an_error(autojump_clock: MockClock) -> None:
    actor = Counter()
    with pytest.RaisesGroup(TooManyRestarts) as group:
        async with open_system() as system:
            system.spawn(lambda: actor, "x", restart=Restart(max=1, within=60, backoff=0.5)).tell(Boom())
            await trio.sleep_forever()
    assert "the factory of x must return a new Actor each time" in str(group.value.exceptions[0].__cause__)


@pytest.mark.parametrize("wrong", [Actor(), 3, None])
async def test_a_factory_that_is_not_callable_is_refused(wrong: Any) -> None:
    async with open_system() as system, open_supervisor(system) as supervisor:
        for spawn in (system.spawn, supervisor.spawn, system.virtual):
            with pytest.raises(TypeError, match="expected a factory, a class or function that returns an Actor"):
                spawn(wrong)
