"""Owns the chat as a whole: its rooms, feeds, directory and sweeper, and the way in for sockets and requests.

Composition of the package; what each part does stands in its module.
"""

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
from actorchat.chat.chat_refresh import ChatRefresher, Renamed
from actorchat.chat.commands import FeedReceiver, OperationRequest, RoomCommand, RoomReceiver, push_event
from actorchat.chat.directory import (
    ConsoleJoined,
    ConsoleLeft,
    Consoles,
    Counted,
    Directory,
    DirectoryMessage,
    PersonSeen,
    operator_event,
)
from actorchat.chat.feed import Console, Feed, FeedMessage, FeedState, Flush, Flushed
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
from actorchat.chat.ports import ChatFilter, ChatReader, FeedSnapshot, Journal, Session, StorageUnavailable
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
"""Seconds after which an empty room's actor goes; the chat stays in storage."""

MOST_RENAMED = 10_000
"""Active chats of one person that are shown again after a change of its profile."""

_ANNOUNCED_WITHIN = 5.0
"""Seconds for which a socket waits whose client knows of messages that are committed and not announced."""

_ANNOUNCED_LOOK = 0.02

_OUTCOME_UNKNOWN = "it is not known whether the message is stored; repeating it with the same client_id is safe"

_KEPT_UP = Restart(max=5, within=60.0, backoff=0.05)


class ChatRefused(Exception):  # noqa: N818 - an answer, not a failure
    """An operation was refused, and nothing of it is stored. `code` is API.

    The exception is a `storage_unavailable` whose `detail` says that it is not known whether a message is stored.
    """

    def __init__(self, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


class _Reply:
    """The one outcome of an operation that belongs to no room (`ports.Recipient`)."""

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
    """Rooms, feeds and people, for whoever has a socket or a request. Made by `open_chats`."""

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
        """Called with each person's record that was stored, in the order of the commits."""
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
            anchor=self._make_feed_roster,
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
        # Kept where no crash of the directory loses it.
        self.consoles.count(counters)
        self._directory().signal(Counted(counters))

    def _make_feed_roster(self, source: str) -> FeedState:
        # It holds the feed's address, so that items that a room queues while there is no console are not lost.
        return FeedState(source, partial(self._feeds[source].signal, Flush()))

    # People and chats

    async def record_person(self, operation: RecordPerson) -> PersonRecord:
        """Store what a token says of its user. Raises `ChatRefused`.

        Consoles hear of a changed operator. A new profile is shown where its user is present, and in all its active
        chats.
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

        Raises `ChatRefused`; with a `refusal`, that one where a new chat would be needed.
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
        """Let the chat's room put `operation` through. Raises `ChatRefused` with the code that was decided.

        Waits as long as nobody knows what became of it. Cancelled, it may still be committed.
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
        """Put `operation` through. `tell` hears of it in commit order, even if nobody waits any more."""
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
        """The chat as it was last announced, if its room is open; else WouldBlock."""
        announced = self._rooms.anchor(chat).room_state.announced
        if announced is None:
            raise trio.WouldBlock
        return announced

    def join_room_nowait(self, session: Session, chat: UUID, after: int | None) -> RoomReceiver:
        """As `join_room`, if the room is open and nothing is to be replayed; else WouldBlock."""
        room, room_state = self._rooms[chat], self._rooms.anchor(chat).room_state
        subscription = Subscription(session)
        # What is announced later reaches the member, whichever incarnation does it.
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
        """Be in the room until the receiver's `leave`. Returns once the replay that `after` asks for is sent.

        Raises `ChatRefused` `not_found`, `StorageUnavailable`; then, or cancelled, there is nothing to leave.
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
        """Where a replay begins for a client that has a later message than was announced.

        Storage may be ahead of what was announced. A position beyond storage comes from another history: the client
        hears so, and gets everything. Raises `StorageUnavailable`.
        """
        stored = await self.chat_reader.chat(room_state.chat)
        if stored is None or index >= stored.next_index:
            last = -1 if stored is None else stored.next_index - 1
            push_event(session, ResyncRequired(room_state.chat, last))
            return -1
        with trio.move_on_after(_ANNOUNCED_WITHIN):
            # Rare: a look now and then costs less than an event in each announcement.
            while room_state.announced is None or index >= room_state.announced.next_index:  # noqa: ASYNC110
                await trio.sleep(_ANNOUNCED_LOOK)
            return index
        raise StorageUnavailable(f"message {index} of chat {room_state.chat} is not announced yet")

    async def join_feed(self, session: Session, sources: frozenset[str]) -> FeedReceiver:
        """Be a console of `sources` until the receiver's `leave`. Returns once the snapshot is sent.

        Raises `StorageUnavailable`; then, or cancelled, there is nothing to leave.
        """
        console = Console(session, sources, self.links)
        # Holding the refs keeps the feeds' addresses, and with them their rosters.
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
                # Bytes are much smaller than 500 chats with their people, and a console may take its time.
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
        """Refuse new operations with `draining`; return when all that was taken is decided and announced."""
        await self._in_flight_limiter.drain()
        # Rooms have announced to their members, and put into the feeds what consoles are to see.
        for source in tuple(self._listened):
            await self._flush(source)

    async def _flush(self, source: str) -> None:
        """Return when the feed has shown all that rooms have put, if it can be kept up."""
        feed, room_state = self._feeds[source], self._feeds.anchor(source)
        for _ in range(_KEPT_UP.max + 1):
            # A crashed feed shows it when it restarts, or is activated by the next question.
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
                # One that can't be stored now must not keep the others.
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
        """Show every active chat of `user` again. Raises StorageUnavailable if that is to be tried again."""
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
        """Delete those of `chats` that are reserved, not used since `before`, and whose rooms are not open.

        Returns when it is known what became of each; all of them are in as few transactions as possible.
        """
        async with trio.open_nursery() as nursery:
            for chat in chats:
                nursery.start_soon(self._expire, chat, before)

    async def _expire(self, chat: UUID, before: float) -> None:
        room, room_state = self._rooms[chat], self._rooms.anchor(chat).room_state
        # An open room counts, though it may be empty: somebody left it not long ago, and may be coming back.
        in_use = room_state.announced is not None or not room_state.vacant
        if not in_use:
            room_state.expiring = trio.Event()
        try:
            await self._submit(ExpireChat(chat, before, in_use), partial(_expiry_decided, room, room_state))
        except ChatRefused:
            # It stays unused: the next look tries again.
            room_state.expiry_decided(expired=False)

    async def sweep(self, chat: UUID) -> None:
        try:
            await self.perform(SweepChat(chat))
        except ChatRefused:
            # It stays due: the next look tries again.
            return


def _expiry_decided(room: Ref[RoomMessage], room_state: RoomState, outcome: Outcome) -> None:
    """`room` is held until now, so that whoever enters meanwhile finds this roster, and waits."""
    room_state.expiry_decided(expired=isinstance(outcome.decision, Expired))


def _replays(subscription: Subscription, after: int | None) -> bool:
    return after is not None and subscription.profile is Profile.EXTENDED


def _refusal(refused: Refused) -> ChatRefused:
    return ChatRefused(refused.code, refused.detail, refused.retry_after)


def _encode(snapshot: FeedSnapshot) -> deque[Frames]:
    """A fresh console is right without polling: operators, the global value, chats. In pieces of some 50 KB."""
    unread = sum(counters.unread_chats for counters in snapshot.counters)
    head: list[Event] = [*map(operator_event, snapshot.operators), GlobalUpdated(unread)]
    events = head + [ChatUpdated(chat.wire()) for chat in snapshot.chats]
    payloads = [encode_event(event, Profile.STRICT) for event in events]
    return deque(Frames.of(payloads[start : start + 100]) for start in range(0, len(payloads), 100))


def _close_members(chat: UUID, publisher: Publisher, error: BaseException) -> None:
    """A room that can't be kept up: who asked is answered, its sockets come back and resume from storage."""
    publisher.room_state.given_up = True
    publisher.give_up()
    for subscription in tuple(publisher.room_state.subscriptions()):
        subscription.session.close(CloseCode.SERVER_FAILED, "the chat failed")


def settle_dead_letter(letter: DeadLetter) -> None:
    """What a room never began is refused, so that nobody waits for ever (`open_system(on_dead_letter=…)`)."""
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
    renames.append(system.spawn(lambda: ChatRefresher(chats.show_renamed), name="renames", restart=_KEPT_UP))
    if policy.answer_timeout or policy.idle_timeout:
        system.spawn(lambda: Sweeper(chat_reader, chats.sweep, clock), name="sweeper", restart=_KEPT_UP)
    if policy.reserved_timeout:
        system.spawn(
            lambda: ReservedSweeper(chat_reader, chats.expire, policy.reserved_timeout, clock),
            name="reserved-sweeper",
            restart=_KEPT_UP,
        )
    yield chats
