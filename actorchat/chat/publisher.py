"""Answers the decided operations of one chat and publishes its changes to the room and the feed.

This happens in the journal's own step, so no task has to be woken for it. Reading storage is left to the room.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import trio

from actorchat.chat.broadcast import Broadcast
from actorchat.chat.limits import InFlightLimiter
from actorchat.chat.model import OperatorCounters, SourceCounters, Stage
from actorchat.chat.operations import Changed, Outcome
from actorchat.chat.operator_feed import FeedItem, FeedState
from actorchat.chat.room_state import RoomState
from actorchat.chat.typing_broadcast import stop_typing

__all__ = ["PendingReplies", "Publisher"]

_log = logging.getLogger(__name__)


class PendingReplies:
    """The operations of one chat that are not answered yet: `in_flight` with the journal or in `outcomes`.

    They are kept outside the room's actor, so that no crash of it loses an answer.
    """

    __slots__ = ("call_room", "in_flight", "outcomes")

    def __init__(self) -> None:
        self.in_flight: int = 0
        self.outcomes: deque[Outcome] = deque()
        self.call_room: Callable[[], object] | None = None

    def submitted(self, call_room: Callable[[], object]) -> None:
        """Count an operation that the journal accepted. `call_room` must keep the room's address alive meanwhile."""
        self.in_flight += 1
        self.call_room = call_room

    def settle(self, changes: list[Changed], counters: list[OperatorCounters | SourceCounters]) -> None:
        """Answer every outcome once, and append what it changed to `changes` and `counters`."""
        outcomes = self.outcomes
        while outcomes:
            outcome = outcomes.popleft()
            decision, reply_to = outcome.decision, outcome.reply_to
            self.in_flight -= 1
            if outcome.counters:
                counters.extend(outcome.counters)
            if isinstance(decision, Changed):
                changes.append(decision)
            if reply_to is not None:
                reply_to.answer(decision)
        if not self.in_flight:
            self.call_room = None


class Publisher:
    """Publishes the commits of one chat (`ports.Recipient`). It belongs to the room's address, like its `RoomState`.

    `complete`: everything committed before the next outcome is published. Until it is, outcomes and changes wait here
    for the room, and draining waits for them.
    """

    def __init__(
        self, room_state: RoomState, feeds: Callable[[str], FeedState], in_flight_limiter: InFlightLimiter
    ) -> None:
        self.room_state: RoomState = room_state
        self.replies: PendingReplies = PendingReplies()
        self.complete: bool = False
        self._in_flight_limiter = in_flight_limiter
        self._holds = False
        # Changes before those that wait here are in storage only.
        self._misses_changes = False
        self._feeds = feeds
        self._feed: FeedState | None = None
        # Of answered outcomes, and not published yet.
        self._changes: list[Changed] = []
        # Of answered outcomes, and not with the feed yet.
        self._counters: list[OperatorCounters | SourceCounters] = []

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        """Answer and publish `outcomes` now, or keep them and call the room, which reads what is missing first."""
        replies = self.replies
        was_called, call_room = bool(replies.outcomes), replies.call_room
        replies.outcomes.extend(outcomes)
        if self.complete:
            try:
                changes = self._changes
                replies.settle(changes, self._counters)
                if self.lacks:
                    self._fall_behind()
                else:
                    left_behind = self.publish(changes)
                    changes.clear()
                    if not left_behind:
                        return
            except Exception:
                _log.exception("publishing in chat %s failed; its room tries again", self.room_state.chat)
                self._fall_behind()
        if call_room is not None and not was_called:
            call_room()

    @property
    def lacks(self) -> bool:
        """Whether the room has to read storage before the changes that wait here can be published."""
        changes, announced = self._changes, self.room_state.announced
        return self._misses_changes or (
            bool(changes) and (announced is None or changes[0].chat.rev > announced.rev + 1)
        )

    def settle(self) -> None:
        """Answer the outcomes that wait. Their changes are kept until they are published."""
        self.replies.settle(self._changes, self._counters)

    def announce_waiting(self) -> None:
        """Publish the changes that wait here, after the room has published those before them from storage."""
        self.settle()
        announced = self.room_state.announced
        self.publish([change for change in self._changes if announced is None or change.chat.rev > announced.rev])
        self._changes = []
        self._misses_changes, self.complete = False, True
        self._release()

    def give_up(self) -> None:
        """Answer all outcomes of a room that was given up. The next room reads unpublished changes from storage."""
        self._misses_changes, self.complete = True, False
        try:
            self.settle()
        finally:
            self._changes = []
            self._release()
            # It is unknown when the room will publish the changes that belong to these counters.
            self._put_counters()

    def publish(self, changes: Sequence[Changed], *, counted: bool = True) -> bool:
        """Send `changes` to the room and then to the feed, or nothing at all if encoding fails.

        True: subscriptions fell behind, and the room has to read on for them. `counted`: after `changes`, everything
        that the waiting counters count is published.
        """
        room_state, feed = self.room_state, self._feed
        if not changes:
            self._put_counters()
            return False
        chat = changes[-1].chat
        if feed is None or feed.source != chat.source:
            feed = self._feed = self._feeds(chat.source)
        broadcast = Broadcast(room_state, changes, listening=bool(feed.consoles))
        if room_state.typists and any(change.chat_changed and change.chat.stage is Stage.CLOSED for change in changes):
            now = trio.current_time()
            for identity in room_state.typists:
                stop_typing(room_state, self._feeds, identity, now)
        left_behind = broadcast.send()
        counters = tuple(self._counters) if counted else ()
        if broadcast.shown is not None or counters:
            feed.put(FeedItem(chat.uuid, chat.rev, broadcast.shown, counters, broadcast.steps, broadcast.linked))
        if counters:
            self._counters.clear()
        return left_behind

    def _put_counters(self) -> None:
        chat = self.room_state.announced
        if self._counters and chat is not None:
            self._feeds(chat.source).put(FeedItem(chat.uuid, chat.rev, None, tuple(self._counters)))
            self._counters.clear()

    def _fall_behind(self) -> None:
        self.complete = False
        if not self._holds:
            self._holds = True
            self._in_flight_limiter.hold()

    def _release(self) -> None:
        if self._holds:
            self._holds = False
            self._in_flight_limiter.release()
