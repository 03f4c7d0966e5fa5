"""Encodes committed changes once and sends them to everybody in a room, framed once per audience.

Making a `Broadcast` sends nothing yet, so nobody sees a part of changes that can't be encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from actorchat.chat.links import Links, fill_links
from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of, visible_to
from actorchat.chat.operations import Changed
from actorchat.chat.replay import changed_messages, status_ranges
from actorchat.chat.room_state import Audience, ReplayCursor, RoomState
from actorchat.protocol import Frames, MessageType, Profile, Role, note_added_payload, text_frame, to_sender

__all__ = ["Broadcast"]


class _FrameBuffer:
    """Frames in order.

    `own` has the same frames for each author of messages with a `client_id`: on their extended sockets,
    `message_added` names it.
    """

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

    def add_message(self, frame: bytes, author: Identity, own_frame: bytes) -> None:
        """Add `own_frame` for `author`, and `frame` for everybody else."""
        if author not in self.own:
            self.own[author] = self.frames.copy()
        self.frames.append(frame)
        for identity, own in self.own.items():
            own.append(own_frame if identity == author else frame)

    def push_filled(self, audience: Audience, frames: Frames, links: Links) -> None:
        """Like `push`, with each subscription's own links to the messages' files."""
        own: dict[Identity, Frames] = {}
        if audience.profile is Profile.EXTENDED:
            own = {author: Frames.joined(named) for author, named in self.own.items() if author.role is audience.role}
        for subscription in audience.subscriptions:
            identity = subscription.identity
            subscription.session.push(fill_links(own.get(identity, frames), identity, links))

    def push(self, audience: Audience, frames: Frames) -> None:
        """Send to every subscription. `frames` are this buffer's own, joined."""
        own: dict[Identity, Frames] = {}
        if self.own and audience.profile is Profile.EXTENDED:
            for author, named in self.own.items():
                if author.role is audience.role:
                    own[author] = Frames.joined(named)
        if own:
            for subscription, session in audience.subscriptions.items():
                session.push(own.get(subscription.identity, frames))
        else:
            for session in audience.subscriptions.values():
                session.push(frames)


class _AudienceFrames:
    """The frames of one audience. `behind` is where its subscriptions have to read on from, if they fall behind."""

    __slots__ = ("audience", "behind", "buffer", "extended")

    def __init__(self, audience: Audience, buffer: _FrameBuffer) -> None:
        self.audience = audience
        self.extended = audience.profile is Profile.EXTENDED
        self.buffer = buffer
        self.behind: ReplayCursor | None = None


class Broadcast:
    """The frames of `changes`, which are of one chat and in commit order, for its room and for a feed with consoles.

    After `send`, `shown` has the frames for the feed, None for none. `steps`, for several changes: the revision of
    each, and the number of frames in `shown` up to it. `extended` and `extended_steps` are the same for extended
    consoles, if they get frames that others don't: notes, edits and redactions. `linked`: a message has files, and each
    reader needs its own links to them.
    """

    __slots__ = (
        "_added",
        "_after",
        "_extended_shown",
        "_for_all",
        "_former_owner",
        "_listening",
        "_room_state",
        "_shown",
        "_streams",
        "_updated",
        "extended",
        "extended_steps",
        "linked",
        "shown",
        "steps",
    )

    def __init__(self, room_state: RoomState, changes: Sequence[Changed], *, listening: bool) -> None:
        self._room_state = room_state
        self._listening = listening
        # Most frames are the same for all audiences and the feed, so one buffer is enough. The first frame that is not
        # creates a stream for each audience.
        self._for_all = _FrameBuffer()
        self._streams: list[_AudienceFrames] | None = None
        self._shown: list[bytes] = []
        self._extended_shown: list[bytes] | None = None
        self._added: list[StoredMessage] = []
        self._updated: dict[int, StoredMessage] = {}
        self._former_owner: Identity | None = None
        self.linked: bool = False
        self._after = room_state.announced
        self.shown: Frames | None = None
        self.extended: Frames | None = None
        steps: list[tuple[int, int]] = []
        extended_steps: list[tuple[int, int]] = []
        several = listening and len(changes) > 1
        for change in changes:
            shown = self._encode(change, self._after)
            self._after = change.chat
            if several:
                steps.append((change.chat.rev, shown))
                extended_steps.append((change.chat.rev, self._count_extended(shown)))
        self.steps: tuple[tuple[int, int], ...] = tuple(steps)
        self.extended_steps: tuple[tuple[int, int], ...] = tuple(extended_steps)

    def send(self) -> bool:
        """Send everything to the room. True if subscriptions fell behind, so that the room has to replay to them."""
        room_state = self._room_state
        room_state.announced = self._after
        room_state.tail.extend(self._added)
        if self._former_owner is not None and self._after is not None:
            room_state.give_messages(self._former_owner, self._after.owner)
        if self._updated:
            room_state.change_messages(self._updated.values())
        if self._streams is not None:
            if self._listening and self._shown:
                self.shown = Frames.joined(self._shown)
            if self._listening and self._extended_shown:
                self.extended = Frames.joined(self._extended_shown)
            return self._send_streams(self._streams)
        for_all = self._for_all
        if for_all.frames:
            frames = Frames.joined(for_all.frames)
            if self._listening:
                self.shown = frames
            for audience in room_state.audiences:
                if audience.subscriptions:
                    if self.linked:
                        for_all.push_filled(audience, frames, room_state.links)
                    else:
                        for_all.push(audience, frames)
        return False

    def _send_streams(self, streams: list[_AudienceFrames]) -> bool:
        fell_behind = False
        joined: list[tuple[list[bytes], Frames]] = []
        for stream in streams:
            buffer = stream.buffer
            if buffer.frames:
                # Many streams have the same frames, which are joined only once.
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
        """Give each audience frames of its own, and return those of the audiences that are not behind."""
        if self._streams is None:
            audiences = self._room_state.audiences
            self._streams = [
                _AudienceFrames(audience, self._for_all.copy()) for audience in audiences if audience.subscriptions
            ]
            self._shown = self._for_all.frames.copy()
        return [stream for stream in self._streams if stream.behind is None]

    def _encode(self, change: Changed, before: ChatState | None) -> int:
        """Encode one change. Returns the number of frames for the feed up to it."""
        chat = change.chat
        if change.chat_changed:
            if before is not None and before.owner.id != chat.owner.id:
                self._former_owner = identity_of(before.owner)
            frame = text_frame(self._room_state.encoder.chat_updated(chat))
            for stream in self._split():
                if stream.extended:
                    stream.buffer.add(frame)
            if chat.listed:
                self._show(frame)
        for message in change.messages:
            self._encode_message(chat, message)
        for message in change.updated:
            self._encode_edit(chat, message)
        # Most changes move no watermark.
        if before is not None and (
            before.visitor_read != chat.visitor_read
            or before.visitor_delivered != chat.visitor_delivered
            or before.operators_read != chat.operators_read
            or before.operators_delivered != chat.operators_delivered
        ):
            ranges = status_ranges(before, chat)
            if ranges:
                self._encode_receipts(chat, before, ranges, self._split())
        return len(self._for_all.frames if self._streams is None else self._shown)

    def _encode_message(self, chat: ChatState, message: StoredMessage) -> None:
        payload = self._room_state.encoder.added(chat, message)
        frame = text_frame(payload)
        standard = message.type is MessageType.STANDARD
        if message.attachments:
            self.linked = True
        if self._streams is None and standard:
            buffers = [self._for_all]
        else:
            buffers = [stream.buffer for stream in self._split() if visible_to(message, stream.audience.role)]
            if standard:
                self._show(frame)
            elif visible_to(message, Role.OPERATOR):
                self._show_extended(text_frame(note_added_payload(payload)))
        if message.client_id is None or message.author is None:
            for buffer in buffers:
                buffer.add(frame)
        else:
            author, own_frame = identity_of(message.author), text_frame(to_sender(payload, message.client_id))
            for buffer in buffers:
                buffer.add_message(frame, author, own_frame)
        self._added.append(message)

    def _encode_edit(self, chat: ChatState, message: StoredMessage) -> None:
        """Encode an edit or a redaction, which only extended consoles show."""
        encoder = self._room_state.encoder
        payload = encoder.updated(chat, message)
        plain, extended = text_frame(payload), text_frame(encoder.edit_of(payload, message))
        self.linked = self.linked or bool(message.attachments)
        for stream in self._split():
            if visible_to(message, stream.audience.role):
                stream.buffer.add(extended if stream.extended else plain)
        if visible_to(message, Role.OPERATOR):
            self._show_extended(extended)
        self._updated[message.index] = message

    def _show(self, frame: bytes) -> None:
        """Add a frame for all consoles. The audiences have frames of their own."""
        self._shown.append(frame)
        if self._extended_shown is not None:
            self._extended_shown.append(frame)

    def _count_extended(self, shown: int) -> int:
        """The number of frames for extended consoles so far; `shown` is that for all consoles."""
        return shown if self._extended_shown is None else len(self._extended_shown)

    def _show_extended(self, frame: bytes) -> None:
        """Add a frame for extended consoles only."""
        if self._extended_shown is None:
            self._extended_shown = self._shown.copy()
        self._extended_shown.append(frame)

    def _encode_receipts(
        self,
        chat: ChatState,
        before: ChatState,
        ranges: tuple[tuple[Role, int, int], ...],
        reading: list[_AudienceFrames],
    ) -> None:
        encoder = self._room_state.encoder
        # A range names the author of the changed messages. The receipts are those of the other side.
        receipts = [
            text_frame(encoder.receipts(chat, Role.USER if author_role is Role.OPERATOR else Role.OPERATOR))
            for author_role, _, _ in ranges
        ]
        tail = [*self._room_state.tail, *self._added]
        if self._updated:
            tail = [self._updated.get(message.index, message) for message in tail]
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
            else:
                stream.behind = ReplayCursor(
                    chat.next_index - 1, before, lagging=True, edits_rev=chat.rev, start_rev=chat.rev
                )
