"""Runs the chat: composes its rooms, feeds, directory and sweepers, and connects sockets and requests to them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from random import Random, SystemRandom
from uuid import UUID

import attrs
import trio

from actorchat.actors import ActorError, ActorSystem, DeadLetter, DeadLetterReason, Ref, Restart, Virtual
from actorchat.chat.commands import FeedReceiver, OperationRequest, RoomCommand, RoomReceiver, push_event
from actorchat.chat.limits import FEED_SNAPSHOT, ROOM_INBOX, InFlightLimiter, Limits, RateLimiter
from actorchat.chat.links import Links
from actorchat.chat.model import ChatState, OperatorCounters, PersonRecord, Policy, SourceCounters, Stage, Upload
from actorchat.chat.operations import (
    Changed,
    ChatOperation,
    EndLeaving,
    ExpireChat,
    Expired,
    ExpireUploads,
    Operation,
    Outcome,
    PersonRecorded,
    RecordPerson,
    RecordUpload,
    RefreshPeople,
    Refused,
    ReleaseChat,
    ReserveChat,
    SetOnline,
    SweepChat,
    Unchanged,
    Undecided,
    UploadsExpired,
    refusal_of,
)
from actorchat.chat.operator_directory import (
    ConsoleJoined,
    ConsoleLeft,
    Consoles,
    Counted,
    Directory,
    DirectoryMessage,
    PersonSeen,
    operator_event,
)
from actorchat.chat.operator_feed import Console, Feed, FeedMessage, FeedState, Flush, Flushed
from actorchat.chat.ports import ChatFilter, ChatReader, FeedSnapshot, Journal, Session, StorageUnavailable
from actorchat.chat.profile_refresh import ProfileRefresher, Renamed
from actorchat.chat.publisher import Publisher
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.replay import Replays
from actorchat.chat.room import Enter, Room, RoomMessage, RoomPorts
from actorchat.chat.room_state import ReplayCursor, RoomState, Subscription
from actorchat.chat.sweeper import ReservedSweeper, Sweeper
from actorchat.protocol import (
    ChatUpdated,
    CloseCode,
    Event,
    Frames,
    GlobalUpdated,
    Profile,
    RefusalCode,
    ResyncRequired,
    Role,
    User,
    encode_event,
)

__all__ = ["ChatRefused", "ChatService", "open_chats"]

ROOM_IDLE = 60.0
"""Seconds after which an empty room's actor is passivated. The chat stays in storage."""

MOST_RENAMED = 10_000
"""Active chats of one user that are published again after a change of the profile."""

_ANNOUNCED_WITHIN = 5.0
"""Seconds for which joining waits for messages that the client knows and the room has not published yet."""

_ANNOUNCED_LOOK = 0.02

_OUTCOME_UNKNOWN = "it is not known whether the message is stored; repeating it with the same client_id is safe"

_KEPT_UP = Restart(max=5, within=60.0, backoff=0.05)


class ChatRefused(Exception):  # noqa: N818 - an answer, not a failure
    """An operation was refused, and nothing of it is stored. `code` is API.

    With `storage_unavailable` it may be unknown whether a message is stored. Then `detail` says so.
    """

    def __init__(self, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class _Reply:
    """The `ports.Recipient` of one operation that belongs to no room."""

    def __init__(self, tell: Callable[[Outcome], object] | None) -> None:
        self._tell = tell
        self._outcome: Outcome | None = None
        self._arrived = trio.Event()

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        (self._outcome,) = outcomes
        self._arrived.set()
        if self._tell is not None:
            self._tell(self._outcome)

    async def wait(self) -> Outcome:
        await self._arrived.wait()
        assert self._outcome is not None  # noqa: S101 - set together with the event
        return self._outcome


class ChatService:
    """The rooms, feeds and people of a server, for its sockets and requests. Made by `open_chats`."""

    def __init__(
        self,
        *,
        system: ActorSystem,
        journal: Journal,
        chat_reader: ChatReader,
        limits: Limits,
        links: Links,
        directory: Callable[[], Ref[DirectoryMessage]],
        renames: Callable[[], Ref[Renamed]],
        random: Random,
    ) -> None:
        self.chat_reader = chat_reader
        self.links = links
        self.on_person: Callable[[PersonRecord], object] = lambda _: None
        """Called with each stored record of a person, in commit order."""
        self._journal = journal
        self._directory = directory
        self._renames = renames
        self._random = random
        self._in_flight_limiter = InFlightLimiter(limits.operations_in_flight)
        self._listened: Counter[str] = Counter()
        self._profiles = RenamedUsers()
        self.consoles: Consoles = Consoles()
        self._feeds: Virtual[str, FeedMessage, FeedState] = system.virtual(
            self._make_feed,
            anchor=self._make_feed_state,
            idle=ROOM_IDLE,
            restart=_KEPT_UP,
            name="feed",
        )
        self._replays = Replays(chat_reader)
        ports = RoomPorts(journal, chat_reader, self._replays, self._feeds.anchor, RateLimiter(limits), limits)
        self._rooms: Virtual[UUID, RoomMessage, Publisher] = system.virtual(
            lambda chat, publisher: Room(publisher, ports),
            anchor=lambda chat: Publisher(
                RoomState(chat, self._profiles, links), self._feeds.anchor, self._in_flight_limiter
            ),
            idle=ROOM_IDLE,
            inbox=ROOM_INBOX,
            restart=_KEPT_UP,
            on_give_up=_close_members,
            name="room",
        )

    def _make_feed(self, source: str, room_state: FeedState) -> Feed:
        return Feed(room_state, self._count)

    def _count(self, counters: tuple[OperatorCounters | SourceCounters, ...]) -> None:
        # Kept outside the directory, so that no crash of it loses a counter.
        self.consoles.count(counters)
        self._directory().signal(Counted(counters))

    def _make_feed_state(self, source: str) -> FeedState:
        # It holds the feed's address, so that items that a room queues while there is no console are not lost.
        return FeedState(source, partial(self._feeds[source].signal, Flush()))

    # People and chats

    async def record_person(self, operation: RecordPerson) -> PersonRecord:
        """Store what a token says about its user. Raises `ChatRefused`.

        A changed operator is sent to the consoles. A new profile is shown where its user is present, and in all the
        user's active chats.
        """
        outcome = await self._submit(operation, self._person_recorded)
        assert isinstance(outcome.decision, PersonRecorded)  # noqa: S101 - what this operation comes to
        return outcome.decision.person

    def _person_recorded(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if isinstance(decision, PersonRecorded):
            self.on_person(decision.person)
        if isinstance(decision, PersonRecorded) and decision.changed:
            if decision.renamed:
                self._profiles.changed(decision.person.user)
                self._renames().signal(Renamed(decision.person.user))
            if decision.person.user.role is Role.OPERATOR:
                self._directory().signal(PersonSeen(decision.person))

    async def reserve_chat(self, source: str, owner: User, refusal: Refused | None = None) -> tuple[ChatState, bool]:
        """The owner's newest chat at `source` that is not closed, else a new one; and whether it is new.

        Raises `ChatRefused`, also with the given `refusal` if a new chat would be needed.
        """
        uuid = UUID(int=self._random.getrandbits(128), version=4)
        outcome = await self._submit(ReserveChat(uuid, source, owner, refusal))
        decision = outcome.decision
        assert isinstance(decision, Changed | Unchanged)  # noqa: S101 - what this operation comes to
        return decision.chat, isinstance(decision, Changed)

    async def record_upload(self, upload: Upload) -> None:
        """Let a message of its uploader name a file whose bytes are stored. Raises `ChatRefused`."""
        await self._submit(RecordUpload(upload))

    async def expire_uploads(self, files: Sequence[UUID], before: float) -> tuple[UUID, ...]:
        """Forget those of `files` that no message has taken, created at `before` (epoch seconds) or earlier.

        Returns them: nothing names them any more. Raises `ChatRefused`.
        """
        outcome = await self._submit(ExpireUploads(tuple(files), before))
        assert isinstance(outcome.decision, UploadsExpired)  # noqa: S101 - what this operation comes to
        return outcome.decision.files

    async def perform(self, operation: ChatOperation) -> Changed | Unchanged:
        """Perform `operation` in the chat's room. Raises `ChatRefused` with the code of the decision.

        This waits while the commit is in doubt. If it is cancelled, the operation may still be committed.
        """
        refused = self._in_flight_limiter.take()
        if refused is not None and refusal_of(operation, refused) is None:
            raise _refusal(refused)
        if refused is not None and not self._in_flight_limiter.take_refusal():
            raise ChatRefused(RefusalCode.OVERLOADED, "the server has too much to do", 1.0)
        item = OperationRequest(operation, self._in_flight_limiter, refused)
        room = self._rooms[operation.chat]
        room.tell(item)
        decision = await item.wait()
        if isinstance(decision, Changed | Unchanged):
            return decision
        if isinstance(decision, Undecided):
            raise ChatRefused(RefusalCode.STORAGE_UNAVAILABLE, f"{decision.detail}; {_OUTCOME_UNKNOWN}")
        assert isinstance(decision, Refused)  # noqa: S101 - rooms perform chat operations only
        raise _refusal(decision)

    async def _submit(self, operation: Operation, tell: Callable[[Outcome], object] | None = None) -> Outcome:
        """Submit `operation` and wait for its outcome. `tell` gets it in commit order, even if this is cancelled."""
        refused = self._in_flight_limiter.take()
        if refused is not None:
            raise _refusal(refused)
        try:
            reply = _Reply(tell)
            if not self._journal.submit(operation, reply):
                raise ChatRefused(RefusalCode.OVERLOADED, "the server has too much to do", 1.0)
            outcome = await reply.wait()
        finally:
            self._in_flight_limiter.done()
        if isinstance(outcome.decision, Refused):
            raise _refusal(outcome.decision)
        return outcome

    # Sockets

    def chat_nowait(self, chat: UUID) -> ChatState:
        """The chat as last published by its room. Raises WouldBlock if the room is not open."""
        announced = self._rooms.anchor(chat).room_state.announced
        if announced is None:
            raise trio.WouldBlock
        return announced

    def join_room_nowait(self, session: Session, chat: UUID, after: int | None) -> RoomReceiver:
        """Like `join_room`. Raises WouldBlock if the room is not open or a replay is needed."""
        room, room_state = self._rooms[chat], self._rooms.anchor(chat).room_state
        subscription = Subscription(session)
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
        return RoomReceiver(room_state, subscription, self._in_flight_limiter, room)

    async def join_room(self, session: Session, chat: UUID, after: int | None) -> RoomReceiver:
        """Join the room until the receiver's `leave`. Returns after the replay that `after` asks for was sent.

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
            subscription = Subscription(session)
            replay = _replays(subscription, after)
            index = after if after is not None and replay else announced.next_index - 1
            if index >= announced.next_index:
                index = await self._position_beyond(session, room_state, index)
            cursor = ReplayCursor(index, None if replay else announced)
            room_state.arrive(subscription, cursor)
        finally:
            room_state.entering -= 1
        receiver = RoomReceiver(room_state, subscription, self._in_flight_limiter, room)
        try:
            if replay:
                await self._replays.catch_up(subscription, cursor, room_state)
            else:
                room_state.go_live(subscription)
        except BaseException:
            receiver.leave()
            raise
        return receiver

    async def _position_beyond(self, session: Session, room_state: RoomState, index: int) -> int:
        """The index after which a replay begins if the client has a later message than the room has published.

        Storage may be ahead of the room. A position beyond storage comes from another history: then the client is sent
        `resync_required` and everything. Raises `StorageUnavailable`.
        """
        stored = await self.chat_reader.chat(room_state.chat)
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

    async def join_feed(self, session: Session, sources: frozenset[str]) -> FeedReceiver:
        """Join the feeds of `sources` until the receiver's `leave`. Returns after the snapshot was sent.

        Raises `StorageUnavailable`. If it raises or is cancelled, the session is in no feed.
        """
        console = Console(session, sources, self.links)
        # Holding the refs keeps the feeds' addresses, and with them their states.
        feeds = [(self._feeds[source], self._feeds.anchor(source)) for source in sorted(sources)]
        directory = self._directory()
        for _, room_state in feeds:
            room_state.consoles[console] = None
        # Sorted: feeds are drained in this order, which is not to depend on hashes.
        self._listened.update(sorted(sources))

        def leave() -> None:
            for _, room_state in feeds:
                del room_state.consoles[console]
            self._listened -= Counter(sources)
            if self.consoles.leave(console):
                directory.signal(ConsoleLeft(session.user.id))

        try:
            async with self._replays.working:
                snapshot = await self.chat_reader.feed_snapshot(sources, FEED_SNAPSHOT)
                pieces, shown = _encode(snapshot), {chat.uuid: chat.rev for chat in snapshot.chats}
                operators, counters = snapshot.operators, snapshot.counters
                # The bytes need much less memory than 500 chats with their users, and a console may read slowly.
                del snapshot
            while pieces and await session.wait_drained():
                session.push(pieces.popleft())
            console.release(shown)
            self.consoles.join(console, counters, operators)
            directory.signal(ConsoleJoined(console, operators, counters))
        except BaseException:
            leave()
            raise
        return FeedReceiver(session, leave)

    async def drain(self) -> None:
        """Refuse new operations with `draining`. Returns when all accepted ones are decided and published."""
        await self._in_flight_limiter.drain()
        # The rooms have published everything to their subscriptions and queued it in the feeds.
        for source in tuple(self._listened):
            await self._flush(source)

    async def _flush(self, source: str) -> None:
        """Return when the feed has sent everything that rooms have queued, unless it keeps crashing."""
        feed, room_state = self._feeds[source], self._feeds.anchor(source)
        for _ in range(_KEPT_UP.max + 1):
            # A crashed feed sends its items when it restarts or when the next request activates it.
            with suppress(ActorError):
                await feed.ask(Flushed())
            if not room_state.items:
                return

    # For the directory, the renames and the sweepers

    async def store_presence(self, operator_id: int, online: bool) -> PersonRecord:
        """Commit that an operator is online or offline, and return its record. Raises `StorageUnavailable`."""
        return await self._store_presence(SetOnline(operator_id, online))

    async def return_chats(self, operator_id: int) -> PersonRecord:
        """Give the chats of a leaving operator back to the queue, and return its record.

        It is still leaving afterwards if some chats could not be returned. Raises `StorageUnavailable`.
        """
        active = frozenset({Stage.NEW, Stage.OPEN})
        which: ChatFilter | None = ChatFilter(stages=active, operator_id=operator_id, limit=200)
        while which is not None:
            page = await self.chat_reader.chats(which)
            for chat in page.chats:
                # If one chat can't be stored now, the others are still returned.
                with suppress(ChatRefused):
                    await self.perform(ReleaseChat(chat.uuid, operator_id))
            which = None if page.next is None else attrs.evolve(which, before=page.next)
        return await self._store_presence(EndLeaving(operator_id))

    async def _store_presence(self, operation: SetOnline | EndLeaving) -> PersonRecord:
        try:
            outcome = await self._submit(operation)
        except ChatRefused as error:
            raise StorageUnavailable(str(error)) from error
        assert isinstance(outcome.decision, PersonRecorded)  # noqa: S101 - what this operation comes to
        return outcome.decision.person

    async def show_renamed(self, user: User) -> None:
        """Publish every active chat of `user` again. Raises StorageUnavailable if the caller has to try again."""
        operator = user.role is Role.OPERATOR
        which = ChatFilter(
            stages=frozenset({Stage.NEW, Stage.OPEN}),
            operator_id=user.id if operator else None,
            owner_id=None if operator else user.id,
            limit=MOST_RENAMED,
        )
        for chat in (await self.chat_reader.chats(which)).chats:
            try:
                await self.perform(RefreshPeople(chat.uuid))
            except ChatRefused as refused:
                if refused.code in (RefusalCode.OVERLOADED, RefusalCode.STORAGE_UNAVAILABLE):
                    raise StorageUnavailable(str(refused)) from refused

    async def expire(self, chats: Sequence[UUID], before: float) -> None:
        """Delete the reserved ones of `chats` that were not used since `before` and whose rooms are not open.

        Returns when all are decided, in as few transactions as possible.
        """
        async with trio.open_nursery() as nursery:
            for chat in chats:
                nursery.start_soon(self._expire, chat, before)

    async def _expire(self, chat: UUID, before: float) -> None:
        room, room_state = self._rooms[chat], self._rooms.anchor(chat).room_state
        # An open room counts as used even if it is empty: a user left it not long ago and may reconnect.
        in_use = room_state.announced is not None or not room_state.vacant
        if not in_use:
            room_state.expiring = trio.Event()
        try:
            await self._submit(ExpireChat(chat, before, in_use), partial(_expiry_decided, room, room_state))
        except ChatRefused:
            # The chat stays unused, so the next sweep tries again.
            room_state.expiry_decided(expired=False)

    async def sweep(self, chat: UUID) -> None:
        try:
            await self.perform(SweepChat(chat))
        except ChatRefused:
            # The chat stays due, so the next sweep tries again.
            return


def _expiry_decided(room: Ref[RoomMessage], room_state: RoomState, outcome: Outcome) -> None:
    """End `expiring`. `room` is held until now, so that sockets that join meanwhile find this state and wait."""
    room_state.expiry_decided(expired=isinstance(outcome.decision, Expired))


def _replays(subscription: Subscription, after: int | None) -> bool:
    return after is not None and subscription.profile is Profile.EXTENDED


def _refusal(refused: Refused) -> ChatRefused:
    return ChatRefused(refused.code, refused.detail, refused.retry_after)


def _encode(snapshot: FeedSnapshot) -> deque[Frames]:
    """The events of a snapshot: operators, the global value, chats. In pieces of about 50 KB."""
    unread = sum(counters.unread_chats for counters in snapshot.counters)
    head: list[Event] = [*map(operator_event, snapshot.operators), GlobalUpdated(unread)]
    events = head + [ChatUpdated(chat.wire()) for chat in snapshot.chats]
    payloads = [encode_event(event, Profile.STRICT) for event in events]
    return deque(Frames.of(payloads[start : start + 100]) for start in range(0, len(payloads), 100))


def _close_members(chat: UUID, publisher: Publisher, error: BaseException) -> None:
    """Answer all operations of a room that keeps crashing, and close its sockets, which reconnect and resume."""
    publisher.room_state.given_up = True
    publisher.give_up()
    for subscription in tuple(publisher.room_state.subscriptions()):
        subscription.session.close(CloseCode.SERVER_FAILED, "the chat failed")


def settle_dead_letter(letter: DeadLetter) -> None:
    """Refuse commands that no room handled, so that no caller waits for ever (`open_system(on_dead_letter=…)`)."""
    if isinstance(letter.message, RoomCommand | OperationRequest):
        letter.message.lost(crashed=letter.reason is DeadLetterReason.CRASHED)


@asynccontextmanager
async def open_chats(
    *,
    system: ActorSystem,
    journal: Journal,
    chat_reader: ChatReader,
    policy: Policy,
    limits: Limits,
    links: Links,
    clock: Callable[[], float] = time.time,
    random: Random | None = None,
) -> AsyncIterator[ChatService]:
    """The chat, inside `system`, whose dead letters must go to `settle_dead_letter`.

    `links` signs the links to files that readers of messages get. `clock` gives epoch seconds; `random` makes the ids
    of chats, None: from the operating system.

    Leaving the block stops nothing that `system` does not stop; drain first.
    """
    refs: list[Ref[DirectoryMessage]] = []
    renames: list[Ref[Renamed]] = []
    chats = ChatService(
        system=system,
        journal=journal,
        chat_reader=chat_reader,
        limits=limits,
        links=links,
        directory=lambda: refs[0],
        renames=lambda: renames[0],
        random=random or SystemRandom(),
    )
    refs.append(
        await system.start(
            lambda: Directory(chat_reader, chats.store_presence, chats.return_chats, chats.consoles, clock),
            name="directory",
            restart=_KEPT_UP,
        )
    )
    renames.append(system.spawn(lambda: ProfileRefresher(chats.show_renamed), name="renames", restart=_KEPT_UP))
    if policy.answer_timeout or policy.idle_timeout:
        system.spawn(lambda: Sweeper(chat_reader, chats.sweep, clock), name="sweeper", restart=_KEPT_UP)
    if policy.reserved_timeout:
        system.spawn(
            lambda: ReservedSweeper(chat_reader, chats.expire, policy.reserved_timeout, clock),
            name="reserved-sweeper",
            restart=_KEPT_UP,
        )
    yield chats
