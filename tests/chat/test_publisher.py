"""The publisher broadcasts decisions in the journal's step, and wakes the room if it can't."""

from __future__ import annotations

import logging

import attrs
import pytest
from msgspec.structs import replace

from actorchat.chat.limits import InFlightLimiter
from actorchat.chat.model import ChatState, Stage, StoredMessage
from actorchat.chat.operations import Changed, Decision, MarkMessage, Outcome, Refused
from actorchat.chat.operator_feed import FeedState
from actorchat.chat.publisher import Publisher
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.room_state import ReplayCursor, RoomState, Subscription
from actorchat.protocol import MessageType, Profile, Role
from tests.chat.harness import LINKS, RecordingSession
from tests.chat.people import ANNA, CHAT, OLGA

RESERVED = ChatState(CHAT, "lk", ANNA)


class ReplyTo:
    """Records its replies, or raises."""

    def __init__(self, *, fails: bool = False) -> None:
        self.answers: list[Decision] = []
        self.fails = fails

    def answer(self, decision: Decision) -> None:
        if self.fails:
            self.fails = False
            raise RuntimeError("no answer wanted")
        self.answers.append(decision)


@attrs.define
class Scene:
    """A publisher whose room has read the chat, with Olga as a live session. `called` counts its wake-ups."""

    publisher: Publisher
    olga: RecordingSession
    called: int = 0

    @classmethod
    def open(cls, profile: Profile = Profile.EXTENDED) -> Scene:
        feed = FeedState("lk", lambda: None)
        publisher = Publisher(RoomState(CHAT, RenamedUsers(), LINKS), lambda source: feed, InFlightLimiter(10))
        publisher.room_state.announced, publisher.complete = RESERVED, True
        olga = RecordingSession(OLGA, profile)
        subscription = Subscription(olga)
        publisher.room_state.arrive(subscription, ReplayCursor(-1, RESERVED))
        publisher.room_state.go_live(subscription)
        olga.take()
        return cls(publisher, olga)

    def decide(self, *decisions: Decision, reply_to: ReplyTo | None = None) -> None:
        for _ in decisions:
            self.publisher.replies.submitted(self._call)
        operation = MarkMessage(CHAT, ANNA, 1, read=True)
        self.publisher.decided([Outcome(operation, reply_to, decision) for decision in decisions])

    def _call(self) -> None:
        self.called += 1


def said(rev: int) -> Changed:
    """The commit of revision `rev`: a message with the revision as its text."""
    chat = replace(RESERVED, stage=Stage.NEW, rev=rev, next_index=rev)
    return Changed(chat, (StoredMessage(rev, rev - 1, rev, MessageType.STANDARD, Role.USER, str(rev), ANNA, 0),))


def test_a_commit_without_a_gap_is_broadcast_without_waking_the_room() -> None:
    scene, reply_to = Scene.open(), ReplyTo()
    scene.decide(said(1), said(2), Refused("conflict", ""), reply_to=reply_to)
    scene.decide(said(3))
    assert scene.olga.texts() == ["1", "2", "3"]
    assert (len(reply_to.answers), scene.called, scene.publisher.replies.in_flight) == (3, 0, 0)


def test_nothing_is_broadcast_past_a_missing_revision() -> None:
    scene, reply_to = Scene.open(), ReplyTo()
    scene.decide(said(2), reply_to=reply_to)
    scene.decide(said(3), said(4), reply_to=reply_to)
    scene.decide(said(5), reply_to=reply_to)
    assert (scene.olga.texts(), len(reply_to.answers), scene.called) == ([], 1, 2)
    scene.publisher.publish([said(1), said(2), said(3)])
    scene.publisher.announce_waiting()
    scene.decide(said(6))
    assert scene.olga.texts() == ["1", "2", "3", "4", "5", "6"]
    assert (len(reply_to.answers), scene.called, scene.publisher.replies.in_flight) == (4, 2, 0)


def test_outcomes_while_the_room_reads_wake_it_once() -> None:
    scene = Scene.open()
    scene.publisher.complete = False
    scene.decide(said(1), said(2))
    scene.decide(said(3))
    assert (scene.called, scene.publisher.replies.in_flight, scene.olga.texts()) == (1, 3, [])


def test_a_failing_reply_wakes_the_room_and_stops_no_other_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene.open()
    with caplog.at_level(logging.ERROR):
        scene.decide(said(1), reply_to=ReplyTo(fails=True))
    assert scene.called == 1
    assert "no answer wanted" in caplog.text
    reply_to = ReplyTo()
    scene.decide(said(2), reply_to=reply_to)
    assert (scene.olga.texts(), reply_to.answers, scene.called) == ([], [], 2)


def test_a_session_that_falls_behind_during_a_broadcast_wakes_the_room() -> None:
    scene = Scene.open(Profile.STRICT)
    far = replace(RESERVED, stage=Stage.NEW, rev=500, next_index=500)
    scene.publisher.room_state.announced = far
    read = replace(far, rev=501, visitor_delivered=499, visitor_read=499)
    scene.decide(Changed(read))
    assert (scene.called, scene.publisher.complete) == (1, True)
    assert [position.lagging for position in scene.publisher.room_state.behind.values()] == [True]
