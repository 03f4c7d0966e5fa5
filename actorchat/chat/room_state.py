"""Keeps a room's subscriptions, present users and last published chat. It outlives the room's actor.

Joining and leaving are synchronous, so no other task runs in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from uuid import UUID

import attrs
import trio
from msgspec.structs import replace

from actorchat.chat.elsewhere import RemotePeople
from actorchat.chat.encoding import Encoder
from actorchat.chat.links import Links
from actorchat.chat.model import ChatState, Identity, StoredMessage, identity_of
from actorchat.chat.ports import Session
from actorchat.chat.renamed_users import RenamedUsers
from actorchat.chat.typing_throttle import Typist
from actorchat.protocol import Frames, Profile, Role, User, UserConnected, UserDisconnected, encode_event

__all__ = ["TAIL", "Audience", "ReplayCursor", "RoomState", "Subscription"]

TAIL = 64
"""Published messages that a room keeps, so that short gaps are filled without reading storage."""


class Subscription:
    """One socket's subscription to a room: live in an audience, or behind and catching up.

    Until `limited_until`, in Trio's clock, the rate limit refuses the user's messages. A `quiet` one makes nobody
    present.
    """

    __slots__ = ("identity", "limited_until", "profile", "quiet", "session")

    def __init__(self, session: Session, *, quiet: bool = False) -> None:
        self.quiet: bool = quiet
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

    Edits of the messages up to `base`, which the client had before, are sent up to revision `edits_rev`. Later messages
    are sent with the text of revision `start_rev` or a newer one.
    """

    index: int
    seen: ChatState | None = None
    lagging: bool = False
    ranges: tuple[tuple[Role, int, int], ...] = ()
    reader: object = None
    edits_rev: int = 0
    start_rev: int = 0
    base: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.base = self.index

    def lacks(self, message: StoredMessage) -> bool:
        """Whether this edited or redacted message has to be sent again."""
        known = self.edits_rev if message.index <= self.base else max(self.edits_rev, self.start_rev)
        return message.index <= self.index and message.edit_rev > known


class RoomState:
    """`announced` is the chat as last published, None until the room's first incarnation has read it.

    `given_up`: the room was given up and nobody has joined since, so storage may have unpublished changes. `expiring`
    exists while the deletion of the chat is undecided, and is set when it is decided; joining waits for it. `expired`:
    the chat was deleted. `edits` has all published messages that were edited or redacted after revision `edits_after`,
    by index. `remote` are the people on other nodes, None without such.
    """

    def __init__(self, chat: UUID, profiles: RenamedUsers, links: Links, remote: RemotePeople | None = None) -> None:
        self.chat = chat
        self.remote = remote
        self.links = links
        self.announced: ChatState | None = None
        self.tail: deque[StoredMessage] = deque(maxlen=TAIL)
        self.edits: dict[int, StoredMessage] = {}
        self.edits_after: int = 0
        self.entering = 0
        self.quiet_readers: int = 0
        self.given_up = False
        self.expiring: trio.Event | None = None
        self.expired: bool = False
        self.present: dict[Identity, Presence] = {}
        self.typists: dict[Identity, Typist] = {}
        self.behind: dict[Subscription, ReplayCursor] = {}
        self.encoder: Encoder = Encoder(links)
        self.audiences: tuple[Audience, ...] = tuple(Audience(role, profile) for role in Role for profile in Profile)
        self.profiles = profiles

    def forget(self) -> None:
        """Forget the chat, which is not stored as it was published. Its sockets have to be closed."""
        self.announced = None
        self.tail.clear()
        self.edits, self.edits_after = {}, 0

    def change_messages(self, messages: Iterable[StoredMessage]) -> None:
        """Keep edited and redacted messages instead of their older versions."""
        for message in messages:
            if self.tail and message.index >= self.tail[0].index:
                self.tail[message.index - self.tail[0].index] = message
            self._remember_edit(message)

    def give_messages(self, giver: Identity, taker: User) -> None:
        """Keep the messages of the chat's former owner as those of its owner."""
        for message in tuple(self.tail):
            if message.author is not None and identity_of(message.author) == giver:
                self.tail[message.index - self.tail[0].index] = replace(message, author=taker)
        for index, message in self.edits.items():
            if message.author is not None and identity_of(message.author) == giver:
                self.edits[index] = replace(message, author=taker)

    def know_edits(self, messages: Iterable[StoredMessage]) -> None:
        """Keep `messages`, which are all edited or redacted messages of the chat, in the order of these changes."""
        later, self.edits, self.edits_after = self.edits.values(), {}, 0
        for message in (*messages, *later):
            self._remember_edit(message)

    def _remember_edit(self, message: StoredMessage) -> None:
        known = self.edits.pop(message.index, message)
        self.edits[message.index] = message if message.edit_rev >= known.edit_rev else known
        if len(self.edits) > TAIL:
            self.edits_after = self.edits.pop(next(iter(self.edits))).edit_rev

    @property
    def vacant(self) -> bool:
        """Whether nobody is present or reads quietly, and nobody is joining."""
        return not (self.present or self.entering or self.quiet_readers)

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

        Its user is present from now on, unless it is quiet. The socket is sent one `user_connected` for everybody
        present.
        """
        if subscription.quiet:
            self.quiet_readers += 1
        else:
            self._enter(subscription)
        self.behind[subscription] = cursor
        users = [each.user for each in self.present.values()]
        if self.remote is not None:
            remote = map(self.profiles.user, self.remote.at(self.chat))
            users += [user for user in remote if identity_of(user) not in self.present]
        everybody = [encode_event(UserConnected(user), Profile.STRICT) for user in users]
        if everybody:
            subscription.session.push(Frames.of(everybody))

    def _enter(self, subscription: Subscription) -> None:
        presence = self.present.get(subscription.identity)
        if presence is None:
            presence = self.present[subscription.identity] = Presence(self.profiles.user(subscription.session.user))
            self.profiles.watch(subscription.identity, self._renamed)
            if not self._is_remote(subscription.identity):
                self._tell(UserConnected(presence.user))
            if self.remote is not None:
                self.remote.on_here(self.chat, presence.user)
        presence.sockets += 1

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
        if subscription.quiet:
            self.quiet_readers -= 1
            return False
        presence = self.present[subscription.identity]
        presence.sockets -= 1
        return presence.sockets == 0

    def lapse(self, identity: Identity) -> None:
        """End the user's grace period. A user without a socket has left then."""
        presence = self.present.get(identity)
        if presence is not None and presence.sockets == 0:
            del self.present[identity]
            self.profiles.unwatch(identity, self._renamed)
            if not self._is_remote(identity):
                self._tell(UserDisconnected(presence.user))
            if self.remote is not None:
                self.remote.on_gone(self.chat, identity)

    def _is_remote(self, identity: Identity) -> bool:
        return self.remote is not None and self.remote.is_at(self.chat, identity)

    def remote_changed(self, event: UserConnected | UserDisconnected) -> None:
        """A user came to the first other node, left the last one, or is on another node with a new profile."""
        if identity_of(event.user) not in self.present:
            self._tell(event)

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
            # If they are equal, a socket that joined has shown the profile already: a commit in doubt can be read
            # before it is published.
            presence.user = user
            self._tell(UserConnected(user))

    def _tell(self, event: UserConnected | UserDisconnected) -> None:
        frames = Frames.of([encode_event(event, Profile.STRICT)])
        for subscription in self.subscriptions():
            subscription.session.push(frames)

    def _audience(self, subscription: Subscription) -> Audience:
        role, profile = subscription.identity.role, subscription.profile
        return next(each for each in self.audiences if each.role is role and each.profile is profile)
