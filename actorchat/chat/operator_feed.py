"""Sends rooms' encoded events to the consoles of one widget source, in commit order per chat, and then the counters.

Rooms put items here. The directory sends counters and operators to the consoles. Extended consoles also get a summary
of each changed chat, which is read from storage, for many chats at once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import assert_never
from uuid import UUID

import attrs
import msgspec
import trio

from actorchat.actors import Actor, Request
from actorchat.chat.limits import FEED_TYPING
from actorchat.chat.links import Links, fill_links
from actorchat.chat.model import Identity, OperatorCounters, SourceCounters, identity_of
from actorchat.chat.ports import Session, StorageUnavailable
from actorchat.protocol import ChatSummary, CloseCode, Frames, Profile, encode_event, join_frames

__all__ = ["Console", "Feed", "FeedItem", "FeedMessage", "FeedState", "Flush", "Flushed"]

_log = logging.getLogger(__name__)

HELD_BYTES = 4_194_304
HELD_ITEMS = 10_000
"""How much is kept for a console while its snapshot is sent. Beyond either limit it is closed with 1013."""


SUMMARY_INTERVAL = 0.25
"""Seconds between two reads of summaries, and so the least time between two summaries of one chat."""

SUMMARIES_AT_ONCE = 250
"""Chats whose summaries are read and sent together. The others wait for the next time."""

SUMMARIES_DUE = 50_000
"""Chats of a feed that may wait for a summary. Beyond it, the extended consoles are closed with 1013."""

SUMMARY_RETRY = 1.0
"""Seconds before summaries are read again after a failure."""


class FeedItem(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The events that one room published in one step. `frames` is None if only counters changed.

    `steps`, for more than one revision: each with the number of frames up to it. `linked`: each console needs its own
    links to the files in them. `extended` replaces the item on extended consoles, if they get frames that others don't.
    """

    chat: UUID
    rev: int
    frames: Frames | None
    counters: tuple[OperatorCounters | SourceCounters, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()
    linked: bool = False
    extended: FeedItem | None = None

    def newer(self, rev: int) -> Frames | None:
        """The frames of the revisions after `rev`, None if there are none."""
        if self.frames is None or rev >= self.rev:
            return None
        known = max((count for step, count in self.steps if step <= rev), default=0)
        return self.frames.after(known) if known < len(self.frames.ends) else None


class Console:
    """One feed socket. It holds live items while its snapshot is read; `release` then sends the newer ones."""

    __slots__ = ("_floor", "_held", "_held_bytes", "_links", "_missed", "extended", "session", "sources")

    def __init__(self, session: Session, sources: frozenset[str], links: Links) -> None:
        self.session: Session = session
        self._links = links
        self.extended: bool = session.profile is Profile.EXTENDED
        self.sources: frozenset[str] = sources
        self._held: list[FeedItem] | None = []
        self._held_bytes = 0
        self._floor: dict[UUID, int] = {}
        self._missed: dict[UUID, FeedState] = {}

    def show(self, items: Sequence[FeedItem], frames: Frames | None, *, linked: bool) -> None:
        """Send `items`, except those that the snapshot included.

        `frames` are the joined frames of all of them. `linked`: at least one item is.
        """
        if self._held is not None:
            self._held.extend(items)
            self._held_bytes += 0 if frames is None else len(frames.data)
            if len(self._held) > HELD_ITEMS or self._held_bytes > HELD_BYTES:
                self._held.clear()
                self._close_overrun()
        elif self._floor and not self._floor.keys().isdisjoint([item.chat for item in items]):
            self._show_newer(items)
        elif frames is not None:
            self._push(frames, linked)

    def _push(self, frames: Frames, linked: bool) -> None:
        if linked:
            frames = fill_links(frames, identity_of(self.session.user), self._links)
        self.session.push(frames)

    def show_summaries(self, chats: Sequence[UUID], frames: Frames, feed_state: FeedState) -> None:
        """Send the summaries of `chats`. While the snapshot is read, they are left out and made again by `release`.

        The snapshot may have newer ones.
        """
        if self._held is None:
            self.session.push(frames)
            return
        for chat in chats:
            self._missed[chat] = feed_state
        if len(self._missed) > HELD_ITEMS:
            self._missed.clear()
            self._close_overrun()

    def _close_overrun(self) -> None:
        self.session.close(CloseCode.OVERLOADED, "too much happened while the console was connecting")

    def show_typing(self, frames: Frames) -> None:
        if self._held is None:
            self.session.push(frames)

    def release(self, shown: dict[UUID, int]) -> None:
        """Go live after the snapshot was sent. `shown` has the revisions of the chats in the snapshot."""
        held, self._held = self._held or [], None
        self._floor = shown
        self._show_newer(held)
        missed, self._missed = self._missed, {}
        for chat, feed_state in missed.items():
            feed_state.changed(chat)

    def _show_newer(self, items: Sequence[FeedItem]) -> None:
        newer = []
        for item in items:
            floor = self._floor.get(item.chat)
            frames = item.frames if floor is None else item.newer(floor)
            if floor is not None and item.rev > floor:
                del self._floor[item.chat]
            if frames is not None:
                newer.append(frames)
        if newer:
            self._push(join_frames(newer), any(item.linked for item in items))


class FeedState:
    """The consoles of a feed, and the items that it has not sent yet. It outlives the feed's actor.

    `extended` is the number of extended consoles. `due` are the chats whose summary has to be sent, in the order in
    which they changed; those of `reading` are being read.
    """

    def __init__(self, source: str, wake: Callable[[], object]) -> None:
        self.source = source
        self.consoles: dict[Console, None] = {}
        self.items: deque[FeedItem] = deque()
        self.typing: dict[tuple[UUID, Identity], Frames] = {}
        self.due: dict[UUID, None] = {}
        self.reading: tuple[UUID, ...] = ()
        self.extended: int = 0
        self._wake = wake

    def add(self, console: Console) -> None:
        self.consoles[console] = None
        self.extended += console.extended

    def remove(self, console: Console) -> None:
        del self.consoles[console]
        self.extended -= console.extended
        if not self.extended:
            self.due.clear()

    def changed(self, chat: UUID) -> None:
        """Send a summary of the chat soon, if there is a console for it. Called once for each step of a room."""
        if not self.extended:
            return
        due = self.due
        if len(due) >= SUMMARIES_DUE and chat not in due:
            due.clear()
            for console in self.consoles:
                if console.extended:
                    console.session.close(CloseCode.OVERLOADED, "too many chats changed at once")
            return
        idle = not due
        due[chat] = None
        if idle:
            self._wake()

    def put(self, item: FeedItem) -> None:
        """Queue an item. Items are never dropped; the limit of operations in flight bounds their number."""
        idle = not (self.items or self.typing)
        self.items.append(item)
        if idle:
            self._wake()

    def put_typing(self, chat: UUID, typist: Identity, frames: Frames, *, stopped: bool) -> None:
        """Queue a user's typing in a chat instead of an earlier one. Over the bound only `stopped` typing is queued."""
        if self.consoles and (stopped or len(self.typing) < FEED_TYPING):
            idle = not (self.items or self.typing)
            self.typing[chat, typist] = frames
            if idle:
                self._wake()


@attrs.frozen
class Flush:
    """Something was queued."""


@attrs.frozen
class Flushed(Request[None]):
    """Reply when everything queued is sent."""


@attrs.frozen
class _SummarizeNext:
    """Timer: summaries may be read again."""


@attrs.frozen(eq=False)
class _Summarized:
    summaries: tuple[ChatSummary, ...]


@attrs.frozen(eq=False)
class _SummariesFailed:
    error: Exception


FeedMessage = Flush | Flushed | _SummarizeNext | _Summarized | _SummariesFailed


class Feed(Actor[FeedMessage]):
    """The actor of one source's operators. `count` gets counters after the events of their chats were sent.

    `summarize` reads the summaries of chats.
    """

    def __init__(
        self,
        feed_state: FeedState,
        count: Callable[[tuple[OperatorCounters | SourceCounters, ...]], object],
        summarize: Callable[[Sequence[UUID]], Awaitable[tuple[ChatSummary, ...]]],
    ) -> None:
        self._feed_state, self._count, self._summarize = feed_state, count, summarize
        self._summarized_at = -SUMMARY_INTERVAL
        self._timer_set = False

    async def on_start(self) -> None:
        self._take_back()
        self._flush()
        self._send_summaries()

    async def receive(self, message: FeedMessage) -> None:
        match message:
            case Flush():
                self._flush()
                self._send_summaries()
            case _SummarizeNext():
                self._timer_set = False
                self._send_summaries()
            case _Summarized(summaries=summaries):
                self._show_summaries(summaries)
            case _SummariesFailed(error=error):
                if not isinstance(error, StorageUnavailable):
                    _log.error("reading the summaries of chats failed", exc_info=error)
                self._take_back()
                self._summarize_later(SUMMARY_RETRY)
            case Flushed():
                self._flush()
                self.reply(message, None)
            case _:
                assert_never(message)

    def can_passivate(self) -> bool:
        return not (self._feed_state.consoles or self._feed_state.items or self._feed_state.typing)

    def _flush(self) -> None:
        feed_state = self._feed_state
        if feed_state.items:
            batch = list(feed_state.items)
            shown: list[Frames] = []
            counters: list[OperatorCounters | SourceCounters] = []
            linked = several_kinds = False
            for item in batch:
                if item.frames is not None:
                    shown.append(item.frames)
                counters.extend(item.counters)
                linked = linked or item.linked
                several_kinds = several_kinds or item.extended is not None
            frames = join_frames(shown) if shown else None
            # If anything fails before this, the next incarnation tries again.
            feed_state.items.clear()
            extended_batch, extended_frames = batch, frames
            if several_kinds:
                extended_batch = [item.extended or item for item in batch]
                extended_frames = join_frames([item.frames for item in extended_batch if item.frames is not None])
            for console in feed_state.consoles:
                if console.extended:
                    console.show(extended_batch, extended_frames, linked=linked)
                else:
                    console.show(batch, frames, linked=linked)
            if counters:
                self._count(tuple(counters))
        if feed_state.typing:
            frames = join_frames(list(feed_state.typing.values()))
            feed_state.typing.clear()
            for console in feed_state.consoles:
                console.show_typing(frames)

    # Summaries

    def _send_summaries(self) -> None:
        """Read the summaries that are due, unless they are being read or were read a moment ago."""
        feed_state = self._feed_state
        if not feed_state.due or feed_state.reading or self._timer_set:
            return
        now = trio.current_time()
        wait = self._summarized_at + SUMMARY_INTERVAL - now
        if wait > 0:
            self._summarize_later(wait)
            return
        self._summarized_at = now
        chats = feed_state.reading = tuple(islice(feed_state.due, SUMMARIES_AT_ONCE))
        for chat in chats:
            del feed_state.due[chat]
        self.pipe(partial(self._summarize, chats), ok=_Summarized, err=_SummariesFailed)

    def _show_summaries(self, summaries: tuple[ChatSummary, ...]) -> None:
        feed_state = self._feed_state
        feed_state.reading = ()
        if summaries:
            chats = [summary.chat.uuid for summary in summaries]
            frames = Frames.of([encode_event(summary, Profile.EXTENDED) for summary in summaries])
            for console in feed_state.consoles:
                if console.extended:
                    console.show_summaries(chats, frames, feed_state)
        self._send_summaries()

    def _take_back(self) -> None:
        """Let the chats whose summaries were not sent be due again, before the others."""
        feed_state = self._feed_state
        feed_state.due = dict.fromkeys((*feed_state.reading, *feed_state.due))
        feed_state.reading = ()

    def _summarize_later(self, seconds: float) -> None:
        self._timer_set = True
        self.after(seconds, _SummarizeNext(), key="summaries")
