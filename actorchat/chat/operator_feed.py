"""Sends rooms' encoded events to the consoles of one widget source, in commit order per chat, and then the counters.

Rooms put items here. The directory sends counters and operators to the consoles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import assert_never
from uuid import UUID

import attrs
import msgspec

from actorchat.actors import Actor, Request
from actorchat.chat.limits import FEED_TYPING
from actorchat.chat.links import Links, fill_links
from actorchat.chat.model import Identity, OperatorCounters, SourceCounters, identity_of
from actorchat.chat.ports import Session
from actorchat.protocol import CloseCode, Frames, join_frames

__all__ = ["Console", "Feed", "FeedItem", "FeedMessage", "FeedState", "Flush", "Flushed"]

HELD_BYTES = 4_194_304
HELD_ITEMS = 10_000
"""How much is kept for a console while its snapshot is sent. Beyond either limit it is closed with 1013."""


class FeedItem(msgspec.Struct, frozen=True, eq=False, gc=False):
    """The events that one room published in one step. `frames` is None if only counters changed.

    `steps`, for more than one revision: each with the number of frames up to it. `linked`: each console needs its own
    links to the files in them.
    """

    chat: UUID
    rev: int
    frames: Frames | None
    counters: tuple[OperatorCounters | SourceCounters, ...] = ()
    steps: tuple[tuple[int, int], ...] = ()
    linked: bool = False

    def newer(self, rev: int) -> Frames | None:
        """The frames of the revisions after `rev`, None if there are none."""
        if self.frames is None or rev >= self.rev:
            return None
        known = max((count for step, count in self.steps if step <= rev), default=0)
        return self.frames.after(known) if known < len(self.frames.ends) else None


class Console:
    """One feed socket. It holds live items while its snapshot is read; `release` then sends the newer ones."""

    __slots__ = ("_floor", "_held", "_held_bytes", "_links", "session", "sources")

    def __init__(self, session: Session, sources: frozenset[str], links: Links) -> None:
        self.session: Session = session
        self._links = links
        self.sources: frozenset[str] = sources
        self._held: list[FeedItem] | None = []
        self._held_bytes = 0
        self._floor: dict[UUID, int] = {}

    def show(self, items: Sequence[FeedItem], frames: Frames | None, *, linked: bool) -> None:
        """Send `items`, except those that the snapshot included.

        `frames` are the joined frames of all of them. `linked`: at least one item is.
        """
        if self._held is not None:
            self._held.extend(items)
            self._held_bytes += 0 if frames is None else len(frames.data)
            if len(self._held) > HELD_ITEMS or self._held_bytes > HELD_BYTES:
                self._held.clear()
                self.session.close(CloseCode.OVERLOADED, "too much happened while the console was connecting")
        elif self._floor and not self._floor.keys().isdisjoint([item.chat for item in items]):
            self._show_newer(items)
        elif frames is not None:
            self._push(frames, linked)

    def _push(self, frames: Frames, linked: bool) -> None:
        if linked:
            frames = fill_links(frames, identity_of(self.session.user), self._links)
        self.session.push(frames)

    def show_typing(self, frames: Frames) -> None:
        if self._held is None:
            self.session.push(frames)

    def release(self, shown: dict[UUID, int]) -> None:
        """Go live after the snapshot was sent. `shown` has the revisions of the chats in the snapshot."""
        held, self._held = self._held or [], None
        self._floor = shown
        self._show_newer(held)

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
    """The consoles of a feed, and the items that it has not sent yet. It outlives the feed's actor."""

    def __init__(self, source: str, wake: Callable[[], object]) -> None:
        self.source = source
        self.consoles: dict[Console, None] = {}
        self.items: deque[FeedItem] = deque()
        self.typing: dict[tuple[UUID, Identity], Frames] = {}
        self._wake = wake

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


FeedMessage = Flush | Flushed


class Feed(Actor[FeedMessage]):
    """The actor of one source's operators. `count` gets counters after the events of their chats were sent."""

    def __init__(
        self,
        feed_state: FeedState,
        count: Callable[[tuple[OperatorCounters | SourceCounters, ...]], object],
    ) -> None:
        self._feed_state, self._count = feed_state, count

    async def on_start(self) -> None:
        self._flush()

    async def receive(self, message: FeedMessage) -> None:
        match message:
            case Flush():
                self._flush()
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
            linked = False
            for item in batch:
                if item.frames is not None:
                    shown.append(item.frames)
                counters.extend(item.counters)
                linked = linked or item.linked
            frames = join_frames(shown) if shown else None
            # If anything fails before this, the next incarnation tries again.
            feed_state.items.clear()
            for console in feed_state.consoles:
                console.show(batch, frames, linked=linked)
            if counters:
                self._count(tuple(counters))
        if feed_state.typing:
            frames = join_frames(list(feed_state.typing.values()))
            feed_state.typing.clear()
            for console in feed_state.consoles:
                console.show_typing(frames)
