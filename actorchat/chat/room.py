"""Owns one chat while somebody is there: it authorizes, orders, and hands to the journal.

What was committed is announced by its announcer, for which it reads what that misses. It never waits for storage
while it works, and decides nothing that `actorchat.chat.rules` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import assert_never
from uuid import UUID

import attrs
import trio
from msgspec.structs import replace

from actorchat.actors import Actor, Request
from actorchat.chat.commands import Departed, OperationRequest, RoomCommand
from actorchat.chat.feed import FeedState
from actorchat.chat.limits import ROOM_IN_FLIGHT, Limits, RateLimiter, check_message, rate_limited
from actorchat.chat.model import (
    Identity,
    identity_of,
)
from actorchat.chat.operations import (
    AddMessage,
    Changed,
    ChatOperation,
    CloseChat,
    MarkMessage,
    Refused,
    ReopenChat,
    refusal_of,
)
from actorchat.chat.ports import ChatReader, Journal, StorageUnavailable
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
    RefusalCode,
    Role,
    SendMessage,
    UpdateTyping,
    User,
)

__all__ = ["Announce", "Enter", "Room", "RoomMessage", "RoomPorts"]

_log = logging.getLogger(__name__)

PRESENCE_GRACE = 5.0
"""Seconds for which a user whose last socket is gone is still present."""

RECOVERY_PAGE = 500
STORAGE_PAUSE = 0.5
"""Seconds between two tries to read what must be read."""


@attrs.frozen
class RoomPorts:
    """What every room needs of the rest."""

    journal: Journal
    chat_reader: ChatReader
    replays: Replays
    feed: Callable[[str], FeedState]
    limiter: RateLimiter
    limits: Limits


@attrs.frozen
class Enter(Request[bool]):
    """Be there: afterwards `RoomState.announced` is set. False: there is no such chat."""


@attrs.frozen
class Announce:
    """The announcer can't go on by itself: storage is to be read, or members are to read on."""


_ANNOUNCE = Announce()


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
    """The actor of one chat. All that must outlive a crash is with its announcer, its roster and in storage."""

    def __init__(self, publisher: Publisher, ports: RoomPorts) -> None:
        self._publisher, self._room_state, self._ports = publisher, publisher.room_state, ports

    async def on_start(self) -> None:
        room_state = self._room_state
        if room_state.announced is None:
            # Operations come through here only, so nothing is in flight and what storage says is announced.
            found = await self._ports.chat_reader.chat(room_state.chat)
            # It may have been deleted since it was read.
            room_state.announced = None if room_state.expired else found
            self._publisher.complete = room_state.announced is not None
            return
        for cursor in room_state.behind.values():
            if cursor.lagging:
                # Who read on for the incarnation before this one is gone with it.
                cursor.reader = None
        await self._announce()
        for identity, presence in room_state.present.items():
            if presence.sockets == 0:
                self.after(PRESENCE_GRACE, _Lapsed(identity), key=("lapsed", identity))
        for identity in room_state.typists:
            self.after(SILENCE, _TypingSilent(identity), key=("silent", identity))
            self.after(INTERVAL, _TypingDue(identity), key=("typing", identity))

    def _call(self) -> None:
        self.ref.signal(_ANNOUNCE)

    def can_passivate(self) -> bool:
        return self._room_state.vacant and not self._publisher.in_flight

    def receive_now(self, message: RoomMessage) -> bool:
        if not isinstance(message, RoomCommand | OperationRequest):
            return False
        self._take(message, trio.current_time())
        return True

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

    # What comes in

    def _take(self, item: RoomCommand | OperationRequest, now: float) -> None:
        item.begun = True
        try:
            if isinstance(item, OperationRequest):
                self._perform(item, now)
            else:
                self._command(item, now)
        except Exception:
            _log.exception("a command failed in chat %s", self._room_state.chat)
            item.fail()

    def _command(self, item: RoomCommand, now: float) -> None:
        command, subscription = item.command, item.receiver.subscription
        chat, user = self._room_state.chat, subscription.session.user
        match command:
            case SendMessage():
                refused = item.refusal or self._check(subscription.identity, command.text, command.attachments, now)
                operation: ChatOperation = AddMessage(chat, user, command.text, command.attachments, command.client_id)
                if refused is not None:
                    self._refuse(operation, refused, item)
                    return
                if self._room_state.typists:
                    self._stop_typing(subscription.identity, now)
            case MarkMessageDelivered(message_id=message_id):
                operation = MarkMessage(chat, user, message_id, read=False)
            case MarkMessageRead(message_id=message_id):
                operation = MarkMessage(chat, user, message_id, read=True)
            case UpdateTyping():
                self._typing(user, command, now)
                return
            case _:
                assert_never(command)
        self._submit(operation, item)

    def _perform(self, item: OperationRequest, now: float) -> None:
        operation, refused = item.operation, item.refusal
        if self._room_state.announced is None:
            refused = Refused("not_found", "there is no such chat")
        elif isinstance(operation, AddMessage):
            identity = identity_of(operation.author)
            refused = refused or self._check(identity, operation.text, operation.attachments, now)
            if refused is None and operation.type is MessageType.STANDARD:
                self._stop_typing(identity, now)
        elif isinstance(operation, CloseChat | ReopenChat) and operation.by.role is Role.USER:
            # These store messages too, and a visitor is nobody one knows.
            refused = self._check_rate(identity_of(operation.by), now)
        if refused is None:
            self._submit(operation, item)
        else:
            self._refuse(operation, refused, item)

    def _check(self, identity: Identity, text: str, attachments: tuple[UUID, ...], now: float) -> Refused | None:
        return self._check_rate(identity, now) or check_message(text, attachments, self._ports.limits)

    def _check_rate(self, identity: Identity, now: float) -> Refused | None:
        bucket = self._ports.limiter.bucket(identity, now)
        wait = 0.0 if bucket is None else bucket.take(now)
        return rate_limited(wait) if wait else None

    def _submit(self, operation: ChatOperation, reply_to: RoomCommand | OperationRequest) -> None:
        publisher = self._publisher
        if publisher.in_flight < ROOM_IN_FLIGHT and self._ports.journal.submit(operation, publisher, reply_to):
            publisher.submitted(self._call)
        else:
            self._refuse(operation, Refused(RefusalCode.OVERLOADED, "the chat has too much to do", 1.0), reply_to)

    def _refuse(self, operation: ChatOperation, refused: Refused, reply_to: RoomCommand | OperationRequest) -> None:
        """At once, or by the journal if `operation` repeats what may be stored, or is about to be."""
        refusal = refusal_of(operation, refused)
        publisher = self._publisher
        if refusal is None:
            reply_to.answer(refused)
        elif publisher.in_flight < 2 * ROOM_IN_FLIGHT and self._ports.journal.submit(refusal, publisher, reply_to):
            publisher.submitted(self._call)
        else:
            reply_to.refuse_untaken()

    # What was decided

    async def _announce(self) -> None:
        publisher = self._publisher
        if not publisher.complete:
            publisher.settle()
            if publisher.lacks:
                await self._recover()
            publisher.announce_waiting()
        for subscription, cursor in self._room_state.behind.items():
            if cursor.lagging and cursor.reader is None:
                self._read_on(subscription, cursor)

    async def _recover(self) -> None:
        """Announce from storage what was committed after `announced`, and could not be announced then."""
        room_state, chat_reader = self._room_state, self._ports.chat_reader
        while room_state.announced is not None:
            announced = room_state.announced
            try:
                page = await chat_reader.since(room_state.chat, rev=announced.rev, limit=RECOVERY_PAGE)
            except StorageUnavailable:
                await trio.sleep(STORAGE_PAUSE)
                continue
            if page is None or page.chat.rev <= announced.rev:
                return
            chat, messages = page.chat, page.messages
            if page.has_more:
                # The last commit may have stored more messages than fit on this page.
                messages = tuple(message for message in messages if message.rev < messages[-1].rev)
                chat = replace(announced, rev=messages[-1].rev, next_index=messages[-1].index + 1)
            before = (announced.stage, announced.operator, announced.owner)
            changed = (chat.stage, chat.operator, chat.owner) != before
            self._publisher.publish([Changed(chat, messages, changed)], counted=False)

    # Members that read more than the room remembers

    def _read_on(self, subscription: Subscription, cursor: ReplayCursor) -> None:
        self.pipe(
            partial(self._ports.replays.catch_up, subscription, cursor, self._room_state),
            ok=lambda _: _CaughtUp(subscription),
            err=lambda error: _StillBehind(subscription, error),
        )

    def _retry_reading(self, subscription: Subscription, error: Exception) -> None:
        if not isinstance(error, StorageUnavailable):
            _log.error("reading on failed in chat %s; the socket is closed", self._room_state.chat, exc_info=error)
        # It comes back and resumes; a strict client reads the history.
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
