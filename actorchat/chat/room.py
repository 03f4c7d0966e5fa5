"""The actor of one chat: checks commands, submits operations to the journal, and handles presence and typing.

Its `Publisher` publishes what was committed; the room reads from storage what the publisher misses.
`actorchat.chat.rules` decides what an operation changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, assert_never
from uuid import UUID

import attrs
import trio
from msgspec.structs import replace

from actorchat.actors import Actor, Request
from actorchat.chat.commands import Departed, OperationRequest, RoomCommand, push_event
from actorchat.chat.limits import ROOM_IN_FLIGHT, Limits, RateLimiter, check_length, check_message, rate_limited
from actorchat.chat.model import (
    ChatState,
    Identity,
    StoredMessage,
    identity_of,
)
from actorchat.chat.operations import (
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    EditMessage,
    MarkMessage,
    RedactMessage,
    Refused,
    ReopenChat,
    refusal_of,
)
from actorchat.chat.operator_feed import FeedState
from actorchat.chat.ports import ChatReader, Elsewhere, Journal, StorageUnavailable
from actorchat.chat.publisher import Publisher
from actorchat.chat.replay import Replays
from actorchat.chat.room_state import ReplayCursor, Subscription
from actorchat.chat.typing_broadcast import show_typing, stop_typing
from actorchat.chat.typing_throttle import INTERVAL, SILENCE, Typist
from actorchat.protocol import (
    CloseCode,
    MarkMessageDelivered,
    MarkMessageRead,
    MessageType,
    Profile,
    RefusalCode,
    ResyncRequired,
    Role,
    SendMessage,
    UpdateTyping,
    User,
)

__all__ = ["ANNOUNCE", "Announce", "Enter", "Room", "RoomMessage", "RoomPorts"]

_log = logging.getLogger(__name__)

PRESENCE_GRACE = 5.0
"""Seconds for which a user stays present after its last socket has ended."""

RECOVERY_PAGE = 500
STORAGE_PAUSE = 0.5
"""Seconds before storage is read again after a failure."""


@attrs.frozen
class RoomPorts:
    """The dependencies that all rooms share. `elsewhere` are the other nodes, None if there are none.

    `on_ahead(chat)` is called for a chat that was published as storage does not have it.
    """

    journal: Journal
    chat_reader: ChatReader
    replays: Replays
    feed: Callable[[str], FeedState]
    limiter: RateLimiter
    limits: Limits
    elsewhere: Elsewhere | None = None
    on_ahead: Callable[[UUID], object] = lambda _: None


@attrs.frozen
class Enter(Request[bool]):
    """Make sure that `RoomState.announced` is set. The reply is False if there is no such chat."""


@attrs.frozen
class Announce:
    """The publisher needs the room: storage has to be read, or subscriptions that are behind have to read on."""


ANNOUNCE: Final = Announce()


@attrs.frozen
class _Lapsed:
    identity: Identity


@attrs.frozen
class _TypingDue:
    identity: Identity


@attrs.frozen
class _TypingSilent:
    identity: Identity


@attrs.frozen(eq=False)
class _CaughtUp:
    subscription: Subscription


@attrs.frozen(eq=False)
class _StillBehind:
    subscription: Subscription
    error: Exception


RoomMessage = (
    RoomCommand
    | OperationRequest
    | Enter
    | Announce
    | Departed
    | _Lapsed
    | _TypingDue
    | _TypingSilent
    | _CaughtUp
    | _StillBehind
)


class Room(Actor[RoomMessage]):
    """The actor of one chat. What must outlive a crash is kept in its `Publisher`, its `RoomState` and storage."""

    def __init__(self, publisher: Publisher, ports: RoomPorts) -> None:
        self._publisher, self._room_state, self._ports = publisher, publisher.room_state, ports

    async def on_start(self) -> None:
        room_state = self._room_state
        if room_state.announced is None:
            await self._read_chat()
            return
        for cursor in room_state.behind.values():
            if cursor.lagging:
                # The task that read pages for it ended with the previous incarnation.
                cursor.reader = None
        await self._announce()
        for identity, presence in room_state.present.items():
            if presence.sockets == 0:
                self.after(PRESENCE_GRACE, _Lapsed(identity), key=("lapsed", identity))
        for identity in room_state.typists:
            self.after(SILENCE, _TypingSilent(identity), key=("silent", identity))
            self.after(INTERVAL, _TypingDue(identity), key=("typing", identity))

    async def _read_chat(self) -> None:
        """Read the chat. Changes of other nodes that arrive meanwhile are published as well."""
        room_state, publisher = self._room_state, self._publisher
        # All operations of this node pass through this room, so none is in flight and storage is up to date.
        found, elsewhere = await self._ports.chat_reader.chat(room_state.chat), self._ports.elsewhere
        if elsewhere is not None and found is not None and found.listed and self._ports.feed(found.source).consoles:
            # The feed may not have been shown yet what other nodes committed before the read.
            await elsewhere.caught_up()
        # The chat may have been deleted while it was read.
        if room_state.announced is None and found is not None and not room_state.expired:
            publisher.open(found)
        announced = room_state.announced
        if announced is not None and (publisher.lacks or (found is not None and announced.rev < found.rev)):
            publisher.missed()
            await self._announce()

    def _call(self) -> None:
        self.ref.signal(ANNOUNCE)

    def can_passivate(self) -> bool:
        return self._room_state.vacant and not self._publisher.replies.in_flight

    def receive_now(self, message: RoomMessage) -> bool:
        if isinstance(message, (RoomCommand, OperationRequest)):
            self._take(message, trio.current_time())
            return True
        return False

    async def receive(self, message: RoomMessage) -> None:
        match message:
            case RoomCommand() | OperationRequest():
                self._take(message, trio.current_time())
            case Announce():
                await self._announce()
            case Enter():
                self.reply(message, self._room_state.announced is not None)
            case Departed(identity=identity):
                self._departed(identity)
            case _Lapsed(identity=identity):
                self._room_state.lapse(identity)
            case _TypingDue(identity=identity):
                self._typing_due(identity, trio.current_time())
            case _TypingSilent(identity=identity):
                self._stop_typing(identity, trio.current_time())
                self._room_state.typists.pop(identity, None)
            case _CaughtUp():
                pass
            case _StillBehind(subscription=subscription, error=error):
                self._retry_reading(subscription, error)
            case _:
                assert_never(message)

    # Commands and operations

    def _take(self, item: RoomCommand | OperationRequest, now: float) -> None:
        item.begun = True
        try:
            if isinstance(item, OperationRequest):
                self._perform(item, now)
            elif isinstance(item.command, SendMessage):
                self._send_message(item, item.command, now)
            else:
                self._command(item, item.command, now)
        except Exception:
            _log.exception("a command failed in chat %s", self._room_state.chat)
            item.fail()

    def _send_message(self, item: RoomCommand, command: SendMessage, now: float) -> None:
        subscription, room_state = item.receiver.subscription, self._room_state
        text, attachments = command.text, command.attachments
        refused = item.refusal or self._check(subscription.identity, text, attachments, now)
        operation = AddMessage(room_state.chat, subscription.session.user, text, attachments, command.client_id)
        if refused is not None:
            self._refuse(operation, refused, item)
            return
        if room_state.typists:
            self._stop_typing(subscription.identity, now)
        self._submit(operation, item)

    def _command(
        self, item: RoomCommand, command: MarkMessageDelivered | MarkMessageRead | UpdateTyping, now: float
    ) -> None:
        chat, user = self._room_state.chat, item.receiver.subscription.session.user
        match command:
            case MarkMessageDelivered(message_id=message_id):
                self._submit(MarkMessage(chat, user, message_id, read=False), item)
            case MarkMessageRead(message_id=message_id):
                self._submit(MarkMessage(chat, user, message_id, read=True), item)
            case UpdateTyping():
                self._typing(user, command, now)
            case _:
                assert_never(command)

    def _perform(self, item: OperationRequest, now: float) -> None:
        operation, refused = item.operation, item.refusal
        if self._room_state.announced is None:
            refused = Refused("not_found", "there is no such chat")
        elif isinstance(operation, AddMessage):
            identity = identity_of(operation.author)
            refused = refused or self._check(identity, operation.text, operation.attachments, now)
            if refused is None and operation.type is MessageType.STANDARD:
                self._stop_typing(identity, now)
        elif isinstance(operation, EditMessage | RedactMessage):
            # An erasure has many operations, which nobody has to be protected from.
            erases = isinstance(operation, RedactMessage) and operation.erases
            wait = 0 if erases else self._ports.limiter.take(identity_of(operation.by), now)
            refused = refused or (rate_limited(wait) if wait else None)
            if refused is None and isinstance(operation, EditMessage):
                refused = check_length(operation.text, self._ports.limits)
        elif isinstance(operation, CloseChat | ReopenChat) and operation.by.role is Role.USER:
            # These store messages too, so the rate limit applies to visitors.
            wait = self._ports.limiter.take(identity_of(operation.by), now)
            refused = rate_limited(wait) if wait else None
        if refused is None:
            self._submit(operation, item)
        else:
            self._refuse(operation, refused, item)

    def _check(self, identity: Identity, text: str, attachments: tuple[UUID, ...], now: float) -> Refused | None:
        wait = self._ports.limiter.take(identity, now)
        return rate_limited(wait) if wait else check_message(text, attachments, self._ports.limits)

    def _submit(self, operation: ChatOperation, reply_to: RoomCommand | OperationRequest) -> None:
        publisher = self._publisher
        replies = publisher.replies
        if replies.in_flight < ROOM_IN_FLIGHT and self._ports.journal.submit(operation, publisher, reply_to):
            replies.submitted(self._call)
        else:
            self._refuse(operation, Refused(RefusalCode.OVERLOADED, "the chat has too much to do", 1.0), reply_to)

    def _refuse(self, operation: ChatOperation, refused: Refused, reply_to: RoomCommand | OperationRequest) -> None:
        """Refuse at once, or let the journal do it if the same `client_id` may be stored or in flight."""
        refusal = refusal_of(operation, refused)
        publisher = self._publisher
        replies = publisher.replies
        if refusal is None:
            reply_to.answer(refused)
        elif replies.in_flight < 2 * ROOM_IN_FLIGHT and self._ports.journal.submit(refusal, publisher, reply_to):
            replies.submitted(self._call)
        else:
            reply_to.refuse_untaken()

    # Changes that the publisher can't publish by itself

    async def _announce(self) -> None:
        publisher = self._publisher
        if publisher.doubtful:
            await self._compare()
        if not publisher.complete:
            publisher.settle()
            while publisher.lacks and self._room_state.announced is not None:
                await self._fill_gap()
            publisher.announce_waiting()
        for subscription, cursor in self._room_state.behind.items():
            if cursor.lagging and cursor.reader is None:
                self._read_on(subscription, cursor)

    async def _compare(self) -> None:
        """Compare what was published with what is stored. If it differs, close all sockets and begin anew.

        A chat that was changed since storage went back differs too: who knows whether after what was published.
        """
        publisher, room_state = self._publisher, self._room_state
        # It may be doubted again meanwhile.
        publisher.doubtful = False
        try:
            while room_state.announced is not None:
                try:
                    stored, same = await self._read_to_compare(room_state.announced)
                except StorageUnavailable:
                    await trio.sleep(STORAGE_PAUSE)
                    continue
                if not same:
                    self._begin_anew(stored)
                return
        except BaseException:
            publisher.doubtful = True
            raise

    async def _read_to_compare(self, announced: ChatState) -> tuple[ChatState | None, bool]:
        """The stored chat, and whether `announced` with its newest message and edit is the same.

        Raises `StorageUnavailable`.
        """
        room_state = self._room_state
        added, edited = list(room_state.tail)[-1:], list(room_state.edits.values())[-1:]
        before = added[0].rev - 1 if added else announced.rev
        page = await self._ports.chat_reader.since(room_state.chat, rev=before, limit=RECOVERY_PAGE)
        if page is None:
            return None, False
        edits = await self._edited_after(edited[0].edit_rev - 1) if edited else []
        stored = {message.index: message for message in (*page.messages, *edits)}
        same = all(_is_same_message(stored.get(message.index), message) for message in (*added, *edited))
        return page.chat, same and _is_same_chat(page.chat, announced)

    def _begin_anew(self, stored: ChatState | None) -> None:
        room_state = self._room_state
        self._publisher.forget(stored)
        self._ports.on_ahead(room_state.chat)
        last = -1 if stored is None else stored.next_index - 1
        for subscription in tuple(room_state.subscriptions()):
            if subscription.profile is Profile.EXTENDED:
                # So that the client does not come back with a position that now is another message's.
                push_event(subscription.session, ResyncRequired(room_state.chat, last))
            subscription.session.close(CloseCode.RESTARTING, "the server has lost the newest changes of this chat")

    async def _fill_gap(self) -> None:
        """Get what is missing: what all nodes committed, one by one, or all of it in one from storage."""
        publisher, elsewhere = self._publisher, self._ports.elsewhere
        if elsewhere is not None and not publisher.misses:
            # What another node commits overtakes the outcomes of this one.
            await self._ports.journal.barrier()
            publisher.settle()
            try:
                await elsewhere.caught_up()
            except StorageUnavailable:
                await trio.sleep(STORAGE_PAUSE)
                return
            if not publisher.lacks:
                return
        # Other nodes may commit more while this reads.
        publisher.read_from_now()
        try:
            await self._recover()
        except BaseException:
            publisher.missed()
            raise

    async def _recover(self) -> None:
        """Read from storage and publish what was committed after `announced`."""
        room_state, chat_reader = self._room_state, self._ports.chat_reader
        while room_state.announced is not None:
            announced = room_state.announced
            try:
                page = await chat_reader.since(room_state.chat, rev=announced.rev, limit=RECOVERY_PAGE)
                edited = await self._edited_after(announced.rev)
            except StorageUnavailable:
                await trio.sleep(STORAGE_PAUSE)
                continue
            if page is None or page.chat.rev <= announced.rev:
                return
            chat, messages = page.chat, page.messages
            if page.has_more:
                # The page may end in the middle of a commit, so the last commit's messages are left for the next page.
                messages = tuple(message for message in messages if message.rev < messages[-1].rev)
                chat = replace(announced, rev=messages[-1].rev, next_index=messages[-1].index + 1)
            before = (announced.stage, announced.operator, announced.owner)
            # With several nodes, a console may know a state in between, of which it has to be told the end.
            changed = (chat.stage, chat.operator, chat.owner) != before or self._ports.elsewhere is not None
            updated = tuple(message for message in edited if message.edit_rev <= chat.rev)
            self._publisher.publish([Changed(chat, messages, changed, updated)], counted=False)

    async def _edited_after(self, rev: int) -> list[StoredMessage]:
        """Every message that was edited or redacted after `rev`, as it is now. Raises `StorageUnavailable`."""
        found: list[StoredMessage] = []
        while True:
            page = await self._ports.chat_reader.edited(self._room_state.chat, rev=rev, limit=RECOVERY_PAGE)
            if page is None or not page.messages:
                return found
            found += page.messages
            rev = page.messages[-1].edit_rev

    # Subscriptions that need older messages than the room keeps

    def _read_on(self, subscription: Subscription, cursor: ReplayCursor) -> None:
        self.pipe(
            partial(self._ports.replays.catch_up, subscription, cursor, self._room_state),
            ok=lambda _: _CaughtUp(subscription),
            err=lambda error: _StillBehind(subscription, error),
        )

    def _retry_reading(self, subscription: Subscription, error: Exception) -> None:
        if not isinstance(error, StorageUnavailable):
            _log.error("reading on failed in chat %s; the socket is closed", self._room_state.chat, exc_info=error)
        # The client reconnects and resumes; a strict client reads the history.
        subscription.session.close(CloseCode.SERVER_FAILED, "the chat could not be read")

    # Presence and typing

    def _departed(self, identity: Identity) -> None:
        presence = self._room_state.present.get(identity)
        if presence is not None and presence.sockets == 0:
            self._stop_typing(identity, trio.current_time())
            self.after(PRESENCE_GRACE, _Lapsed(identity), key=("lapsed", identity))

    def _typing(self, user: User, command: UpdateTyping, now: float) -> None:
        identity, user = identity_of(user), self._room_state.user(user)
        typist = self._room_state.typists.setdefault(identity, Typist(user))
        step = typist.throttle.update(command.text[: self._ports.limits.text_length], command.stopped, now)
        self.after(SILENCE, _TypingSilent(identity), key=("silent", identity))
        if isinstance(step, float):
            self.after(step, _TypingDue(identity), key=("typing", identity))
        elif step is not None:
            show_typing(self._room_state, self._ports.feed, user, step)

    def _typing_due(self, identity: Identity, now: float) -> None:
        typist = self._room_state.typists.get(identity)
        typed = None if typist is None else typist.throttle.due(now)
        if typist is not None and typed is not None:
            show_typing(self._room_state, self._ports.feed, typist.user, typed)

    def _stop_typing(self, identity: Identity, now: float) -> None:
        stop_typing(self._room_state, self._ports.feed, identity, now)


def _is_same_chat(stored: ChatState, published: ChatState) -> bool:
    """Whether these are the same, except for the profiles of the people."""
    owners = identity_of(stored.owner) == identity_of(published.owner)
    operators = [None if each is None else each.id for each in (stored.operator, published.operator)]
    same = replace(stored, owner=published.owner, operator=published.operator) == published
    return owners and operators[0] == operators[1] and same


def _is_same_message(stored: StoredMessage | None, published: StoredMessage) -> bool:
    # A later edit of it is a change of the chat.
    return stored is not None and replace(stored, author=None) == replace(published, author=None)
