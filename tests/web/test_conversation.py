"""Conversations in a real browser against a server in its own process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, WebSocket, expect

from tests.system.server_process import ServerProcess
from tests.web.browser import CustomerSite, Operator, Widget, eventually, launch, running_server
from tests.web.faulty_proxy import running_proxy
from tests.web.hostile_texts import HOSTILE, MARKUP
from tests.web.pictures import lamp

pytestmark = pytest.mark.slow


def chat_with_operator(page: Page, operator: Operator, first: str) -> tuple[Widget, str]:
    """Open the widget, send the first message, and have the operator accept the chat. Returns the chat's uuid too."""
    widget = Widget(page)
    widget.open()
    widget.send(first)
    widget.wait_for(first)
    chat = operator.newest_chat()
    assert operator.texts(chat) == [first]
    operator.call("POST", f"/chats/{chat}/accept")
    return widget, chat


def test_the_first_minute(context: BrowserContext, server: ServerProcess, operator: Operator) -> None:
    page = context.new_page()
    page.goto(server.url)
    page.get_by_role("button", name="Open the chat").click()
    widget = Widget(page)
    widget.field.wait_for()
    expect(widget.field).to_be_focused()
    page.keyboard.type("Is anybody there?")
    page.keyboard.press("Enter")
    widget.wait_for("Is anybody there?")
    chat = operator.newest_chat()
    assert operator.texts(chat) == ["Is anybody there?"]
    answer = operator.say(chat, "Yes: hello!")
    widget.wait_for("Yes: hello!")
    eventually(lambda: operator.call("GET", f"/chats/{chat}/messages")["messages"][-1]["status"] == "read")
    assert answer["status"] == "new"
    expect(page.locator("actorchat-host [aria-live=polite]")).to_have_text("Olga Marsh: Yes: hello!")


def test_before_the_first_message_nothing_is_requested_and_nobody_is_created(
    context: BrowserContext, site: CustomerSite, server: ServerProcess
) -> None:
    requests: list[str] = []
    context.on("request", lambda request: requests.append(request.url.removeprefix(server.url)))
    site.put(server.url)
    page = context.new_page()
    page.goto(site.url)
    widget = Widget(page)
    widget.launcher.wait_for()
    page.wait_for_load_state("networkidle")
    assert [url for url in requests if url.startswith("/")] == ["/widget.js"]
    widget.open()
    page.wait_for_load_state("networkidle")
    assert [url for url in requests if "/api/" in url] == ["/api/sources/lk/widget"]
    assert context.cookies() == []


def miss(operator: Operator, chat: str) -> None:
    """Let five messages, a change of the status and a close happen."""
    for number in range(5):
        operator.say(chat, f"Missed {number}")
    operator.call("POST", f"/chats/{chat}/return")
    operator.call("POST", f"/chats/{chat}/close")


MISSED = [f"Missed {number}" for number in range(5)]
LINES = ["Olga Marsh joined the chat", "You are back in the queue.", "The chat was closed."]


def test_after_10_seconds_without_network_the_page_has_what_the_server_has(page: Page, operator: Operator) -> None:
    page.clock.install()
    page.reload()
    widget, chat = chat_with_operator(page, operator, "Before the cut")
    page.context.set_offline(True)
    miss(operator, chat)
    page.clock.run_for(10_000)
    widget.bar.wait_for()
    widget.wait_for_texts(["Before the cut"])
    page.context.set_offline(False)
    page.locator("actorchat-host .end").wait_for()
    widget.bar.wait_for(state="detached")
    widget.wait_for_texts(["Before the cut", *MISSED])
    assert operator.texts(chat) == ["Before the cut", *MISSED]
    expect(widget.log.locator(".sys")).to_have_text(LINES)
    # A message continues a closed chat, also one that is written without a network.
    page.context.set_offline(True)
    page.get_by_role("button", name="New message").click()
    widget.send("Written offline")
    widget.waiting.wait_for()
    page.context.set_offline(False)
    widget.wait_for_texts(["Before the cut", *MISSED, "Written offline"])
    assert operator.texts(chat)[-1] == "Written offline"
    assert operator.call("GET", f"/chats/{chat}")["status"] != "closed"


def test_after_a_killed_server_no_message_is_lost_or_doubled(
    context: BrowserContext, site: CustomerSite, tmp_path: Path
) -> None:
    with running_server(tmp_path / "data", site) as server:
        operator = Operator(server)
        site.put(server.url, path="/killed")
        page = context.new_page()
        page.goto(site.url + "/killed")
        widget, chat = chat_with_operator(page, operator, "Before the kill")
        server.kill()
        widget.send("While it was dead")
        widget.waiting.wait_for()
        # The page must not be back before everything has happened.
        context.set_offline(True)
        server.start()
        miss(operator, chat)
        context.set_offline(False)
        widget.wait_for_texts(["Before the kill", *MISSED, "While it was dead"])
        assert operator.texts(chat) == ["Before the kill", *MISSED, "While it was dead"]
        expect(widget.log.locator(".sys")).to_contain_text(LINES)
        operator.close()


def test_a_message_that_was_not_sent_survives_a_reload_and_is_stored_once(page: Page, operator: Operator) -> None:
    widget, chat = chat_with_operator(page, operator, "First")
    page.context.route("**/api/**", lambda route: route.abort())
    page.context.route_web_socket("**/ws/**", lambda socket: socket.close(code=1001))
    page.reload()
    # The panel was open, so it is open again.
    widget.send("Kept")
    widget.waiting.wait_for()
    page.reload()
    widget.waiting.wait_for()
    assert operator.texts(chat) == ["First"]
    page.context.unroute_all()
    # Routes of sockets can't be removed, so another tab of the same visitor sends it.
    storage = page.evaluate("JSON.stringify({...localStorage})")
    browser = page.context.browser
    assert browser is not None
    other = browser.new_context(locale="en")
    try:
        other.add_init_script(
            f"if (!localStorage.length) for (const [k, v] of Object.entries({storage})) localStorage.setItem(k, v)"
        )
        tab = other.new_page()
        tab.goto(page.url)
        restored = Widget(tab)
        restored.open()
        restored.wait_for("Kept")
        assert operator.texts(chat) == ["First", "Kept"]
        tab.reload()
        restored.wait_for("Kept")
        restored.wait_for_texts(["First", "Kept"])
        assert operator.texts(chat) == ["First", "Kept"]
    finally:
        other.close()


def test_a_note_never_reaches_the_visitors_page(page: Page, operator: Operator) -> None:
    frames: list[str] = []
    answers: list[str] = []

    def watch(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: frames.append(str(frame)))

    page.on("websocket", watch)
    page.on("response", lambda answer: answers.append(answer.text()) if "/messages" in answer.url else None)
    widget, chat = chat_with_operator(page, operator, "Can I have a discount?")
    operator.note(chat, "TOPSECRET never below 10 %")
    operator.say(chat, "Let me ask")
    widget.wait_for("Let me ask")
    page.reload()
    widget.wait_for("Let me ask")
    shown = page.evaluate("document.querySelector('actorchat-host').shadowRoot.innerHTML")
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert "Let me ask" in shown
    assert any("Let me ask" in text for text in frames)
    assert any("Let me ask" in text for text in answers)
    assert not any("TOPSECRET" in text for text in (shown, kept, *frames, *answers))


def test_files_are_sent_shown_refused_and_sent_again(page: Page, operator: Operator) -> None:
    widget, chat = chat_with_operator(page, operator, "Two files")
    chooser = page.locator("actorchat-host input[type=file]")
    picture: FilePayload = {"name": "lamp.jpg", "mimeType": "image/jpeg", "buffer": lamp()}
    plan: FilePayload = {"name": "plan.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.4 plan"}
    chooser.set_input_files([picture, plan])
    expect(page.locator("actorchat-host .chip")).to_have_count(2)
    widget.send("Here")
    image = page.locator("actorchat-host .img img")
    image.wait_for()
    eventually(lambda: image.evaluate("e => e.naturalWidth > 0"))
    (message,) = [m for m in operator.call("GET", f"/chats/{chat}/messages")["messages"] if m["text"] == "Here"]
    assert [file["filename"] for file in message["attachments"]] == ["lamp.jpg", "plan.pdf"]
    with page.expect_download() as download:
        page.locator("actorchat-host .file a").click()
    assert Path(download.value.path()).read_bytes() == b"%PDF-1.4 plan"

    chooser.set_input_files({"name": "setup.exe", "mimeType": "application/x-msdownload", "buffer": b"MZ" + bytes(99)})
    widget.field.press("Enter")
    widget.failed.wait_for()
    expect(widget.failed).to_contain_text("this file is not accepted")
    widget.failed.get_by_role("button", name="Discard").click()
    widget.failed.wait_for(state="detached")

    page.route("**/api/attachments", lambda route: route.fulfill(status=413, body="{}"))
    chooser.set_input_files({"name": "late.txt", "mimeType": "text/plain", "buffer": b"late"})
    widget.field.press("Enter")
    widget.failed.wait_for()
    page.unroute("**/api/attachments")
    widget.failed.get_by_role("button", name="Try again").click()
    eventually(lambda: "late.txt" in json.dumps(operator.call("GET", f"/chats/{chat}/messages")))


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_files_can_be_dropped_and_pasted(page: Page, operator: Operator, how: str) -> None:
    widget, chat = chat_with_operator(page, operator, f"I {how} a file")
    data = page.evaluate_handle(
        """() => {
            const data = new DataTransfer()
            data.items.add(new File(["x"], "given.txt", {type: "text/plain"}))
            return data
        }"""
    )
    if how == "drop":
        widget.panel.dispatch_event("dragover", {"dataTransfer": data})
        page.locator("actorchat-host .drop").wait_for()
        widget.panel.dispatch_event("drop", {"dataTransfer": data})
    else:
        widget.field.evaluate(
            """(e, clipboardData) => {
                e.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true}))
            }""",
            data,
        )
    page.locator("actorchat-host .chip").wait_for()
    widget.field.press("Enter")
    eventually(lambda: "given.txt" in json.dumps(operator.call("GET", f"/chats/{chat}/messages")))


def test_hostile_text_is_shown_as_text_and_breaks_no_layout(page: Page, operator: Operator) -> None:
    widget, chat = chat_with_operator(page, operator, MARKUP)
    for text in HOSTILE:
        operator.say(chat, text)
    operator.say(chat, "That was all")
    widget.wait_for("That was all")
    texts = widget.stored.locator(".t")
    expect(texts).to_have_count(len(HOSTILE) + 2)
    expect(texts.first).to_have_text(MARKUP)
    for text in ("left right isolated", "zerowidth joined"):
        expect(texts.filter(has_text=text)).to_have_text(text)
    page.get_by_role("button", name="Show all").last.click()
    long = widget.stored.filter(has_text="many").locator(".t")
    eventually(lambda: long.evaluate("e => e.scrollHeight <= e.clientHeight + 1"))
    # Half an emoji is what a script or a field that is cut off sends.
    write = "(e, text) => { e.value = text; e.dispatchEvent(new Event('input', {bubbles: true})) }"
    widget.field.evaluate(f"e => ({write})(e, 'half \\ud83d emoji')")
    widget.field.press("Enter")
    widget.wait_for("half \ufffd emoji")
    assert_nothing_runs_and_nothing_sticks_out(page)


def test_hostile_names_and_file_names_are_shown_as_text(page: Page, server: ServerProcess) -> None:
    operator = Operator(server, 77, first=MARKUP, last="\u202eright to left " + "endless" * 30)
    widget, chat = chat_with_operator(page, operator, "Who are you?")
    files = [operator.upload(f"{name}.txt", b"text") for name in (MARKUP.replace("/", ""), "\u202efdp", "endless" * 30)]
    operator.say(chat, "Some files", tuple(files))
    widget.wait_for("Some files")
    expect(widget.stored.locator("b").nth(1)).to_have_text("fdp.txt")
    expect(widget.host.locator(".who b")).to_contain_text("<img src=x")
    assert_nothing_runs_and_nothing_sticks_out(page)
    page.keyboard.press("Escape")
    operator.say(chat, "In the peek")
    expect(widget.host.locator(".peek b")).to_contain_text("<img src=x")
    assert_nothing_runs_and_nothing_sticks_out(page)
    operator.close()


def assert_nothing_runs_and_nothing_sticks_out(page: Page) -> None:
    expect(page).to_have_title("Shop")
    shown = page.locator("actorchat-host")
    expect(shown.locator("script, iframe, img[src=x]")).to_have_count(0)
    eventually(lambda: shown.locator(".log, .peek").first.evaluate("e => e.scrollWidth <= e.clientWidth"))
    eventually(lambda: page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_two_tabs_agree_and_one_leads_after_the_other_is_closed(
    context: BrowserContext, page: Page, operator: Operator
) -> None:
    first, chat = chat_with_operator(page, operator, "From the first tab")
    tab = context.new_page()
    tab.goto(page.url)
    second = Widget(tab)
    second.open()
    second.wait_for("From the first tab")
    first.send("One")
    second.send("Two")
    for widget in (first, second):
        widget.wait_for("One")
        widget.wait_for("Two")
    for widget in (first, second):
        widget.wait_for_texts(operator.texts(chat))
    second.page.keyboard.press("Escape")
    page.close()
    operator.say(chat, "Only one tab is left")
    tab.locator("actorchat-host .n").filter(has_text="1").wait_for()
    expect(tab.locator("actorchat-host .peek")).to_have_text(re.compile("Only one tab is left$"))


def test_typing_and_ticks_are_shown(page: Page, operator: Operator, server: ServerProcess) -> None:
    _, chat = chat_with_operator(page, operator, "Ticks?")
    tick = page.locator("actorchat-host .me .meta [role=img]").last
    expect(tick).to_have_attribute("aria-label", "Sent")
    token = operator.token
    page.evaluate(
        """([url, chat, token]) => {
            window.other = new WebSocket(`${url}/ws/chats/${chat}?after=-1`, ["actorchat.v1.ext", `bearer.${token}`])
            window.other.onmessage = ({data}) => {
                const {type, data: {message}} = JSON.parse(data)
                const send = (type, data) => window.other.send(JSON.stringify({type, data}))
                if (type !== "message_added") return
                send("mark_message_read", {message_id: message.id})
                send("update_typing", {text: "hm", stopped: false})
            }
        }""",
        [server.url.replace("http", "ws"), chat, token],
    )
    page.locator("actorchat-host .me .meta [aria-label=Read]").wait_for()
    page.locator("actorchat-host [aria-label='Olga Marsh is typing']").wait_for()
    page.locator("actorchat-host .h").filter(has_text="online").wait_for()
    operator.say(chat, "Read.")
    page.locator("actorchat-host .dots").wait_for(state="detached")


def test_edits_and_removals_are_shown_live_after_an_outage_and_after_a_reload(page: Page, operator: Operator) -> None:
    widget, chat = chat_with_operator(page, operator, "How much is it?")
    price = operator.say(chat, "It is 300")
    picture = operator.say(chat, "A picture", (operator.upload("lamp.jpg", lamp()),))
    last = operator.say(chat, "It is on its way")
    page.get_by_role("button", name="Open the image lamp.jpg").click()
    shown = page.get_by_role("dialog", name="Image lamp.jpg")
    shown.wait_for()
    operator.remove(picture)
    # A removed image is not shown any longer, wherever it was.
    shown.wait_for(state="detached")
    operator.edit(price, "It is 280")
    edited = widget.stored.filter(has_text="280").locator("small")
    expect(edited).to_have_text("edited")
    removed = "This message was removed."
    expect(widget.stored).to_have_text(["How much is it?", "It is 280edited", removed, "It is on its way"])
    expect(widget.log.locator("img")).to_have_count(0)

    page.context.set_offline(True)
    widget.bar.wait_for()
    operator.edit(last, "It leaves tomorrow")
    operator.remove(price)
    page.context.set_offline(False)
    expected = ["How much is it?", removed, removed, "It leaves tomorrowedited"]
    expect(widget.stored).to_have_text(expected)
    page.reload()
    expect(widget.stored).to_have_text(expected)

    widget.launcher.click()
    right = operator.say(chat, "It is packed")
    wrong = operator.say(chat, "Wrong chat, sorry")
    peek = page.locator("actorchat-host .peek")
    expect(peek).to_contain_text("Wrong chat")
    operator.remove(wrong)
    expect(peek).to_contain_text("It is packed")
    expect(widget.launcher).to_have_accessible_name("Chat, 1 unread message")
    operator.remove(right)
    peek.wait_for(state="detached")
    expect(widget.launcher).to_have_accessible_name("Chat")


def test_older_messages_are_read_when_the_log_is_scrolled_up(page: Page, operator: Operator) -> None:
    widget, chat = chat_with_operator(page, operator, "The very first")
    for number in range(70):
        operator.say(chat, f"Answer {number}")
    page.reload()
    widget.wait_for("Answer 69")
    expect(widget.stored.filter(has_text="The very first")).to_have_count(0)
    widget.log.evaluate("e => e.scrollTo({top: -e.scrollHeight})")
    widget.wait_for("The very first")
    widget.wait_for_texts(operator.texts(chat))


def test_a_connection_that_has_lost_one_direction_is_noticed_within_30_seconds(
    context: BrowserContext, site: CustomerSite, server: ServerProcess, operator: Operator
) -> None:
    with running_proxy(server.port) as proxy:
        site.put(proxy.url, path="/proxied")
        page = context.new_page()
        sockets: list[WebSocket] = []
        page.on("websocket", lambda socket: sockets.append(socket))
        page.clock.install()
        page.goto(site.url + "/proxied")
        widget, chat = chat_with_operator(page, operator, "Can you hear me?")
        assert len(sockets) == 1
        proxy.silence()
        operator.say(chat, "Yes, can you hear me?")
        page.clock.run_for(30_000)
        widget.wait_for_texts(["Can you hear me?", "Yes, can you hear me?"])
        assert len(sockets) >= 2
        page.close()


def test_a_page_to_which_the_visitor_goes_back_is_live_again(
    browser: Browser, site: CustomerSite, server: ServerProcess, operator: Operator
) -> None:
    site.headers.clear()
    site.put(server.url)
    site.pages["/other"] = "<h1>Another page</h1>"
    # Chromium 150 does not keep a page whose socket is still closing, later versions do: both must work.
    second = launch(browser.browser_type, ["--disable-back-forward-cache"])
    try:
        page = second.new_page(locale="en")
        page.goto(site.url)
        widget, chat = chat_with_operator(page, operator, "I look at another page")
        page.goto(site.url + "/other")
        operator.say(chat, "Welcome back")
        page.evaluate("history.back()")
        widget.wait_for("Welcome back")
        widget.wait_for_texts(operator.texts(chat))
        page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
        operator.say(chat, "While the page was in the cache")
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        widget.wait_for("While the page was in the cache")
        widget.wait_for_texts(operator.texts(chat))
    finally:
        second.close()


def test_a_page_of_another_origin_uses_the_sdk(page: Page, server: ServerProcess, operator: Operator) -> None:
    stored = page.evaluate(
        """async server => {
            const { openChat } = await import(`${server}/sdk.js`)
            window.chat = openChat({ storage: "memory" })
            return await chat.send("From the SDK").stored
        }""",
        server.url,
    )
    assert stored["text"] == "From the SDK"
    operator.say(stored["chat"]["uuid"], "To the SDK")
    eventually(lambda: page.evaluate("chat.messages.map(m => m.text)") == ["From the SDK", "To the SDK"])
    eventually(lambda: page.evaluate("[chat.state, chat.unread, chat.leads]") == ["live", 1, True])
    page.evaluate("chat.stop()")
