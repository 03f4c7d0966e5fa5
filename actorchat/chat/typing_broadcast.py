"""Sends typing events to the feed and to the other role in the room."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from actorchat.chat.elsewhere import RemoteTyping
from actorchat.chat.model import Identity, identity_of
from actorchat.chat.operator_feed import FeedState
from actorchat.chat.room_state import RoomState
from actorchat.chat.typing_throttle import Typed
from actorchat.protocol import Frames, Profile, TypingUpdated, User, encode_event

__all__ = ["put_typing", "show_typing", "show_typing_here", "stop_typing"]


def show_typing(room_state: RoomState, feed_of: Callable[[str], FeedState], user: User, typed: Typed) -> None:
    """Send a typing event to the feed with its text, and to the room's extended sockets of the other role without.

    Other nodes are told of it.
    """
    show_typing_here(room_state, feed_of, user, typed)
    chat, remote = room_state.announced, room_state.remote
    if chat is not None and remote is not None:
        remote.on_typing(RemoteTyping(chat.uuid, chat.source, chat.listed, user, typed.text, typed.stopped))


def show_typing_here(room_state: RoomState, feed_of: Callable[[str], FeedState], user: User, typed: Typed) -> None:
    """Like `show_typing`, on this node only."""
    chat = room_state.announced
    if chat is None:
        return
    if chat.listed:
        feed = feed_of(chat.source)
        if feed.consoles:
            put_typing(feed, chat.uuid, user, typed)
    for audience in room_state.audiences:
        if audience.profile is Profile.EXTENDED and audience.role is not user.role and audience.subscriptions:
            frames = _typing_frames(user, chat.uuid, "", typed.stopped)
            for session in audience.subscriptions.values():
                session.push(frames)


def put_typing(feed: FeedState, chat: UUID, user: User, typed: Typed) -> None:
    """Queue a typing event for the consoles."""
    frames = _typing_frames(user, chat, typed.text, typed.stopped)
    feed.put_typing(chat, identity_of(user), frames, stopped=typed.stopped)


def stop_typing(room_state: RoomState, feed_of: Callable[[str], FeedState], identity: Identity, now: float) -> None:
    """Send a stop for a user who was typing; nothing if typing had stopped already."""
    typist = room_state.typists.get(identity)
    typed = None if typist is None else typist.throttle.stop(now)
    if typist is not None and typed is not None:
        show_typing(room_state, feed_of, typist.user, typed)


def _typing_frames(user: User, chat: UUID, text: str, stopped: bool) -> Frames:
    event = TypingUpdated(text=text, stopped=stopped, chat_id=chat, user=user)
    # A full outbox drops typing events. A stop is sent only once, so it must not be dropped.
    return Frames.of([encode_event(event, Profile.EXTENDED)], typing=not stopped)
