"""Measures the tasks of a page by CPU time, so that other work on the machine hardly matters."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from playwright.sync_api import Page

__all__ = ["LONG_TASK_MS", "SLOWER", "longest_task"]

LONG_TASK_MS: Final = 50.0
SLOWER: Final = 4
"""Tasks have to be short enough for a CPU that is so many times slower."""

TRACED: Final = ("toplevel", "disabled-by-default-devtools.timeline")


def longest_task(page: Page, act: Callable[[], object]) -> float:
    """Act, and return the CPU time of the longest task of the page's main thread meanwhile, in milliseconds."""
    browser = page.context.browser
    assert browser is not None
    browser.start_tracing(page=page, categories=list(TRACED))
    act()
    tasks = defaultdict[tuple[int, int], list[float]](list)
    for event in json.loads(browser.stop_tracing())["traceEvents"]:
        if event["name"] == "RunTask" and "tdur" in event:
            tasks[event["pid"], event["tid"]].append(event["tdur"] / 1000)
    # The thread that worked most is the one of the page.
    return max(max(tasks.values(), key=sum))
