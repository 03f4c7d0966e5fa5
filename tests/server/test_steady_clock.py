"""The clock of `actorchat serve` leaves out the time in which the process was stopped."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import attrs
import trio
from hypothesis import given
from hypothesis import strategies as st

from actorchat.server.steady_clock import SLACK, SteadyClock


@attrs.define
class Raw:
    """A machine's clock that a test sets."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def started() -> tuple[SteadyClock, Raw]:
    raw = Raw()
    clock = SteadyClock(raw)
    clock.start_clock()
    return clock, raw


def test_time_passes_as_on_the_machine_while_the_process_runs() -> None:
    clock, raw = started()
    begin = clock.current_time()
    for _ in range(100):
        raw.now += 0.9 * SLACK
        clock.current_time()
    assert round(clock.current_time() - begin, 6) == round(90 * SLACK, 6)


def test_a_long_wait_for_a_deadline_counts() -> None:
    clock, raw = started()
    begin = clock.current_time()
    assert clock.deadline_to_sleep_time(begin + 3600) == 3600
    raw.now += 3600
    assert clock.current_time() - begin == 3600


def test_time_in_which_the_process_was_stopped_does_not_count() -> None:
    clock, raw = started()
    begin = clock.current_time()
    clock.deadline_to_sleep_time(begin + 1)
    raw.now += 62
    assert clock.current_time() - begin == 1 + SLACK
    raw.now += 62
    assert clock.current_time() - begin == 1 + 2 * SLACK


def test_without_a_deadline_no_time_is_left_out() -> None:
    clock, raw = started()
    begin = clock.current_time()
    assert clock.deadline_to_sleep_time(float("inf")) == float("inf")
    raw.now += 10_000
    assert clock.current_time() - begin == 10_000


@given(st.lists(st.tuples(st.floats(0, 500), st.one_of(st.none(), st.floats(-5, 100)))))
def test_the_steady_clock_never_goes_back_and_never_passes_the_real_one(
    steps: list[tuple[float, float | None]],
) -> None:
    clock, raw = started()
    begin, real = clock.current_time(), raw.now
    last = begin
    for passed, deadline in steps:
        raw.now += passed
        now = clock.current_time()
        assert last <= now <= begin + (raw.now - real) + 1e-6
        last = now
        if deadline is not None:
            assert abs(clock.deadline_to_sleep_time(now + deadline) - deadline) < 1e-6


def in_trio(main: Callable[[Raw], Awaitable[None]]) -> None:
    raw = Raw()
    trio.run(main, raw, clock=SteadyClock(raw))


def test_a_timeout_in_trio_is_not_over_because_the_process_was_stopped() -> None:
    async def main(raw: Raw) -> None:
        with trio.move_on_after(10) as scope:
            raw.now += 62
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            assert not scope.cancel_called
            for _ in range(20):
                raw.now += 0.5
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught

    in_trio(main)


def test_trio_sleeps_as_long_as_with_its_own_clock() -> None:
    async def main() -> None:
        begin = time.perf_counter()
        await trio.sleep(0.02)
        assert time.perf_counter() - begin >= 0.02

    trio.run(main, clock=SteadyClock())
