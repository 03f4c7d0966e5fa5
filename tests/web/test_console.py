"""The operators' console in a real browser, with the widget, against a server in its own process."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import randbelow
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Locator, Page, Route, WebSocket, expect

from tests.system.server_process import ServerProcess
from tests.web.accounts import PASSWORD, add_account, console_code
from tests.web.administration_states import Administrator
from tests.web.axe import needs_axe, violations
from tests.web.browser import PATIENCE, CustomerSite, Operator, Widget, eventually, running_server
from tests.web.console_states import Visitor, show_states
from tests.web.pictures import lamp

pytestmark = pytest.mark.slow

PRESS_ENTER = """field => {
    field.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true, cancelable: true}))
    return field.value
}"""
"""Says what the field has right after Enter: the page draws nothing while a script runs."""

TYPE_AND_ENTER = f"""(field, text) => {{
    field.value = text
    field.dispatchEvent(new InputEvent("input", {{bubbles: true}}))
    return ({PRESS_ENTER})(field)
}}"""

TYPE_AND_SUBMIT = """(field, text) => {
    field.value = text
    field.dispatchEvent(new InputEvent("input", {bubbles: true}))
    field.form.requestSubmit()
}"""

SCROLL_LIST = """() => {
    let list = document.querySelector(".row")
    while (list && list.scrollHeight <= list.clientHeight) list = list.parentElement
    if (list) list.scrollTop = list.scrollTop + list.clientHeight < list.scrollHeight - 1 ? list.scrollTop + 300 : 0
}"""


class Console:
    """The console on a page."""

    def __init__(self, page: Page, server: ServerProcess) -> None:
        self.page = page
        self.url = f"{server.url}/console"
        self.field = page.locator("#composer")
        self.bubbles = page.locator(".bub .t")
        self.banner = page.locator(".banner")

    def sign_in(self, login: str, password: str = PASSWORD) -> None:
        self.page.goto(self.url)
        self.page.get_by_label("Login").fill(login)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def row(self, text: str) -> Locator:
        return self.page.locator(".row", has_text=text)

    def show(self, text: str) -> None:
        """Wait for the row of a chat. The list draws only what is in sight, and the newest chat may be its last."""

        def shown() -> bool:
            if self.row(text).count():
                return True
            self.page.evaluate(SCROLL_LIST)
            return False

        eventually(shown)

    def open(self, text: str) -> None:
        self.show(text)
        self.row(text).first.click()
        self.field.wait_for()

    def send(self, text: str) -> None:
        self.field.fill(text)
        self.field.press("Enter")

    def wait_for(self, text: str) -> None:
        self.bubbles.filter(has_text=text).first.wait_for()


Open = Callable[[str], Console]


@pytest.fixture(scope="module")
def accounts() -> set[str]:
    """The logins of the accounts that were added to the server: each takes a command of its own."""
    return set()


@pytest.fixture
def open_console(browser: Browser, server: ServerProcess, accounts: set[str]) -> Iterator[Open]:
    """Returns a function that signs an operator in, in a browser of their own."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_it(login: str) -> Console:
        if login not in accounts:
            add_account(server, login)
            accounts.add(login)
        context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en")
        context.set_default_timeout(PATIENCE * 1000)
        context.on("weberror", lambda error: errors.append(str(error.error)))
        contexts.append(context)
        console = Console(context.new_page(), server)
        console.sign_in(login)
        console.page.locator(".list").wait_for()
        return console

    yield open_it
    for context in contexts:
        context.close()
    assert errors == []


def new_user() -> int:
    """Return the id of a user of the site: another one in each run, if the test is run again after a failure."""
    return 1_000_000 + randbelow(10**9)


def write_as_visitor(page: Page, text: str) -> Widget:
    widget = Widget(page)
    widget.open()
    widget.send(text)
    widget.wait_for(text)
    return widget


def test_a_wrong_password_and_too_many_attempts_are_told_in_plain_words(
    context: BrowserContext, server: ServerProcess
) -> None:
    add_account(server, "vera")
    console = Console(context.new_page(), server)
    console.sign_in("vera", "wrong-password")
    alert = console.page.get_by_role("alert")
    alert.get_by_text("The login or the password is wrong.").wait_for()
    button = console.page.get_by_role("button", name="Sign in")

    def throttled() -> bool:
        if button.is_enabled():
            button.click()
        return alert.get_by_text("Too many attempts. Try again in").count() > 0

    eventually(throttled)


def test_the_link_of_the_server_signs_in_once_and_leaves_the_address(
    context: BrowserContext, server: ServerProcess
) -> None:
    page = context.new_page()
    link = f"{server.url}/console#sign-in={console_code(server)}"
    page.goto(link)
    page.locator(".list").wait_for()
    expect(page).to_have_url(f"{server.url}/console")
    # The cookie keeps the operator signed in; the token is in no storage.
    page.reload()
    page.locator(".list").wait_for()
    assert "eyJ" not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    page.get_by_role("button", name="Account and presence").click()
    page.get_by_role("menuitem", name="Sign out").click()
    page.get_by_label("Login").wait_for()
    expect(page.get_by_text("Your sign-in has ended")).to_have_count(0)
    page.goto("about:blank")
    page.goto(link)
    page.get_by_text("This link was used already").wait_for()


def test_the_demo_page_hands_the_code_of_its_address_to_its_link_and_to_nobody_else(
    context: BrowserContext, server: ServerProcess
) -> None:
    page = context.new_page()
    sent: list[str] = []
    context.on("request", lambda request: sent.append(f"{request.url} {request.post_data} {request.headers}"))
    page.goto(server.url)
    expect(page.get_by_text("has printed a link that signs you in")).to_be_visible()
    expect(page.get_by_role("link", name="Open the console.")).to_have_attribute("href", "console")
    code = console_code(server)
    page.goto("about:blank")
    page.goto(f"{server.url}/#sign-in={code}")
    expect(page.get_by_text("This link signs you in once")).to_be_visible()
    expect(page.get_by_text("has printed a link")).to_be_hidden()
    expect(page).to_have_url(f"{server.url}/")
    # The widget reports the visitor's page with the first message.
    page.get_by_role("button", name="Open the chat").click()
    page.locator("actorchat-host textarea").fill("Hello")
    page.keyboard.press("Enter")
    page.locator("actorchat-host .bub").wait_for()
    expect(page.get_by_role("link", name="Open the console.")).to_have_attribute("href", f"console#sign-in={code}")
    assert [request for request in sent if code in request] == []
    with context.expect_page() as opened:
        page.get_by_role("link", name="Open the console.").click()
    opened.value.locator(".list").wait_for()
    expect(opened.value).to_have_url(f"{server.url}/console")


def test_the_first_minute_of_widget_and_console(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    asked = ["Is the Harrow lamp still there?", "do you also ship to Norway?"]
    widget = write_as_visitor(page, "Is the Harrow lamp still there?")
    console.open("Is the Harrow lamp still there?")
    console.wait_for("Is the Harrow lamp still there?")
    expect(console.page).to_have_title(re.compile(r"^\("))
    console.page.get_by_role("button", name="Accept").click()
    console.page.locator(".tag.open", has_text="Yours").wait_for()
    # Accepting makes what the operator sees read.
    console.page.locator(".row", has_text="Is the Harrow lamp").locator(".n").wait_for(state="detached")
    page.locator("actorchat-host .meta .read").wait_for()
    widget.field.press_sequentially("do you also sh")
    console.page.locator(".live", has_text="do you also sh").wait_for()
    widget.send("do you also ship to Norway?")
    console.wait_for("do you also ship to Norway?")
    said = console.page.locator("[aria-live=polite]")
    expect(said).to_have_text(re.compile(r"do you also ship to Norway\?$"))
    # Two messages at once: keys may be faster than the page draws.
    console.send("Yes, it is.")
    console.send("And yes, we do.")
    widget.wait_for_texts([*asked, "Yes, it is.", "And yes, we do."])
    console.page.locator(".meta .read").wait_for()
    console.page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_text("This chat is closed").wait_for()
    told = console.page.locator(".ev", has_text="You closed the chat")
    told.wait_for()
    console.page.get_by_role("button", name="Reopen").click()
    console.page.locator(".tag.open", has_text="Yours").wait_for()
    expect(told).to_have_count(0)


def test_the_conversation_says_who_passed_on_returned_and_closed_the_chat(
    open_console: Open, server: ServerProcess
) -> None:
    colleague = Operator(server, 2, "Jan", "Tailor")
    visitor = Visitor(server, colleague.token_of_user(new_user(), "Marta", "Novak"))
    text = f"Who has done what? {visitor.chat}"
    visitor.say(text)
    console = open_console("olga")
    console.open(text)
    told = console.page.locator(".ev", has_text="chat")
    colleague.call("POST", f"/chats/{visitor.chat}/accept")
    colleague.call("POST", f"/chats/{visitor.chat}/return")
    expect(told).to_have_text(["Jan Tailor returned the chat to the queue"])
    console.page.get_by_role("button", name="Accept").click()
    console.page.locator(".tag.open", has_text="Yours").wait_for()
    colleague.call("POST", f"/chats/{visitor.chat}/transfer", operator_id=2)
    expect(told.last).to_have_text("The chat was passed to another operator by Jan Tailor")
    colleague.call("POST", f"/chats/{visitor.chat}/close")
    expect(told.last).to_have_text(re.compile("^Jan Tailor closed the chat, "))
    console.page.reload()
    expect(told).to_have_count(3)
    expect(told.last).to_have_text(re.compile("^Jan Tailor closed the chat, "))
    visitor.close()
    colleague.close()


def test_of_two_consoles_that_accept_at_once_one_is_told_who_was_faster(page: Page, open_console: Open) -> None:
    consoles = [open_console("olga"), open_console("jan")]
    write_as_visitor(page, "Which of you two?")
    for console in consoles:
        console.open("Which of you two?")
        console.page.get_by_role("button", name="Accept").wait_for()
    # Neither request leaves before both buttons were clicked.
    requests: list[Route] = []
    for console in consoles:
        console.page.route("**/accept", lambda route: requests.append(route))
        console.page.get_by_role("button", name="Accept").click()
    eventually(lambda: [console.page.title() for console in consoles] and len(requests) == 2)
    for request in requests:
        request.continue_()
    for console in consoles:
        console.page.unroute("**/accept")
    eventually(lambda: sum(console.banner.count() for console in consoles) == 1)
    (loser,) = (console for console in consoles if console.banner.count())
    (winner,) = (console for console in consoles if console is not loser)
    winner.page.locator(".tag.open", has_text="Yours").wait_for()
    name = "Olga" if winner is consoles[0] else "Jan"
    expect(loser.banner).to_have_text(re.compile(f"^{name} accepted this chat at .* before you\\.$"))
    loser.page.get_by_text(f"{name} answers this chat.").wait_for()
    loser.page.get_by_role("button", name="Take over").click()
    loser.page.get_by_role("button", name="Accept").click()
    loser.page.locator(".tag.open", has_text="Yours").wait_for()
    winner.page.get_by_text("answers this chat.").wait_for()


def test_a_note_never_reaches_the_visitor(page: Page, open_console: Open) -> None:
    secret = "Be generous, he is a friend of the house"
    seen: list[str] = []

    def watch(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: seen.append(str(frame)))

    page.on("websocket", watch)
    page.on("response", lambda response: seen.append(response.text()) if "/api/" in response.url else None)
    console, colleague = open_console("olga"), open_console("jan")
    widget = write_as_visitor(page, "May I return it?")
    console.open("May I return it?")
    console.page.get_by_role("button", name="Accept").click()
    console.page.locator(".tag.open").wait_for()
    console.page.get_by_role("tab", name="Note").click()
    console.page.locator("input[type=file]").set_input_files(
        {"name": "secret-invoice.txt", "mimeType": "text/plain", "buffer": b"A debt"}
    )
    console.send(secret)
    console.page.locator(".g.note", has_text=secret).locator(".file", has_text="secret-invoice.txt").wait_for()
    colleague.page.get_by_role("tab", name="All").click()
    colleague.row(f"Note: {secret}").wait_for()
    console.page.get_by_role("tab", name="Reply").click()
    console.send("Of course")
    widget.wait_for("Of course")
    page.reload()
    widget.wait_for("Of course")
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    shown = page.evaluate("document.querySelector('actorchat-host').shadowRoot.textContent")
    assert any("Of course" in text for text in seen)
    for hidden in (secret, "secret-invoice"):
        assert all(hidden not in text for text in [*seen, stored, shown])


def test_a_reload_keeps_drafts_and_the_open_chat(page: Page, open_console: Open, server: ServerProcess) -> None:
    console = open_console("olga")
    write_as_visitor(page, "A chat with drafts")
    console.open("A chat with drafts")
    console.field.fill("Half a reply")
    console.page.get_by_role("tab", name="Note").click()
    console.field.fill("Half a note")
    console.page.reload()
    console.wait_for("A chat with drafts")
    expect(console.field).to_have_value("Half a note")
    console.page.get_by_role("tab", name="Reply").click()
    expect(console.field).to_have_value("Half a reply")


def test_a_key_right_after_another_tab_or_enter_belongs_to_what_is_written_next(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    write_as_visitor(page, "Keys before a drawing")
    console.open("Keys before a drawing")
    console.field.fill("For the visitor")
    console.page.get_by_role("tab", name="Note").click()
    expect(console.field).to_have_value("")
    console.field.fill("Not for the visitor")
    # The page draws nothing while a script runs.
    shown = console.page.get_by_role("tab", name="Reply").evaluate(
        "tab => { tab.click(); return document.getElementById('composer').value }"
    )
    assert shown == "For the visitor"
    expect(console.field).to_have_attribute("placeholder", re.compile("reply"))
    assert console.field.evaluate(PRESS_ENTER) == ""
    console.wait_for("For the visitor")


def test_a_reply_written_without_a_network_is_sent_once_when_it_is_back(
    page: Page, open_console: Open, operator: Operator
) -> None:
    console = open_console("olga")
    widget = write_as_visitor(page, "Before the network went")
    console.open("Before the network went")
    console.wait_for("Before the network went")
    console.page.context.set_offline(True)
    console.send("Written without a network")
    console.page.locator(".lost").wait_for()
    console.page.context.set_offline(False)
    widget.wait_for("Written without a network")
    assert operator.texts(operator.newest_chat()).count("Written without a network") == 1


def test_files_arrive_as_pictures_and_downloads(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    write_as_visitor(page, "Do you have a picture?")
    console.open("Do you have a picture?")
    files: list[FilePayload] = [
        {"name": "lamp.jpg", "mimeType": "image/jpeg", "buffer": lamp()},
        {"name": "plan.txt", "mimeType": "text/plain", "buffer": b"A plan"},
    ]
    console.page.locator("input[type=file]").set_input_files(files)
    console.send("Here it is")
    page.locator("actorchat-host .img img").wait_for()
    image = console.page.locator(".img img")
    image.wait_for()
    eventually(lambda: image.evaluate("e => e.naturalWidth > 0"))
    console.page.locator(".bub.file", has_text="plan.txt").wait_for()


def test_keys_alone_answer_a_chat_with_a_saved_reply(page: Page, open_console: Open, server: ServerProcess) -> None:
    console = open_console("olga")
    keyboard = console.page.keyboard
    console.page.get_by_role("button", name="Saved replies").click()
    console.page.get_by_role("button", name="New saved reply").click()
    console.page.get_by_label("Title").fill("Parcel")
    console.page.get_by_label("Shortcut").fill("parcel")
    console.page.get_by_label("Text", exact=True).fill("Your parcel is on its way. {operator}")
    console.page.get_by_role("button", name="Save", exact=True).click()
    console.page.locator("li", has_text="Parcel").wait_for()
    console.page.get_by_role("button", name="Chats").click()
    widget = write_as_visitor(page, "Where is my parcel, please?")
    console.row("Where is my parcel, please?").wait_for()
    console.page.locator(".tabs").click(position={"x": 340, "y": 10})
    cursor = console.page.locator(".row[data-cursor]", has_text="Where is my parcel, please?")

    def moved() -> bool:
        keyboard.press("j")
        return cursor.count() == 1

    eventually(moved)
    keyboard.press("Enter")
    console.wait_for("Where is my parcel, please?")
    expect(console.field).to_be_focused()
    keyboard.press("Escape")
    keyboard.press("a")
    console.page.locator(".tag.open", has_text="Yours").wait_for()
    keyboard.press("r")
    expect(console.field).to_be_focused()
    keyboard.type("/")
    console.page.locator(".picker [role=option]", has_text="Parcel").wait_for()
    # Three more letters and Enter, before the page is drawn again.
    assert console.field.evaluate(TYPE_AND_ENTER, "/par") == "Your parcel is on its way. Olga"
    expect(console.field).to_have_value("Your parcel is on its way. Olga")
    keyboard.press("Enter")
    widget.wait_for("Your parcel is on its way. Olga")
    keyboard.press("Escape")
    keyboard.press("?")
    console.page.get_by_role("dialog", name="Keys").wait_for()


def test_an_own_message_is_edited_and_removed_for_the_visitor_too(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    widget = write_as_visitor(page, "When do you close?")
    console.open("When do you close?")
    console.send("At five")
    console.send("See you there")
    widget.wait_for("See you there")
    console.wait_for("See you there")
    console.field.press("ArrowUp")
    dialog = console.page.get_by_role("dialog", name="Your message")
    text = dialog.get_by_label("Text")
    expect(text).to_be_focused()
    expect(text).to_have_value("See you there")
    console.page.keyboard.press("Escape")
    expect(console.field).to_be_focused()
    own = console.page.locator(".own", has_text="At five")
    own.get_by_role("button", name="Edit or remove this message").click()
    expect(text).to_have_value("At five")
    text.fill("At six")
    text.press("Control+Enter")
    dialog.wait_for(state="detached")
    widget.wait_for("At six")
    console.wait_for("At six")
    expect(console.page.locator(".own", has_text="At six")).to_contain_text("edited")
    console.page.locator(".own", has_text="See you").get_by_role("button").click()
    dialog.get_by_role("button", name="Remove…").click()
    expect(dialog).to_contain_text("Remove this message for everybody?")
    remove = dialog.get_by_role("button", name="Remove", exact=True)
    expect(remove).to_be_focused()
    console.page.keyboard.press("Enter")
    console.page.locator(".bub.gone").wait_for()
    page.locator("actorchat-host .bub.gone").wait_for()
    # Administrators may remove the messages of others, but not edit them.
    other = console.page.locator(".own", has_text="When do you close?")
    other.get_by_role("button", name="Remove this message").click()
    console.page.get_by_role("dialog").get_by_role("button", name="Remove", exact=True).click()
    expect(console.page.locator(".bub.gone")).to_have_count(2)


def test_an_old_message_stays_and_the_reason_is_told_in_plain_words(
    browser: Browser, site: CustomerSite, tmp_path: Path
) -> None:
    with running_server(tmp_path / "data", site, {"ACTORCHAT_CHAT_EDIT_WITHIN": "1"}) as server:
        chief = Administrator(server)
        chief.add_operator("nina", PASSWORD)
        visitor = Visitor(server, chief.token_of_user(101, "Daniel"))
        visitor.say("Hello")
        page = browser.new_page(locale="en")
        page.set_default_timeout(PATIENCE * 1000)
        console = Console(page, server)
        console.sign_in("nina")
        console.open("Hello")
        console.send("Good morning")
        console.wait_for("Good morning")
        own = page.locator(".own")
        own.get_by_role("button").wait_for()
        # The visitor's message can't be changed by an operator, whose own is the only one with a button.
        expect(own).to_have_count(1)
        time.sleep(1.5)
        own.get_by_role("button").click()
        dialog = page.get_by_role("dialog", name="Your message")
        dialog.get_by_label("Text").fill("Good evening")
        dialog.get_by_role("button", name="Save").click()
        expect(dialog.get_by_role("alert")).to_have_text(
            "This message is too old to be changed: the server allows it only for a while after sending."
        )
        page.keyboard.press("Escape")
        expect(console.bubbles.filter(has_text="Good morning")).to_have_count(1)
        page.close()
        visitor.close()
        chief.close()


def test_the_transcript_is_saved_in_three_formats(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    write_as_visitor(page, "A chat to keep")
    console.open("A chat to keep")
    console.page.get_by_role("button", name="More").click()
    console.page.get_by_role("menuitem", name="Save the transcript").click()
    dialog = console.page.get_by_role("dialog", name="Save the transcript")
    for name, ending in (("Page (HTML)", ".html"), ("Text", ".txt"), ("JSON", ".json")):
        with console.page.expect_download() as saving:
            dialog.get_by_role("button", name=name).click()
        assert saving.value.suggested_filename.endswith(ending)
        assert "A chat to keep" in Path(saving.value.path()).read_text()
        expect(dialog.get_by_role("status")).to_have_text(f"{saving.value.suggested_filename} is saved.")


def test_a_supervisor_blocks_a_visitor_and_lets_them_back(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    widget = write_as_visitor(page, "Buy my pills")
    console.open("Buy my pills")
    expect(console.page.locator(".card")).to_contain_text("127.0.0.1")
    console.page.get_by_role("button", name="More").click()
    console.page.get_by_role("menuitem", name="Block the visitor").click()
    dialog = console.page.get_by_role("dialog", name="Block Visitor")
    visitor = dialog.get_by_role("checkbox").first
    expect(dialog.get_by_role("checkbox", name="The network address 127.0.0.1")).not_to_be_checked()
    visitor.uncheck()
    dialog.get_by_role("button", name="Block").click()
    expect(dialog.get_by_role("alert")).to_have_text("Choose whom to block.")
    visitor.check()
    dialog.get_by_label("For how long").select_option("1 hour")
    dialog.get_by_label("Reason").fill("Advertising")
    dialog.get_by_role("button", name="Block").click()
    expect(dialog.get_by_role("status")).to_contain_text("is blocked until")
    console.page.keyboard.press("Enter")
    dialog.wait_for(state="detached")
    # The widget's socket is closed, and it says why the chat has ended.
    expect(page.locator("actorchat-host textarea")).to_have_count(0)
    console.page.get_by_role("button", name="Administration").click()
    console.page.get_by_role("navigation", name="Administration").get_by_role("button", name="Blocks").click()
    line = console.page.locator(".line", has_text="Advertising")
    expect(line).to_contain_text("Blocked by Olga")
    expect(line).to_contain_text("127.0.0.1")
    line.get_by_role("button", name="Unblock").click()
    expect(console.page.get_by_role("status").filter(has_text="can write again.")).to_be_visible()
    expect(console.page.get_by_text("Nobody is blocked.")).to_be_visible()
    page.reload()
    widget.send("Sorry")
    widget.wait_for("Sorry")


def test_the_blocks_are_listed_with_the_names_of_visitors_that_lead_to_their_chats(
    open_console: Open, server: ServerProcess
) -> None:
    chief = Administrator(server)
    user = new_user()
    visitor = Visitor(server, chief.token_of_user(user, "Boris", "Block"))
    visitor.say("Cheap watches")
    chief.call("POST", "/blocks", user=user, reason=f"Watches {user}")
    console = open_console("olga")
    console.page.goto(f"{console.url}#blocks")
    console.page.reload()
    line = console.page.locator(".line", has_text=f"Watches {user}")
    expect(line).to_contain_text("Boris Block")
    expect(line).to_contain_text("127.0.0.1")
    expect(line).to_contain_text("Blocked by Clara Chief")
    line.get_by_role("link", name="Boris Block").click()
    console.wait_for("Cheap watches")
    console.page.go_back()
    line.get_by_role("button", name="Unblock Boris Block").click()
    expect(console.page.get_by_role("status").filter(has_text="Boris Block can write again.")).to_be_visible()
    visitor.close()
    chief.close()


def test_an_operator_neither_blocks_nor_sees_the_address(
    page: Page, open_console: Open, server: ServerProcess, accounts: set[str]
) -> None:
    chief = Administrator(server)
    chief.add_operator("nina", PASSWORD)
    chief.close()
    accounts.add("nina")
    console = open_console("nina")
    write_as_visitor(page, "An address for nobody")
    console.open("An address for nobody")
    console.page.locator(".card").get_by_text("On the site now").wait_for()
    expect(console.page.locator(".card")).to_contain_text("Shop")
    expect(console.page.locator(".card")).not_to_contain_text("127.0.0.1")
    console.page.get_by_role("button", name="More").click()
    console.page.get_by_role("menuitem", name="Save the transcript").wait_for()
    expect(console.page.get_by_role("menuitem", name="Block the visitor")).to_have_count(0)
    console.page.goto(f"{console.url}#blocks")
    expect(console.page.get_by_role("heading", name="Blocks")).to_have_count(0)


def test_the_palette_finds_commands_and_chats_by_keyboard_alone(
    page: Page, operator: Operator, open_console: Open
) -> None:
    console = open_console("olga")
    keyboard = console.page.keyboard
    # Another one in each run, if the test is run again after a failure.
    number = randbelow(10**6)
    text = f"A chat for the palette {number}"
    # Without a query, the palette has only the chats that wait longest; other tests leave some. Its name finds it.
    name = f"Palina{number}"
    widget = Widget(page)
    page.evaluate(
        "token => actorchat.push(api => { api.identify(token); api.open() })", operator.token_of_user(number, name)
    )
    widget.send(text)
    widget.wait_for(text)
    console.show(text)
    keyboard.press("Control+k")
    field = console.page.get_by_role("combobox", name="Commands and chats")
    expect(field).to_be_focused()
    options = console.page.get_by_role("dialog").get_by_role("option")
    keyboard.type("waits for nobody")
    # There is always the search for what was typed.
    expect(options).to_have_text(["Search messages and people for “waits for nobody”"])
    field.fill(name)
    options.filter(has_text=text).wait_for()
    chosen = options.and_(console.page.locator("[aria-selected=true]"))
    expect(chosen).to_have_count(1)

    def reached() -> bool:
        if text in chosen.inner_text():
            return True
        keyboard.press("ArrowDown")
        return False

    eventually(reached)
    expect(field).to_have_attribute("aria-activedescendant", chosen.get_attribute("id") or "")
    keyboard.press("Enter")
    console.wait_for(text)
    expect(console.field).to_be_focused()
    # In the middle of a text, too; the text stays.
    keyboard.type("Half a reply")
    keyboard.press("Control+k")
    keyboard.type("acc")
    expect(chosen).to_contain_text("Accept")
    keyboard.press("Enter")
    console.page.locator(".tag.open", has_text="Yours").wait_for()
    expect(console.field).to_have_value("Half a reply")
    expect(console.field).to_be_focused()
    keyboard.press("Control+k")
    keyboard.type("close chat")
    # Enter may come before the page is drawn again.
    assert field.evaluate(TYPE_AND_ENTER, "return queue") == "return queue"
    console.page.get_by_role("button", name="Accept").wait_for()
    keyboard.press("Control+k")
    expect(field).to_be_focused()
    keyboard.press("Escape")
    expect(field).to_have_count(0)
    expect(console.field).to_be_focused()
    # A command may open a dialog, which the end of the palette must not close.
    keyboard.press("Control+k")
    keyboard.type("transfer")
    keyboard.press("Enter")
    expect(console.page.get_by_role("dialog", name="Transfer the chat")).to_be_visible()
    keyboard.press("Escape")
    keyboard.press("Control+k")
    keyboard.type("palette for")
    options.filter(has_text="Search messages").click()
    console.page.get_by_role("group", name="Search").wait_for()
    assert widget.stored.count() == 1


def test_the_late_end_of_a_dialog_does_not_close_the_next_one(open_console: Open, server: ServerProcess) -> None:
    colleague = Operator(server, 2, "Jan", "Tailor")
    visitor = Visitor(server, colleague.token_of_user(new_user(), "Lena"))
    text = f"One dialog after the other {visitor.chat}"
    visitor.say(text)
    console = open_console("olga")
    console.open(text)
    console.page.get_by_role("button", name="Accept").click()
    console.page.get_by_role("button", name="Transfer").click()
    console.page.get_by_role("dialog", name="Transfer the chat").wait_for()
    palette = console.page.get_by_role("combobox", name="Commands and chats")
    for _ in range(2):
        # The key comes before the browser says that the dialog, or the palette itself, is closed.
        console.page.evaluate(
            """() => {
                document.querySelector("dialog").close()
                const key = { key: "k", code: "KeyK", ctrlKey: true, bubbles: true, cancelable: true }
                document.body.dispatchEvent(new KeyboardEvent("keydown", key))
            }"""
        )
        expect(palette).to_be_focused()
        console.page.wait_for_timeout(200)
        expect(palette).to_be_focused()
    console.page.keyboard.press("Escape")
    expect(palette).to_have_count(0)
    visitor.close()
    colleague.close()


def test_two_letters_lead_to_the_lists_and_letters_of_other_alphabets_count_by_their_place(
    page: Page, open_console: Open
) -> None:
    console = open_console("olga")
    keyboard = console.page.keyboard
    write_as_visitor(page, "A chat for letters")
    console.open("A chat for letters")
    for letter, name in (("m", "Mine"), ("a", "All"), ("c", "Closed"), ("n", "New")):
        console.page.locator("body").click(position={"x": 5, "y": 400})
        keyboard.press("g")
        keyboard.press(letter)
        expect(console.page.get_by_role("tab", name=name, selected=True)).to_be_visible()
    # Neither "a" nor "n" has accepted the chat, or gone to its field for notes.
    console.page.get_by_role("button", name="Accept").wait_for()
    expect(console.page.get_by_role("tab", name="Reply", selected=True)).to_be_visible()
    console.page.get_by_role("button", name="Saved replies").first.click()
    keyboard.press("g")
    keyboard.press("a")
    expect(console.page.get_by_role("tab", name="All", selected=True)).to_be_visible()
    # "ф" is where "a" is.
    console.page.evaluate(
        """() => document.body.dispatchEvent(
            new KeyboardEvent("keydown", {key: "ф", code: "KeyA", bubbles: true, cancelable: true}))"""
    )
    console.page.locator(".tag.open", has_text="Yours").wait_for()
    console.field.focus()
    keyboard.type("ga?e")
    expect(console.field).to_have_value("ga?e")
    console.page.get_by_role("button", name="Close", exact=True).wait_for()
    expect(console.page.get_by_role("dialog")).to_have_count(0)


def test_letters_for_a_dialog_that_is_still_loading_do_nothing_else(page: Page, open_console: Open) -> None:
    write_as_visitor(page, "A slow network")
    console = open_console("olga")
    held: list[Route] = []
    console.page.context.route("**/console-pages-*", lambda route: held.append(route))
    console.page.reload()
    console.open("A slow network")
    console.page.get_by_role("button", name="Accept").click()
    console.page.locator(".tag.open", has_text="Yours").wait_for()
    console.field.blur()
    console.page.keyboard.press("Control+k")
    eventually(lambda: console.page.title() and held)
    console.page.keyboard.press("e")
    for route in held:
        route.continue_()
    console.page.get_by_role("combobox").wait_for()
    console.page.get_by_role("button", name="Close", exact=True).wait_for()


def test_arrow_keys_move_in_menus_and_the_focus_comes_back_to_their_button(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    keyboard = console.page.keyboard
    write_as_visitor(page, "A chat with a menu")
    console.open("A chat with a menu")
    more = console.page.get_by_role("button", name="More")
    more.focus()
    keyboard.press("Enter")
    expect(console.page.get_by_role("menuitem", name="Transfer")).to_be_focused()
    keyboard.press("ArrowUp")
    expect(console.page.get_by_role("menuitem", name="Block the visitor")).to_be_focused()
    # Letters belong to the menu: "a" accepts no chat.
    keyboard.press("a")
    keyboard.press("ArrowDown")
    keyboard.press("ArrowDown")
    expect(console.page.get_by_role("menuitem", name="Close", exact=True)).to_be_focused()
    keyboard.press("Escape")
    expect(more).to_be_focused()
    expect(console.page.get_by_role("menu")).to_have_count(0)
    keyboard.press("Enter")
    console.page.get_by_role("menuitem", name="Save the transcript").press("Enter")
    dialog = console.page.get_by_role("dialog", name="Save the transcript")
    expect(dialog).to_be_visible()
    keyboard.press("Escape")
    expect(more).to_be_focused()
    expect(console.page.get_by_role("button", name="Accept")).to_be_visible()


def test_settings_count_at_once_and_on_every_device(page: Page, open_console: Open) -> None:
    console = open_console("mila")
    write_as_visitor(page, "A chat for settings")
    console.open("A chat for settings")
    background = "getComputedStyle(document.body).backgroundColor"
    light = console.page.evaluate(background)
    console.page.get_by_role("button", name="Account and presence").click()
    console.page.get_by_role("menuitem", name="Settings").click()
    console.page.get_by_role("radio", name="Dark").check()
    expect(console.page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()
    dark = console.page.evaluate(background)
    assert dark != light
    console.page.get_by_role("checkbox", name="Single letters do something").uncheck()
    expect(console.page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()
    console.page.get_by_label("Language").select_option("Русский")
    expect(console.page.get_by_role("heading", name="Настройки")).to_be_visible()
    expect(console.page.get_by_label("Язык")).to_be_focused()
    console.page.go_back()
    console.wait_for("A chat for settings")
    console.field.blur()
    for key in ("a", "n", "?", "g", "m"):
        console.page.keyboard.press(key)
    console.page.keyboard.press("Control+k")
    console.page.get_by_role("combobox", name="Команды и чаты").wait_for()
    console.page.keyboard.type("тема как")
    console.page.keyboard.press("Enter")
    eventually(lambda: console.page.evaluate(background) == light)
    console.page.get_by_role("button", name="Принять").wait_for()
    expect(console.page.get_by_role("dialog")).to_have_count(0)
    # Before the sign-in the language is known, too. Another device learns it with the sign-in.
    console.page.context.clear_cookies()
    console.page.reload()
    console.page.get_by_label("Логин").wait_for()
    other = open_console("mila")
    expect(other.page.get_by_role("tab", name="Новые")).to_be_visible()
    assert other.page.evaluate("document.documentElement.lang") == "ru"


def test_a_setting_that_the_server_cannot_keep_goes_back(open_console: Open) -> None:
    console = open_console("olga")
    console.page.get_by_role("button", name="Account and presence").click()
    console.page.get_by_role("menuitem", name="Settings").click()
    dark = console.page.get_by_role("radio", name="Dark")
    dark.wait_for()
    console.page.context.set_offline(True)
    dark.click()
    expect(console.page.get_by_role("alert").filter(has_text="can\u2019t be reached")).to_be_visible()
    expect(console.page.get_by_role("radio", name="As the device")).to_be_checked()
    assert console.page.evaluate("document.documentElement.dataset.theme") is None
    console.page.context.set_offline(False)
    dark.check()
    expect(console.page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()
    console.page.get_by_role("radio", name="As the device").check()
    expect(console.page.get_by_role("status").filter(has_text="Saved.")).to_be_visible()


def test_all_chats_keep_their_order_under_the_pointer_until_they_are_sorted_again(
    server: ServerProcess, open_console: Open, operator: Operator
) -> None:
    console = open_console("olga")
    first, last = [Visitor(server, operator.token_of_user(700 + n, name)) for n, name in enumerate(("Ivo", "Mia"))]
    first.say("Is it oak?")
    page = console.page
    page.get_by_role("tab", name="All").click()
    top = page.locator(".row").first

    def say_until(visitor: Visitor, text: str, is_there: Callable[[], bool]) -> None:
        """Times have whole seconds: chats of the same one have no order of time."""

        def said() -> bool:
            visitor.say(text)
            return is_there()

        eventually(said)

    say_until(last, "Is it beech?", lambda: "Mia" in top.inner_text())
    top.hover()
    moved = page.get_by_role("button", name="1 moved")
    page.wait_for_timeout(1_100)
    say_until(first, "Or is it pine?", moved.is_visible)
    expect(top).to_contain_text("Mia")
    expect(console.row("Ivo")).to_contain_text("Or is it pine?")
    moved.click()
    expect(top).to_contain_text("Ivo")
    expect(moved).not_to_be_attached()
    # Out of the list, the order follows at once.
    page.mouse.move(900, 500)
    page.get_by_role("searchbox").focus()
    say_until(last, "I mean the table", lambda: "Mia" in top.inner_text())
    for visitor in (first, last):
        visitor.close()


def test_search_finds_the_message_and_the_card_shows_where_the_visitor_is(
    page: Page, open_console: Open, site: CustomerSite
) -> None:
    console = open_console("olga")
    write_as_visitor(page, "Is the zanzibar shade washable?")
    search = console.page.get_by_role("searchbox")
    found = console.page.get_by_role("group", name="Search").locator(".row", has_text="zanzibar shade")
    search.fill("zanzibar")
    found.first.click()
    console.wait_for("zanzibar")
    card = console.page.locator(".card")
    card.get_by_text("On the site now").wait_for()
    card.get_by_role("heading", name="Now").wait_for()
    card.get_by_role("button", name="Add a tag").click()
    # Enter may come before the page is drawn again.
    card.get_by_role("textbox", name="Tag").evaluate(TYPE_AND_SUBMIT, "shades")
    card.locator(".tag", has_text="shades").wait_for()
    page.close()
    card.get_by_role("heading", name="Last page").wait_for()


def test_an_operator_has_one_colour_before_the_chat_in_it_and_in_the_console(page: Page, open_console: Open) -> None:
    console = open_console("olga")
    color = console.page.locator(".me .av").evaluate("e => getComputedStyle(e).backgroundColor")
    page.reload()
    widget = Widget(page)
    widget.open()
    face = page.locator("actorchat-host .faces").get_by_text("O", exact=True)
    expect(face).to_have_css("background-color", color)
    widget.send("Which colour are you?")
    console.open("Which colour are you?")
    console.send("The same as before.")
    widget.wait_for("The same as before.")
    expect(page.locator("actorchat-host .h .av")).to_have_css("background-color", color)
    expect(console.page.locator(".g.op .av").last).to_have_css("background-color", color)


@needs_axe
@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (360, "dark")])
def test_axe_finds_nothing_in_any_state(
    browser: Browser, tmp_path: Path, site: CustomerSite, width: int, theme: Literal["light", "dark"]
) -> None:
    found: dict[str, list[str]] = {}
    with running_server(tmp_path / "data", site) as server:
        add_account(server, "olga")
        colleague = Operator(server, 2, "Jan", "Tailor")
        # The colours of a button that is just changing would be judged, too.
        context = browser.new_context(
            viewport={"width": width, "height": 800}, locale="en", color_scheme=theme, reduced_motion="reduce"
        )
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        show_states(page, server, colleague, lambda state: found.update({state: violations(page)}))
        context.close()
        colleague.close()
    assert len(found) > 10
    assert {state: faults for state, faults in found.items() if faults} == {}


def test_the_page_breaks_none_of_its_policy_and_shows_hostile_text_as_text(
    page: Page, open_console: Open, operator: Operator
) -> None:
    console = open_console("olga")
    console.page.evaluate(
        """() => {
            window.violations = []
            document.addEventListener("securitypolicyviolation", e => violations.push(e.effectiveDirective))
        }"""
    )
    hostile = '<img src=x onerror="document.title=1">\u202e<script>1</script> ' + "W" * 400
    write_as_visitor(page, "Hostile text follows")
    console.open("Hostile text follows")
    Widget(page).send(hostile)
    console.bubbles.filter(has_text="<img src=x").wait_for()
    expect(console.page.locator(".log img")).to_have_count(0)
    expect(console.page.locator(".log")).not_to_contain_text("\u202e")
    width = "document.scrollingElement.scrollWidth - innerWidth"
    for size in (1440, 768, 360):
        console.page.set_viewport_size({"width": size, "height": 800})
        console.page.wait_for_function(f"{width} <= 0")
    assert json.dumps(console.page.evaluate("violations")) == "[]"
