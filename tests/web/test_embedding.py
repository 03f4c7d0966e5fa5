"""The widget on pages of other people: their policies, frameworks, styles, storage and hot keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, expect

from tests.system.server_process import ServerProcess
from tests.web.accounts import configure_widget
from tests.web.browser import CustomerSite, Operator, Widget, eventually, running_server
from tests.web.hostile_texts import MARKUP
from tests.web.pictures import lamp

pytestmark = pytest.mark.slow

WATCH_VIOLATIONS = """
window.violations = []
document.addEventListener("securitypolicyviolation", e => violations.push(`${e.effectiveDirective} ${e.blockedURI}`))
"""

POLICIES = {
    "allow-list": "default-src 'none'; script-src {server}; img-src {server}; connect-src {server} {ws}",
    "nonce": "script-src 'nonce-abc' {server}; style-src 'nonce-abc'; img-src {server}; connect-src {server} {ws}",
    "strict-dynamic": "script-src 'nonce-abc' 'strict-dynamic'; style-src 'self'; img-src {server}; object-src 'none'",
    "trusted-types": "require-trusted-types-for 'script'; trusted-types 'none'; script-src {server}",
}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_widget_violates_no_policy_of_the_page(
    context: BrowserContext, site: CustomerSite, server: ServerProcess, operator: Operator, policy: str
) -> None:
    ws = server.url.replace("http", "ws")
    site.headers = {"Content-Security-Policy": POLICIES[policy].format(server=server.url, ws=ws)}
    site.put(server.url, 'nonce="abc"', body='<actorchat-widget mode="inline"></actorchat-widget>')
    context.add_init_script(WATCH_VIOLATIONS)
    page = context.new_page()
    page.goto(site.url)
    Widget(page, "actorchat-widget").panel.wait_for()
    widget = Widget(page)
    widget.open()
    widget.send(f"Under {policy}")
    widget.wait_for(f"Under {policy}")
    chat = operator.newest_chat()
    operator.say(chat, "A picture", (operator.upload("lamp.jpg", lamp()),))
    image = page.locator("actorchat-host .img img")
    image.wait_for()
    eventually(lambda: image.evaluate("e => e.naturalWidth > 0"))
    assert page.evaluate("violations") == []


def test_a_policy_that_forbids_the_connection_is_named_in_the_browsers_log(
    context: BrowserContext, site: CustomerSite, server: ServerProcess
) -> None:
    site.headers = {"Content-Security-Policy": f"script-src {server.url}; connect-src 'self'"}
    site.put(server.url)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(site.url)
    widget = Widget(page)
    widget.open()
    widget.send("Hello")
    eventually(lambda: page.title() and f"actorchat: this page's policy must allow {server.url} in connect-src" in said)
    widget.waiting.wait_for()


def test_the_widget_stays_when_the_body_is_swapped_and_the_tag_runs_twice(page: Page, operator: Operator) -> None:
    widget = Widget(page)
    widget.open()
    widget.send("Before the swap")
    widget.wait_for("Before the swap")
    page.evaluate(
        """() => {
            const body = document.createElement("body")
            body.append("Another page")
            document.documentElement.replaceChild(body, document.body)
            document.querySelector("actorchat-host").remove()
        }"""
    )
    page.add_script_tag(url=page.evaluate("performance.getEntriesByType('resource')[0].name"))
    expect(page.locator("actorchat-host")).to_have_count(1)
    expect(widget.panel).to_be_visible()
    operator.say(operator.newest_chat(), "Still here")
    widget.wait_for("Still here")


def test_the_widget_moves_nothing_on_the_page(
    context: BrowserContext, site: CustomerSite, server: ServerProcess
) -> None:
    # Shifts right after an input of the visitor, such as the panel that opens, are expected and don't count.
    context.add_init_script(
        """window.shift = 0
        new PerformanceObserver(list => {
            for (const entry of list.getEntries()) if (!entry.hadRecentInput) shift += entry.value
        }).observe({type: "layout-shift", buffered: true})"""
    )
    site.headers.clear()
    site.put(server.url, body="<p>Lamps</p>" * 40)
    page = context.new_page()
    page.goto(site.url)
    height = page.evaluate("document.documentElement.scrollHeight")
    Widget(page).open()
    page.wait_for_timeout(300)
    assert page.evaluate("shift") == 0
    assert page.evaluate("document.documentElement.scrollHeight") == height


def test_a_panel_that_opens_with_the_page_leaves_the_focus_there(
    page: Page, site: CustomerSite, server: ServerProcess
) -> None:
    site.put(server.url, 'data-open="true"', body="<input autofocus>")
    page.goto(site.url)
    widget = Widget(page)
    widget.panel.wait_for()
    assert page.evaluate("document.activeElement.localName") == "input"


def test_the_widget_works_below_a_path_of_a_proxy(
    context: BrowserContext, site: CustomerSite, browser: Browser, tmp_path: Path
) -> None:
    site.headers.clear()
    with running_server(tmp_path / "data", site, {"ACTORCHAT_BASE_PATH": "/chat"}) as server:
        site.put(server.url + "/chat", path="/below")
        operator = Operator(server)
        page = context.new_page()
        page.goto(site.url + "/below")
        widget = Widget(page)
        widget.open()
        widget.send("Below a path")
        widget.wait_for("Below a path")
        operator.say(operator.newest_chat(), "A picture", (operator.upload("lamp.jpg", lamp()),))
        image = page.locator("actorchat-host .img img")
        image.wait_for()
        eventually(lambda: image.evaluate("e => e.naturalWidth > 0"))
        page.goto(f"{server.url}/chat/")
        expect(page.locator("#tag")).to_contain_text(f"{server.url}/chat/widget.js")
        widget.open()
        operator.close()
        page.close()


def test_an_open_panel_is_open_again_after_a_reload_with_its_draft(page: Page) -> None:
    widget = Widget(page)
    widget.open()
    widget.field.fill("Half a sent")
    page.reload()
    widget.panel.wait_for()
    expect(widget.field).to_have_value("Half a sent")
    widget.field.press("Escape")
    widget.panel.wait_for(state="detached")
    page.reload()
    widget.launcher.wait_for()
    expect(widget.panel).to_be_hidden()


def test_without_storage_the_chat_works_for_as_long_as_the_page(
    context: BrowserContext, site: CustomerSite, server: ServerProcess, operator: Operator
) -> None:
    context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"]) {
            Object.defineProperty(window, name, {get() { throw new DOMException("blocked", "SecurityError") }})
        }"""
    )
    site.headers.clear()
    site.put(server.url)
    page = context.new_page()
    page.goto(site.url)
    widget = Widget(page)
    widget.open()
    widget.send("No storage")
    widget.wait_for("No storage")
    operator.say(operator.newest_chat(), "No problem")
    widget.wait_for("No problem")


def test_on_a_page_without_https_each_tab_is_connected_by_itself(
    context: BrowserContext, site: CustomerSite, server: ServerProcess, operator: Operator
) -> None:
    site.headers.clear()
    site.put(server.url)
    tabs = []
    for text in ("From the first tab", "From the second tab"):
        page = context.new_page()
        page.goto(site.insecure_url)
        assert page.evaluate("[isSecureContext, 'locks' in navigator, 'randomUUID' in crypto]") == [False, False, False]
        widget = Widget(page)
        widget.open()
        widget.send(text)
        widget.wait_for(text)
        tabs.append(widget)
    operator.say(operator.newest_chat(), "To both")
    for widget in tabs:
        widget.wait_for_texts(["From the first tab", "From the second tab", "To both"])


def test_hostile_styles_of_the_page_change_nothing(
    context: BrowserContext, site: CustomerSite, server: ServerProcess
) -> None:
    sizes = []
    hostile = (
        "<style>html{font-size:40px}*{box-sizing:content-box;line-height:3}"
        "button,textarea,p,div{padding:50px!important;color:red!important;letter-spacing:9px!important;"
        "display:inline!important}actorchat-host{display:none;width:900px}</style>"
    )
    for path, head in (("/calm", ""), ("/hostile", hostile)):
        site.put(server.url, path=path, head=head)
        page = context.new_page()
        page.goto(site.url + path)
        widget = Widget(page)
        widget.open()
        page.wait_for_timeout(300)
        boxes = [widget.panel, widget.launcher, widget.field, page.locator("actorchat-host h2")]
        sizes.append([box.bounding_box() for box in boxes])
        page.close()
    assert sizes[0] == sizes[1]


def test_keys_typed_into_the_chat_do_not_reach_the_pages_hot_keys(page: Page) -> None:
    page.evaluate("window.keys = []; addEventListener('keydown', e => keys.push(e.key))")
    widget = Widget(page)
    widget.open()
    widget.field.press("s")
    widget.field.press("Escape")
    widget.panel.wait_for(state="detached")
    assert page.evaluate("keys") == []
    # With the panel closed the focus is on the launcher, and Escape is the page's again.
    page.wait_for_function("document.activeElement.localName === 'actorchat-host'")


def test_the_page_controls_the_widget(page: Page, site: CustomerSite, server: ServerProcess) -> None:
    site.put(server.url, 'data-launcher="none" data-theme="dark" data-accent="#ffe000" data-side="left" data-lang="ru"')
    page.add_init_script(
        """window.seen = []
        ;(window.actorchat ||= []).push(api => {
            for (const name of ["ready", "open", "close", "message"]) api.on(name, () => seen.push(name))
        })"""
    )
    page.goto(site.url)
    widget = Widget(page)
    widget.launcher.wait_for(state="attached")
    expect(widget.launcher).to_be_hidden()
    page.evaluate("actorchat.push(api => api.open())")
    widget.panel.wait_for()
    expect(widget.field).to_have_attribute("placeholder", "Напишите сообщение")
    left = "e => e.getBoundingClientRect().left"
    eventually(lambda: widget.panel.evaluate(left) == 20)
    # White text on a light accent could not be read, so the accent is darkened.
    red, green, blue = page.evaluate(
        "getComputedStyle(document.querySelector('actorchat-host')).getPropertyValue('--accent').match(/[0-9]+/g).map(Number)"
    )
    assert max(red, green, blue) < 140
    page.evaluate("actorchat.push(api => api.send('From the page'))")
    widget.wait_for("From the page")
    page.evaluate("actorchat.push(api => { api.set({lang: 'en'}); api.close() })")
    widget.panel.wait_for(state="detached")
    eventually(lambda: page.evaluate("seen") == ["ready", "open", "message", "close"])
    page.evaluate("actorchat.push(api => api.destroy())")
    expect(page.locator("actorchat-host")).to_have_count(0)


def test_a_user_of_the_site_is_identified_and_forgotten_on_sign_out(page: Page, operator: Operator) -> None:
    widget = Widget(page)
    token = operator.token_of_user(4242, "Anna")
    page.evaluate("token => actorchat.push(api => { api.identify(token); api.open() })", token)
    widget.panel.wait_for()
    widget.send("I am Anna")
    widget.wait_for("I am Anna")
    owner = operator.call("GET", f"/chats/{operator.newest_chat()}")["owner_user"]
    assert (owner["id"], owner["firstname"]) == (4242, "Anna")
    page.evaluate("actorchat.push(api => api.signOut())")
    page.locator("actorchat-host .hello").wait_for()
    page.wait_for_function("!Object.keys(localStorage).some(key => key.startsWith('actorchat.http'))")


def test_a_visitor_who_signs_in_keeps_the_conversation_in_all_tabs(page: Page, operator: Operator) -> None:
    widget, token = Widget(page), operator.token_of_user(4343, "Nora")
    widget.open()
    widget.send("Who am I?")
    widget.wait_for("Who am I?")
    chat = operator.newest_chat()
    operator.say(chat, "I can't see that")
    widget.wait_for("I can't see that")
    other = page.context.new_page()
    other.goto(page.url)
    second = Widget(other)
    second.open()
    second.wait_for("I can't see that")
    page.evaluate("token => actorchat.push(api => api.identify(token))", token)
    eventually(lambda: operator.call("GET", f"/chats/{chat}")["owner_user"]["firstname"] == "Nora")
    widget.wait_for("Who am I?")
    widget.send("I am Nora")
    widget.wait_for("I am Nora")
    second.wait_for("I am Nora")
    second.send("In this tab, too")
    widget.wait_for("In this tab, too")
    written = operator.call("GET", f"/chats/{chat}/messages")["messages"]
    assert [message["user"]["firstname"] for message in written if message["user"]["role"] == "user"] == ["Nora"] * 3
    # Another page of the site, on which nobody has to ask for the hand-over any more.
    page.reload()
    page.evaluate("token => actorchat.push(api => { api.identify(token); api.open() })", token)
    widget.wait_for("In this tab, too")
    assert operator.newest_chat() == chat


def test_a_chat_that_cant_be_handed_over_is_left_behind(page: Page, operator: Operator) -> None:
    widget, token = Widget(page), operator.token_of_user(4444, "Otto")
    widget.open()
    widget.send("Nobody knows me")
    widget.wait_for("Nobody knows me")
    former = operator.newest_chat()
    page.evaluate("""() => {
        const key = Object.keys(localStorage).find(key => key.endsWith('.visit'))
        const visit = JSON.parse(localStorage[key])
        localStorage[key] = JSON.stringify({...visit, token: 'forged'})
    }""")
    page.reload()
    page.evaluate("token => actorchat.push(api => { api.identify(token); api.open() })", token)
    widget.panel.wait_for()
    widget.send("I am Otto")
    widget.wait_for("I am Otto")
    chat = operator.newest_chat()
    assert chat != former
    assert operator.call("GET", f"/chats/{chat}")["owner_user"]["id"] == 4444
    expect(widget.panel).not_to_contain_text("Nobody knows me")


def test_on_a_phone_the_panel_covers_the_page_which_is_inert(
    browser: Browser, site: CustomerSite, server: ServerProcess
) -> None:
    site.headers.clear()
    site.put(server.url, body="<a href='#x'>A link</a>")
    context = browser.new_context(viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True, locale="en")
    try:
        page = context.new_page()
        page.goto(site.url)
        widget = Widget(page)
        widget.launcher.tap()
        widget.panel.wait_for()
        eventually(lambda: widget.panel.bounding_box() == {"x": 0, "y": 0, "width": 360, "height": 700})
        page.wait_for_function("document.body.inert")
        page.get_by_role("button", name="Back to the page").tap()
        widget.panel.wait_for(state="detached")
        page.wait_for_function("!document.body.inert")
    finally:
        context.close()


def test_a_hostile_configuration_is_shown_as_text(page: Page, site: CustomerSite, server: ServerProcess) -> None:
    configure_widget(
        server, "ru", title=MARKUP[:80], greeting="endless" * 20 + MARKUP, questions=[MARKUP, "endless" * 11]
    )
    site.put(server.url, 'data-source="ru"', path="/hostile-source")
    page.goto(site.url + "/hostile-source")
    widget = Widget(page)
    widget.open()
    heading = widget.host.get_by_role("heading")
    expect(heading).to_contain_text(MARKUP)
    expect(widget.host.locator(".ask button").first).to_have_text(MARKUP)
    expect(widget.host.locator(".who b")).to_contain_text("<img src=x")
    expect(widget.host.locator("img, script")).to_have_count(0)
    eventually(lambda: widget.log.evaluate("e => e.scrollWidth <= e.clientWidth"))
    expect(page).to_have_title("Shop")


def test_the_widget_shows_what_the_source_is_configured_to(
    page: Page, site: CustomerSite, server: ServerProcess
) -> None:
    configure_widget(
        server,
        "kiosk",
        title="Lumen & Hale",
        greeting="Which lamp is it?",
        questions=["Where is my order?", "Which bulb do I need?"],
        accent="#7a1fa2",
        privacy_url="https://shop.example/privacy",
    )
    site.put(server.url, 'data-source="kiosk"', path="/kiosk")
    page.goto(site.url + "/kiosk")
    widget = Widget(page)
    widget.open()
    page.get_by_role("heading", name="Which lamp is it?").wait_for()
    expect(page.locator("actorchat-host .who")).to_have_text("Lumen & Hale")
    expect(page.get_by_role("link", name="Privacy")).to_have_attribute("href", "https://shop.example/privacy")
    accent = "e => getComputedStyle(e).getPropertyValue('--accent')"
    eventually(lambda: widget.launcher.evaluate(accent) == "rgb(122 31 162)")
    large: FilePayload = {"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"x"}
    page.evaluate("Object.defineProperty(File.prototype, 'size', {get: () => 1e12})")
    page.locator("actorchat-host input[type=file]").set_input_files(large)
    expect(page.locator("actorchat-host .notice")).to_contain_text("film.mp4 is too large")
    expect(page.locator("actorchat-host .chip")).to_have_count(0)
    page.get_by_role("button", name="Which bulb do I need?").click()
    widget.wait_for("Which bulb do I need?")
