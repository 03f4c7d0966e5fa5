"""What belongs to a room's address."""

from uuid import UUID

import pytest

from actorchat.chat.feed import Console, FeedRoster
from actorchat.chat.limits import FEED_TYPING
from actorchat.chat.model import Identity
from actorchat.chat.operations import Outcome, Refused, SweepChat
from actorchat.chat.profiles import Profiles
from actorchat.chat.roster import Member, Position, Roster
from actorchat.protocol import Frames, Role
from tests.chat.people import ANNA, CHAT
from tests.chat.world import Recorder


@pytest.fixture
def woken() -> list[UUID]:
    return []


@pytest.fixture
def roster() -> Roster:
    return Roster(CHAT, Profiles())


def test_a_room_may_sleep_only_when_nobody_is_there_enters_or_waits_for_an_outcome(roster: Roster) -> None:
    seen = [roster.vacant]
    roster.entering = 1
    seen.append(roster.vacant)
    roster.entering, roster.in_flight = 0, 1
    seen.append(roster.vacant)
    roster.in_flight = 0
    roster.decided([Outcome(SweepChat(CHAT), None, Refused("conflict", ""))])
    seen.append(roster.vacant)
    assert seen == [True, False, False, False]


def test_many_outcomes_wake_the_room_once(roster: Roster, woken: list[UUID]) -> None:
    for _ in range(3):
        roster.submitted(lambda: woken.append(CHAT))
    outcome = Outcome(SweepChat(CHAT), None, Refused("conflict", ""))
    roster.decided([outcome, outcome])
    roster.decided([outcome])
    assert woken == [CHAT]
    assert len(roster.outcomes) == 3


def test_a_user_with_a_second_socket_is_still_present_when_the_first_is_gone(roster: Roster) -> None:
    first, second = Member(Recorder(ANNA)), Member(Recorder(ANNA))
    for member in (first, second):
        roster.arrive(member, Position(-1))
        roster.go_live(member)
    assert not roster.depart(first)
    roster.lapse(first.identity)
    assert list(roster.present) == [second.identity]
    assert roster.depart(second)
    roster.lapse(second.identity)
    assert not roster.present


def test_a_full_feed_takes_stops_only_and_the_latest_of_each_typist() -> None:
    feed = FeedRoster("lk", lambda: None)
    feed.consoles[Console(Recorder(ANNA), frozenset({"lk"}))] = None
    for number in range(FEED_TYPING + 1):
        feed.put_typing(CHAT, Identity(Role.USER, number), Frames.of([b"on"], typing=True), stopped=False)
    assert len(feed.typing) == FEED_TYPING
    for number in (0, FEED_TYPING):
        feed.put_typing(CHAT, Identity(Role.USER, number), Frames.of([b"off"], typing=True), stopped=True)
    assert len(feed.typing) == FEED_TYPING + 1
    assert feed.typing[CHAT, Identity(Role.USER, 0)].payloads() == (b"off",)
