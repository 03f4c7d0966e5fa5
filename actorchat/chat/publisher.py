"""Answers the decided operations of one chat and publishes its changes to the room and the feed.

This happens in the journal's own step, so no task has to be woken for it. Reading storage is left to the room.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actorchat.chat.broadcast import Broadcast
from actorchat.chat.limits import InFlightLimiter
from actorchat.chat.model import ChatState, OperatorCounters, SourceCounters, Stage
from actorchat.chat.operations import Changed, Outcome
from actorchat.chat.operator_feed import FeedItem, FeedState
from actorchat.chat.room_state import RoomState
from actorchat.chat.typing_broadcast import stop_typing

__all__ = ["PendingReplies", "Publisher"]

_log = logging.getLogger(__name__)

MOST_WAITING: Final = 1_000
"""Changes of one chat that may wait for others before them. More of them are read in storage instead."""


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
    for the room, and draining waits for them. `doubtful`: storage has lost commits, maybe of this chat. The room has to
    compare.
    """

    def __init__(
        self, room_state: RoomState, feeds: Callable[[str], FeedState], in_flight_limiter: InFlightLimiter
    ) -> None:
        self.room_state: RoomState = room_state
        self.replies: PendingReplies = PendingReplies()
        self.complete: bool = False
        self.doubtful: bool = False
        self._in_flight_limiter = in_flight_limiter
        self._holds = False
        # Whether changes before those that wait here are in storage only.
        self._misses_changes = False
        # Whether changes of other nodes are among those that wait, which may be repeated and in any order.
        self._mixed = False
        self._feeds = feeds
        self._feed: FeedState | None = None
        # The changes of answered outcomes that are not published yet.
        self._changes: list[Changed] = []
        # The counters of answered outcomes that were not passed to the feed yet.
        self._counters: list[OperatorCounters | SourceCounters] = []

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        """Answer and publish `outcomes` now, or keep them and call the room, which reads what is missing first."""
        replies = self.replies
        was_called, call_room = bool(replies.outcomes), replies.call_room
        replies.outcomes.extend(outcomes)
        if self.complete:
            try:
                replies.settle(self._changes, self._counters)
                if self._publish_in_order():
                    return
            except Exception:
                _log.exception("publishing in chat %s failed; its room tries again", self.room_state.chat)
                self._fall_behind()
        if call_room is not None and not was_called:
            call_room()

    def open(self, chat: ChatState) -> None:
        """Publish what follows `chat`: everything up to its revision was published, or nobody has to be shown it."""
        room_state = self.room_state
        room_state.announced, room_state.edits_after = chat, chat.rev
        self.complete = True

    def committed_elsewhere(
        self,
        changes: Sequence[Changed],
        counters: Sequence[OperatorCounters | SourceCounters],
        call_room: Callable[[], object],
    ) -> None:
        """Publish `changes` of other nodes, or call the room if some before them miss.

        They may be repeated, late and in any order. `counters` belong to them.
        """
        self._counters.extend(counters)
        self._changes.extend(changes)
        self._mixed = True
        if not self.complete:
            # The room is called already.
            if len(self._changes) > MOST_WAITING:
                # Nothing may pile up while storage is away. The room reads them there.
                self._changes = [change for change in self._changes if change not in changes]
                self._misses_changes = True
            return
        try:
            if self._publish_in_order():
                return
        except Exception:
            _log.exception("publishing in chat %s failed; its room tries again", self.room_state.chat)
            self._fall_behind()
        call_room()

    def missed(self) -> None:
        """Changes were committed that nobody gives to this publisher. The room has to be called, to read them."""
        self._misses_changes = True
        if self.complete:
            self._fall_behind()

    def doubt(self) -> None:
        """Storage has lost commits. What waits here may be among them. The room has to be called, to compare."""
        self.doubtful = True
        try:
            self.settle()
        finally:
            self._changes, self._counters = [], []
            self.missed()

    def forget(self, chat: ChatState | None) -> None:
        """Go on with `chat`, as it is stored, or None if it is not: what was published is not stored."""
        self.room_state.forget()
        if chat is not None:
            self.open(chat)
            self.missed()
        else:
            self._changes, self._misses_changes, self.complete = [], False, False
            self._release()

    def read_from_now(self) -> None:
        """The room reads all changes that are committed by now, and publishes them."""
        self._misses_changes = False

    @property
    def lacks(self) -> bool:
        """Whether changes are missing before or between those that wait, which can't be published without them."""
        return self._misses_changes or not self._in_order()

    @property
    def misses(self) -> bool:
        """Whether those that are missing are in storage only."""
        return self._misses_changes

    def _in_order(self) -> bool:
        """Sort the changes that wait, and drop published ones. False if some before or between them are missing."""
        changes = self._changes
        if not changes:
            return True
        announced = self.room_state.announced
        if announced is None:
            return False
        rev = announced.rev
        # A batch of this node is in order and has each revision once. The room may have read it in storage before it
        # was reported. Batches of other nodes overtake each other.
        if self._mixed or changes[0].chat.rev <= rev:
            newer = {change.chat.rev: change for change in changes if change.chat.rev > rev}
            changes[:] = [newer[each] for each in sorted(newer)]
            self._mixed = False
        return not changes or (changes[0].chat.rev == rev + 1 and changes[-1].chat.rev == rev + len(changes))

    def _publish_in_order(self) -> bool:
        """Publish the changes that wait, if none before them is missing. False if the room has to do something."""
        if not self._in_order():
            self._fall_behind()
            return False
        left_behind = self.publish(self._changes)
        self._changes.clear()
        return not left_behind

    def settle(self) -> None:
        """Answer the outcomes that wait. Their changes are kept until they are published."""
        self.replies.settle(self._changes, self._counters)

    def announce_waiting(self) -> None:
        """Publish the changes that wait here, after the room has published those before them from storage."""
        self.settle()
        self._in_order()
        self.publish(self._changes)
        self._changes.clear()
        self.complete = True
        self._release()

    def give_up(self) -> None:
        """Answer all outcomes of a room that was given up. The next room reads unpublished changes from storage."""
        self._misses_changes, self.complete = True, False
        try:
            self.settle()
        finally:
            self._changes = []
            self._release()
            # Now, because it is unknown when the room will publish the changes that belong to these counters.
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
        if feed.extended and chat.listed:
            feed.changed(chat.uuid)
        broadcast = Broadcast(room_state, changes, listening=bool(feed.consoles))
        if room_state.typists and any(change.chat_changed and change.chat.stage is Stage.CLOSED for change in changes):
            now = trio.current_time()
            for identity in room_state.typists:
                stop_typing(room_state, self._feeds, identity, now)
        left_behind = broadcast.send()
        counters = tuple(self._counters) if counted else ()
        extended, linked = None, broadcast.linked
        if broadcast.extended is not None:
            extended = FeedItem(chat.uuid, chat.rev, broadcast.extended, (), broadcast.extended_steps, linked)
        if broadcast.shown is not None or counters or extended is not None:
            feed.put(FeedItem(chat.uuid, chat.rev, broadcast.shown, counters, broadcast.steps, linked, extended))
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
