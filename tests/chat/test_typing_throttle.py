"""Which typing updates are sent, and when."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from actorchat.chat.typing_throttle import INTERVAL, Typed, TypingThrottle


def test_the_first_update_goes_at_once_and_the_next_waits_its_turn() -> None:
    relay = TypingThrottle()
    assert relay.update("h", False, 10.0) == Typed("h", stopped=False)
    assert isinstance(relay.update("he", False, 10.1), float)
    assert relay.update("hel", False, 10.2) is None
    assert relay.due(10.25) == Typed("hel", stopped=False)


def test_a_stop_is_passed_on_only_if_typing_was_on() -> None:
    relay = TypingThrottle()
    assert relay.update("", True, 1.0) is None
    assert relay.stop(1.0) is None
    relay.update("h", False, 2.0)
    assert relay.stop(2.1) == Typed("", stopped=True)
    assert relay.stop(2.2) is None


@given(steps=st.lists(st.tuples(st.booleans(), st.floats(0, 0.4)), max_size=40))
def test_typing_is_sent_at_most_four_times_a_second_the_latest_last(
    steps: list[tuple[bool, float]],
) -> None:
    relay, now, due = TypingThrottle(), 100.0, None
    shown: list[tuple[float, Typed]] = []
    last = True
    for stopped, pause in [*steps, (True, 1.0), (True, 1.0)]:
        arrival = now + pause
        if due is not None and due <= arrival:
            typed = relay.due(due)
            if typed is not None:
                shown.append((due, typed))
            due = None
        now, last = arrival, stopped
        step = relay.update("x", stopped, now)
        if isinstance(step, float):
            due = now + step
        elif step is not None:
            shown.append((now, step))
    times = [time for time, _ in shown]
    assert all(b - a >= INTERVAL - 1e-9 for a, b in itertools.pairwise(times))
    assert not shown or shown[-1][1].stopped is last
