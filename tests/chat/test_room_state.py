"""The state that a room keeps beside its actor."""

import attrs
import pytest

from actorchat.chat.limits import FEED_TYPING
from actorchat.chat.model import Identity
from actorchat.chat.operator_feed import Console, FeedState
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.room_state import ReplayCursor, RoomState, Subscription
from actorchat.protocol import Frames, Role, UserConnected
from tests.chat.harness import LINKS, RecordingSession
from tests.chat.people import ANNA, CHAT


@pytest.fixture
def room_state() -> RoomState:
    return RoomState(CHAT, RenamedUsers(), LINKS)


def test_a_room_is_vacant_only_when_nobody_is_in_it_or_joining(room_state: RoomState) -> None:
    seen = [room_state.vacant]
    room_state.entering = 1
    seen.append(room_state.vacant)
    room_state.entering = 0
    room_state.arrive(Subscription(RecordingSession(ANNA)), ReplayCursor(-1))
    seen.append(room_state.vacant)
    assert seen == [True, False, False]


def test_a_user_with_a_second_socket_is_still_present_when_the_first_is_gone(room_state: RoomState) -> None:
    first, second = Subscription(RecordingSession(ANNA)), Subscription(RecordingSession(ANNA))
    for subscription in (first, second):
        room_state.arrive(subscription, ReplayCursor(-1))
        room_state.go_live(subscription)
    assert not room_state.depart(first)
    room_state.lapse(first.identity)
    assert list(room_state.present) == [second.identity]
    assert room_state.depart(second)
    room_state.lapse(second.identity)
    assert not room_state.present


def test_a_new_profile_of_a_joining_socket_is_sent_once(room_state: RoomState) -> None:
    renamed = attrs.evolve(ANNA, firstname="Ann")
    recorder = RecordingSession(renamed)
    room_state.arrive(Subscription(recorder), ReplayCursor(-1))
    room_state.profiles.changed(renamed)
    assert [event.user for event in recorder.got(UserConnected)] == [renamed]


def test_a_full_feed_drops_typing_but_no_stop() -> None:
    feed = FeedState("lk", lambda: None)
    feed.add(Console(RecordingSession(ANNA), frozenset({"lk"}), LINKS))
    for number in range(FEED_TYPING + 1):
        feed.put_typing(CHAT, Identity(Role.USER, number), Frames.of([b"on"], typing=True), stopped=False)
    assert len(feed.typing) == FEED_TYPING
    for number in (0, FEED_TYPING):
        feed.put_typing(CHAT, Identity(Role.USER, number), Frames.of([b"off"], typing=True), stopped=True)
    assert len(feed.typing) == FEED_TYPING + 1
    assert feed.typing[CHAT, Identity(Role.USER, 0)].payloads() == (b"off",)
