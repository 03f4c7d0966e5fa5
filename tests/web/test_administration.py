"""The administration pages of the console in a real browser, against a server in its own process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.system.server_process import ServerProcess
from tests.web.accounts import PASSWORD, add_account
from tests.web.administration_states import Administrator, add_people_and_tags, show_administration
from tests.web.axe import needs_axe, violations
from tests.web.browser import PATIENCE, CustomerSite, running_server
from tests.web.console_states import Visitor
from tests.web.screenshots import SIZES, THEMES
from tests.web.test_embedding import WATCH_VIOLATIONS

pytestmark = pytest.mark.slow

OWN_PASSWORD: Final = "a password of my own"

Open = Callable[[str], Page]


@pytest.fixture(scope="module")
def office(browser: Browser, site: CustomerSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the administrator `olga`."""
    with running_server(tmp_path_factory.mktemp("office") / "data", site) as server:
        add_account(server, "olga")
        yield server


@pytest.fixture(scope="module")
def admin(office: ServerProcess) -> Iterator[Administrator]:
    admin = Administrator(office)
    yield admin
    admin.close()


@pytest.fixture
def contexts(browser: Browser) -> Iterator[Callable[[], BrowserContext]]:
    """Returns a function that makes a browser of its own. Any error of a script fails the test."""
    made: list[BrowserContext] = []
    errors: list[str] = []

    def make() -> BrowserContext:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en")
        context.set_default_timeout(PATIENCE * 1000)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        context.add_init_script(WATCH_VIOLATIONS)
        made.append(context)
        return context

    yield make
    for context in made:
        for page in context.pages:
            assert page.evaluate("window.violations ?? []") == []
        context.close()
    assert errors == []


@pytest.fixture
def visit(office: ServerProcess, admin: Administrator) -> Iterator[Callable[[int], Visitor]]:
    """Returns a function that makes a visitor with an open chat."""
    visitors: list[Visitor] = []

    def make(number: int) -> Visitor:
        visitors.append(Visitor(office, admin.token_of_user(number, "Vera")))
        return visitors[-1]

    yield make
    for visitor in visitors:
        visitor.close()


def sign_in(page: Page, office: ServerProcess, login: str, password: str = PASSWORD) -> None:
    page.goto(f"{office.url}/console")
    page.get_by_label("Login").fill(login)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


@pytest.fixture
def open_page(contexts: Callable[[], BrowserContext], office: ServerProcess) -> Open:
    """Returns a function that opens a page of the administration as `olga`."""

    def open_it(name: str) -> Page:
        page = contexts().new_page()
        sign_in(page, office, "olga")
        page.get_by_role("button", name="Administration").click()
        page.get_by_role("navigation", name="Administration").get_by_role("button", name=name).click()
        expect(page.get_by_role("heading", level=2, name=name)).to_be_visible()
        return page

    return open_it


def line(page: Page, text: str) -> Locator:
    return page.locator(".line", has_text=text)


def edit(page: Page, name: str) -> Locator:
    """Open the dialog of an account."""
    page.get_by_role("button", name=f"Edit {name}").click()
    dialog = page.get_by_role("dialog", name=name)
    expect(dialog).to_be_visible()
    return dialog


def test_an_operator_who_was_added_signs_in_and_chooses_a_password(
    open_page: Open, contexts: Callable[[], BrowserContext], office: ServerProcess
) -> None:
    page = open_page("Operators")
    page.get_by_role("button", name="Add an operator").click()
    dialog = page.get_by_role("dialog", name="Add an operator")
    dialog.get_by_label("Login").fill("Sofia")
    dialog.get_by_label("First name").fill("Sofia")
    dialog.get_by_label("Others").fill("lk, shop")
    dialog.get_by_role("button", name="Add", exact=True).click()
    done = page.get_by_role("dialog", name="Sofia can sign in now")
    handed = done.locator("code").inner_text()
    found = re.search(r"Login: (\S+)\nOne-time password: (\S+)", handed)
    assert found is not None, handed
    assert f"{office.url}/console" in handed
    done.get_by_role("button", name="Done").click()
    expect(line(page, "sofia · lk, shop")).to_contain_text("Has a one-time password")
    theirs = contexts().new_page()
    sign_in(theirs, office, found[1], found[2])
    expect(theirs.get_by_text("Choose your own password to go on.")).to_be_visible()
    expect(theirs.get_by_label("New password, 8")).to_be_focused()
    theirs.get_by_label("New password, 8").fill(OWN_PASSWORD)
    theirs.get_by_label("again").fill("another one")
    theirs.get_by_role("button", name="Sign in").click()
    expect(theirs.get_by_role("alert")).to_have_text("The two passwords differ.")
    for field in ("New password, 8", "again"):
        theirs.get_by_label(field).fill(found[2])
    theirs.get_by_role("button", name="Sign in").click()
    expect(theirs.get_by_role("alert")).to_contain_text("not the one-time password")
    for field in ("New password, 8", "again"):
        theirs.get_by_label(field).fill(OWN_PASSWORD)
    theirs.get_by_role("button", name="Sign in").click()
    expect(theirs.locator(".list")).to_be_visible()
    # Not an administrator, so there are no such pages, whatever the address says.
    expect(theirs.get_by_role("button", name="Administration")).to_have_count(0)
    theirs.goto(f"{office.url}/console#operators")
    theirs.reload()
    # The list is known after the rights are.
    expect(theirs.locator(".rows.empty, .rows .row").first).to_be_visible()
    page.reload()
    expect(line(page, "sofia")).to_contain_text("Signed in")
    again = contexts().new_page()
    sign_in(again, office, "sofia", OWN_PASSWORD)
    expect(again.locator(".list")).to_be_visible()


def test_role_and_sources_are_changed_and_stay_after_a_reload(open_page: Open, admin: Administrator) -> None:
    admin.call("POST", "/accounts", login="petra", firstname="Petra", sources=["lk"])
    page = open_page("Operators")
    dialog = edit(page, "Petra")
    dialog.get_by_label("Supervisor").check()
    dialog.get_by_label("Others").fill("help")
    dialog.get_by_label("Last name").fill("Stone")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_text("Saved.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Edit Petra Stone")).to_be_focused()
    expect(line(page, "Petra Stone")).to_contain_text("Supervisor")
    page.reload()
    expect(line(page, "Petra Stone")).to_contain_text("petra · help, lk")
    dialog = edit(page, "Petra Stone")
    expect(dialog.get_by_label("Supervisor")).to_be_checked()
    expect(dialog.get_by_label("help")).to_be_checked()
    dialog.get_by_label("help").uncheck()
    dialog.get_by_label("lk").uncheck()
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text(
        "An operator sees only the chats of their sources. Choose at least one."
    )
    dialog.get_by_label("Administrator").check()
    expect(dialog.get_by_role("group", name="Sources")).to_be_hidden()
    dialog.get_by_role("button", name="Save").click()
    page.keyboard.press("Escape")
    expect(line(page, "Petra Stone")).to_contain_text("all sources")


def test_ending_access_is_asked_for_and_reaches_the_operators_console_at_once(
    open_page: Open, contexts: Callable[[], BrowserContext], office: ServerProcess, admin: Administrator
) -> None:
    admin.add_operator("viktor", PASSWORD)
    theirs = contexts().new_page()
    sign_in(theirs, office, "viktor")
    expect(theirs.locator(".list")).to_be_visible()
    page = open_page("Operators")
    dialog = edit(page, "Viktor")
    dialog.get_by_role("button", name="Sign out everywhere").click()
    dialog.get_by_role("button", name="Cancel").click()
    expect(theirs.locator(".list")).to_be_visible()
    dialog.get_by_role("button", name="Sign out everywhere").click()
    question = dialog.get_by_role("group", name="Sign out everywhere")
    expect(question.get_by_role("button", name="Sign out everywhere")).to_be_focused()
    question.get_by_role("button", name="Sign out everywhere").click()
    expect(dialog.get_by_role("status").filter(has_text="Viktor is signed out.")).to_be_visible()
    expect(theirs.get_by_text("Your sign-in has ended")).to_be_visible()
    dialog.get_by_role("button", name="Disable").click()
    dialog.get_by_role("group").get_by_role("button", name="Disable").click()
    expect(dialog.get_by_role("button", name="Enable")).to_be_visible()
    expect(line(page, "Viktor")).to_contain_text("Disabled")
    sign_in(theirs, office, "viktor")
    expect(theirs.get_by_role("alert")).to_be_visible()
    dialog.get_by_role("button", name="Enable").click()
    dialog.get_by_role("group").get_by_role("button", name="Enable").click()
    expect(line(page, "Viktor")).not_to_contain_text("Disabled")
    dialog.get_by_role("button", name="New one-time password").click()
    dialog.get_by_role("group").get_by_role("button", name="New one-time password").click()
    expect(dialog.locator("code")).to_contain_text("Login: viktor")
    sign_in(theirs, office, "viktor")
    expect(theirs.get_by_role("alert")).to_have_text("The login or the password is wrong.")


def test_refusals_say_what_to_do(open_page: Open) -> None:
    page = open_page("Operators")
    own = edit(page, "Olga")
    expect(own.get_by_text("This is your own account.")).to_be_visible()
    expect(own.get_by_role("button", name="Disable")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Add an operator").click()
    dialog = page.get_by_role("dialog", name="Add an operator")
    dialog.get_by_label("Login").fill("OLGA")
    dialog.get_by_label("Administrator").check()
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("alert")).to_have_text("There is an account with this login already. Choose another one.")
    dialog.get_by_label("Login").fill("a b")
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("A login has no spaces")
    page.context.set_offline(True)
    dialog.get_by_role("button", name="Add", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("can\u2019t be reached")
    page.context.set_offline(False)


def test_the_last_administrator_stays_one(browser: Browser, site: CustomerSite, tmp_path: Path) -> None:
    with running_server(tmp_path / "data", site) as server:
        add_account(server, "olga")
        page = browser.new_page(locale="en")
        page.set_default_timeout(PATIENCE * 1000)
        sign_in(page, server, "olga")
        page.goto(f"{server.url}/console#operators")
        dialog = edit(page, "Olga")
        dialog.get_by_label("Operator", exact=False).first.check()
        dialog.get_by_label("lk").check()
        dialog.get_by_role("button", name="Save").click()
        expect(dialog.get_by_role("alert")).to_have_text(
            "This is the last administrator. Make somebody else one first."
        )
        page.close()


def test_the_widget_is_shown_as_it_will_be_before_the_form_is_saved(
    open_page: Open, visit: Callable[[int], Visitor], admin: Administrator
) -> None:
    visit(701)
    asked: list[str] = []
    page = open_page("Sources")
    page.on("request", lambda request: asked.append(request.url))
    preview = page.get_by_role("figure").first
    expect(preview.locator("h2")).not_to_have_text("")
    page.get_by_label("Title").first.fill("Lumen & Hale")
    page.get_by_label("Greeting").first.fill("<b>Good evening!</b>")
    page.get_by_label("Suggested questions").first.fill("Where is my order?\nReturns")
    page.get_by_label("Link to the privacy notice").first.fill("https://lumen-hale.example/privacy")
    expect(preview.locator(".h")).to_contain_text("Lumen & Hale")
    expect(preview.locator("h2")).to_have_text("<b>Good evening!</b>")
    expect(preview.locator(".ask button")).to_have_text(["Where is my order?", "Returns"])
    expect(preview.locator(".foot a")).to_have_text("Privacy")
    picker = page.get_by_label("Pick the accent colour").first
    picker.fill("#7a3e9d")
    expect(page.get_by_label("Accent colour, such as").first).to_have_value("#7a3e9d")
    expect(preview.locator(".fab")).to_have_css("background-color", "rgb(122, 62, 157)")
    page.get_by_label("Accent colour, such as").first.fill("#0b5e1f")
    expect(picker).to_have_value("#0b5e1f")
    expect(preview.locator(".fab")).to_have_css("background-color", "rgb(11, 94, 31)")
    preview.get_by_role("button", name="Dark").click()
    expect(preview.locator(".panel")).to_have_css("background-color", "rgb(22, 29, 36)")
    # A language that nobody has finished to write, and then one that the source offers alone.
    page.get_by_label("Languages").first.fill("en-")
    expect(preview.locator(".w")).to_have_attribute("lang", "en")
    page.get_by_label("Languages").first.fill("ru")
    expect(preview.locator(".w")).to_have_attribute("lang", "ru")
    # It is no visitor: nothing was asked of the server, and no key reaches it.
    assert [url for url in asked if "/api/" in url] == []
    expect(preview.locator(".stage")).to_have_attribute("inert", "")
    page.get_by_role("button", name="Save", exact=True).first.click()
    expect(page.get_by_text("Saved.").first).to_be_visible()
    page.reload()
    expect(preview.locator("h2")).to_have_text("<b>Good evening!</b>")
    expect(preview.locator(".w")).to_have_attribute("lang", "ru")


def test_tags_are_renamed_merged_and_deleted_in_all_chats(
    open_page: Open, visit: Callable[[int], Visitor], admin: Administrator
) -> None:
    first, second = visit(301), visit(302)
    for visitor, tags in ((first, ["urgent", "paid"]), (second, ["urgent", "prio"])):
        visitor.say("hello")
        admin.call("PUT", f"/chats/{visitor.chat}/tags", tags=tags)
    page = open_page("Tags")
    expect(line(page, "urgent")).to_contain_text("2 chats")
    page.get_by_role("button", name="Rename urgent").click()
    dialog = page.get_by_role("dialog", name="Rename “urgent”")
    dialog.get_by_label("New name").fill("prio")
    expect(dialog.get_by_text("There is a tag “prio” already")).to_be_visible()
    dialog.get_by_role("button", name="Merge").click()
    expect(page.get_by_role("status").filter(has_text="“urgent” is “prio” now, in 2 chats.")).to_be_visible()
    expect(line(page, "prio")).to_contain_text("2 chats")
    expect(line(page, "urgent")).to_have_count(0)
    page.get_by_role("button", name="Delete paid").click()
    dialog = page.get_by_role("dialog", name="Delete “paid”")
    expect(dialog).to_contain_text("1 chat loses this tag.")
    dialog.get_by_role("button", name="Delete").click()
    expect(line(page, "paid")).to_have_count(0)
    assert admin.call("GET", f"/chats/{first.chat}/tags")["tags"] == ["prio"]
    assert admin.call("GET", f"/chats/{second.chat}/tags")["tags"] == ["prio"]


def test_keys_alone_rename_a_tag(open_page: Open, visit: Callable[[int], Visitor], admin: Administrator) -> None:
    visitor = visit(303)
    visitor.say("hello")
    admin.call("PUT", f"/chats/{visitor.chat}/tags", tags=["keyboard"])
    page = open_page("Operators")
    keyboard = page.keyboard
    menu = page.get_by_role("navigation", name="Administration")
    menu.get_by_role("button", name="Operators").focus()
    keyboard.press("Tab")
    expect(menu.get_by_role("button", name="Tags")).to_be_focused()
    keyboard.press("Enter")
    rename = page.get_by_role("button", name="Rename keyboard")
    expect(rename).to_be_visible()
    for _ in range(60):
        if rename.evaluate("e => e === document.activeElement"):
            break
        keyboard.press("Tab")
    expect(rename).to_be_focused()
    keyboard.press("Enter")
    expect(page.get_by_label("New name")).to_be_focused()
    keyboard.press("Escape")
    expect(rename).to_be_focused()
    keyboard.press("Enter")
    expect(page.get_by_label("New name")).to_be_focused()
    keyboard.type("keys")
    keyboard.press("Enter")
    expect(line(page, "keys")).to_be_visible()


def test_live_actors_come_and_go_by_themselves_and_lead_to_their_chat(
    open_page: Open, visit: Callable[[int], Visitor]
) -> None:
    page = open_page("Live actors")
    expect(page.get_by_role("row", name="directory")).to_be_visible()
    visitor = visit(304)
    page.get_by_role("searchbox").fill(visitor.chat)
    expect(page.get_by_text(f"Nothing matches “{visitor.chat}”.")).to_be_visible()
    visitor.say("a text that no actor shows")
    row = page.get_by_role("row", name=visitor.chat)
    expect(row).to_contain_text("running")
    expect(page.locator("main")).not_to_contain_text("a text that no actor shows")
    row.get_by_role("button").click()
    expect(page.locator(".bub", has_text="a text that no actor shows")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", level=2, name="Live actors")).to_be_visible()


def test_charts_follow_the_server_and_arrow_keys_read_earlier_values(
    open_page: Open, visit: Callable[[int], Visitor]
) -> None:
    page = open_page("Metrics")
    chart = page.get_by_role("slider", name="Messages")
    expect(page.get_by_role("slider")).to_have_count(8)
    expect(page.get_by_text("Storage works")).to_be_visible()
    visitor = visit(305)
    for number in range(20):
        visitor.say(f"message {number}")
    expect(chart).to_have_attribute("aria-valuetext", re.compile(r": [0-9.]*[1-9][0-9.]*$"))
    # A second value, so that there is an earlier one.
    expect(chart).to_have_attribute("aria-valuemax", re.compile("[1-9]"))
    newest = chart.get_attribute("aria-valuenow")
    chart.focus()
    page.keyboard.press("Home")
    expect(chart).to_have_attribute("aria-valuenow", "0")
    expect(page.locator(".plot i").first).to_be_visible()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("End")
    expect(page.locator(".plot i")).to_have_count(0)
    assert newest is not None
    expect(chart).not_to_have_attribute("aria-valuenow", "0")
    page.get_by_text("Values as a table").click()
    table = page.get_by_role("region", name="Values as a table")
    expect(table.get_by_role("columnheader", name="Sockets", exact=True)).to_be_visible()
    expect(table.get_by_role("row")).not_to_have_count(1)


def test_numbers_that_cannot_be_read_are_told_and_come_back(open_page: Open) -> None:
    page = open_page("Metrics")
    expect(page.get_by_role("slider").first).to_be_visible()
    page.context.set_offline(True)
    expect(page.get_by_role("alert").filter(has_text="What you see may be out of date.")).to_be_visible()
    page.context.set_offline(False)
    expect(page.get_by_role("alert").filter(has_text="What you see may be out of date.")).to_have_count(0)


def test_a_page_that_cannot_be_loaded_says_so_and_the_chats_go_on(
    contexts: Callable[[], BrowserContext], office: ServerProcess
) -> None:
    page = contexts().new_page()
    page.route("**/console-pages-*", lambda route: route.abort())
    sign_in(page, office, "olga")
    page.get_by_role("button", name="Saved replies").click()
    expect(page.get_by_role("alert")).to_contain_text("This page could not be loaded.")
    page.get_by_role("button", name=re.compile("^Chats")).click()
    expect(page.locator(".list")).to_be_visible()
    page.get_by_role("button", name="Saved replies").click()
    expect(page.get_by_role("alert")).to_contain_text("This page could not be loaded.")
    page.unroute("**/console-pages-*")
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_role("heading", name="Saved replies")).to_be_visible()


def test_hostile_names_are_shown_as_text_and_fit_a_phone(
    open_page: Open, visit: Callable[[int], Visitor], admin: Administrator
) -> None:
    hostile = '<img src=x onerror="document.title=1">\u202e' + "W" * 120
    admin.call("POST", "/accounts", login="m" * 120, firstname=hostile, sources=["s" * 64])
    visitor = visit(306)
    visitor.say("hello")
    admin.call("PUT", f"/chats/{visitor.chat}/tags", tags=["<b>" + "W" * 37])
    page = open_page("Operators")
    expect(line(page, "<img src=x")).to_be_visible()
    assert page.locator("main img").count() == 0
    assert "\u202e" not in page.locator("main").inner_text()
    for width in SIZES:
        page.set_viewport_size({"width": width, "height": 800})
        for name in ("Operators", "Tags"):
            page.get_by_role("navigation", name="Administration").get_by_role("button", name=name).click()
            expect(line(page, "WWW").first).to_be_visible()
            assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
            assert page.locator(".page").evaluate("e => e.scrollWidth - e.clientWidth") <= 0


@needs_axe
def test_axe_finds_nothing_on_any_page_at_three_widths_light_and_dark(
    browser: Browser, site: CustomerSite, tmp_path: Path
) -> None:
    found: dict[str, list[str]] = {}
    with running_server(tmp_path / "data", site) as server:
        add_account(server, "olga")
        administrator = Administrator(server)
        visitor = Visitor(server, administrator.token_of_user(101, "Daniel"))
        visitor.say("hello")
        add_people_and_tags(administrator, visitor.chat)
        page = browser.new_page(locale="en", reduced_motion="reduce")
        page.set_default_timeout(PATIENCE * 1000)

        def check(state: str) -> None:
            for width, height in SIZES.items():
                page.set_viewport_size({"width": width, "height": height})
                for theme in THEMES:
                    scheme: Literal["light", "dark"] = "dark" if theme == "dark" else "light"
                    page.emulate_media(color_scheme=scheme)
                    found[f"{state} {width} {theme}"] = violations(page)

        sign_in(page, server, "olga")
        expect(page.locator(".list")).to_be_visible()
        show_administration(page, check)
        page.close()
        visitor.close()
        administrator.close()
    assert len(found) == 78
    assert {state: faults for state, faults in found.items() if faults} == {}
