"""The widget for people who use a keyboard, a screen reader, a high zoom or another language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.system.server_process import ServerProcess
from tests.web.accounts import configure_widget
from tests.web.axe import needs_axe, violations
from tests.web.browser import CustomerSite, Operator, Widget
from tests.web.pictures import lamp
from tests.web.widget_states import WORDS, show_states

pytestmark = pytest.mark.slow

WIDTHS: Final = (320, 768, 1280)

TOO_WIDE: Final = """() => {
    const root = document.querySelector("actorchat-host, actorchat-widget").shadowRoot
    const sticksOut = element => {
        const { left, right } = element.getBoundingClientRect()
        const { position, textOverflow } = getComputedStyle(element)
        return position !== "absolute" && textOverflow !== "ellipsis" && (left < -1 || right > innerWidth + 1)
    }
    const wide = [...root.querySelectorAll(".panel *, .peek")].filter(sticksOut).map(e => e.className || e.localName)
    return document.documentElement.scrollWidth > innerWidth ? ["page", ...wide] : wide
}"""
"""The elements that stick out of the window, and `page` if it can be scrolled sideways."""

LONGER: Final = r"""
const longer = value => typeof value === "string"
    ? value.replace(/\p{L}{4,}(?![^{]*\})/gu, word => word + word.slice(0, Math.ceil(word.length * 0.4)))
    : Object.fromEntries(Object.entries(value).map(([key, text]) => [key, longer(text)]))
const texts = longer(TEXTS)
export { texts as ru }
"""
"""Makes each word of a language longer by 40 %, but no parameter."""


@pytest.fixture(scope="module")
def source(server: ServerProcess) -> str:
    """A source with suggested questions."""
    questions = ["Where is my order?", "Returns and repairs"]
    configure_widget(
        server, "ru", title="Lumen & Hale", questions=questions, privacy_url="https://shop.example/privacy"
    )
    return "ru"


@pytest.fixture
def calm(browser: Browser, site: CustomerSite, server: ServerProcess, source: str) -> Iterator[Page]:
    """A page with the widget of `source`. Nothing moves on it."""
    site.headers.clear()
    site.put(server.url, f'data-source="{source}"', path="/calm", body="<main><h1>Lamps</h1></main>")
    context = browser.new_context(viewport={"width": 1280, "height": 700}, locale="en", reduced_motion="reduce")
    page = context.new_page()
    page.goto(site.url + "/calm")
    yield page
    context.close()


@needs_axe
def test_axe_finds_nothing_in_any_state(
    calm: Page, site: CustomerSite, server: ServerProcess, operator: Operator, source: str
) -> None:
    found: dict[str, list[str]] = {}

    def take(state: str) -> None:
        for theme in ("light", "dark"):
            calm.evaluate("theme => actorchat.push(api => api.set({ theme }))", theme)
            for width in WIDTHS:
                calm.set_viewport_size({"width": width, "height": 700})
                found[f"{state}, {width} px, {theme}"] = violations(calm) + calm.evaluate(TOO_WIDE)

    show_states(calm, server, operator, WORDS["en"], take)
    body = '<main><h1>Contact</h1><actorchat-widget mode="inline"></actorchat-widget></main>'
    site.put(server.url, f'data-source="{source}" data-mode="inline"', path="/calm", body=body)
    calm.reload()
    calm.locator("actorchat-widget .ask").wait_for()
    take("inline")
    assert len(found) == 16 * 2 * len(WIDTHS)
    assert {state: faults for state, faults in found.items() if faults} == {}


def test_with_words_40_percent_longer_nothing_sticks_out_at_320_px(
    calm: Page, server: ServerProcess, operator: Operator
) -> None:
    def answer(route: Route) -> None:
        original = route.fetch().text()
        body, count = re.subn(
            r"export\s*\{\s*(\w+) as ru\s*\};?", lambda exported: LONGER.replace("TEXTS", exported[1]), original
        )
        assert count == 1
        route.fulfill(body=body, content_type="text/javascript", headers={"Access-Control-Allow-Origin": "*"})

    calm.route("**/web/ru-*.js", answer)
    calm.set_viewport_size({"width": 320, "height": 640})
    calm.reload()
    calm.evaluate("actorchat.push(api => api.set({ lang: 'ru' }))")
    wide: dict[str, list[str]] = {}
    show_states(calm, server, operator, WORDS["ru"], lambda state: wide.update({state: calm.evaluate(TOO_WIDE)}))
    expect(Widget(calm).field).to_have_attribute("placeholder", "НапишитеНапи сообщениесооб")
    assert len(wide) == 15
    assert {state: elements for state, elements in wide.items() if elements} == {}


@pytest.mark.parametrize(("width", "height"), [(640, 360), (320, 256)])
def test_at_a_zoom_of_200_and_400_percent_the_chat_can_be_read_and_answered(
    calm: Page, operator: Operator, width: int, height: int
) -> None:
    # A window of 1280 pixels has that many at this zoom.
    calm.set_viewport_size({"width": width, "height": height})
    widget = Widget(calm)
    widget.open()
    widget.send("I use a high zoom")
    widget.wait_for("I use a high zoom")
    operator.say(operator.newest_chat(), "Can you read this?")
    widget.wait_for("Can you read this?")
    calm.wait_for_function("document.body.inert")
    expect(widget.stored.last).to_be_in_viewport(ratio=1)
    expect(widget.field).to_be_in_viewport(ratio=1)
    expect(calm.get_by_role("button", name="Back to the page")).to_be_in_viewport(ratio=1)
    assert calm.evaluate(TOO_WIDE) == []


def test_the_whole_chat_works_by_keyboard(page: Page, operator: Operator) -> None:
    widget = Widget(page)
    widget.launcher.wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    widget.panel.wait_for()
    page.keyboard.type("By keyboard")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two lines")
    page.keyboard.press("Enter")
    widget.wait_for("two lines")
    chat = operator.newest_chat()
    assert operator.texts(chat) == ["By keyboard\ntwo lines"]
    operator.say(chat, "A picture", (operator.upload("lamp.jpg", lamp()),))
    widget.wait_for("A picture")
    # Backwards from the field: the button for files, and the image. Escape leads back to it.
    image = page.get_by_role("button", name="Open the image lamp.jpg")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(image).to_be_focused()
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="Image lamp.jpg").wait_for()
    expect(page.get_by_role("button", name="Close the image")).to_be_focused()
    page.keyboard.press("Escape")
    expect(image).to_be_focused()
    page.get_by_role("button", name="More").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    end = page.get_by_role("menuitem", name="End the chat")
    expect(end).to_be_focused()
    # A message that arrives leaves the focus where it is.
    operator.say(chat, "Are you still there?")
    widget.wait_for("Are you still there?")
    expect(end).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("actorchat-host .end")).to_contain_text("You have ended it")
    page.keyboard.press("Escape")
    widget.panel.wait_for(state="detached")
    expect(widget.launcher).to_be_focused()
