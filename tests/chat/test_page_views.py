"""Operators see which pages a visitor has viewed, without what query strings may hide."""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock

from actorchat.chat.page_views import MAX_PAGES, cleaned_url, visitor_info, with_page
from actorchat.protocol import ErrorEvent, PageContext, PageViewed, Profile, UnknownType
from tests.chat.harness import open_chat
from tests.chat.people import ANNA, OLGA


@pytest.mark.parametrize(
    ("url", "cleaned"),
    [
        ("https://shop.example/cart?token=secret&q=shoes#pay", "https://shop.example/cart"),
        (
            "https://shop.example/?utm_source=mail&token=secret&utm_source=b",
            "https://shop.example/?utm_source=mail&utm_source=b",
        ),
        ("http://ann:pass@shop.example:8080/a", "http://shop.example:8080/a"),
        ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("  https://SHOP.example/Ä ", "https://shop.example/Ä"),
        ("javascript:alert(1)", ""),
        ("file:///etc/passwd", ""),
        ("https://", ""),
        ("https://shop.example:99999/", ""),
        ("https://[broken/", ""),
        ("", ""),
    ],
)
def test_an_address_keeps_its_path_and_the_allowed_parameters_only(url: str, cleaned: str) -> None:
    assert cleaned_url(url, frozenset({"utm_source"})) == cleaned


def test_the_history_is_bounded_and_the_newest_page_comes_first() -> None:
    stored = None
    for n in range(2 * MAX_PAGES):
        context = PageContext(url=f"https://shop.example/{n}", title="x" * 1_000, referrer="https://other.example/?q=1")
        stored = with_page(stored, context, frozenset(), n)
    assert stored is not None
    assert len(stored) < 40_000
    info = visitor_info(ANNA, stored)
    assert [page.url.rsplit("/", 1)[1] for page in info.pages] == [
        f"{n}" for n in reversed(range(MAX_PAGES, 2 * MAX_PAGES))
    ]
    assert info.pages[0].referrer == "https://other.example/"
    assert len(info.pages[0].title) == 200


def test_a_page_that_is_viewed_again_is_one_page() -> None:
    stored = with_page(None, PageContext(url="https://a.example/", language="de", timezone="Europe/Berlin"), (), 1)
    stored = with_page(stored, PageContext(url="https://a.example/#end", title="End"), (), 2)
    info = visitor_info(ANNA, stored)
    assert [(page.title, page.time) for page in info.pages] == [("End", "1970-01-01T00:00:02+00:00")]
    assert (info.language, info.timezone) == ("de", "Europe/Berlin")
    assert visitor_info(ANNA, None).pages == ()


def test_the_network_address_is_that_of_the_latest_page_and_shown_only_if_asked_for() -> None:
    page = PageContext(url="https://a.example/")
    stored = with_page(None, page, (), 1, "198.51.100.4")
    stored = with_page(stored, page, (), 2, "::ffff:192.0.2.7")
    stored = with_page(stored, page, (), 3, "/run/actorchat.sock")
    assert visitor_info(ANNA, stored, with_address=True).address == "192.0.2.7"
    assert visitor_info(ANNA, stored).address is None
    assert visitor_info(ANNA, with_page(None, page, (), 1), with_address=True).address is None


def test_a_visit_that_was_stored_without_an_address_can_be_read() -> None:
    stored = json.dumps({"language": "de", "timezone": "", "pages": []})
    info = visitor_info(ANNA, stored, with_address=True)
    assert (info.language, info.address) == ("de", None)


async def test_pages_that_a_visitor_reports_on_its_socket_are_stored(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        anna, olga = await harness.join(chat, ANNA), await harness.join(chat, OLGA)
        assert anna.receiver.receive(PageViewed("https://shop.example/a?x=1", "A")) is False
        assert anna.receiver.receive(PageViewed("https://shop.example/b", "B")) is False
        await trio.sleep(1)
        info = await harness.chats.visits.owner_of(await harness.state(chat))
        assert [(page.url, page.title) for page in info.pages] == [
            ("https://shop.example/b", "B"),
            ("https://shop.example/a", "A"),
        ]
        shown = await harness.chats.visits.owner_of(await harness.state(chat), with_address=True)
        assert (shown.address, info.address) == (anna.recorder.peer, None)
        olga.recorder.take()
        olga.receiver.receive(PageViewed("https://shop.example/c", "C"))
        assert olga.recorder.take() == [ErrorEvent("unknown_type", "this socket takes no 'page_viewed'", "type")]
        assert "page_viewed" not in json.dumps(anna.recorder.types())


async def test_a_flood_of_pages_is_refused_and_costs_no_messages(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        anna = await harness.join(await harness.reserve(), ANNA)
        anna.recorder.take()
        for n in range(100):
            anna.receiver.receive(PageViewed(f"https://shop.example/{n}"))
        refused = anna.recorder.got(ErrorEvent)
        assert len(refused) == 80
        assert {event.code for event in refused} == {"rate_limited"}
        anna.say("hi")
        await trio.sleep(1)
        assert anna.recorder.texts() == ["hi"]
        await harness.chats.drain()
        anna.receiver.receive(PageViewed("https://shop.example/late"))
        await trio.sleep(60)
        anna.receiver.receive(PageViewed("https://shop.example/late"))
        assert anna.recorder.got(ErrorEvent)[-1].code == "draining"


async def test_a_strict_socket_takes_no_page(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        anna = await harness.join(await harness.reserve(), ANNA, Profile.STRICT)
        anna.recorder.take()
        anna.receiver.receive(UnknownType("page_viewed"))
        assert anna.recorder.take() == []


async def test_pages_of_requests_count_against_the_same_limit(autojump_clock: MockClock) -> None:
    async with open_chat() as harness:
        chat = await harness.reserve()
        for n in range(25):
            await harness.chats.visits.record(ANNA, PageContext(url=f"https://shop.example/{n}"))
        info = await harness.chats.visits.owner_of(await harness.state(chat))
        assert len(info.pages) == 20
