"""Owns how committed changes become bytes for everybody in a room: encoded once, framed once per audience.

Decides nothing and waits for nothing. Building one sends nothing, so that a failure to encode is seen by nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from actorchat.chat.model import ChatState, StoredMessage, identity_of, visible_to
from actorchat.chat.operations import Changed
from actorchat.chat.replay import changed_messages, status_ranges
from actorchat.chat.roster import Audience, Position, Roster
from actorchat.protocol import Frames, MessageType, Profile, Role, User, text_frame, to_sender

__all__ = ["Announcement"]


class _Stream:
    """What one audience gets, frame by frame. `behind` is where its members must read on from.

    `own`, by the author's id, is what stands in the place of some frames for the author's own sockets.
    """

    __slots__ = ("audience", "behind", "extended", "frames", "own")

    def __init__(self, audience: Audience, frames: list[bytes]) -> None:
        self.audience = audience
        self.extended = audience.profile is Profile.EXTENDED
        self.frames = frames
        self.own: dict[int, dict[int, bytes]] = {}
        self.behind: Position | None = None

    def is_for(self, author: User) -> bool:
        """Whether the author's sockets are told the `client_id`, as far as they are in this audience."""
        return self.extended and self.audience.role is author.role

    def push(self, frames: Frames) -> None:
        """`frames` are its own, joined."""
        if not self.own:
            self.audience.push(frames)
            return
        senders = {author: self._to_sender(places) for author, places in self.own.items()}
        for member in self.audience.members:
            member.session.push(senders.get(member.identity.id, frames))

    def _to_sender(self, places: dict[int, bytes]) -> Frames:
        frames = self.frames.copy()
        for place, frame in places.items():
            frames[place] = frame
        return Frames.joined(frames)


class Announcement:
    """`changes`, of one chat and in commit order, for the members of `roster` and, with `listening`, for its feed.

    `shown` is what the feed's consoles get, None for nothing.
    """

    __slots__ = ("_added", "_after", "_for_all", "_roster", "_shown", "_streams", "shown")

    def __init__(self, roster: Roster, changes: Sequence[Changed], *, listening: bool) -> None:
        self._roster = roster
        # Most of what is said is for everybody. Streams are made when the first thing is not.
        self._for_all: list[bytes] = []
        self._streams: list[_Stream] | None = None
        self._shown: list[bytes] | None = [] if listening else None
        self._added: list[StoredMessage] = []
        self._after = roster.announced
        for change in changes:
            self._encode(change, self._after)
            self._after = change.chat
        self.shown = Frames.joined(self._shown) if self._shown else None

    def send(self) -> bool:
        """Everything is announced now. True: members fell behind, and are to be read on for."""
        roster = self._roster
        roster.announced = self._after
        roster.tail.extend(self._added)
        if self._streams is not None:
            return self._send_streams(self._streams)
        if self._for_all:
            frames = Frames.joined(self._for_all)
            for audience in roster.audiences:
                if audience.members:
                    audience.push(frames)
        return False

    def _send_streams(self, streams: list[_Stream]) -> bool:
        fell_behind = False
        joined: list[tuple[list[bytes], Frames]] = []
        for stream in streams:
            if stream.frames:
                # Many streams are the same: joined once, not once for each audience.
                same = next((made for frames, made in joined if frames == stream.frames), None)
                if same is None:
                    same = Frames.joined(stream.frames)
                    joined.append((stream.frames, same))
                stream.push(same)
            if stream.behind is not None:
                for member in tuple(stream.audience.members):
                    self._roster.fall_behind(member, attrs.evolve(stream.behind))
                    fell_behind = True
        return fell_behind

    def _split(self) -> list[_Stream]:
        """The streams of those who still read along, from now on each with frames of its own."""
        if self._streams is None:
            audiences = self._roster.audiences
            self._streams = [_Stream(audience, self._for_all.copy()) for audience in audiences if audience.members]
        return [stream for stream in self._streams if stream.behind is None]

    def _encode(self, change: Changed, before: ChatState | None) -> None:
        chat = change.chat
        if change.chat_changed:
            frame = text_frame(self._roster.encoder.chat_updated(chat))
            for stream in self._split():
                if stream.extended:
                    stream.frames.append(frame)
            if self._shown is not None and chat.listed:
                self._shown.append(frame)
        for message in change.messages:
            self._encode_message(chat, message)
        ranges = status_ranges(before, chat)
        if ranges:
            self._encode_receipts(chat, before, ranges, self._split())

    def _encode_message(self, chat: ChatState, message: StoredMessage) -> None:
        payload = self._roster.encoder.added(chat, message)
        frame = text_frame(payload)
        standard, author, client_id = message.type is MessageType.STANDARD, message.author, message.client_id
        named = client_id is not None and author is not None and identity_of(author) in self._roster.present
        if self._streams is None and standard and not named:
            self._for_all.append(frame)
        else:
            for stream in self._split():
                if not visible_to(message, stream.audience.role):
                    continue
                if client_id is not None and author is not None and named and stream.is_for(author):
                    places = stream.own.setdefault(author.id, {})
                    places[len(stream.frames)] = text_frame(to_sender(payload, client_id))
                stream.frames.append(frame)
        if standard and self._shown is not None:
            self._shown.append(frame)
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
            text_frame(encoder.receipts(chat, Role.USER if author_role is Role.OPERATOR else Role.OPERATOR))
            for author_role, _, _ in ranges
        ]
        tail = [*self._roster.tail, *self._added]
        remembered = bool(tail) and tail[0].index <= min(low for _, low, _ in ranges) + 1
        updated: list[bytes] | None = None
        for stream in reading:
            if stream.extended:
                stream.frames.extend(receipts)
            elif remembered:
                if updated is None:
                    updated = [text_frame(encoder.updated(chat, message)) for message in changed_messages(tail, ranges)]
                stream.frames.extend(updated)
            elif before is not None:
                stream.behind = Position(chat.next_index - 1, before, lagging=True)
