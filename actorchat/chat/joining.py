"""Lets sockets join rooms and feeds, and leave them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from uuid import UUID

import attrs
import trio

from actorchat.actors import ActorError, Ref, Virtual
from actorchat.chat.chat_summaries import Summaries, Viewers
from actorchat.chat.commands import FeedReceiver, QuietReceiver, RoomReceiver, push_event
from actorchat.chat.limits import FEED_SNAPSHOT, InFlightLimiter
from actorchat.chat.links import Links
from actorchat.chat.operator_directory import ConsoleJoined, ConsoleLeft, Consoles, DirectoryMessage, operator_event
from actorchat.chat.operator_feed import Console, FeedMessage, FeedState
from actorchat.chat.ports import ChatReader, FeedSnapshot, Session, StorageUnavailable
from actorchat.chat.publisher import Publisher
from actorchat.chat.replay import Replays
from actorchat.chat.room import Enter, RoomMessage
from actorchat.chat.room_state import ReplayCursor, RoomState, Subscription
from actorchat.chat.submitter import ChatRefused
from actorchat.chat.visits import Visits
from actorchat.protocol import (
    ChatUpdated,
    Event,
    FeedReady,
    Frames,
    GlobalUpdated,
    Profile,
    ResyncRequired,
    Role,
    encode_event,
)

__all__ = ["Joining"]

_ANNOUNCED_WITHIN = 5.0
"""Seconds for which joining waits for messages that the client knows and the room has not published yet."""

_ANNOUNCED_LOOK = 0.02


class Joining:
    """Lets sockets join rooms and feeds. They leave with the receiver that they get."""

    def __init__(
        self,
        *,
        rooms: Virtual[UUID, RoomMessage, Publisher],
        feeds: Virtual[str, FeedMessage, FeedState],
        chat_reader: ChatReader,
        replays: Replays,
        links: Links,
        viewers: Viewers,
        summaries: Summaries,
        visits: Visits,
        consoles: Consoles,
        directory: Callable[[], Ref[DirectoryMessage]],
        in_flight_limiter: InFlightLimiter,
    ) -> None:
        self.listened: Counter[str] = Counter()
        """The sources whose feeds have consoles, with the number of these."""
        self._rooms = rooms
        self._feeds = feeds
        self._chat_reader = chat_reader
        self._replays = replays
        self._links = links
        self._viewers = viewers
        self._summaries = summaries
        self._visits = visits
        self._consoles = consoles
        self._directory = directory
        self._in_flight_limiter = in_flight_limiter

    def room_nowait(self, session: Session, chat: UUID, after: int | None, *, quiet: bool = False) -> RoomReceiver:
        """Like `room`. Raises WouldBlock if the room is not open or a replay is needed."""
        room, room_state = self._rooms[chat], self._rooms.anchor(chat).room_state
        subscription = Subscription(session, quiet=quiet)
        # Every incarnation of the room publishes to this subscription from now on.
        if (
            room_state.announced is None
            or room_state.given_up
            or room_state.expiring is not None
            or _replays(subscription, after)
        ):
            raise trio.WouldBlock
        room_state.arrive(subscription, ReplayCursor(room_state.announced.next_index - 1, room_state.announced))
        room_state.go_live(subscription)
        return self._receiver(room_state, subscription, room)

    async def room(self, session: Session, chat: UUID, after: int | None, *, quiet: bool = False) -> RoomReceiver:
        """Join a room until the receiver's `leave`. Returns after the replay that `after` asks for was sent.

        A `quiet` session is not announced in the room, and marks nothing; operators see it among the chat's viewers.

        Raises `ChatRefused` with `not_found`, and `StorageUnavailable`. If it raises or is cancelled, the session is
        not in the room.
        """
        room, room_state = self._rooms[chat], self._rooms.anchor(chat).room_state
        while room_state.expiring is not None:
            await room_state.expiring.wait()
        room_state.entering += 1
        try:
            try:
                found = await room.ask(Enter())
            except ActorError as error:
                raise StorageUnavailable(f"chat {chat} could not be opened") from error
            room_state.given_up = False
            announced = room_state.announced
            if not found or announced is None:
                raise ChatRefused("not_found", "there is no such chat")
            subscription = Subscription(session, quiet=quiet)
            replay = _replays(subscription, after)
            index = after if after is not None and replay else announced.next_index - 1
            if index >= announced.next_index:
                index = await self._position_beyond(session, room_state, index)
            known = announced.rev if index < 0 or not replay else 0
            cursor = ReplayCursor(index, None if replay else announced, edits_rev=known, start_rev=announced.rev)
            room_state.arrive(subscription, cursor)
        finally:
            room_state.entering -= 1
        receiver = self._receiver(room_state, subscription, room)
        try:
            if replay:
                await self._replays.catch_up(subscription, cursor, room_state)
            else:
                room_state.go_live(subscription)
        except BaseException:
            receiver.leave()
            raise
        return receiver

    def _receiver(self, room_state: RoomState, subscription: Subscription, room: Ref[RoomMessage]) -> RoomReceiver:
        user = subscription.session.user
        if user.role is Role.USER:
            viewed = partial(self._visits.record_viewed, subscription.session)
            return RoomReceiver(room_state, subscription, self._in_flight_limiter, room, page_viewed=viewed)

        def left() -> None:
            if self._viewers.leave(room_state.chat, user):
                self.viewers_changed(room_state)

        if self._viewers.enter(room_state.chat, user):
            self.viewers_changed(room_state)
        receiver = QuietReceiver if subscription.quiet else RoomReceiver
        return receiver(room_state, subscription, self._in_flight_limiter, room, left)

    def viewers_changed(self, room_state: RoomState) -> None:
        """Have the feed send the summary of a chat whose viewers are others now."""
        chat = room_state.announced
        if chat is not None and chat.listed:
            self._feeds.anchor(chat.source).changed(chat.uuid)

    async def _position_beyond(self, session: Session, room_state: RoomState, index: int) -> int:
        """The index after which a replay begins if the client has a later message than the room has published.

        Storage may be ahead of the room. A position beyond storage comes from another history: then the client is sent
        `resync_required` and everything. Raises `StorageUnavailable`.
        """
        stored = await self._chat_reader.chat(room_state.chat)
        if stored is None or index >= stored.next_index:
            last = -1 if stored is None else stored.next_index - 1
            push_event(session, ResyncRequired(room_state.chat, last))
            return -1
        with trio.move_on_after(_ANNOUNCED_WITHIN):
            # Polled, because this is rare and an event would cost time in each broadcast.
            while room_state.announced is None or index >= room_state.announced.next_index:  # noqa: ASYNC110
                await trio.sleep(_ANNOUNCED_LOOK)
            return index
        raise StorageUnavailable(f"message {index} of chat {room_state.chat} is not announced yet")

    async def feed(self, session: Session, sources: frozenset[str]) -> FeedReceiver:
        """Join the feeds of `sources` until the receiver's `leave`. Returns after the snapshot was sent.

        Raises `StorageUnavailable`. If it raises or is cancelled, the session is in no feed.
        """
        console = Console(session, sources, self._links)
        # Holding the refs keeps the feeds' addresses, and with them their states.
        feeds = [(self._feeds[source], self._feeds.anchor(source)) for source in sorted(sources)]
        directory = self._directory()
        for _, room_state in feeds:
            room_state.add(console)
        # Sorted, because feeds are drained in this order, which must not depend on hashes.
        self.listened.update(sorted(sources))

        def leave() -> None:
            for _, room_state in feeds:
                room_state.remove(console)
            self.listened -= Counter(sources)
            if self._consoles.leave(console):
                directory.signal(ConsoleLeft(session.user.id))

        try:
            async with self._replays.working:
                # Read one more chat than is shown, to know whether the snapshot is complete.
                snapshot = await self._chat_reader.feed_snapshot(sources, FEED_SNAPSHOT + 1)
                complete = len(snapshot.chats) <= FEED_SNAPSHOT
                snapshot = attrs.evolve(snapshot, chats=snapshot.chats[-FEED_SNAPSHOT:])
                pieces, shown = _encode(snapshot, session.profile), {chat.uuid: chat.rev for chat in snapshot.chats}
                operators, counters = snapshot.operators, snapshot.counters
                # A console may read slowly. Until then keep only the encoded snapshot, which needs much less memory.
                del snapshot
            while pieces and await session.wait_drained():
                session.push(pieces.popleft())
            if console.extended:
                async with self._replays.working:
                    pieces = _in_pieces(await self._summaries.read(tuple(shown)), Profile.EXTENDED)
                while pieces and await session.wait_drained():
                    session.push(pieces.popleft())
                push_event(session, FeedReady(complete))
            console.release(shown)
            self._consoles.join(console, counters, operators)
            directory.signal(ConsoleJoined(console, operators, counters))
        except BaseException:
            leave()
            raise
        return FeedReceiver(session, leave)


def _replays(subscription: Subscription, after: int | None) -> bool:
    return after is not None and subscription.profile is Profile.EXTENDED


def _encode(snapshot: FeedSnapshot, profile: Profile) -> deque[Frames]:
    """The events of a snapshot: operators, the global value, chats. In pieces of about 50 KB."""
    unread = sum(counters.unread_chats for counters in snapshot.counters)
    head: list[Event] = [*map(operator_event, snapshot.operators), GlobalUpdated(unread)]
    return _in_pieces(head + [ChatUpdated(chat.wire()) for chat in snapshot.chats], profile)


def _in_pieces(events: Sequence[Event], profile: Profile) -> deque[Frames]:
    payloads = [encode_event(event, profile) for event in events]
    return deque(Frames.of(payloads[start : start + 100]) for start in range(0, len(payloads), 100))
