"""Owns who in a room and on its feed is shown what somebody types. When, is the relay's; timers are the room's."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from actorchat.chat.feed import FeedRoster
from actorchat.chat.model import Identity, identity_of
from actorchat.chat.roster import Roster
from actorchat.chat.typing_relay import Typed
from actorchat.protocol import Frames, Profile, TypingUpdated, User, encode_event

__all__ = ["show_typing", "stop_typing"]


def show_typing(roster: Roster, feed_of: Callable[[str], FeedRoster], user: User, typed: Typed) -> None:
    """The text to the feed; to the room's other role, *(ext)*, only that somebody types."""
    chat = roster.announced
    if chat is None:
        return
    if chat.listed:
        feed = feed_of(chat.source)
        if feed.listening:
            frames = _typing_frames(user, chat.uuid, typed.text, typed.stopped)
            feed.put_typing(chat.uuid, identity_of(user), frames, stopped=typed.stopped)
    for audience in roster.audiences:
        if audience.profile is Profile.EXTENDED and audience.role is not user.role and audience.members:
            audience.push(_typing_frames(user, chat.uuid, "", typed.stopped))


def stop_typing(roster: Roster, feed_of: Callable[[str], FeedRoster], identity: Identity, now: float) -> None:
    """Make up a stop, if typing was on."""
    typist = roster.typists.get(identity)
    typed = None if typist is None else typist.relay.stop(now)
    if typist is not None and typed is not None:
        show_typing(roster, feed_of, typist.user, typed)


def _typing_frames(user: User, chat: UUID, text: str, stopped: bool) -> Frames:
    event = TypingUpdated(text=text, stopped=stopped, chat_id=chat, user=user)
    # A full outbox drops typing. A stop is not told again, so it is kept like any other event.
    return Frames.of([encode_event(event, Profile.EXTENDED)], typing=not stopped)
