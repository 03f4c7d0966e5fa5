"""Owns one chat while somebody is there: it authorizes, orders, hands to the journal, and announces what was committed.

It never waits for storage while it works, and decides nothing that `actorchat.chat.rules` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never
from uuid import UUID

import attrs
import trio

from actorchat.actors import Actor, Pending, Request
from actorchat.chat.commands import FromMember
from actorchat.chat.feed import FeedItem, FeedRoster
from actorchat.chat.limits import ROOM_IN_FLIGHT, Limits, RateLimiter, check_message
from actorchat.chat.model import (
    ChatState,
    Identity,
    Stage,
    StoredMessage,
    identity_of,
    visible_to,
)
from actorchat.chat.operations import (
    AddMessage,
    Changed,
    ChatOperation,
    Decision,
    MarkMessage,
    Outcome,
    Refused,
    Unchanged,
)
from actorchat.chat.ports import Archive, Journal, StorageUnavailable
from actorchat.chat.replay import catch_up, changed_messages, status_ranges
from actorchat.chat.roster import Audience, Member, Position, Roster
from actorchat.chat.typing_relay import INTERVAL, SILENCE, Typed, Typist
from actorchat.protocol import (
    CloseCode,
    Frames,
    MarkMessageDelivered,
    MarkMessageRead,
    MessageType,
    Profile,
    RefusalCode,
    Role,
    SendMessage,
    TypingUpdated,
    UpdateTyping,
    User,
    encode_event,
)

__all__ = ["Announce", "Departed", "Enter", "Perform", "Room", "RoomMessage", "RoomPorts"]

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
    feed: Callable[[str], FeedRoster]
    limiter: RateLimiter
    limits: Limits


@attrs.frozen
class Enter(Request[bool]):
    """Be there: afterwards `Roster.announced` is set. False: there is no such chat."""


@attrs.frozen
class Perform(Request[Decision]):
    """An operation from outside the room's sockets; the reply is what was decided."""

    operation: ChatOperation


@attrs.frozen
class Announce:
    """Outcomes wait in the roster."""


@attrs.frozen
class Departed:
    """A user's last socket in the room is gone."""

    identity: Identity


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


@attrs.define(eq=False)
class _Stream:
    """What one audience gets of one announcement. `behind` is where its members must read on from."""

    audience: Audience
    payloads: list[bytes] = attrs.Factory(list)
    behind: Position | None = None


class Room(Actor[RoomMessage]):
    """The actor of one chat. All that must outlive a crash is in its roster and in storage."""

    def __init__(self, roster: Roster, ports: RoomPorts) -> None:
        self._roster, self._ports = roster, ports

    async def on_start(self) -> None:
        roster = self._roster
        if roster.announced is None:
            # Operations come through here only, so nothing is in flight and what storage says is announced.
            roster.announced = await self._ports.archive.chat(roster.chat)
            return
        # Before anything is announced: that may leave members behind, who then read on already.
        for member, position in roster.behind.items():
            if position.lagging:
                self._read_on(member, position)
        await self._recover()
        self._publish(self._settle())
        for identity, presence in roster.present.items():
            if presence.sockets == 0:
                self.after(PRESENCE_GRACE, _Lapsed(identity), key=("lapsed", identity))
        for identity in roster.typists:
            self.after(SILENCE, _TypingSilent(identity), key=("silent", identity))
            self.after(INTERVAL, _TypingDue(identity), key=("typing", identity))

    def can_passivate(self) -> bool:
        return self._roster.vacant

    async def receive_batch(self, messages: Sequence[RoomMessage]) -> None:
        now = trio.current_time()
        for message in messages:
            if isinstance(message, FromMember):
                self._command(message, now)
            else:
                await self.receive(message)

    async def receive(self, message: RoomMessage) -> None:
        match message:
            case Announce():
                await self._announce()
            case FromMember():
                self._command(message, trio.current_time())
            case Enter():
                self.reply(message, self._roster.announced is not None)
            case Perform():
                self._perform(message, trio.current_time())
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

    def _command(self, item: FromMember, now: float) -> None:
        try:
            self._take(item, now)
        except Exception:
            _log.exception("a command failed in chat %s; its socket is closed", self._roster.chat)
            item.settle()
            item.member.session.close(CloseCode.SERVER_FAILED, "the server failed")

    def _take(self, item: FromMember, now: float) -> None:
        item.begun = True
        command, session = item.command, item.member.session
        chat = self._roster.chat
        match command:
            case SendMessage():
                refused = self._check(item.member.identity, command.text, command.attachments, now)
                if refused is not None:
                    item.settle()
                    item.refuse(refused)
                    return
                self._stop_typing(item.member.identity, now)
                operation: ChatOperation = AddMessage(
                    chat, session.user, command.text, command.attachments, command.client_id
                )
            case MarkMessageDelivered(message_id=message_id):
                operation = MarkMessage(chat, session.user, message_id, read=False)
            case MarkMessageRead(message_id=message_id):
                operation = MarkMessage(chat, session.user, message_id, read=True)
            case UpdateTyping():
                self._typing(session.user, command, now)
                return
            case _:
                assert_never(command)
        refused = self._submit(operation, item)
        if refused is not None:
            item.settle()
            item.refuse(refused)

    def _perform(self, request: Perform, now: float) -> None:
        operation = request.operation
        refused = None
        if self._roster.announced is None:
            refused = Refused("not_found", "there is no such chat")
        elif isinstance(operation, AddMessage):
            identity = identity_of(operation.author)
            refused = self._check(identity, operation.text, operation.attachments, now)
            if refused is None and operation.type is MessageType.STANDARD:
                self._stop_typing(identity, now)
        if refused is None:
            pending = self.defer(request)
            refused = self._submit(operation, pending)
            if refused is not None:
                pending.reply(refused)
        else:
            self.reply(request, refused)

    def _check(self, identity: Identity, text: str, attachments: tuple[UUID, ...], now: float) -> Refused | None:
        bucket = self._ports.limiter.bucket(identity, now)
        wait = 0.0 if bucket is None else bucket.take(now)
        if wait:
            return Refused(RefusalCode.RATE_LIMITED, "too many messages", wait)
        return check_message(text, attachments, self._ports.limits)

    def _submit(self, operation: ChatOperation, origin: object) -> Refused | None:
        roster = self._roster
        if roster.in_flight < ROOM_IN_FLIGHT and self._ports.journal.submit(operation, roster, origin):
            roster.in_flight += 1
            return None
        return Refused(RefusalCode.OVERLOADED, "the chat has too much to do", 1.0)

    # What was decided

    async def _announce(self) -> None:
        changes = self._settle()
        announced = self._roster.announced
        if changes and announced is not None and changes[0].chat.rev > announced.rev + 1:
            await self._recover()
        self._publish(changes)

    def _settle(self) -> list[Changed]:
        """Answer whoever asked; what is left is to be announced."""
        roster, changes = self._roster, []
        while roster.outcomes:
            outcome = roster.outcomes.popleft()
            roster.in_flight -= 1
            roster.counters.extend(outcome.counters)
            if isinstance(outcome.decision, Changed):
                changes.append(outcome.decision)
            self._answer(outcome)
        return changes

    def _answer(self, outcome: Outcome) -> None:
        origin, decision = outcome.origin, outcome.decision
        if isinstance(origin, Pending):
            origin.reply(decision)
        elif isinstance(origin, FromMember):
            origin.settle()
            if isinstance(decision, Refused):
                origin.refuse(decision)
            elif isinstance(decision, Unchanged) and decision.message is not None:
                message = decision.message
                payload = self._roster.encoder.added(decision.chat, message, message.client_id)
                origin.member.session.push(Frames.of([payload]))

    async def _recover(self) -> None:
        """Announce from storage what was committed after `announced`: an incarnation crashed before it could."""
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
                chat = attrs.evolve(announced, rev=messages[-1].rev, next_index=messages[-1].index + 1)
            changed = (chat.stage, chat.operator) != (announced.stage, announced.operator)
            self._publish([Changed(chat, messages, changed)])

    def _publish(self, changes: Sequence[Changed]) -> None:
        """Encode once for each audience and the feed, then send; all in one step. Nothing is sent if encoding fails."""
        roster, before = self._roster, self._roster.announced
        fresh = [change for change in changes if before is None or change.chat.rev > before.rev]
        if not fresh:
            self._put_counters()
            return
        feed = self._ports.feed(fresh[-1].chat.source)
        streams = [_Stream(audience) for audience in roster.audiences if audience.members]
        senders = self._senders(fresh)
        shown: list[bytes] | None = [] if feed.listening else None
        added: list[StoredMessage] = []
        for change in fresh:
            self._encode(change, before, streams, senders, shown, added)
            before = change.chat
        if any(change.chat_changed and change.chat.stage is Stage.CLOSED for change in fresh):
            now = trio.current_time()
            for identity in self._roster.typists:
                self._stop_typing(identity, now)
        roster.announced = before
        roster.tail.extend(added)
        for stream in streams:
            self._send(stream, senders)
        chat = fresh[-1].chat
        frames = Frames.of(shown) if shown else None
        if frames is not None or roster.counters:
            feed.put(FeedItem(chat.uuid, chat.rev, frames, tuple(roster.counters)))
            roster.counters.clear()

    def _encode(
        self,
        change: Changed,
        before: ChatState | None,
        streams: list[_Stream],
        senders: dict[Identity, list[bytes]],
        shown: list[bytes] | None,
        added: list[StoredMessage],
    ) -> None:
        roster, chat = self._roster, change.chat
        encoder = roster.encoder
        reading = [stream for stream in streams if stream.behind is None]
        if change.chat_changed:
            payload = encoder.chat_updated(chat)
            for stream in reading:
                if stream.audience.profile is Profile.EXTENDED:
                    stream.payloads.append(payload)
            for own in senders.values():
                own.append(payload)
            if shown is not None and chat.listed:
                shown.append(payload)
        for message in change.messages:
            payload = encoder.added(chat, message)
            for stream in reading:
                if visible_to(message, stream.audience.role):
                    stream.payloads.append(payload)
            for identity, own in senders.items():
                if (
                    message.client_id is not None
                    and message.author is not None
                    and identity_of(message.author) == identity
                ):
                    own.append(encoder.added(chat, message, message.client_id))
                elif visible_to(message, identity.role):
                    own.append(payload)
            if shown is not None and message.type is MessageType.STANDARD:
                shown.append(payload)
            added.append(message)
        ranges = status_ranges(before, chat)
        if ranges:
            self._encode_receipts(chat, before, ranges, reading, senders, added)

    def _encode_receipts(
        self,
        chat: ChatState,
        before: ChatState | None,
        ranges: tuple[tuple[Role, int, int], ...],
        reading: list[_Stream],
        senders: dict[Identity, list[bytes]],
        added: list[StoredMessage],
    ) -> None:
        roster, encoder = self._roster, self._roster.encoder
        # A range says whose messages changed; the receipts are the other side's.
        receipts = [
            encoder.receipts(chat, Role.USER if author_role is Role.OPERATOR else Role.OPERATOR)
            for author_role, _, _ in ranges
        ]
        for own in senders.values():
            own.extend(receipts)
        tail = [*roster.tail, *added]
        remembered = bool(tail) and tail[0].index <= min(low for _, low, _ in ranges) + 1
        updated = [encoder.updated(chat, message) for message in changed_messages(tail, ranges)] if remembered else []
        for stream in reading:
            if stream.audience.profile is Profile.EXTENDED:
                stream.payloads.extend(receipts)
            elif remembered:
                stream.payloads.extend(updated)
            elif before is not None:
                stream.behind = Position(chat.next_index - 1, before, lagging=True)

    def _senders(self, changes: Sequence[Changed]) -> dict[Identity, list[bytes]]:
        """The authors whose own extended sockets get their `client_id` with the message."""
        return {
            identity_of(message.author): []
            for change in changes
            for message in change.messages
            if message.client_id is not None and message.author is not None
        }

    def _send(self, stream: _Stream, senders: dict[Identity, list[bytes]]) -> None:
        audience = stream.audience
        frames = Frames.of(stream.payloads) if stream.payloads else None
        own = {
            identity: Frames.of(payloads) for identity, payloads in senders.items() if identity.role is audience.role
        }
        if own and audience.profile is Profile.EXTENDED:
            for member in audience.members:
                sent = own.get(member.identity, frames)
                if sent is not None:
                    member.session.push(sent)
        elif frames is not None:
            audience.push(frames)
        if stream.behind is not None:
            for member in tuple(audience.members):
                position = attrs.evolve(stream.behind)
                self._roster.fall_behind(member, position)
                self._read_on(member, position)

    def _put_counters(self) -> None:
        announced, counters = self._roster.announced, self._roster.counters
        if counters and announced is not None:
            item = FeedItem(announced.uuid, announced.rev, None, tuple(counters))
            counters.clear()
            self._ports.feed(announced.source).put(item)

    # Members that read more than the room remembers

    def _read_on(self, member: Member, position: Position) -> None:
        self.pipe(
            partial(catch_up, member, position, self._roster, self._ports.archive),
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
        identity = identity_of(user)
        typist = self._roster.typists.setdefault(identity, Typist(user))
        step = typist.relay.update(command.text[: self._ports.limits.text_length], command.stopped, now)
        self.after(SILENCE, _TypingSilent(identity), key=("silent", identity))
        if isinstance(step, float):
            self.after(step, _TypingDue(identity), key=("typing", identity))
        elif step is not None:
            self._show_typing(user, step)

    def _typing_due(self, identity: Identity, now: float) -> None:
        typist = self._roster.typists.get(identity)
        typed = None if typist is None else typist.relay.due(now)
        if typist is not None and typed is not None:
            self._show_typing(typist.user, typed)

    def _stop_typing(self, identity: Identity, now: float) -> None:
        typist = self._roster.typists.get(identity)
        typed = None if typist is None else typist.relay.stop(now)
        if typist is not None and typed is not None:
            self._show_typing(typist.user, typed)

    def _show_typing(self, user: User, typed: Typed) -> None:
        roster, chat = self._roster, self._roster.announced
        if chat is None:
            return
        if chat.listed:
            feed = self._ports.feed(chat.source)
            if feed.listening:
                feed.put_typing(_typing_frames(user, chat.uuid, typed.text, typed.stopped))
        for audience in roster.audiences:
            if audience.profile is Profile.EXTENDED and audience.role is not user.role and audience.members:
                audience.push(_typing_frames(user, chat.uuid, "", typed.stopped))


def _typing_frames(user: User, chat: UUID, text: str, stopped: bool) -> Frames:
    event = TypingUpdated(text=text, stopped=stopped, chat_id=chat, user=user)
    return Frames.of([encode_event(event, Profile.EXTENDED)], typing=True)
