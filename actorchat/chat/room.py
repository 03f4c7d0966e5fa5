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
from actorchat.chat.announcer import Announcer
from actorchat.chat.commands import Departed, FromMember, Perform
from actorchat.chat.feed import FeedRoster
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
from actorchat.chat.ports import Archive, Journal, StorageUnavailable
from actorchat.chat.replay import Replays
from actorchat.chat.roster import Member, Position
from actorchat.chat.typing_relay import INTERVAL, SILENCE, Typist
from actorchat.chat.typing_shown import show_typing, stop_typing
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
    archive: Archive
    replays: Replays
    feed: Callable[[str], FeedRoster]
    limiter: RateLimiter
    limits: Limits


@attrs.frozen
class Enter(Request[bool]):
    """Be there: afterwards `Roster.announced` is set. False: there is no such chat."""


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
    member: Member


@attrs.frozen(eq=False)
class _StillBehind:
    member: Member
    error: Exception


RoomMessage = (
    FromMember | Perform | Enter | Announce | Departed | _Lapsed | _TypingDue | _TypingSilent | _CaughtUp | _StillBehind
)


class Room(Actor[RoomMessage]):
    """The actor of one chat. All that must outlive a crash is with its announcer, its roster and in storage."""

    def __init__(self, announcer: Announcer, ports: RoomPorts) -> None:
        self._announcer, self._roster, self._ports = announcer, announcer.roster, ports

    async def on_start(self) -> None:
        roster = self._roster
        if roster.announced is None:
            # Operations come through here only, so nothing is in flight and what storage says is announced.
            found = await self._ports.archive.chat(roster.chat)
            # It may have been deleted since it was read.
            roster.announced = None if roster.expired else found
            self._announcer.complete = roster.announced is not None
            return
        for position in roster.behind.values():
            if position.lagging:
                # Who read on for the incarnation before this one is gone with it.
                position.reader = None
        await self._announce()
        for identity, presence in roster.present.items():
            if presence.sockets == 0:
                self.after(PRESENCE_GRACE, _Lapsed(identity), key=("lapsed", identity))
        for identity in roster.typists:
            self.after(SILENCE, _TypingSilent(identity), key=("silent", identity))
            self.after(INTERVAL, _TypingDue(identity), key=("typing", identity))

    def _call(self) -> None:
        self.ref.signal(_ANNOUNCE)

    def can_passivate(self) -> bool:
        return self._roster.vacant and not self._announcer.in_flight

    def receive_now(self, message: RoomMessage) -> bool:
        if not isinstance(message, FromMember | Perform):
            return False
        self._take(message, trio.current_time())
        return True

    async def receive(self, message: RoomMessage) -> None:
        match message:
            case FromMember() | Perform():
                self._take(message, trio.current_time())
            case Announce():
                await self._announce()
            case Enter():
                self.reply(message, self._roster.announced is not None)
            case Departed(identity=identity):
                self._departed(identity)
            case _Lapsed(identity=identity):
                self._roster.lapse(identity)
            case _TypingDue(identity=identity):
                self._typing_due(identity, trio.current_time())
            case _TypingSilent(identity=identity):
                self._stop_typing(identity, trio.current_time())
                self._roster.typists.pop(identity, None)
            case _CaughtUp():
                pass
            case _StillBehind(member=member, error=error):
                self._retry_reading(member, error)
            case _:
                assert_never(message)

    # What comes in

    def _take(self, item: FromMember | Perform, now: float) -> None:
        item.begun = True
        try:
            if isinstance(item, Perform):
                self._perform(item, now)
            else:
                self._command(item, now)
        except Exception:
            _log.exception("a command failed in chat %s", self._roster.chat)
            item.fail()

    def _command(self, item: FromMember, now: float) -> None:
        command, member = item.command, item.receiver.member
        chat, user = self._roster.chat, member.session.user
        match command:
            case SendMessage():
                refused = item.refusal or self._check(member.identity, command.text, command.attachments, now)
                operation: ChatOperation = AddMessage(chat, user, command.text, command.attachments, command.client_id)
                if refused is not None:
                    self._refuse(operation, refused, item)
                    return
                if self._roster.typists:
                    self._stop_typing(member.identity, now)
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

    def _perform(self, item: Perform, now: float) -> None:
        operation, refused = item.operation, item.refusal
        if self._roster.announced is None:
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

    def _submit(self, operation: ChatOperation, origin: FromMember | Perform) -> None:
        announcer = self._announcer
        if announcer.in_flight < ROOM_IN_FLIGHT and self._ports.journal.submit(operation, announcer, origin):
            announcer.submitted(self._call)
        else:
            self._refuse(operation, Refused(RefusalCode.OVERLOADED, "the chat has too much to do", 1.0), origin)

    def _refuse(self, operation: ChatOperation, refused: Refused, origin: FromMember | Perform) -> None:
        """At once, or by the journal if `operation` repeats what may be stored, or is about to be."""
        refusal = refusal_of(operation, refused)
        announcer = self._announcer
        if refusal is None:
            origin.answer(refused)
        elif announcer.in_flight < 2 * ROOM_IN_FLIGHT and self._ports.journal.submit(refusal, announcer, origin):
            announcer.submitted(self._call)
        else:
            origin.refuse_untaken()

    # What was decided

    async def _announce(self) -> None:
        announcer = self._announcer
        if not announcer.complete:
            announcer.settle()
            if announcer.lacks:
                await self._recover()
            announcer.announce_waiting()
        for member, position in self._roster.behind.items():
            if position.lagging and position.reader is None:
                self._read_on(member, position)

    async def _recover(self) -> None:
        """Announce from storage what was committed after `announced`, and could not be announced then."""
        roster, archive = self._roster, self._ports.archive
        while roster.announced is not None:
            announced = roster.announced
            try:
                page = await archive.since(roster.chat, rev=announced.rev, limit=RECOVERY_PAGE)
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
            self._announcer.publish([Changed(chat, messages, changed)], counted=False)

    # Members that read more than the room remembers

    def _read_on(self, member: Member, position: Position) -> None:
        self.pipe(
            partial(self._ports.replays.catch_up, member, position, self._roster),
            ok=lambda _: _CaughtUp(member),
            err=lambda error: _StillBehind(member, error),
        )

    def _retry_reading(self, member: Member, error: Exception) -> None:
        if not isinstance(error, StorageUnavailable):
            _log.error("reading on failed in chat %s; the socket is closed", self._roster.chat, exc_info=error)
        # It comes back and resumes; a strict client reads the history.
        member.session.close(CloseCode.SERVER_FAILED, "the chat could not be read")

    # Presence and typing

    def _departed(self, identity: Identity) -> None:
        presence = self._roster.present.get(identity)
        if presence is not None and presence.sockets == 0:
            self._stop_typing(identity, trio.current_time())
            self.after(PRESENCE_GRACE, _Lapsed(identity), key=("lapsed", identity))

    def _typing(self, user: User, command: UpdateTyping, now: float) -> None:
        identity, user = identity_of(user), self._roster.user(user)
        typist = self._roster.typists.setdefault(identity, Typist(user))
        step = typist.relay.update(command.text[: self._ports.limits.text_length], command.stopped, now)
        self.after(SILENCE, _TypingSilent(identity), key=("silent", identity))
        if isinstance(step, float):
            self.after(step, _TypingDue(identity), key=("typing", identity))
        elif step is not None:
            show_typing(self._roster, self._ports.feed, user, step)

    def _typing_due(self, identity: Identity, now: float) -> None:
        typist = self._roster.typists.get(identity)
        typed = None if typist is None else typist.relay.due(now)
        if typist is not None and typed is not None:
            show_typing(self._roster, self._ports.feed, typist.user, typed)

    def _stop_typing(self, identity: Identity, now: float) -> None:
        stop_typing(self._roster, self._ports.feed, identity, now)
