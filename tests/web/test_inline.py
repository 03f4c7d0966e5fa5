"""The widget in an element of the page."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, WebSocket, expect

from tests.system.server_process import ServerProcess
from tests.web.browser import CustomerSite, Operator, Widget, eventually

pytestmark = pytest.mark.slow

ELEMENT = '<actorchat-widget source="lk" mode="inline" style="width:340px;height:480px"></actorchat-widget>'


@pytest.fixture
def inline(context: BrowserContext, site: CustomerSite, server: ServerProcess) -> Page:
    """A page with the chat in an element, and no other."""
    site.headers.clear()
    site.put(server.url, 'data-mode="inline"', path="/inline", body=f"<h1>Contact</h1><input autofocus>{ELEMENT}")
    page = context.new_page()
    page.goto(site.url + "/inline")
    return page


def test_an_inline_chat_fills_its_element_and_can_not_be_closed(inline: Page, operator: Operator) -> None:
    widget = Widget(inline, "actorchat-widget")
    widget.panel.wait_for()
    eventually(lambda: widget.panel.bounding_box() == widget.host.bounding_box())
    box = widget.panel.bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (340, 480)
    expect(inline.locator("actorchat-host")).to_have_count(0)
    expect(widget.launcher).to_be_hidden()
    expect(inline.get_by_role("button", name="Close the chat window")).to_have_count(0)
    expect(inline.get_by_role("region", name="Chat")).to_be_visible()
    # The page keeps its focus, and the keys that the chat has no use for.
    expect(inline.locator("input[autofocus]")).to_be_focused()
    inline.evaluate("window.keys = []; addEventListener('keydown', e => keys.push(e.key))")
    widget.send("In the page")
    widget.field.press("Escape")
    widget.wait_for("In the page")
    assert inline.evaluate("keys") == ["Escape"]
    chat = operator.newest_chat()
    answer = operator.say(chat, "Welcome")
    widget.wait_for("Welcome")
    messages = f"/chats/{chat}/messages"
    eventually(
        lambda: operator.call("GET", messages)["messages"][-1] | {"status": "read"} == answer | {"status": "read"}
    )
    expect(widget.panel).to_be_visible()


def test_an_inline_chat_marks_as_read_only_what_is_in_view(inline: Page, operator: Operator) -> None:
    widget = Widget(inline, "actorchat-widget")
    widget.panel.wait_for()
    widget.send("I scroll away")
    widget.wait_for("I scroll away")
    chat = operator.newest_chat()
    inline.evaluate("document.querySelector('h1').style.height = '3000px'; scrollTo(0, 0)")
    expect(widget.panel).not_to_be_in_viewport()
    inline.evaluate("actorchat.push(api => api.on('unread', count => { window.unread = count }))")
    operator.say(chat, "Far below")
    eventually(lambda: inline.evaluate("window.unread") == 1)
    assert operator.call("GET", f"/chats/{chat}/messages")["messages"][-1]["status"] != "read"
    widget.host.scroll_into_view_if_needed()
    eventually(lambda: inline.evaluate("window.unread") == 0)
    eventually(lambda: operator.call("GET", f"/chats/{chat}/messages")["messages"][-1]["status"] == "read")


def test_attributes_of_the_element_and_calls_of_the_page_change_it(inline: Page) -> None:
    widget = Widget(inline, "actorchat-widget")
    widget.panel.wait_for()
    widget.host.evaluate("e => { e.setAttribute('lang', 'ru'); e.setAttribute('theme', 'dark') }")
    expect(widget.field).to_have_attribute("placeholder", "Напишите сообщение")
    expect(widget.panel).to_have_css("background-color", "rgb(22, 29, 36)")
    inline.evaluate("actorchat.push(api => api.set({ theme: 'light', accent: '#7a1fa2' }))")
    expect(widget.panel).to_have_css("background-color", "rgb(255, 255, 255)")
    inline.evaluate("actorchat.push(api => api.send('From the page'))")
    expect(widget.stored.filter(has_text="From the page")).to_have_css("background-color", "rgb(122, 31, 162)")


def test_an_element_can_be_moved_removed_and_put_back(inline: Page, operator: Operator) -> None:
    sockets: list[WebSocket] = []
    inline.on("websocket", lambda socket: sockets.append(socket))
    widget = Widget(inline, "actorchat-widget")
    widget.panel.wait_for()
    widget.send("Before the move")
    widget.wait_for("Before the move")
    chat = operator.newest_chat()
    inline.evaluate("window.element = document.querySelector('actorchat-widget'); document.body.prepend(element)")
    operator.say(chat, "After the move")
    widget.wait_for("After the move")

    assert len(sockets) == 1
    inline.evaluate("element.remove()")
    # A call of the page lets Playwright hear of the socket.
    eventually(lambda: inline.title() and sockets[0].is_closed())
    operator.say(chat, "While it was away")
    inline.evaluate("document.body.append(element)")
    widget.wait_for("While it was away")
    widget.wait_for_texts(operator.texts(chat))
    inline.evaluate("actorchat.push(api => api.destroy())")
    expect(widget.panel).to_have_count(0)


def test_the_chats_of_a_page_agree_and_its_scripts_hear_each_message_once(
    context: BrowserContext, site: CustomerSite, server: ServerProcess, operator: Operator
) -> None:
    site.headers.clear()
    site.put(server.url, path="/both", body=ELEMENT)
    page = context.new_page()
    page.goto(site.url + "/both")
    corner, element = Widget(page), Widget(page, "actorchat-widget")
    page.evaluate("window.heard = []; actorchat.push(api => api.on('message', m => heard.push(m.text)))")
    corner.open()
    element.send("From the element")
    corner.wait_for("From the element")
    corner.send("From the corner")
    element.wait_for("From the corner")
    operator.say(operator.newest_chat(), "To both")
    for widget in (corner, element):
        widget.wait_for_texts(["From the element", "From the corner", "To both"])
    eventually(lambda: page.evaluate("heard") == ["From the element", "From the corner", "To both"])


def test_a_call_before_the_element_is_there_waits_for_it(
    context: BrowserContext, site: CustomerSite, server: ServerProcess, operator: Operator
) -> None:
    site.headers.clear()
    site.put(server.url, 'data-mode="inline"', path="/later", body="<main></main>")
    page = context.new_page()
    page.goto(site.url + "/later")
    token = operator.token_of_user(4711, "Iris")
    page.evaluate(
        "token => (window.actorchat ||= []).push(api => { api.identify(token); api.send('I am early') })", token
    )
    page.wait_for_function("!!customElements.get('actorchat-widget')")
    page.evaluate("element => { document.querySelector('main').innerHTML = element }", ELEMENT)
    widget = Widget(page, "actorchat-widget")
    widget.wait_for("I am early")
    owner = operator.call("GET", f"/chats/{operator.newest_chat()}")["owner_user"]
    assert (owner["id"], owner["firstname"]) == (4711, "Iris")
