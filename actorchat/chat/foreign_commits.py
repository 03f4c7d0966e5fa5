"""Shows on this node what other nodes have committed: in rooms, on feeds, in the directory and in caches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final
from uuid import UUID

import attrs
from msgspec.structs import replace

from actorchat.actors import Ref, Virtual
from actorchat.chat.foreign_people import ForeignPeople, PersonNews
from actorchat.chat.model import ChatState, Identity, OperatorCounters, SourceCounters
from actorchat.chat.node_commits import NodeCommit
from actorchat.chat.operations import Changed, Counters
from actorchat.chat.operator_feed import FeedMessage, FeedState
from actorchat.chat.publisher import Publisher
from actorchat.chat.room import ANNOUNCE, RoomMessage
from actorchat.protocol import CloseCode, Role

__all__ = ["ForeignCommits", "NodeCaches"]

KNOWN_CHATS: Final = 10_000
"""Chats without a room here whose last published revision is remembered for the feed."""


@attrs.define
class NodeCaches:
    """The caches to read again after another node's commit. Each function returns at once.

    `is_known(identity)`: the record of that person is in memory here. `forget_widget` gets a source, or None for all.
    `owners_changed` gets visitors who own other chats now.
    """

    is_known: Callable[[Identity], bool] = lambda _: False
    forget_people: Callable[[], object] = lambda: None
    reload_accounts: Callable[[], object] = lambda: None
    reload_blocks: Callable[[], object] = lambda: None
    forget_widget: Callable[[str | None], object] = lambda _: None
    owners_changed: Callable[[Sequence[Identity]], object] = lambda _: None


class ForeignCommits:
    """Applies commits of other nodes.

    All batches of one writer have to be given in their order. Batches of several writers may come in any order, except
    those that `needs_others` is about.
    """

    def __init__(
        self,
        rooms: Virtual[UUID, RoomMessage, Publisher],
        feeds: Virtual[str, FeedMessage, FeedState],
        count: Callable[[tuple[OperatorCounters | SourceCounters, ...]], object],
        people: ForeignPeople,
        caches: NodeCaches,
    ) -> None:
        self._rooms, self._feeds, self._count, self._people, self._caches = rooms, feeds, count, people, caches
        # The chats without a room here that the feed was shown. Holding the address keeps its publisher.
        self._known: OrderedDict[UUID, Ref[RoomMessage]] = OrderedDict()

    def needs_others(self, commit: NodeCommit) -> bool:
        """Whether `commit` may only be applied together with all that was committed before it.

        A console here has to be shown a chat that this node knows nothing of. So it can't find out by the revision
        whether something is missing before this change.
        """
        begun = {change.chat.uuid for change, _ in commit.changes if change.chat.rev == 1}
        return any(change.chat.uuid not in begun and self._is_new_to_feed(change.chat) for change, _ in commit.changes)

    def apply(self, commits: Iterable[NodeCommit]) -> None:
        """Show `commits`."""
        by_chat: dict[UUID, list[tuple[Changed, Counters]]] = {}
        for commit in commits:
            for change in commit.changes:
                by_chat.setdefault(change[0].chat.uuid, []).append(change)
        uncounted: list[OperatorCounters | SourceCounters] = []
        for chat, changes in by_chat.items():
            changes.sort(key=lambda change: change[0].chat.rev)
            if not self._changed(
                chat, [change for change, _ in changes], [each for _, some in changes for each in some]
            ):
                uncounted.extend(each for _, counters in changes for each in counters)
        if uncounted:
            self._count(tuple(uncounted))
        for commit in commits:
            self._apply_rest(commit)

    def _changed(
        self, chat: UUID, changes: Sequence[Changed], counters: Sequence[OperatorCounters | SourceCounters]
    ) -> bool:
        """Give the changes of one chat to its publisher. False if nobody here is shown them."""
        if chat in self._known and not self._has_consoles(changes[0].chat.source):
            del self._known[chat]
        publisher = self._rooms.held_anchor(chat)
        if publisher is None or publisher.room_state.announced is None:
            if not any(self._is_new_to_feed(change.chat) for change in changes):
                if publisher is not None:
                    # Its room reads the chat right now, maybe as it was before.
                    publisher.missed()
                return False
            self._remember(chat)
            publisher = self._rooms.anchor(chat)
            publisher.open(_before(changes[0]))
        elif chat in self._known:
            self._known.move_to_end(chat)
        publisher.committed_elsewhere(changes, counters, partial(self._call_room, chat))
        return True

    def _is_new_to_feed(self, chat: ChatState) -> bool:
        if not chat.listed or not self._has_consoles(chat.source):
            return False
        publisher = self._rooms.held_anchor(chat.uuid)
        return publisher is None or (publisher.room_state.announced is None and not publisher.room_state.expired)

    def _has_consoles(self, source: str) -> bool:
        feed = self._feeds.held_anchor(source)
        return feed is not None and bool(feed.consoles)

    def _remember(self, chat: UUID) -> None:
        self._known[chat] = self._rooms[chat]
        if len(self._known) > KNOWN_CHATS:
            self._known.popitem(last=False)

    def _call_room(self, chat: UUID) -> None:
        self._rooms[chat].signal(ANNOUNCE)

    def _apply_rest(self, commit: NodeCommit) -> None:
        for identity in commit.people:
            news = PersonNews(identity in commit.signed_out, identity in commit.renamed)
            shown = news.signed_out or news.renamed or identity.role is Role.OPERATOR
            if shown or self._caches.is_known(identity):
                self._people.changed_elsewhere(identity, news)
        for chat in commit.removed:
            self._removed(chat)
        if commit.accounts:
            self._caches.reload_accounts()
        if commit.blocks:
            self._caches.reload_blocks()
        for source in commit.widgets:
            self._caches.forget_widget(source)
        if commit.takers:
            self._caches.owners_changed(commit.takers)

    def _removed(self, chat: UUID) -> None:
        self._known.pop(chat, None)
        publisher = self._rooms.held_anchor(chat)
        if publisher is not None:
            publisher.room_state.expiry_decided(expired=True)
            for subscription in tuple(publisher.room_state.subscriptions()):
                subscription.session.close(CloseCode.NO_SUCH_CHAT, "there is no such chat any more")

    def start_over(self) -> None:
        """Commits were missed that can't be read any more: read every room again, and let consoles come back."""
        self._read_again(Publisher.missed, "this node has missed changes")

    def went_back(self) -> None:
        """Storage has lost commits: compare every room with it, and let consoles come back."""
        for source in self._feeds.held_keys():
            feed = self._feeds.held_anchor(source)
            if feed is not None:
                feed.items.clear()
        self._read_again(Publisher.doubt, "the server has lost the newest changes")
        self._caches.forget_people()

    def _read_again(self, call: Callable[[Publisher], object], reason: str) -> None:
        self._known.clear()
        for chat in self._rooms.held_keys():
            publisher = self._rooms.held_anchor(chat)
            if publisher is not None:
                call(publisher)
                if publisher.room_state.announced is not None:
                    self._call_room(chat)
        for source in self._feeds.held_keys():
            feed = self._feeds.held_anchor(source)
            for console in () if feed is None else tuple(feed.consoles):
                console.session.close(CloseCode.RESTARTING, reason)
        self._caches.reload_accounts()
        self._caches.reload_blocks()
        self._caches.forget_widget(None)


def _before(change: Changed) -> ChatState:
    """The chat before `change`, as far as a feed is concerned."""
    chat = change.chat
    first = change.messages[0].index if change.messages else chat.next_index
    return replace(chat, rev=chat.rev - 1, next_index=first)
