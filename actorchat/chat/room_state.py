"""Owns who is in a room, and what was announced there. It belongs to the room's address and outlives its incarnations.

Joining and leaving are synchronous: between two steps of anybody else. Knows no storage and decides nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from uuid import UUID

import attrs
import trio

from actorchat.chat.encoding import Encoder
from actorchat.chat.links import Links
from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of
from actorchat.chat.ports import Session
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.typing_throttle import Typist
from actorchat.protocol import Frames, Profile, Role, User, UserConnected, UserDisconnected, encode_event

__all__ = ["Audience", "ReplayCursor", "RoomState", "Subscription"]

TAIL = 64
"""Announced messages that a room keeps: short gaps are filled without reading storage."""


class Subscription:
    """One socket in a room: live in an audience, or behind and reading up to the present.

    Before `limited_until`, a moment of Trio's clock, its user has no message to spend.
    """

    __slots__ = ("identity", "limited_until", "profile", "session")

    def __init__(self, session: Session) -> None:
        self.session: Session = session
        self.identity: Identity = identity_of(session.user)
        self.profile: Profile = session.profile
        self.limited_until: float = 0.0


@attrs.define(eq=False)
class Audience:
    """The live members who see the same bytes."""

    role: Role
    profile: Profile
    subscriptions: dict[Subscription, None] = attrs.Factory(dict)

    def push(self, frames: Frames) -> None:
        for subscription in self.subscriptions:
            subscription.session.push(frames)


@attrs.define(eq=False)
class Presence:
    """A user and its sockets in the room; with none left it is still present until its grace ends."""

    user: User
    sockets: int = 0


@attrs.define(eq=False)
class ReplayCursor:
    """How far a member behind has read: every visible message up to `index`, receipts as in `seen`.

    `lagging`: it was live, and the room itself sees to its reading on. `ranges` of the way to `seen` are not sent yet:
    (author's role, exclusive low index, inclusive high index). Only the latest `reader` reads on.
    """

    index: int
    seen: ChatState | None = None
    lagging: bool = False
    ranges: tuple[tuple[Role, int, int], ...] = ()
    reader: object = None


class RoomState:
    """`announced` is the chat as last announced, None until the room's first incarnation has read it.

    `given_up`: the room was, and nobody has entered since; storage may hold what nobody is about to announce.
    `expiring` is set while it is not known yet whether the chat is being deleted, and then told: until then nobody
    enters. `expired`: the chat was deleted.
    """

    def __init__(self, chat: UUID, profiles: RenamedUsers, links: Links) -> None:
        self.chat = chat
        self.links = links
        self.announced: ChatState | None = None
        self.tail: deque[StoredMessage] = deque(maxlen=TAIL)
        self.entering = 0
        self.given_up = False
        self.expiring: trio.Event | None = None
        self.expired: bool = False
        self.present: dict[Identity, Presence] = {}
        self.typists: dict[Identity, Typist] = {}
        self.behind: dict[Subscription, ReplayCursor] = {}
        self.encoder: Encoder = Encoder(links)
        self.audiences: tuple[Audience, ...] = tuple(Audience(role, profile) for role in Role for profile in Profile)
        self.profiles = profiles

    @property
    def vacant(self) -> bool:
        """Nobody is there or about to be."""
        return not (self.present or self.entering)

    def expiry_decided(self, *, expired: bool) -> None:
        """It is known what became of the chat that was `expiring`."""
        if expired:
            self.expired, self.announced = True, None
        if self.expiring is not None:
            self.expiring.set()
            self.expiring = None

    def subscriptions(self) -> Iterator[Subscription]:
        for audience in self.audiences:
            yield from audience.subscriptions
        yield from self.behind

    def arrive(self, subscription: Subscription, cursor: ReplayCursor) -> None:
        """The member's user is present from now on; the member hears of everybody present, itself included.

        It is behind, at `cursor`, until `go_live`.
        """
        presence = self.present.get(subscription.identity)
        if presence is None:
            presence = self.present[subscription.identity] = Presence(self.profiles.user(subscription.session.user))
            self.profiles.watch(subscription.identity, self._renamed)
            self._tell(UserConnected(presence.user))
        presence.sockets += 1
        self.behind[subscription] = cursor
        everybody = [encode_event(UserConnected(each.user), Profile.STRICT) for each in self.present.values()]
        subscription.session.push(Frames.of(everybody))

    def go_live(self, subscription: Subscription) -> None:
        """All that is announced from now on reaches the member: one step with the last thing it missed."""
        del self.behind[subscription]
        self._audience(subscription).subscriptions[subscription] = None

    def fall_behind(self, subscription: Subscription, cursor: ReplayCursor) -> None:
        """The member reads from storage from now on, at its own pace."""
        del self._audience(subscription).subscriptions[subscription]
        self.behind[subscription] = cursor

    def depart(self, subscription: Subscription) -> bool:
        """The socket is gone. True: it was its user's last one, whose grace begins."""
        self._audience(subscription).subscriptions.pop(subscription, None)
        self.behind.pop(subscription, None)
        presence = self.present[subscription.identity]
        presence.sockets -= 1
        return presence.sockets == 0

    def lapse(self, identity: Identity) -> None:
        """The user's grace is over: unless it is back, it has left."""
        presence = self.present.get(identity)
        if presence is not None and presence.sockets == 0:
            del self.present[identity]
            self.profiles.unwatch(identity, self._renamed)
            self._tell(UserDisconnected(presence.user))

    def user(self, user: User) -> User:
        """The same person, as the room shows it now."""
        presence = self.present.get(identity_of(user))
        return self.profiles.user(user) if presence is None else presence.user

    def _renamed(self, user: User) -> None:
        """Somebody present has a new profile: all members are told, and typing is shown with it."""
        identity = identity_of(user)
        typist = self.typists.get(identity)
        if typist is not None:
            typist.user = user
        presence = self.present[identity]
        if presence.user != user:
            # Else they came with it: a commit in doubt is told later than it can be read.
            presence.user = user
            self._tell(UserConnected(user))

    def _tell(self, event: UserConnected | UserDisconnected) -> None:
        frames = Frames.of([encode_event(event, Profile.STRICT)])
        for subscription in self.subscriptions():
            subscription.session.push(frames)

    def _audience(self, subscription: Subscription) -> Audience:
        role, profile = subscription.identity.role, subscription.profile
        return next(each for each in self.audiences if each.role is role and each.profile is profile)
