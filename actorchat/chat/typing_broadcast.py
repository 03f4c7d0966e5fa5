"""Owns who in a room and on its feed is shown what somebody types. When, is the relay's; timers are the room's."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from actorchat.chat.feed import FeedState
from actorchat.chat.model import Identity, identity_of
from actorchat.chat.room_state import RoomState
from actorchat.chat.typing_throttle import Typed
from actorchat.protocol import Frames, Profile, TypingUpdated, User, encode_event

__all__ = ["show_typing", "stop_typing"]


def show_typing(room_state: RoomState, feed_of: Callable[[str], FeedState], user: User, typed: Typed) -> None:
    """The text to the feed; to the room's other role, *(ext)*, only that somebody types."""
    chat = room_state.announced
    if chat is None:
        return
    if chat.listed:
        feed = feed_of(chat.source)
        if feed.listening:
            frames = _typing_frames(user, chat.uuid, typed.text, typed.stopped)
            feed.put_typing(chat.uuid, identity_of(user), frames, stopped=typed.stopped)
    for audience in room_state.audiences:
        if audience.profile is Profile.EXTENDED and audience.role is not user.role and audience.subscriptions:
            audience.push(_typing_frames(user, chat.uuid, "", typed.stopped))


def stop_typing(room_state: RoomState, feed_of: Callable[[str], FeedState], identity: Identity, now: float) -> None:
    """Make up a stop, if typing was on."""
    typist = room_state.typists.get(identity)
    typed = None if typist is None else typist.throttle.stop(now)
    if typist is not None and typed is not None:
        show_typing(room_state, feed_of, typist.user, typed)


def _typing_frames(user: User, chat: UUID, text: str, stopped: bool) -> Frames:
    event = TypingUpdated(text=text, stopped=stopped, chat_id=chat, user=user)
    # A full outbox drops typing. A stop is not told again, so it is kept like any other event.
    return Frames.of([encode_event(event, Profile.EXTENDED)], typing=not stopped)
