"""Owns what becomes of decided operations in one chat: who asked is answered, members and feed are shown what changed.

All in the journal's own step, so that nobody has to be woken for it. What that can't do it leaves to the room: it reads
no storage and waits for nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

import trio

from actorchat.chat.broadcast import Broadcast
from actorchat.chat.feed import FeedItem, FeedState
from actorchat.chat.limits import InFlightLimiter
from actorchat.chat.model import ChatState, OperatorCounters, SourceCounters, Stage
from actorchat.chat.operations import Changed, Outcome
from actorchat.chat.room_state import RoomState
from actorchat.chat.typing_broadcast import stop_typing
from actorchat.protocol import Frames

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)


class Publisher:
    """Announces one chat's commits (`ports.Recipient`). It belongs to the room's address, as its roster does.

    `in_flight` operations are with the journal, or wait here for the room. `complete`: all that was committed before
    the next outcome is announced. Until it is, outcomes and changes wait here, where a crash of the room can't lose
    them, and `in_flight_limiter` is held.
    """

    def __init__(
        self, room_state: RoomState, feeds: Callable[[str], FeedState], in_flight_limiter: InFlightLimiter
    ) -> None:
        self.room_state = room_state
        self.in_flight: int = 0
        self.complete: bool = False
        self._in_flight_limiter = in_flight_limiter
        self._holds = False
        # Changes that belong before what waits here are in storage only.
        self._lacks = False
        self._feeds = feeds
        self._feed: FeedState | None = None
        self._outcomes: deque[Outcome] = deque()
        # Of outcomes that are settled, and not announced yet.
        self._changes: list[Changed] = []
        # They came with outcomes that are settled, and are not yet with the feed.
        self._counters: list[OperatorCounters | SourceCounters] = []
        self._call_room: Callable[[], object] | None = None

    def submitted(self, call_room: Callable[[], object]) -> None:
        """An operation is with the journal. `call_room` must hold the room's address until it is settled."""
        self.in_flight += 1
        self._call_room = call_room

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        """The journal's word: announced now, or kept for the room to announce when it has read what is missing."""
        called, call_room = bool(self._outcomes), self._call_room
        self._outcomes.extend(outcomes)
        if self.complete:
            try:
                if self._announce():
                    return
            except Exception:
                _log.exception("announcing in chat %s failed; its room tries again", self.room_state.chat)
                self._fall_behind()
        if not called and call_room is not None:
            call_room()

    def _announce(self) -> bool:
        """False: the room has to go on."""
        self.settle()
        changes, announced = self._changes, self.room_state.announced
        if self._lacks or (changes and (announced is None or changes[0].chat.rev > announced.rev + 1)):
            self._fall_behind()
            return False
        left_behind = self.publish(changes)
        changes.clear()
        return not left_behind

    @property
    def lacks(self) -> bool:
        """Whether the room has to read storage before what waits here can be announced."""
        changes, announced = self._changes, self.room_state.announced
        return self._lacks or (bool(changes) and (announced is None or changes[0].chat.rev > announced.rev + 1))

    def settle(self) -> None:
        """Answer whoever asked, once. What changed is to be announced."""
        outcomes, changes = self._outcomes, self._changes
        while outcomes:
            outcome = outcomes.popleft()
            decision, reply_to = outcome.decision, outcome.reply_to
            self.in_flight -= 1
            if outcome.counters:
                self._counters.extend(outcome.counters)
            if isinstance(decision, Changed):
                changes.append(decision)
            if reply_to is not None:
                reply_to.answer(decision)
        if not self.in_flight:
            self._call_room = None

    def announce_waiting(self) -> None:
        """What storage alone has is announced: announce what waits beyond that. Members may be left behind."""
        self.settle()
        announced = self.room_state.announced
        self.publish([change for change in self._changes if announced is None or change.chat.rev > announced.rev])
        self._changes = []
        self._lacks, self.complete = False, True
        self._release()

    def give_up(self) -> None:
        """The room is given up: answer whoever asked. What was not announced is to be read from storage."""
        self._lacks, self.complete = True, False
        try:
            self.settle()
        finally:
            self._changes = []
            self._release()
            if self._counters and self.room_state.announced is not None:
                # Nobody knows when the room will show what they count.
                self._put(self.room_state.announced, None)

    def _fall_behind(self) -> None:
        self.complete = False
        if not self._holds:
            self._holds = True
            self._in_flight_limiter.hold()

    def _release(self) -> None:
        if self._holds:
            self._holds = False
            self._in_flight_limiter.release()

    def publish(self, changes: Sequence[Changed], *, counted: bool = True) -> bool:
        """Encode for everybody, then send, then tell the feed: nothing is sent if encoding fails.

        True: members are left behind, and the room has to see to it that they read on. `counted`: after `changes` all
        that the counters count is shown.
        """
        room_state = self.room_state
        if not changes:
            if self._counters and room_state.announced is not None:
                self._put(room_state.announced, None)
            return False
        chat = changes[-1].chat
        broadcast = Broadcast(room_state, changes, listening=self._feed_of(chat).listening)
        if room_state.typists and any(change.chat_changed and change.chat.stage is Stage.CLOSED for change in changes):
            now = trio.current_time()
            for identity in room_state.typists:
                stop_typing(room_state, self._feeds, identity, now)
        left_behind = broadcast.send()
        if not counted:
            if broadcast.shown is not None:
                self._feed_of(chat).put(
                    FeedItem(chat.uuid, chat.rev, broadcast.shown, (), broadcast.steps, broadcast.linked)
                )
        elif broadcast.shown is not None or self._counters:
            self._put(chat, broadcast.shown, broadcast.steps, linked=broadcast.linked)
        return left_behind

    def _put(
        self, chat: ChatState, frames: Frames | None, steps: tuple[tuple[int, int], ...] = (), *, linked: bool = False
    ) -> None:
        self._feed_of(chat).put(FeedItem(chat.uuid, chat.rev, frames, tuple(self._counters), steps, linked))
        self._counters.clear()

    def _feed_of(self, chat: ChatState) -> FeedState:
        # Looked up once: it is asked for with every announcement.
        if self._feed is None or self._feed.source != chat.source:
            self._feed = self._feeds(chat.source)
        return self._feed
