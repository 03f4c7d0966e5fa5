"""Keeps a room's subscriptions, present users and last published chat. It outlives the room's actor.

Joining and leaving are synchronous, so no other task runs in between.
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
"""Published messages that a room keeps, so that short gaps are filled without reading storage."""


class Subscription:
    """One socket's subscription to a room: live in an audience, or behind and catching up.

    Until `limited_until`, in Trio's clock, the rate limit refuses the user's messages.
    """

    __slots__ = ("identity", "limited_until", "profile", "session")

    def __init__(self, session: Session) -> None:
        self.session: Session = session
        self.identity: Identity = identity_of(session.user)
        self.profile: Profile = session.profile
        self.limited_until: float = 0.0


@attrs.define(eq=False)
class Audience:
    """The live subscriptions that get the same bytes, each with its session."""

    role: Role
    profile: Profile
    subscriptions: dict[Subscription, Session] = attrs.Factory(dict)


@attrs.define(eq=False)
class Presence:
    """A user and the number of its sockets in the room. Without any, it stays present until its grace ends."""

    user: User
    sockets: int = 0


@attrs.define(eq=False)
class ReplayCursor:
    """How far a subscription that is behind has read: every visible message up to `index`, receipts as in `seen`.

    `lagging`: it was live before, so the room reads on for it. `ranges` are status changes up to `seen` that are not
    sent yet: (author's role, exclusive low index, inclusive high index). Only the latest `reader` may read on.
    """

    index: int
    seen: ChatState | None = None
    lagging: bool = False
    ranges: tuple[tuple[Role, int, int], ...] = ()
    reader: object = None


class RoomState:
    """`announced` is the chat as last published, None until the room's first incarnation has read it.

    `given_up`: the room was given up and nobody has joined since, so storage may have unpublished changes. `expiring`
    exists while the deletion of the chat is undecided, and is set when it is decided; joining waits for it. `expired`:
    the chat was deleted.
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
        """Whether nobody is present and nobody is joining."""
        return not (self.present or self.entering)

    def expiry_decided(self, *, expired: bool) -> None:
        """End `expiring`, because the deletion was decided."""
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
        """Add a subscription, which is behind, at `cursor`, until `go_live`.

        Its user is present from now on. The socket is sent one `user_connected` for everybody present, itself included.
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
        """Send the subscription everything published from now on. Call it in one step with its last missed frames."""
        del self.behind[subscription]
        self._audience(subscription).subscriptions[subscription] = subscription.session

    def fall_behind(self, subscription: Subscription, cursor: ReplayCursor) -> None:
        """Let a live subscription read on from storage, at its own pace."""
        del self._audience(subscription).subscriptions[subscription]
        self.behind[subscription] = cursor

    def depart(self, subscription: Subscription) -> bool:
        """Remove a subscription. True if it was the user's last one, so that the user's grace period begins."""
        self._audience(subscription).subscriptions.pop(subscription, None)
        self.behind.pop(subscription, None)
        presence = self.present[subscription.identity]
        presence.sockets -= 1
        return presence.sockets == 0

    def lapse(self, identity: Identity) -> None:
        """End the user's grace period. A user without a socket has left then."""
        presence = self.present.get(identity)
        if presence is not None and presence.sockets == 0:
            del self.present[identity]
            self.profiles.unwatch(identity, self._renamed)
            self._tell(UserDisconnected(presence.user))

    def user(self, user: User) -> User:
        """The same user, with the profile that the room shows now."""
        presence = self.present.get(identity_of(user))
        return self.profiles.user(user) if presence is None else presence.user

    def _renamed(self, user: User) -> None:
        """Show a present user's new profile to all subscriptions, and with its typing."""
        identity = identity_of(user)
        typist = self.typists.get(identity)
        if typist is not None:
            typist.user = user
        presence = self.present[identity]
        if presence.user != user:
            # Otherwise a socket brought it before, because a commit in doubt can be read before it is published.
            presence.user = user
            self._tell(UserConnected(user))

    def _tell(self, event: UserConnected | UserDisconnected) -> None:
        frames = Frames.of([encode_event(event, Profile.STRICT)])
        for subscription in self.subscriptions():
            subscription.session.push(frames)

    def _audience(self, subscription: Subscription) -> Audience:
        role, profile = subscription.identity.role, subscription.profile
        return next(each for each in self.audiences if each.role is role and each.profile is profile)
