"""What the widget shows in each of its states."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, BrowserContext, FilePayload, Page, expect

from tests.system.server_process import ServerProcess
from tests.web.accounts import as_administrator, configure_widget
from tests.web.browser import CustomerSite, Operator, Widget
from tests.web.faulty_proxy import running_proxy
from tests.web.widget_states import SIGN_OUT, operators_online

pytestmark = pytest.mark.slow


def start_chat(page: Page, operator: Operator, text: str) -> tuple[Widget, str]:
    """Open the widget and send the first message. Returns the chat's uuid too."""
    widget = Widget(page)
    widget.open()
    widget.send(text)
    widget.wait_for(text)
    return widget, operator.newest_chat()


def test_a_closed_widget_shows_the_count_and_the_newest_message_until_it_is_dismissed(
    page: Page, operator: Operator
) -> None:
    widget, chat = start_chat(page, operator, "I close the window")
    badge, peek = widget.host.locator(".n"), widget.host.locator(".peek")
    expect(badge).to_be_empty()
    page.keyboard.press("Escape")
    operator.say(chat, "First answer")
    operator.say(chat, "A long second answer. " * 20)
    expect(badge).to_have_text("2")
    expect(widget.launcher).to_have_accessible_name("Chat, 2 unread messages")
    expect(peek).to_contain_text("Olga Marsh")
    text = peek.locator(".t")
    expect(text).to_contain_text("A long second answer.")
    # Two lines of it.
    assert text.evaluate("e => e.clientHeight") == 40
    peek.get_by_role("button", name="Dismiss").click()
    peek.wait_for(state="detached")
    page.reload()
    expect(badge).to_have_text("2")
    expect(peek).to_have_count(0)
    for number in range(98):
        operator.say(chat, f"Third to hundredth answer: {number}")
    peek.wait_for()
    expect(widget.panel).to_have_count(0)
    peek.get_by_role("button", name="answer: 97").click()
    widget.panel.wait_for()
    expect(badge).to_be_empty()
    expect(widget.launcher).to_have_accessible_name("Chat")


def test_the_start_shows_who_is_there_and_questions_to_begin_with(
    browser: Browser, page: Page, site: CustomerSite, server: ServerProcess
) -> None:
    with operators_online(browser, server):
        configure_widget(server, "ru", greeting="Welcome!", questions=["Where is my order?"], answer_seconds=180)
        site.put(server.url, 'data-source="ru"', path="/start")
        page.goto(site.url + "/start")
        widget = Widget(page)
        widget.open()
        hello = widget.host.locator(".hello")
        expect(hello.get_by_role("heading")).to_have_text("Welcome!")
        expect(hello).to_contain_text("We are online now. We answer within 3 minutes.")
        expect(hello.locator(".av")).to_have_count(3)
        page.get_by_role("button", name="Where is my order?").click()
        widget.wait_for("Where is my order?")
        expect(widget.log).to_contain_text("Your message has arrived. You can leave this page")


def test_a_conversation_has_days_groups_and_a_place_that_is_kept_while_reading(page: Page, operator: Operator) -> None:
    widget, chat = start_chat(page, operator, "I ask a lot. " * 30)
    for number in range(4):
        operator.say(chat, f"Answer {number}. " * 30)
    widget.wait_for("Answer 3.")
    expect(widget.log.locator(".day")).to_have_text(["Today"])
    expect(widget.log.locator(".g")).to_have_count(2)
    expect(widget.log.locator(".g").last.locator(".bub")).to_have_count(4)
    widget.scroll_up(200)
    pill = widget.host.locator(".pill")
    place = "e => [...e.querySelectorAll('.bub')][3].getBoundingClientRect().top"
    before = widget.log.evaluate(place)
    operator.say(chat, "While you read")
    expect(pill).to_have_text("1 new message")
    assert abs(widget.log.evaluate(place) - before) < 1
    pill.click()
    expect(widget.stored.last).to_be_in_viewport()
    pill.wait_for(state="detached")
    widget.scroll_up(200)
    widget.send("My own message is shown at once")
    expect(widget.stored.filter(has_text="My own message")).to_be_in_viewport()


def test_a_file_on_its_way_has_a_ring_and_can_be_given_up(page: Page, operator: Operator) -> None:
    # The upload is not answered.
    page.route("**/api/attachments", lambda _: None)
    widget, chat = start_chat(page, operator, "A film follows")
    film: FilePayload = {"name": "film.txt", "mimeType": "text/plain", "buffer": bytes(1000)}
    widget.host.locator("input[type=file]").set_input_files(film)
    widget.field.press("Enter")
    waiting = widget.waiting
    expect(waiting).to_contain_text(re.compile(r"Uploading, \d+ %"))
    expect(waiting.locator(".ring")).to_be_visible()
    expect(waiting.get_by_role("img", name="Sending")).to_have_css("opacity", "1")
    waiting.get_by_role("button", name="Discard").click()
    waiting.wait_for(state="detached")
    widget.send("No film today")
    widget.wait_for("No film today")
    assert operator.texts(chat) == ["A film follows", "No film today"]


def test_without_a_connection_the_widget_says_so_and_after_a_minute_when_it_tries_again(
    context: BrowserContext, site: CustomerSite, server: ServerProcess, operator: Operator
) -> None:
    with running_proxy(server.port) as proxy:
        site.headers.clear()
        site.put(proxy.url, path="/unreachable")
        page = context.new_page()
        page.clock.install()
        # Waits are random: now the longest.
        page.add_init_script("Math.random = () => 0.999")
        page.goto(site.url + "/unreachable")
        widget, chat = start_chat(page, operator, "Before the fault")
        proxy.refuse(True)
        page.clock.run_for(2_500)
        expect(widget.bar).to_have_text("No connection. Your messages are kept and sent when it is back.")
        expect(widget.bar.get_by_role("button")).to_have_count(0)
        widget.send("Written without a connection")
        widget.waiting.wait_for()
        # Each attempt needs the real network, so that time must not pass faster than the attempts fail.
        for _ in range(80):
            page.clock.run_for(1_000)
        expect(widget.bar).to_have_text(re.compile(r"No connection\. Next try in (2\d|30) seconds\.Try now"))
        proxy.refuse(False)
        widget.bar.get_by_role("button", name="Try now").click()
        widget.bar.wait_for(state="detached")
        widget.wait_for_texts(["Before the fault", "Written without a connection"])
        assert operator.texts(chat)[-1] == "Written without a connection"
        page.close()


def test_a_closed_chat_says_by_whom_and_a_new_message_continues_it(page: Page, operator: Operator) -> None:
    widget, chat = start_chat(page, operator, "Thank you")
    operator.call("POST", f"/chats/{chat}/accept")
    operator.call("POST", f"/chats/{chat}/close")
    end = widget.host.locator(".end")
    expect(end).to_contain_text("This chat is closed")
    expect(end).to_contain_text("Olga Marsh has ended it. Write again at any time.")
    expect(widget.field).to_have_count(0)
    end.get_by_role("button", name="New message").click()
    expect(widget.field).to_be_focused()
    widget.send("One more thing")
    widget.wait_for("One more thing")
    end.wait_for(state="detached")


def test_a_visitor_who_is_signed_out_elsewhere_can_start_again(
    page: Page, operator: Operator, server: ServerProcess
) -> None:
    widget, _ = start_chat(page, operator, "I sign out on my telephone")
    page.evaluate(SIGN_OUT, server.url)
    end = widget.host.locator(".end")
    expect(end).to_contain_text("You are signed out. Your earlier messages are no longer shown on this device.")
    expect(widget.stored).to_have_count(0)
    end.get_by_role("button", name="Start again").click()
    widget.send("Somebody new")
    widget.wait_for_texts(["Somebody new"])
    assert operator.texts(operator.newest_chat()) == ["Somebody new"]


def test_a_blocked_visitor_is_told_that_the_chat_is_not_available(
    page: Page, operator: Operator, server: ServerProcess
) -> None:
    widget, chat = start_chat(page, operator, "I am not polite")
    visitor = operator.call("GET", f"/chats/{chat}")["owner_user"]["id"]
    as_administrator(server, "POST", "/blocks", user=visitor, reason="insults", seconds=60)
    end = widget.host.locator(".end")
    expect(end).to_have_text("This chat is not available to you.")
    expect(widget.field).to_have_count(0)


def test_a_sign_in_that_is_refused_is_said_and_a_new_one_goes_on(page: Page, operator: Operator) -> None:
    page.evaluate("actorchat.push(api => { api.identify('expired'); api.open() })")
    widget = Widget(page)
    end = widget.host.locator(".end")
    expect(end).to_contain_text("Your sign-in has expired. Load the page again to continue.")
    token = operator.token_of_user(5005, "Emil")
    page.evaluate("token => actorchat.push(api => api.identify(token))", token)
    widget.send("Signed in again")
    widget.wait_for("Signed in again")
