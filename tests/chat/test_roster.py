"""What belongs to a room's address."""

import attrs
import pytest

from actorchat.chat.feed import Console, FeedRoster
from actorchat.chat.limits import FEED_TYPING
from actorchat.chat.model import Identity
from actorchat.chat.profiles import Profiles
from actorchat.chat.roster import Member, Position, Roster
from actorchat.protocol import Frames, Role, UserConnected
from tests.chat.people import ANNA, CHAT
from tests.chat.world import Recorder


@pytest.fixture
def roster() -> Roster:
    return Roster(CHAT, Profiles())


def test_a_room_is_vacant_only_when_nobody_is_there_or_enters(roster: Roster) -> None:
    seen = [roster.vacant]
    roster.entering = 1
    seen.append(roster.vacant)
    roster.entering = 0
    roster.arrive(Member(Recorder(ANNA)), Position(-1))
    seen.append(roster.vacant)
    assert seen == [True, False, False]


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


def test_a_profile_that_a_socket_brought_before_it_was_announced_is_told_once(roster: Roster) -> None:
    renamed = attrs.evolve(ANNA, firstname="Ann")
    recorder = Recorder(renamed)
    roster.arrive(Member(recorder), Position(-1))
    roster.profiles.changed(renamed)
    assert [event.user for event in recorder.got(UserConnected)] == [renamed]


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
