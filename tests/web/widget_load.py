"""Measures the longest tasks that the widget adds to a page: `python -m tests.web.widget_load`.

Each step is done several times in a new browser window, and the shortest result counts. Times are CPU times of the
page's main thread; on a machine that is too noisy they are shown and not judged. Exits with 1 if a budget is missed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser

from bench.noise import measure_noise
from tests.system.server_process import ServerProcess
from tests.web.browser import CustomerSite, Operator, Widget, open_browser, running_server, running_site
from tests.web.tracing import LONG_TASK_MS, SLOWER, longest_task

IDLE_MS: Final = 500
"""How long each step is watched after it is done."""


def measure(browser: Browser, server: ServerProcess, site: CustomerSite, operator: Operator) -> dict[str, float]:
    """The CPU time of the longest task in each step, in milliseconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en")
    page = context.new_page()
    widget = Widget(page)
    plain, tagged = f"{site.url}/plain", f"{site.url}/tagged"
    site.pages["/plain"] = "<!doctype html><title>Shop</title><h1>Lamps</h1>"
    site.put(server.url, path="/tagged")

    found: dict[str, float] = {}

    def step(name: str, *acts: Callable[[], object]) -> None:
        def do() -> None:
            for act in acts:
                act()
            page.wait_for_timeout(IDLE_MS)

        found[name] = longest_task(page, do)

    step("a plain page", lambda: page.goto(plain))
    step("the tag", lambda: page.goto(tagged), widget.launcher.wait_for)
    step("the pointer over the button", widget.launcher.hover)
    step("the window opens", widget.open)
    step("the first message", lambda: widget.send("Hello"), lambda: widget.wait_for("Hello"))
    chat = operator.newest_chat()
    for number in range(60):
        operator.say(chat, f"Answer {number}. " * 5)
    step("a page with 60 messages", page.reload, lambda: widget.wait_for("Answer 59"))
    context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    noise = measure_noise()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_site() as site,
        running_server(Path(folder) / "data", site) as server,
        open_browser() as browser,
    ):
        operator = Operator(server)
        rounds = [measure(browser, server, site, operator) for _ in range(chosen.rounds)]
        operator.close()
    slow = {step: SLOWER * min(each[step] for each in rounds) for step in rounds[0]}
    for step, milliseconds in slow.items():
        print(f"{milliseconds:6.1f} ms  {step}, with a CPU {SLOWER} times slower")
    print(noise)
    missed = [step for step, milliseconds in slow.items() if milliseconds > LONG_TASK_MS]
    if missed and not noise.too_noisy:
        raise SystemExit(f"longer than {LONG_TASK_MS:.0f} ms: {', '.join(missed)}")


if __name__ == "__main__":
    main()
