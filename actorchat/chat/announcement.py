"""Owns how committed changes become bytes for everybody in a room: encoded once, framed once per audience.

Decides nothing and waits for nothing. Building one sends nothing, so that a failure to encode is seen by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of, visible_to
from actorchat.chat.operations import Changed
from actorchat.chat.replay import changed_messages, status_ranges
from actorchat.chat.roster import Audience, Member, Position, Roster
from actorchat.protocol import Frames, MessageType, Profile, Role

__all__ = ["Announcement"]


@attrs.define(eq=False)
class _Stream:
    """What one audience gets. `behind` is where its members must read on from."""

    audience: Audience
    payloads: list[bytes] = attrs.Factory(list)
    behind: Position | None = None


class Announcement:
    """`changes`, of one chat and in commit order, for the members of `roster` and, with `listening`, for its feed.

    `shown` is what the feed's consoles get, None for nothing.
    """

    def __init__(self, roster: Roster, changes: Sequence[Changed], *, listening: bool) -> None:
        self._roster = roster
        self._streams = [_Stream(audience) for audience in roster.audiences if audience.members]
        # The authors whose own extended sockets get their `client_id` with the message.
        self._senders: dict[Identity, list[bytes]] = {
            identity_of(message.author): []
            for change in changes
            for message in change.messages
            if message.client_id is not None and message.author is not None
        }
        self._shown: list[bytes] | None = [] if listening else None
        self._added: list[StoredMessage] = []
        self._after = roster.announced
        for change in changes:
            self._encode(change, self._after)
            self._after = change.chat
        self.shown = Frames.of(self._shown) if self._shown else None

    def send(self) -> list[tuple[Member, Position]]:
        """Everything is announced now. Returns the members that fell behind, to be read on for."""
        self._roster.announced = self._after
        self._roster.tail.extend(self._added)
        behind: list[tuple[Member, Position]] = []
        for stream in self._streams:
            self._push(stream)
            if stream.behind is not None:
                for member in tuple(stream.audience.members):
                    position = attrs.evolve(stream.behind)
                    self._roster.fall_behind(member, position)
                    behind.append((member, position))
        return behind

    def _encode(self, change: Changed, before: ChatState | None) -> None:
        chat, encoder = change.chat, self._roster.encoder
        reading = [stream for stream in self._streams if stream.behind is None]
        if change.chat_changed:
            payload = encoder.chat_updated(chat)
            for stream in reading:
                if stream.audience.profile is Profile.EXTENDED:
                    stream.payloads.append(payload)
            for own in self._senders.values():
                own.append(payload)
            if self._shown is not None and chat.listed:
                self._shown.append(payload)
        for message in change.messages:
            self._encode_message(chat, message, reading)
        ranges = status_ranges(before, chat)
        if ranges:
            self._encode_receipts(chat, before, ranges, reading)

    def _encode_message(self, chat: ChatState, message: StoredMessage, reading: list[_Stream]) -> None:
        encoder = self._roster.encoder
        payload = encoder.added(chat, message)
        for stream in reading:
            if visible_to(message, stream.audience.role):
                stream.payloads.append(payload)
        author = None if message.client_id is None or message.author is None else identity_of(message.author)
        for identity, own in self._senders.items():
            if identity == author:
                own.append(encoder.added(chat, message, message.client_id))
            elif visible_to(message, identity.role):
                own.append(payload)
        if self._shown is not None and message.type is MessageType.STANDARD:
            self._shown.append(payload)
        self._added.append(message)

    def _encode_receipts(
        self,
        chat: ChatState,
        before: ChatState | None,
        ranges: tuple[tuple[Role, int, int], ...],
        reading: list[_Stream],
    ) -> None:
        encoder = self._roster.encoder
        # A range says whose messages changed; the receipts are the other side's.
        receipts = [
            encoder.receipts(chat, Role.USER if author_role is Role.OPERATOR else Role.OPERATOR)
            for author_role, _, _ in ranges
        ]
        for own in self._senders.values():
            own.extend(receipts)
        tail = [*self._roster.tail, *self._added]
        remembered = bool(tail) and tail[0].index <= min(low for _, low, _ in ranges) + 1
        updated: list[bytes] | None = None
        for stream in reading:
            if stream.audience.profile is Profile.EXTENDED:
                stream.payloads.extend(receipts)
            elif remembered:
                if updated is None:
                    updated = [encoder.updated(chat, message) for message in changed_messages(tail, ranges)]
                stream.payloads.extend(updated)
            elif before is not None:
                stream.behind = Position(chat.next_index - 1, before, lagging=True)

    def _push(self, stream: _Stream) -> None:
        audience = stream.audience
        frames = Frames.of(stream.payloads) if stream.payloads else None
        own = {
            identity: Frames.of(payloads)
            for identity, payloads in self._senders.items()
            if identity.role is audience.role and payloads
        }
        if own and audience.profile is Profile.EXTENDED:
            for member in audience.members:
                sent = own.get(member.identity, frames)
                if sent is not None:
                    member.session.push(sent)
        elif frames is not None:
            audience.push(frames)
