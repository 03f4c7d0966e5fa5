"""Owns how committed changes become bytes for everybody in a room: encoded once, framed once per audience.

Decides nothing and waits for nothing. Building one sends nothing, so that a failure to encode is seen by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from actorchat.chat.links import Links, fill_links
from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of, visible_to
from actorchat.chat.operations import Changed
from actorchat.chat.replay import changed_messages, status_ranges
from actorchat.chat.room_state import Audience, ReplayCursor, RoomState
from actorchat.protocol import Frames, MessageType, Profile, Role, text_frame, to_sender

__all__ = ["Broadcast"]


class _FrameBuffer:
    """Frames in order. `own`: the same for the extended sockets of one author, who is told `client_id`s as well."""

    __slots__ = ("frames", "own")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.own: dict[Identity, list[bytes]] = {}

    def copy(self) -> _FrameBuffer:
        copy = _FrameBuffer()
        copy.frames = self.frames.copy()
        copy.own = {author: frames.copy() for author, frames in self.own.items()}
        return copy

    def add(self, frame: bytes) -> None:
        self.frames.append(frame)
        if self.own:
            for own in self.own.values():
                own.append(frame)

    def add_named(self, frame: bytes, author: Identity, named: bytes) -> None:
        """`named` in the place of `frame` for its author."""
        if author not in self.own:
            self.own[author] = self.frames.copy()
        self.add(frame)
        self.own[author][-1] = named

    def push_filled(self, audience: Audience, frames: Frames, links: Links) -> None:
        """As `push`, each subscription with its own links to the messages' files."""
        own: dict[Identity, Frames] = {}
        if audience.profile is Profile.EXTENDED:
            own = {author: Frames.joined(named) for author, named in self.own.items() if author.role is audience.role}
        for subscription in audience.subscriptions:
            identity = subscription.identity
            subscription.session.push(fill_links(own.get(identity, frames), identity, links))

    def push(self, audience: Audience, frames: Frames) -> None:
        """`frames` are its own, joined."""
        if self.own and audience.profile is Profile.EXTENDED:
            role = audience.role
            own = {author: Frames.joined(named) for author, named in self.own.items() if author.role is role}
            if own:
                for subscription in audience.subscriptions:
                    subscription.session.push(own.get(subscription.identity, frames))
                return
        audience.push(frames)


class _AudienceFrames:
    """What one audience gets. `behind` is where its members must read on from."""

    __slots__ = ("audience", "behind", "buffer", "extended")

    def __init__(self, audience: Audience, buffer: _FrameBuffer) -> None:
        self.audience = audience
        self.extended = audience.profile is Profile.EXTENDED
        self.buffer = buffer
        self.behind: ReplayCursor | None = None


class Broadcast:
    """`changes`, of one chat and in commit order, for the members of `room_state` and, with `listening`, for its feed.

    `shown` is what the feed's consoles get, None for nothing. `steps`, for several changes: each one's revision, and
    the number of frames in `shown` up to it. `linked`: some message has files, and each reader needs links of its own.
    """

    __slots__ = (
        "_added",
        "_after",
        "_for_all",
        "_frames",
        "_room_state",
        "_shown",
        "_streams",
        "linked",
        "shown",
        "steps",
    )

    def __init__(self, room_state: RoomState, changes: Sequence[Changed], *, listening: bool) -> None:
        self._room_state = room_state
        # Most of what is said is for everybody, feed included. Streams are made when the first thing is not.
        self._for_all = _FrameBuffer()
        self._streams: list[_AudienceFrames] | None = None
        self._shown: list[bytes] = []
        self._added: list[StoredMessage] = []
        self.linked: bool = False
        self._after = room_state.announced
        steps: list[tuple[int, int]] = []
        several = listening and len(changes) > 1
        for change in changes:
            self._encode(change, self._after)
            self._after = change.chat
            if several:
                steps.append((change.chat.rev, self._shown_count()))
        self.steps: tuple[tuple[int, int], ...] = tuple(steps)
        self._frames = Frames.joined(self._for_all.frames)
        self.shown: Frames | None = self._join_shown() if listening else None

    def _shown_count(self) -> int:
        return len(self._for_all.frames if self._streams is None else self._shown)

    def _join_shown(self) -> Frames | None:
        if self._streams is None:
            return self._frames if self._frames.ends else None
        return Frames.joined(self._shown) if self._shown else None

    def send(self) -> bool:
        """Everything is announced now. True: members fell behind, and are to be read on for."""
        room_state = self._room_state
        room_state.announced = self._after
        room_state.tail.extend(self._added)
        if self._streams is not None:
            return self._send_streams(self._streams)
        if self._frames.ends:
            for audience in room_state.audiences:
                if audience.subscriptions:
                    self._push(self._for_all, audience, self._frames)
        return False

    def _send_streams(self, streams: list[_AudienceFrames]) -> bool:
        fell_behind = False
        joined: list[tuple[list[bytes], Frames]] = []
        for stream in streams:
            buffer = stream.buffer
            if buffer.frames:
                # Many streams are the same: joined once, not once for each audience.
                same = next((made for frames, made in joined if frames == buffer.frames), None)
                if same is None:
                    same = Frames.joined(buffer.frames)
                    joined.append((buffer.frames, same))
                self._push(buffer, stream.audience, same)
            if stream.behind is not None:
                for subscription in tuple(stream.audience.subscriptions):
                    self._room_state.fall_behind(subscription, attrs.evolve(stream.behind))
                    fell_behind = True
        return fell_behind

    def _push(self, buffer: _FrameBuffer, audience: Audience, frames: Frames) -> None:
        if self.linked:
            buffer.push_filled(audience, frames, self._room_state.links)
        else:
            buffer.push(audience, frames)

    def _split(self) -> list[_AudienceFrames]:
        """The streams of those who still read along, from now on each with frames of its own."""
        if self._streams is None:
            audiences = self._room_state.audiences
            self._streams = [
                _AudienceFrames(audience, self._for_all.copy()) for audience in audiences if audience.subscriptions
            ]
            self._shown = self._for_all.frames.copy()
        return [stream for stream in self._streams if stream.behind is None]

    def _encode(self, change: Changed, before: ChatState | None) -> None:
        chat = change.chat
        if change.chat_changed:
            frame = text_frame(self._room_state.encoder.chat_updated(chat))
            for stream in self._split():
                if stream.extended:
                    stream.buffer.add(frame)
            if chat.listed:
                self._shown.append(frame)
        for message in change.messages:
            self._encode_message(chat, message)
        ranges = status_ranges(before, chat)
        if ranges:
            self._encode_receipts(chat, before, ranges, self._split())

    def _encode_message(self, chat: ChatState, message: StoredMessage) -> None:
        payload = self._room_state.encoder.added(chat, message)
        frame = text_frame(payload)
        standard = message.type is MessageType.STANDARD
        if message.attachments:
            self.linked = True
        if self._streams is None and standard:
            strands = [self._for_all]
        else:
            strands = [stream.buffer for stream in self._split() if visible_to(message, stream.audience.role)]
            if standard:
                self._shown.append(frame)
        if message.client_id is None or message.author is None:
            for buffer in strands:
                buffer.add(frame)
        else:
            author, named = identity_of(message.author), text_frame(to_sender(payload, message.client_id))
            for buffer in strands:
                buffer.add_named(frame, author, named)
        self._added.append(message)

    def _encode_receipts(
        self,
        chat: ChatState,
        before: ChatState | None,
        ranges: tuple[tuple[Role, int, int], ...],
        reading: list[_AudienceFrames],
    ) -> None:
        encoder = self._room_state.encoder
        # A range says whose messages changed; the receipts are the other side's.
        receipts = [
            text_frame(encoder.receipts(chat, Role.USER if author_role is Role.OPERATOR else Role.OPERATOR))
            for author_role, _, _ in ranges
        ]
        tail = [*self._room_state.tail, *self._added]
        remembered = bool(tail) and tail[0].index <= min(low for _, low, _ in ranges) + 1
        updated: list[bytes] | None = None
        for stream in reading:
            if stream.extended:
                for frame in receipts:
                    stream.buffer.add(frame)
            elif remembered:
                if updated is None:
                    messages = changed_messages(tail, ranges)
                    updated = [text_frame(encoder.updated(chat, message)) for message in messages]
                    self.linked = self.linked or any(message.attachments for message in messages)
                for frame in updated:
                    stream.buffer.add(frame)
            elif before is not None:
                stream.behind = ReplayCursor(chat.next_index - 1, before, lagging=True)
