"""Runs the chat: composes its rooms, feeds, directory and sweepers, and connects sockets and requests to them."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from random import Random, SystemRandom
from uuid import UUID

import attrs
import trio

from actorchat.actors import ActorError, ActorSystem, DeadLetter, DeadLetterReason, Ref, Restart, Virtual
from actorchat.chat.accounts import (
    Account,
    AccountOperation,
    AccountStored,
    ChangeAccount,
    SessionEnded,
    SessionStored,
    SignOut,
)
from actorchat.chat.blocks import AddBlock, BlockRemoved, BlockStored, RemoveBlock
from actorchat.chat.chat_summaries import Viewers, summary_of
from actorchat.chat.commands import FeedReceiver, OperationRequest, QuietReceiver, RoomCommand, RoomReceiver, push_event
from actorchat.chat.documents import ChangeDocument, DocumentChanged, DocumentKey, visit_of
from actorchat.chat.elsewhere import CONSOLES, RemotePeople, RemoteTyping
from actorchat.chat.foreign_commits import ForeignCommits, NodeCaches
from actorchat.chat.foreign_people import ForeignPeople, PersonNews
from actorchat.chat.limits import FEED_SNAPSHOT, ROOM_INBOX, InFlightLimiter, Limits, RateLimiter, rate_limited
from actorchat.chat.links import Links
from actorchat.chat.model import (
    ChatState,
    Identity,
    OperatorCounters,
    PersonRecord,
    Policy,
    SourceCounters,
    Stage,
    Upload,
    identity_of,
)
from actorchat.chat.node_commits import NodeCommit
from actorchat.chat.operations import (
    Changed,
    ChatOperation,
    EndLeaving,
    ExpireChat,
    Expired,
    ExpireUploads,
    HandedOver,
    HandOver,
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
    CountersRead,
    Directory,
    DirectoryMessage,
    PersonRead,
    PersonSeen,
    operator_event,
)
from actorchat.chat.operator_feed import Console, Feed, FeedMessage, FeedState, Flush, Flushed
from actorchat.chat.page_views import visitor_info, with_page
from actorchat.chat.ports import (
    ChatFilter,
    ChatReader,
    Elsewhere,
    FeedSnapshot,
    Journal,
    Session,
    StorageDamaged,
    StorageUnavailable,
    SummaryRecord,
)
from actorchat.chat.privacy import AuditEntry, ErasePerson, RecordAudit
from actorchat.chat.profile_refresh import ProfileRefresher, Renamed
from actorchat.chat.publisher import Publisher
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.replay import Replays
from actorchat.chat.retention_sweeper import RetentionSweeper
from actorchat.chat.room import Enter, Room, RoomMessage, RoomPorts
from actorchat.chat.room_state import ReplayCursor, RoomState, Subscription
from actorchat.chat.search import Search
from actorchat.chat.sweeper import ReservedSweeper, Sweeper, is_alone
from actorchat.chat.typing_broadcast import put_typing, show_typing_here
from actorchat.chat.typing_throttle import Typed
from actorchat.protocol import (
    ChatSummary,
    ChatUpdated,
    CloseCode,
    Event,
    FeedReady,
    Frames,
    GlobalUpdated,
    PageContext,
    PageViewed,
    Profile,
    RefusalCode,
    ResyncRequired,
    Role,
    User,
    UserConnected,
    UserDisconnected,
    VisitorInfo,
    encode_event,
)

__all__ = ["ChatRefused", "ChatService", "open_chats"]

_log = logging.getLogger(__name__)

ROOM_IDLE = 60.0
"""Seconds after which an empty room's actor is passivated. The chat stays in storage."""

MOST_RENAMED = 10_000
"""Active chats of one user that are published again after a change of the profile."""

_ANNOUNCED_WITHIN = 5.0
"""Seconds for which joining waits for messages that the client knows and the room has not published yet."""

_ANNOUNCED_LOOK = 0.02

PAGES = Limits(messages_per_second=0.5, burst=20)
"""How often `page_viewed` of one visitor is stored. More often is refused with `rate_limited`."""

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


class _Reply:
    """The `ports.Recipient` of one operation that belongs to no room."""

    def __init__(
        self, tell: Callable[[Outcome], object] | None, on_decided: Callable[[], object] | None = None
    ) -> None:
        self._tell = tell
        self._on_decided = on_decided
        self._outcome: Outcome | None = None
        self._arrived = trio.Event()

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        (self._outcome,) = outcomes
        self._arrived.set()
        if self._tell is not None:
            self._tell(self._outcome)
        if self._on_decided is not None:
            self._on_decided()

    async def wait(self) -> Outcome:
        await self._arrived.wait()
        assert self._outcome is not None  # noqa: S101 - set together with the event
        return self._outcome


class _Unanswered:
    """The `ports.Recipient` of operations whose outcome nobody waits for, except draining."""

    def __init__(self, in_flight_limiter: InFlightLimiter) -> None:
        self._in_flight_limiter = in_flight_limiter

    def decided(self, outcomes: Sequence[Outcome]) -> None:
        for _ in outcomes:
            self._in_flight_limiter.done()


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
        self._clock = clock
        self._kept_parameters = kept_parameters
        self.chat_reader = chat_reader
        self.links = links
        self.on_person: Callable[[PersonRecord], object] = lambda _: None
        """Called with each stored record of a person, in commit order."""
        self.on_removed: Callable[[Sequence[UUID]], object] = lambda _: None
        """Called with the files that a committed redaction or deletion has removed. Must not block or raise."""
        self.on_account: Callable[[Account], object] = lambda _: None
        """Called with each stored account, in commit order."""
        self.on_block: Callable[[BlockStored | BlockRemoved], object] = lambda _: None
        """Called when a block was stored or removed, in commit order."""
        self.on_sign_out: Callable[[User, float], object] = lambda user, issued: None
        """Called for each user whose tokens have become worthless that were issued up to then, after `on_person`.

        Of another node's sign-out this node hears late, when the user may be back. Of its own: all, so up to `inf`.
        """
        self.on_operation: Callable[[], Callable[[], object] | None] = lambda: None
        """Called with each operation. What it returns is called when the outcomes of the commit are reported."""
        self.search: Search | None = None
        """Finds messages, files and people."""
        self._journal = journal
        self._directory = directory
        self._renames = renames
        self._random = random
        self._in_flight_limiter = InFlightLimiter(limits.operations_in_flight)
        self._unanswered = _Unanswered(self._in_flight_limiter)
        self._pages = RateLimiter(PAGES)
        self._listened: Counter[str] = Counter()
        self._profiles = RenamedUsers()
        self._viewers = Viewers(self._profiles.user)
        self.consoles: Consoles = Consoles()
        self._feeds: Virtual[str, FeedMessage, FeedState] = system.virtual(
            self._make_feed,
            anchor=self._make_feed_state,
            idle=ROOM_IDLE,
            restart=_KEPT_UP,
            name="feed",
        )
        self.remote: RemotePeople | None = None
        """Who is where on other nodes, None if there are none."""
        if elsewhere is not None:
            self.remote = self._follow_remote_people(RemotePeople())
        self._replays = Replays(chat_reader)
        self.limiter: RateLimiter = RateLimiter(limits)
        """How many messages each user may send."""
        ports = RoomPorts(
            journal,
            chat_reader,
            self._replays,
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
                RoomState(chat, self._profiles, links, self.remote), self._feeds.anchor, self._in_flight_limiter
            ),
            idle=ROOM_IDLE,
            inbox=ROOM_INBOX,
            restart=_KEPT_UP,
            on_give_up=_close_members,
            name="room",
        )

        self.caches: NodeCaches = NodeCaches()
        """What has to be read again after another node's commit."""
        self.foreign_people: ForeignPeople = ForeignPeople(chat_reader, self._show_foreign)
        self.foreign_commits: ForeignCommits = ForeignCommits(
            self._rooms, self._feeds, self._count, self.foreign_people, self.caches
        )

    def _make_feed(self, source: str, room_state: FeedState) -> Feed:
        return Feed(room_state, self._count, self.summaries)

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
            feed_items=sum(len(self._feeds.anchor(source).items) for source in self._listened),
            operations_in_flight=self._in_flight_limiter.in_flight,
            rooms_ahead=self._rooms_ahead,
        )

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
        if isinstance(decision, PersonRecorded) and decision.changed:
            self._show_person(decision.person, renamed=decision.renamed)
        elif isinstance(decision, PersonRecorded):
            self.on_person(decision.person)
            self.foreign_people.changed_here(identity_of(decision.person.user))

    def _show_foreign(self, person: PersonRecord, news: PersonNews) -> None:
        """Show a record that another node has changed."""
        self.on_person(person)
        if news.renamed:
            # The other node publishes the chats of that user again.
            self._changed_profile(person.user)
        if person.user.role is Role.OPERATOR:
            self._directory().signal(PersonRead(person))
        if news.signed_out:
            self.on_sign_out(person.user, person.signed_out_at)

    def _follow_remote_people(self, remote: RemotePeople) -> RemotePeople:
        remote.arrived, remote.departed = self._remote_arrived, self._remote_departed
        self.consoles.elsewhere = remote.has_console
        self.consoles.on_here = lambda user: remote.on_here(CONSOLES, user)
        self.consoles.on_gone = lambda id_: remote.on_gone(CONSOLES, Identity(Role.OPERATOR, id_))
        return remote

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

    def _changed_profile(self, user: User) -> None:
        self._profiles.changed(user)
        if self.remote is not None:
            for chat in self.remote.renamed(user):
                self._tell_room(chat, UserConnected(user))

    def _remote_arrived(self, chat: UUID, user: User) -> None:
        if chat != CONSOLES:
            self._tell_room(chat, UserConnected(self._profiles.user(user)))

    def _remote_departed(self, chat: UUID, user: User) -> None:
        if chat == CONSOLES:
            # The other node looks after the operator, unless it has died.
            self._directory().signal(ConsoleLeft(user.id))
        else:
            self._tell_room(chat, UserDisconnected(self._profiles.user(user)))

    def _tell_room(self, chat: UUID, event: UserConnected | UserDisconnected) -> None:
        publisher = self._rooms.held_anchor(chat)
        if publisher is not None:
            publisher.room_state.remote_changed(event)
            if event.user.role is Role.OPERATOR:
                self._viewers_changed(publisher.room_state)

    async def start_over(self) -> None:
        """Read again everything that is in memory, because commits of other nodes were missed for good.

        Raises `StorageUnavailable`.
        """
        self.foreign_commits.start_over()
        await self.read_operators_again()

    def storage_went_back(self) -> None:
        """Storage has lost commits: close the consoles, and the sockets of rooms that show what is not stored.

        Until a room has compared, it publishes nothing. Call `read_operators_again` afterwards.
        """
        self.consoles.forget_counters()
        self.foreign_commits.went_back()

    def _room_was_ahead(self, chat: UUID) -> None:
        self._rooms_ahead += 1
        _log.warning("chat %s was shown as it is not stored: its sockets are closed", chat)

    async def read_operators_again(self) -> None:
        """Read the records and counters of all operators, and show them. Raises `StorageUnavailable`."""
        records = await self.chat_reader.operators(None)
        self._directory().signal(CountersRead(tuple(record.counters for record in records)))
        for record in records:
            self.foreign_people.changed_elsewhere(identity_of(record.person.user), PersonNews(renamed=True))

    def _show_person(self, person: PersonRecord, *, renamed: bool) -> None:
        self.on_person(person)
        self.foreign_people.changed_here(identity_of(person.user))
        if renamed:
            self._changed_profile(person.user)
            self._renames().signal(Renamed(person.user))
        if person.user.role is Role.OPERATOR:
            self._directory().signal(PersonSeen(person))

    async def decide_on_account(
        self, operation: AccountOperation
    ) -> AccountStored | SessionStored | SessionEnded | PersonRecorded:
        """Decide and store an operation on accounts, and return its decision. Raises `ChatRefused`."""
        decision = (await self._submit(operation, self._account_decided)).decision
        assert isinstance(  # noqa: S101 - what these operations come to
            decision, AccountStored | SessionStored | SessionEnded | PersonRecorded
        )
        return decision

    async def decide_on_block(self, operation: AddBlock | RemoveBlock) -> BlockStored | BlockRemoved:
        """Store or remove a block, and return the decision. Raises `ChatRefused`."""
        decision = (await self._submit(operation, self._block_decided)).decision
        assert isinstance(decision, BlockStored | BlockRemoved)  # noqa: S101 - what these operations come to
        return decision

    def _block_decided(self, outcome: Outcome) -> None:
        if isinstance(outcome.decision, BlockStored | BlockRemoved):
            self.on_block(outcome.decision)

    def _account_decided(self, outcome: Outcome) -> None:
        decision = outcome.decision
        if isinstance(decision, AccountStored):
            self.on_account(decision.account)
            self._show_person(decision.person, renamed=decision.renamed)
        elif isinstance(decision, PersonRecorded):
            self._show_person(decision.person, renamed=decision.renamed)
        elif isinstance(decision, SessionStored):
            self.on_account(decision.account)
        operation = outcome.operation
        signed_out = isinstance(operation, SignOut) or (
            isinstance(operation, ChangeAccount) and operation.sign_out_at is not None
        )
        if signed_out and isinstance(decision, AccountStored | PersonRecorded):
            self.on_sign_out(decision.person.user, inf)

    async def hand_over(self, operation: HandOver) -> None:
        """Give the chats of an anonymous visitor to the visitor who has signed in. Raises `ChatRefused`.

        The anonymous visitor's sockets are closed. Rooms and consoles are shown the new owner.
        """
        await self._submit(operation, self._handed_over)

    def _handed_over(self, outcome: Outcome) -> None:
        decision, operation = outcome.decision, outcome.operation
        if not isinstance(decision, HandedOver) or not isinstance(operation, HandOver) or decision.anonymous is None:
            return
        self._show_person(decision.anonymous, renamed=False)
        self.on_sign_out(decision.anonymous.user, inf)
        # No room has submitted this, so the rooms are told of it like of the commits of other nodes.
        changes, takers = decision.counted(outcome.counters), (identity_of(operation.to),)
        self.foreign_commits.apply((NodeCommit(changes, takers=takers),))

    async def reserve_chat(self, source: str, owner: User, refusal: Refused | None = None) -> tuple[ChatState, bool]:
        """The owner's newest chat at `source` that is not closed, else a new one; and whether it is new.

        Raises `ChatRefused`, also with the given `refusal` if a new chat would be needed.
        """
        uuid = UUID(int=self._random.getrandbits(128), version=4)
        outcome = await self._submit(ReserveChat(uuid, source, owner, refusal))
        decision = outcome.decision
        assert isinstance(decision, Changed | Unchanged)  # noqa: S101 - what this operation comes to
        return decision.chat, isinstance(decision, Changed)

    async def change_document(self, key: DocumentKey, change: Callable[[str | None], str | None]) -> str | None:
        """Replace a document as `ChangeDocument` says, and return its new text. Raises `ChatRefused`."""
        outcome = await self._submit(ChangeDocument(key, change))
        assert isinstance(outcome.decision, DocumentChanged)  # noqa: S101 - what this operation comes to
        return outcome.decision.text

    async def record_page(self, visitor: User, context: PageContext, address: str = "") -> None:
        """Store the page that a visitor views from a network address, unless it reports too many.

        Raises `ChatRefused`.
        """
        if self._pages.take(identity_of(visitor), trio.current_time()):
            await trio.lowlevel.checkpoint()
            return
        await self.change_document(visit_of(visitor.id), self._page_change(context, address))

    def _page_change(self, context: PageContext, address: str) -> Callable[[str | None], str]:
        now, kept = self._clock(), self._kept_parameters
        return lambda stored: with_page(stored, context, kept, now, address)

    def _page_viewed(self, session: Session, viewed: PageViewed) -> Refused | None:
        """Store a page that a visitor views, or return why not. Does not wait."""
        visitor = session.user
        wait = self._pages.take(identity_of(visitor), trio.current_time())
        refused = rate_limited(wait) if wait else self._in_flight_limiter.take()
        if refused is None:
            context = PageContext(url=viewed.url, title=viewed.title, referrer=viewed.referrer)
            change = ChangeDocument(visit_of(visitor.id), self._page_change(context, session.peer))
            if not self._journal.submit(change, self._unanswered):
                self._in_flight_limiter.done()
                refused = Refused(RefusalCode.OVERLOADED, "the server has too much to do", 1.0)
        return refused

    async def visitor(self, chat: ChatState, *, with_address: bool = False) -> VisitorInfo:
        """What is known about the owner of a chat, the network address only `with_address`.

        Raises `StorageUnavailable`.
        """
        key = visit_of(chat.owner.id)
        found = await self.chat_reader.documents(key.kind, key.scope)
        return visitor_info(chat.owner, found[0][1] if found else None, with_address=with_address)

    async def erase_person(self, audit: AuditEntry) -> None:
        """Remove a person's names and picture, everywhere, and record the erasure. Raises `ChatRefused`."""
        await self._submit(ErasePerson(audit), self._person_recorded)

    async def record_audit(self, audit: AuditEntry) -> None:
        """Record an export. Raises `ChatRefused`."""
        await self._submit(RecordAudit(audit))

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
        item = OperationRequest(
            operation,
            self._in_flight_limiter,
            refused,
            on_removed=self.on_removed,
            on_decided=self.on_operation(),
        )
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
            reply = _Reply(tell, self.on_operation())
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

    def join_room_nowait(self, session: Session, chat: UUID, after: int | None, *, quiet: bool = False) -> RoomReceiver:
        """Like `join_room`. Raises WouldBlock if the room is not open or a replay is needed."""
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

    async def join_room(self, session: Session, chat: UUID, after: int | None, *, quiet: bool = False) -> RoomReceiver:
        """Join the room until the receiver's `leave`. Returns after the replay that `after` asks for was sent.

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
            viewed = partial(self._page_viewed, subscription.session)
            return RoomReceiver(room_state, subscription, self._in_flight_limiter, room, page_viewed=viewed)

        def left() -> None:
            if self._viewers.leave(room_state.chat, user):
                self._viewers_changed(room_state)

        if self._viewers.enter(room_state.chat, user):
            self._viewers_changed(room_state)
        receiver = QuietReceiver if subscription.quiet else RoomReceiver
        return receiver(room_state, subscription, self._in_flight_limiter, room, left)

    def _viewers_changed(self, room_state: RoomState) -> None:
        chat = room_state.announced
        if chat is not None and chat.listed:
            self._feeds.anchor(chat.source).changed(chat.uuid)

    async def summaries(self, chats: Sequence[UUID]) -> tuple[ChatSummary, ...]:
        """The summaries of `chats`, in that order, without reserved and unknown ones. Raises `StorageUnavailable`."""
        try:
            records = await self.chat_reader.summaries(chats)
        except StorageDamaged:
            found: list[SummaryRecord] = []
            for chat in chats:
                # The summaries of the other chats are shown although this one can't be read.
                with suppress(StorageDamaged):
                    found.extend(await self.chat_reader.summaries((chat,)))
            records = tuple(found)
        known = {record.chat.uuid: record for record in records}
        return tuple(summary_of(known[chat], self._viewers_of(chat)) for chat in chats if chat in known)

    def _viewers_of(self, chat: UUID) -> tuple[User, ...]:
        here = self._viewers.of(chat)
        if self.remote is None:
            return here
        ids = {user.id for user in here}
        remote = [user for user in self.remote.at(chat) if user.role is Role.OPERATOR and user.id not in ids]
        return tuple(sorted((*here, *map(self._profiles.user, remote)), key=lambda user: user.id))

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
            room_state.add(console)
        # Sorted, because feeds are drained in this order, which must not depend on hashes.
        self._listened.update(sorted(sources))

        def leave() -> None:
            for _, room_state in feeds:
                room_state.remove(console)
            self._listened -= Counter(sources)
            if self.consoles.leave(console):
                directory.signal(ConsoleLeft(session.user.id))

        try:
            async with self._replays.working:
                # Read one more chat than is shown, to know whether the snapshot is complete.
                snapshot = await self.chat_reader.feed_snapshot(sources, FEED_SNAPSHOT + 1)
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
                    pieces = _in_pieces(await self.summaries(tuple(shown)), Profile.EXTENDED)
                while pieces and await session.wait_drained():
                    session.push(pieces.popleft())
                push_event(session, FeedReady(complete))
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

    def read_operator_again(self, operator_id: int) -> None:
        """Read the record of an operator whom another node has changed, and show it."""
        self.foreign_people.changed_elsewhere(Identity(Role.OPERATOR, operator_id), PersonNews())

    async def store_presence(self, operator_id: int, online: bool) -> PersonRecord:
        """Commit that an operator is online or offline, and return its record. Raises `StorageUnavailable`."""
        return await self._store_presence(SetOnline(operator_id, online))

    async def return_chats(self, operator_id: int) -> PersonRecord:
        """Give the chats of a leaving operator back to the queue, of one who is away the `new` ones. Return its record.

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
            outcome = await self._submit(operation, self._presence_decided)
        except ChatRefused as error:
            raise StorageUnavailable(str(error)) from error
        assert isinstance(outcome.decision, PersonRecorded)  # noqa: S101 - what this operation comes to
        return outcome.decision.person

    def _presence_decided(self, outcome: Outcome) -> None:
        if isinstance(outcome.decision, PersonRecorded):
            self.foreign_people.changed_here(identity_of(outcome.decision.person.user))

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
            outcome = await self._submit(
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


def _replays(subscription: Subscription, after: int | None) -> bool:
    return after is not None and subscription.profile is Profile.EXTENDED


def _refusal(refused: Refused) -> ChatRefused:
    return ChatRefused(refused.code, refused.detail, refused.retry_after)


def _encode(snapshot: FeedSnapshot, profile: Profile) -> deque[Frames]:
    """The events of a snapshot: operators, the global value, chats. In pieces of about 50 KB."""
    unread = sum(counters.unread_chats for counters in snapshot.counters)
    head: list[Event] = [*map(operator_event, snapshot.operators), GlobalUpdated(unread)]
    return _in_pieces(head + [ChatUpdated(chat.wire()) for chat in snapshot.chats], profile)


def _in_pieces(events: Sequence[Event], profile: Profile) -> deque[Frames]:
    payloads = [encode_event(event, profile) for event in events]
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
    refs.append(
        await system.start(
            lambda: Directory(
                chat_reader, chats.store_presence, chats.return_chats, chats.consoles, clock, chats.read_operator_again
            ),
            name="directory",
            restart=_KEPT_UP,
        )
    )
    renames.append(system.spawn(lambda: ProfileRefresher(chats.show_renamed), name="renames", restart=_KEPT_UP))
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
