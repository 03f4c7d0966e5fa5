"""Each example runs, ends by itself, prints what it should, and is short."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from actorchat.testing.simulation import simulate
from examples import embedded_chat, follow_feed, ping_pong, rate_limited_crawler, simulated_till, supervised_worker

FILES = sorted((Path(__file__).parents[2] / "examples").glob("[!_]*.py"))


@pytest.fixture
def quiet_actors() -> Iterator[None]:
    """Restores the log level that an example changes."""
    log = logging.getLogger("actorchat.actors")
    level = log.level
    yield
    log.setLevel(level)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 100
    assert f"`python -m examples.{path.stem}`" in text.partition("\n")[0]


async def test_ping_and_pong_take_turns(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(10):
        await ping_pong.main()
    assert capsys.readouterr().out == "1 ping\n2 pong\n3 ping\n4 pong\n5 ping\n6 pong\n"


@pytest.mark.usefixtures("quiet_actors")
async def test_the_restarted_worker_answers_waiting_callers(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(10):
        await supervised_worker.main()
    assert capsys.readouterr().out.splitlines() == [
        "calculator starts",
        "6 / 3 = 2.0",
        "-6 / 3: this calculator takes no negative numbers",
        "lost (crashed): Divide(dividend=1, divisor=0)",
        "calculator ends: crashed",
        "1 / 0: Calculator-1 crashed by ZeroDivisionError('division by zero')",
        "calculator starts",
        "9 / 3 = 3.0",
        "calculator ends: stopped",
    ]


async def test_the_crawler_finds_all_pages_and_keeps_its_pace(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times: dict[str, list[float]] = defaultdict(list)
    fetch = rate_limited_crawler.fetch

    async def timed_fetch(url: str) -> tuple[str, ...]:
        times[url.partition("/")[0]].append(trio.current_time())
        return await fetch(url)

    monkeypatch.setattr(rate_limited_crawler, "fetch", timed_fetch)
    with trio.fail_after(60):
        await rate_limited_crawler.main()
    assert capsys.readouterr().out.splitlines()[-1] == "6 pages"
    for moments in times.values():
        gaps = [after - before for before, after in pairwise(moments)]
        assert len(moments) == 3
        assert min(gaps) == pytest.approx(rate_limited_crawler.PACE)


async def test_every_question_in_the_embedded_chat_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(20):
        await embedded_chat.main()
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Olga: ")]
    assert answers == ["Olga: At nine.", "Olga: We sleep on Sundays.", "Olga: I will ask."]


async def test_the_feed_follower_sees_the_chat_and_both_messages(capsys: pytest.CaptureFixture[str]) -> None:
    with trio.fail_after(20):
        await follow_feed.main()
    assert capsys.readouterr().out.splitlines() == [
        "connected: all chats that are not closed:",
        "chat of Ann: new",
        "Ann: do you ship abroad?",
        "Ann: to Norway, that is",
    ]


def test_the_simulated_till_counts_once_with_keys_and_twice_without() -> None:
    def broken(keys: bool) -> list[bool]:
        return [simulate(partial(simulated_till.shop, keys), seed).violation is not None for seed in range(4)]

    assert not any(broken(keys=True))
    assert any(broken(keys=False))
