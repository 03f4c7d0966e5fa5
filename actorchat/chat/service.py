"""Runs the chat: composes its rooms, feeds, directory and sweepers, and connects sockets and requests to them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from random import Random, SystemRandom
from uuid import UUID

import attrs
import trio

from actorchat.actors import ActorError, ActorSystem, DeadLetter, DeadLetterReason, Ref, Restart, Virtual
from actorchat.chat.blocks import AddBlock, BlockRemoved, BlockStored, RemoveBlock
from actorchat.chat.chat_summaries import Summaries, Viewers
from actorchat.chat.commands import OperationRequest, RoomCommand
from actorchat.chat.documents import ChangeDocument, DocumentChanged, DocumentKey
from actorchat.chat.elsewhere import RemotePeople, RemoteTyping
from actorchat.chat.foreign_commits import ForeignCommits, NodeCaches
from actorchat.chat.joining import Joining
from actorchat.chat.limits import ROOM_INBOX, InFlightLimiter, Limits, RateLimiter
from actorchat.chat.links import Links
from actorchat.chat.model import (
    ChatState,
    OperatorCounters,
    Policy,
    SourceCounters,
    Upload,
    identity_of,
)
from actorchat.chat.node_commits import NodeCommit
from actorchat.chat.operations import (
    Changed,
    ChatOperation,
    ExpireChat,
    Expired,
    ExpireUploads,
    HandedOver,
    HandOver,
    Outcome,
    RecordUpload,
    Refused,
    ReserveChat,
    SweepChat,
    Unchanged,
    Undecided,
    UploadsExpired,
    refusal_of,
)
from actorchat.chat.operator_directory import (
    Consoles,
    Counted,
    Directory,
    DirectoryMessage,
)
from actorchat.chat.operator_feed import Feed, FeedMessage, FeedState, Flush, Flushed
from actorchat.chat.people import People
from actorchat.chat.ports import (
    ChatReader,
    Elsewhere,
    Journal,
)
from actorchat.chat.privacy import AuditEntry, RecordAudit
from actorchat.chat.profile_refresh import ProfileRefresher, Renamed
from actorchat.chat.publisher import Publisher
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.replay import Replays
from actorchat.chat.retention_sweeper import RetentionSweeper
from actorchat.chat.room import Room, RoomMessage, RoomPorts
from actorchat.chat.room_state import RoomState
from actorchat.chat.search import Search
from actorchat.chat.submitter import ChatRefused, Submitter, refusal_error
from actorchat.chat.sweeper import ReservedSweeper, Sweeper, is_alone
from actorchat.chat.typing_broadcast import put_typing, show_typing_here
from actorchat.chat.typing_throttle import Typed
from actorchat.chat.visits import Visits
from actorchat.protocol import (
    CloseCode,
    RefusalCode,
    Role,
    User,
    UserConnected,
    UserDisconnected,
)

__all__ = ["ChatService", "open_chats", "settle_dead_letter"]

_log = logging.getLogger(__name__)

ROOM_IDLE = 60.0
"""Seconds after which an empty room's actor is passivated. The chat stays in storage."""

_OUTCOME_UNKNOWN = "it is not known whether the message is stored; repeating it with the same client_id is safe"

_KEPT_UP = Restart(max=5, within=60.0, backoff=0.05)


@attrs.frozen(kw_only=True)
class ChatStatistics:
    """As of now: rooms in memory, live consoles, items that feeds have not sent yet, and undecided operations.

    `rooms_ahead` counts how often the sockets of a room were closed because storage had lost what they had been shown.
    """

    rooms: int
    consoles: int
    feed_items: int
    operations_in_flight: int
    rooms_ahead: int


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
        clock: Callable[[], float],
        kept_parameters: frozenset[str],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.chat_reader = chat_reader
        self.links = links
        self.on_removed: Callable[[Sequence[UUID]], object] = lambda _: None
        """Called with the files that a committed redaction or deletion has removed. Must not block or raise."""
        self.on_block: Callable[[BlockStored | BlockRemoved], object] = lambda _: None
        """Called when a block was stored or removed, in commit order."""
        self.search: Search | None = None
        """Finds messages, files and people."""
        self._directory = directory
        self._random = random
        self._in_flight_limiter = InFlightLimiter(limits.operations_in_flight)
        self.submitter: Submitter = Submitter(journal, self._in_flight_limiter)
        """Submits what no room performs."""
        profiles = RenamedUsers()
        self.consoles: Consoles = Consoles()
        self.remote: RemotePeople | None = None if elsewhere is None else RemotePeople()
        """The people present on other nodes, None if there are no others."""
        self.people: People = People(
            submitter=self.submitter,
            chat_reader=chat_reader,
            profiles=profiles,
            consoles=self.consoles,
            directory=directory,
            renames=renames,
            perform=self.perform,
            tell_room=self._tell_room,
            remote=self.remote,
        )
        """Users and accounts."""
        self.visits: Visits = Visits(self.submitter, chat_reader, clock, kept_parameters)
        """The pages that visitors view."""
        viewers = Viewers(profiles.user)
        self.summaries: Summaries = Summaries(chat_reader, viewers, profiles.user, self.remote)
        """The summaries of chats for lists."""
        self._feeds: Virtual[str, FeedMessage, FeedState] = system.virtual(
            self._make_feed,
            anchor=self._make_feed_state,
            idle=ROOM_IDLE,
            restart=_KEPT_UP,
            name="feed",
        )
        replays = Replays(chat_reader)
        self.limiter: RateLimiter = RateLimiter(limits)
        """How many messages each user may send."""
        ports = RoomPorts(
            journal,
            chat_reader,
            replays,
            self._feeds.anchor,
            self.limiter,
            limits,
            elsewhere,
            self._room_was_ahead,
        )
        self._rooms_ahead = 0
        self._rooms: Virtual[UUID, RoomMessage, Publisher] = system.virtual(
            lambda chat, publisher: Room(publisher, ports),
            anchor=lambda chat: Publisher(
                RoomState(chat, profiles, links, self.remote), self._feeds.anchor, self._in_flight_limiter
            ),
            idle=ROOM_IDLE,
            inbox=ROOM_INBOX,
            restart=_KEPT_UP,
            on_give_up=_close_members,
            name="room",
        )
        self.joining: Joining = Joining(
            rooms=self._rooms,
            feeds=self._feeds,
            chat_reader=chat_reader,
            replays=replays,
            links=links,
            viewers=viewers,
            summaries=self.summaries,
            visits=self.visits,
            consoles=self.consoles,
            directory=directory,
            in_flight_limiter=self._in_flight_limiter,
        )
        """How sockets get into rooms and feeds."""
        self.caches: NodeCaches = NodeCaches()
        """The caches to read again after another node's commit."""
        self.foreign_commits: ForeignCommits = ForeignCommits(
            self._rooms, self._feeds, self._count, self.people.foreign, self.caches
        )
        """Shows the commits of other nodes."""

    def _make_feed(self, source: str, room_state: FeedState) -> Feed:
        return Feed(room_state, self._count, self.summaries.read)

    def _count(self, counters: tuple[OperatorCounters | SourceCounters, ...]) -> None:
        # Kept outside the directory, so that no crash of it loses a counter.
        self.consoles.count(counters)
        self._directory().signal(Counted(counters))

    def _make_feed_state(self, source: str) -> FeedState:
        # It holds the feed's address, so that items that a room queues while there is no console are not lost.
        return FeedState(source, partial(self._feeds[source].signal, Flush()))

    def statistics(self) -> ChatStatistics:
        """Return numbers of this moment."""
        return ChatStatistics(
            rooms=self._rooms.active,
            consoles=len(self.consoles.views),
            feed_items=sum(len(self._feeds.anchor(source).items) for source in self.joining.listened),
            operations_in_flight=self._in_flight_limiter.in_flight,
            rooms_ahead=self._rooms_ahead,
        )

    # Other nodes

    def show_remote_typing(self, typing: RemoteTyping) -> None:
        """Show that somebody types on another node."""
        typed = Typed(typing.text, typing.stopped)
        publisher = self._rooms.held_anchor(typing.chat)
        if publisher is not None and publisher.room_state.announced is not None:
            show_typing_here(publisher.room_state, self._feeds.anchor, typing.user, typed)
        elif typing.listed:
            feed = self._feeds.held_anchor(typing.source)
            if feed is not None and feed.consoles:
                put_typing(feed, typing.chat, typing.user, typed)

    def _tell_room(self, chat: UUID, event: UserConnected | UserDisconnected) -> None:
        publisher = self._rooms.held_anchor(chat)
        if publisher is not None:
            publisher.room_state.remote_changed(event)
            if event.user.role is Role.OPERATOR:
                self.joining.viewers_changed(publisher.room_state)

    async def start_over(self) -> None:
        """Read again everything that is in memory, because commits of other nodes were missed for good.

        Raises `StorageUnavailable`.
        """
        self.foreign_commits.start_over()
        await self.people.read_operators_again()

    def storage_went_back(self) -> None:
        """Storage has lost commits: close the consoles, and the sockets of rooms that show what is not stored.

        Until a room has compared, it publishes nothing. Call `people.read_operators_again` afterwards.
        """
        self.consoles.forget_counters()
        self.foreign_commits.went_back()

    def _room_was_ahead(self, chat: UUID) -> None:
        self._rooms_ahead += 1
        _log.warning("chat %s was shown as it is not stored: its sockets are closed", chat)

    # Operations

    async def decide_on_block(self, operation: AddBlock | RemoveBlock) -> BlockStored | BlockRemoved:
        """Store or remove a block, and return the decision. Raises `ChatRefused`."""
        decision = (await self.submitter.submit(operation, self._block_decided)).decision
        assert isinstance(decision, BlockStored | BlockRemoved)  # noqa: S101 - what these operations come to
        return decision

    def _block_decided(self, outcome: Outcome) -> None:
        if isinstance(outcome.decision, BlockStored | BlockRemoved):
            self.on_block(outcome.decision)

    async def hand_over(self, operation: HandOver) -> None:
        """Give the chats of an anonymous visitor to the visitor who has signed in. Raises `ChatRefused`.

        The anonymous visitor's sockets are closed. Rooms and consoles are shown the new owner.
        """
        await self.submitter.submit(operation, self._handed_over)

    def _handed_over(self, outcome: Outcome) -> None:
        decision, operation = outcome.decision, outcome.operation
        if not isinstance(decision, HandedOver) or not isinstance(operation, HandOver) or decision.anonymous is None:
            return
        self.people.show(decision.anonymous, renamed=False)
        self.people.on_sign_out(decision.anonymous.user, inf)
        # No room has submitted this, so the rooms are told of it like of the commits of other nodes.
        changes, takers = decision.counted(outcome.counters), (identity_of(operation.to),)
        self.foreign_commits.apply((NodeCommit(changes, takers=takers),))

    async def reserve_chat(self, source: str, owner: User, refusal: Refused | None = None) -> tuple[ChatState, bool]:
        """The owner's newest chat at `source` that is not closed, else a new one; and whether it is new.

        Raises `ChatRefused`, also with the given `refusal` if a new chat would be needed.
        """
        uuid = UUID(int=self._random.getrandbits(128), version=4)
        outcome = await self.submitter.submit(ReserveChat(uuid, source, owner, refusal))
        decision = outcome.decision
        assert isinstance(decision, Changed | Unchanged)  # noqa: S101 - what this operation comes to
        return decision.chat, isinstance(decision, Changed)

    async def change_document(self, key: DocumentKey, change: Callable[[str | None], str | None]) -> str | None:
        """Replace a document as `ChangeDocument` says, and return its new text. Raises `ChatRefused`."""
        outcome = await self.submitter.submit(ChangeDocument(key, change))
        assert isinstance(outcome.decision, DocumentChanged)  # noqa: S101 - what this operation comes to
        return outcome.decision.text

    async def record_audit(self, audit: AuditEntry) -> None:
        """Record an export. Raises `ChatRefused`."""
        await self.submitter.submit(RecordAudit(audit))

    async def record_upload(self, upload: Upload) -> None:
        """Let a message of its uploader name a file whose bytes are stored. Raises `ChatRefused`."""
        await self.submitter.submit(RecordUpload(upload))

    async def expire_uploads(self, files: Sequence[UUID], before: float) -> tuple[UUID, ...]:
        """Forget those of `files` that no message has taken, created at `before` (epoch seconds) or earlier.

        Returns them: nothing names them any more. Raises `ChatRefused`.
        """
        outcome = await self.submitter.submit(ExpireUploads(tuple(files), before))
        assert isinstance(outcome.decision, UploadsExpired)  # noqa: S101 - what this operation comes to
        return outcome.decision.files

    async def perform(self, operation: ChatOperation) -> Changed | Unchanged:
        """Perform `operation` in the chat's room. Raises `ChatRefused` with the code of the decision.

        This waits while the commit is in doubt. If it is cancelled, the operation may still be committed.
        """
        refused = self._in_flight_limiter.take()
        if refused is not None and refusal_of(operation, refused) is None:
            raise refusal_error(refused)
        if refused is not None and not self._in_flight_limiter.take_refusal():
            raise ChatRefused(RefusalCode.OVERLOADED, "the server has too much to do", 1.0)
        item = OperationRequest(
            operation,
            self._in_flight_limiter,
            refused,
            on_removed=self.on_removed,
            on_decided=self.submitter.on_operation(),
        )
        room = self._rooms[operation.chat]
        room.tell(item)
        decision = await item.wait()
        if isinstance(decision, Changed | Unchanged):
            return decision
        if isinstance(decision, Undecided):
            raise ChatRefused(RefusalCode.STORAGE_UNAVAILABLE, f"{decision.detail}; {_OUTCOME_UNKNOWN}")
        assert isinstance(decision, Refused)  # noqa: S101 - rooms perform chat operations only
        raise refusal_error(decision)

    def chat_nowait(self, chat: UUID) -> ChatState:
        """The chat as last published by its room. Raises WouldBlock if the room is not open."""
        announced = self._rooms.anchor(chat).room_state.announced
        if announced is None:
            raise trio.WouldBlock
        return announced

    async def drain(self) -> None:
        """Refuse new operations with `draining`. Returns when all accepted ones are decided and published."""
        await self._in_flight_limiter.drain()
        # The rooms have published everything to their subscriptions and queued it in the feeds.
        for source in tuple(self.joining.listened):
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

    async def expire(self, chats: Sequence[UUID], before: float) -> None:
        """Delete the reserved ones of `chats` that were not used since `before` and whose rooms are not open.

        Returns when all are decided, in as few transactions as possible.
        """
        async with trio.open_nursery() as nursery:
            for chat in chats:
                nursery.start_soon(self._expire, chat, before)

    async def remove_closed(self, chat: UUID, before: float, record: AuditEntry) -> Expired | None:
        """Delete a closed chat without activity since `before` and whose room is not open, and store `record` with it.

        Returns None if the chat stays.
        """
        return await self._expire(chat, before, record)

    @property
    def is_busy(self) -> bool:
        """Whether operations of users wait for their decision."""
        return self._in_flight_limiter.in_flight > 0

    async def _expire(self, chat: UUID, before: float, record: AuditEntry | None = None) -> Expired | None:
        room, room_state = self._rooms[chat], self._rooms.anchor(chat).room_state
        # An open room counts as used even if it is empty: a user left it not long ago and may reconnect.
        in_use = room_state.announced is not None or not room_state.vacant
        in_use = in_use or (self.remote is not None and self.remote.uses(chat))
        if not in_use:
            room_state.expiring = trio.Event()
        try:
            outcome = await self.submitter.submit(
                ExpireChat(chat, before, in_use, record), partial(self._expiry_decided, room, room_state)
            )
        except ChatRefused:
            # The chat stays unused, so the next sweep tries again.
            room_state.expiry_decided(expired=False)
            return None
        return outcome.decision if isinstance(outcome.decision, Expired) else None

    def _expiry_decided(self, room: Ref[RoomMessage], room_state: RoomState, outcome: Outcome) -> None:
        """End `expiring`. `room` is held until now, so that sockets that join meanwhile find this state and wait."""
        decision = outcome.decision
        room_state.expiry_decided(expired=isinstance(decision, Expired))
        if isinstance(decision, Expired) and decision.files:
            self.on_removed(decision.files)

    async def sweep(self, chat: UUID) -> None:
        try:
            await self.perform(SweepChat(chat))
        except ChatRefused:
            # The chat stays due, so the next sweep tries again.
            return


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
    kept_parameters: Collection[str] = (),
    elsewhere: Elsewhere | None = None,
) -> AsyncIterator[ChatService]:
    """The chat, inside `system`, whose dead letters must go to `settle_dead_letter`.

    `links` signs the links to files that readers of messages get. `clock` returns epoch seconds; `random` makes the ids
    of chats, None: from the operating system. `kept_parameters` are the query parameters that are kept in the
    addresses of the pages that visitors view. `elsewhere` are the other nodes, None if there are none.

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
        clock=clock,
        kept_parameters=frozenset(kept_parameters),
        elsewhere=elsewhere,
    )
    people = chats.people
    refs.append(
        await system.start(
            lambda: Directory(
                chat_reader,
                people.store_presence,
                people.return_chats,
                chats.consoles,
                clock,
                people.read_operator_again,
            ),
            name="directory",
            restart=_KEPT_UP,
        )
    )
    renames.append(system.spawn(lambda: ProfileRefresher(people.show_renamed), name="renames", restart=_KEPT_UP))
    holds = is_alone if elsewhere is None else partial(elsewhere.holds, "sweeper")
    if policy.answer_timeout or policy.idle_timeout:
        system.spawn(lambda: Sweeper(chat_reader, chats.sweep, clock, holds), name="sweeper", restart=_KEPT_UP)
    if policy.reserved_timeout:
        system.spawn(
            lambda: ReservedSweeper(chat_reader, chats.expire, policy.reserved_timeout, clock, holds),
            name="reserved-sweeper",
            restart=_KEPT_UP,
        )
    if policy.retention:
        system.spawn(
            lambda: RetentionSweeper(
                chat_reader, chats.remove_closed, policy.retention, lambda: chats.is_busy, clock, holds
            ),
            name="retention-sweeper",
            restart=_KEPT_UP,
        )
    yield chats
