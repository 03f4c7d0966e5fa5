"""Brings the administration pages of the console into their states one after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final

from playwright.sync_api import Page, Route, expect

from actorchat.chat.accounts import Rights
from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from tests.system.server_process import SECRET, ServerProcess
from tests.web.browser import Operator

__all__ = [
    "Administrator",
    "add_people_and_tags",
    "show_administration",
    "show_first_sign_in",
    "show_history",
]

PEOPLE: Final = (
    ("anna", "Anna", "Kowalska", "supervisor", ["lk", "shop"]),
    (
        "dmitri.vasilyevich.preobrazhensky",
        "Дмитрий",
        "Преображенский",
        "operator",
        ["shop-in-another-country-01", "lk"],
    ),
    ("noor", "نور", "الدين", "operator", ["lk"]),
)
TAGS: Final = ("vip", "delivery", "refund-after-the-holidays-of-next-year-0", "Возврат", "b2b")

_PERIOD: Final = 5_000
"""Milliseconds between two samples of the page."""


class Administrator(Operator):
    """An administrator who uses the HTTP API."""

    def __init__(self, server: ServerProcess, number: int = 90) -> None:
        super().__init__(server, number, "Clara", "Chief")
        user = User(number, Role.OPERATOR, firstname="Clara", lastname="Chief")
        self.token = Tokens(SECRET).issue(user, ("lk", "ru"), 3600, Rights.ADMIN)
        self._client.headers["Authorization"] = f"Bearer {self.token}"

    def add_operator(self, login: str, password: str) -> None:
        """Add an operator of the source `lk`, who has signed in once and chosen this password."""
        one_time = self.call("POST", "/accounts", login=login, firstname=login.capitalize(), sources=["lk"])["password"]
        self.call("POST", "/login", login=login, password=one_time, new_password=password)


def add_people_and_tags(admin: Administrator, chat: str) -> None:
    """Add operators, one of whom is disabled, give the chat tags, and block its owner."""
    for login, first, last, rights, sources in PEOPLE:
        admin.call("POST", "/accounts", login=login, firstname=first, lastname=last, rights=rights, sources=sources)
    accounts = {account["login"]: account["id"] for account in admin.call("GET", "/accounts")}
    admin.call("PATCH", f"/accounts/{accounts['noor']}", disabled=True)
    admin.call("PUT", f"/chats/{chat}/tags", tags=TAGS)
    admin.call("POST", "/blocks", user=admin.call("GET", f"/chats/{chat}")["owner_user"]["id"], reason="Insults")


def show_administration(page: Page, take: Callable[[str], None]) -> None:
    """Call `take` with the name of each state. The page is a console of an administrator, with people and tags."""
    menu = page.locator(".pages button")
    page.locator(".rail > button").nth(2).click()
    page.locator(".preview .ask, .preview .hello").first.wait_for()
    page.locator("[name=greeting]").first.fill("Good evening! The workshop answers until eight.")
    page.locator("[name=accent]").first.fill("#7a3e9d")
    page.locator(".preview [aria-pressed=false]").first.click()
    take("sources-preview")
    menu.nth(1).click()
    page.locator(".line").first.wait_for()
    take("operators")
    page.locator(".tools .btn.p").click()
    page.locator("dialog input[name=login]").fill("sofia")
    take("operators-add")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    page.locator(".line", has_text="anna").locator(".btn").click()
    page.locator(".access .btn").first.click()
    page.locator(".question .btn.p").wait_for()
    take("operators-question")
    page.locator(".question .btn.p").click()
    page.locator(".access .code").wait_for()
    take("operators-password")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    menu.nth(2).click()
    page.locator(".line").first.wait_for()
    take("tags")
    page.locator(".line .btn").first.click()
    page.locator("dialog input").fill("delivery")
    take("tags-merge")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    page.locator(".line .btn").nth(1).click()
    page.locator("dialog").wait_for()
    take("tags-delete")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")
    menu.nth(3).click()
    page.locator(".tools .btn.p").click()
    page.locator("dialog input[name=address]").fill("203.0.113.0/24")
    page.locator("dialog input[name=reason]").fill("Advertising in every chat, again and again")
    take("blocks-add")
    page.locator("dialog .btn.p").click()
    page.locator("dialog .btn.p:not(.bad)").click()
    page.locator(".line h3 a").wait_for()
    take("blocks")
    menu.nth(4).click()
    page.locator(".grid").wait_for()
    take("actors")
    page.locator(".tools input").fill("no such actor")
    expect(page.locator(".grid")).to_have_count(0)
    take("actors-none")
    menu.nth(5).click()
    page.locator(".chart").first.wait_for()
    take("metrics")


def show_first_sign_in(page: Page, server: ServerProcess, admin: Administrator, take: Callable[[str], None]) -> None:
    """Sign in with a one-time password instead, and call `take` when a new one is asked for."""
    password = admin.call("POST", "/accounts", login="first", sources=["lk"])["password"]
    page.context.clear_cookies()
    page.goto(f"{server.url}/console")
    page.reload()
    page.locator("[name=login]").fill("first")
    page.locator("[name=password]").fill(password)
    page.locator("form .btn").click()
    page.locator("[name=new]").wait_for()
    take("sign-in-new-password")


def show_history(page: Page, take: Callable[[str], None]) -> None:
    """Show the charts after a quarter of an hour with a load that is made up, and call `take`."""
    taken = 0
    numbers: dict[str, Any] = {}

    def answer(route: Route) -> None:
        nonlocal taken
        if not numbers:
            numbers.update(route.fetch().json())
        step, taken = taken, taken + 1
        wave = 1 + math.sin(step / 17) * 0.5 + math.sin(step / 3.1) * 0.2
        burst = 6.0 if 110 < step < 124 else 1.0
        commits = int(90 * wave)
        numbers["time"] += _PERIOD / 1000
        numbers["messages_stored"] += int(210 * wave * burst)
        numbers["sockets"] = int(340 + 120 * math.sin(step / 40) + 25 * math.sin(step / 5))
        numbers["rooms"] = int(numbers["sockets"] * 0.7)
        numbers["operations_waiting"] = int(14 * wave * burst)
        numbers["feed_items_waiting"] = int(5 * max(0.0, burst - 1) * wave)
        numbers["slow_sockets"] += 2 if step in (116, 119) else 0
        numbers["actor_restarts"] += 1 if step == 121 else 0
        for bucket in numbers["commit_seconds"]:
            limit = bucket["limit"] or 1e9
            typical, slow = 0.0012 * burst, 0.009 * wave * burst
            part = 1.0 if limit >= slow else 0.97 if limit >= typical else 0.2
            bucket["count"] += int(commits * part)
        route.fulfill(body=json.dumps(numbers), content_type="application/json")

    page.clock.install()
    page.route("**/api/statistics", answer)
    page.reload()
    page.locator(".chart").first.wait_for()
    for _ in range(180):
        with page.expect_response("**/api/statistics"):
            page.clock.run_for(_PERIOD)
    take("metrics-history")
    plot = page.locator(".plot").nth(2)
    box = plot.bounding_box()
    assert box is not None
    plot.hover(position={"x": box["width"] * 0.65, "y": 40})
    page.locator(".plot i").first.wait_for()
    take("metrics-hover")
    page.mouse.move(0, 0)
    page.locator(".values summary").click()
    page.locator(".values .grid").wait_for()
    page.locator(".values .grid").scroll_into_view_if_needed()
    take("metrics-table")
    page.unroute("**/api/statistics")
