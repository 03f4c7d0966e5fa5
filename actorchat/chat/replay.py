"""Replays stored messages and statuses to subscriptions that are behind, at the client's pace, until they are live.

A subscription is behind after it resumed, or when a receipt changes more messages than the room has in memory. The last
piece and the switch to live events are one step of the room, so that nothing is missed or repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Final

import trio

from actorchat.chat.links import Links, fill_links
from actorchat.chat.model import ChatState, StoredMessage, identity_of, visible_to
from actorchat.chat.ports import ChatReader, Page
from actorchat.chat.room_state import TAIL, ReplayCursor, RoomState, Subscription
from actorchat.protocol import Frames, MessageType, Profile, Role

__all__ = ["PAGE", "Replays", "changed_messages", "status_ranges"]

PAGE: Final = 100
"""How many messages are read from storage at a time."""

PAGE_TEXT_BYTES: Final = 32_768
"""A page ends after this many bytes of text, because messages can be large."""

PIECE_BYTES: Final = 65_536
"""About how many bytes are pushed to a session at a time. A session buffers up to twice as much during a replay."""

CONCURRENT_REPLAYS: Final = 8
"""For how many subscriptions the server reads or encodes at the same time, so that hundreds of clients that reconnect
do not delay live messages. A subscription that waits for its client is not counted."""


class Replays:
    """Replays for all rooms.

    Code that reads a lot for one socket has to hold `working` while it reads, and not while it waits for the socket.
    """

    def __init__(self, chat_reader: ChatReader) -> None:
        self._chat_reader = chat_reader
        self.working: trio.Semaphore = trio.Semaphore(CONCURRENT_REPLAYS)

    async def catch_up(self, subscription: Subscription, cursor: ReplayCursor, room_state: RoomState) -> None:
        """Send everything after `cursor` to `subscription`, then make it live. Returns early if it is closed.

        Raises `StorageUnavailable` if storage cannot be read. If it is cancelled, the subscription stays behind.
        """
        # A read in a thread cannot be cancelled: one started before a crash may return while its successor reads.
        reader = cursor.reader = object()
        await self._load_edits(cursor, room_state)
        while await subscription.session.wait_drained():
            async with self.working:
                for is_first in (True, False):
                    if subscription not in room_state.behind or cursor.reader is not reader:
                        return
                    chat = None if room_state.announced is None else room_state.profiles.chat(room_state.announced)
                    if chat is None or _finish(subscription, cursor, room_state, chat):
                        return
                    if is_first:
                        await self._send_piece(subscription, cursor, room_state, chat)

    async def _load_edits(self, cursor: ReplayCursor, room_state: RoomState) -> None:
        """Load all edits of the chat into the room if `cursor` needs older ones than it has, unless there are many."""
        if cursor.edits_rev >= room_state.edits_after:
            return
        async with self.working:
            page = await self._chat_reader.edited(room_state.chat, rev=0, limit=TAIL, size=PAGE_TEXT_BYTES)
        announced = room_state.announced
        if page is not None and not page.has_more and announced is not None:
            # Edits that are stored and not published yet come live.
            room_state.know_edits([message for message in page.messages if message.edit_rev <= announced.rev])

    async def _send_piece(
        self, subscription: Subscription, cursor: ReplayCursor, room_state: RoomState, chat: ChatState
    ) -> None:
        if not cursor.ranges and subscription.profile is Profile.STRICT:
            cursor.ranges, cursor.seen = status_ranges(cursor.seen, chat), chat
        if cursor.ranges:
            # Send the statuses as of `cursor.seen`, for which the ranges were made. Later changes get new ranges.
            await self._send_statuses(subscription, cursor, room_state, room_state.profiles.chat(cursor.seen or chat))
        elif cursor.index < chat.next_index - 1:
            await self._send_messages(subscription, cursor, room_state, chat)
        else:
            await self._send_edits(subscription, cursor, room_state, chat)

    async def _send_messages(
        self, subscription: Subscription, cursor: ReplayCursor, room_state: RoomState, chat: ChatState
    ) -> None:
        reader = cursor.reader
        page = await self._chat_reader.after(
            room_state.chat, subscription.identity.role, after=cursor.index, limit=PAGE, size=PAGE_TEXT_BYTES
        )
        if cursor.reader is not reader:
            return
        messages = () if page is None else page.messages
        announced = [message for message in messages if message.index < chat.next_index]
        sent = _push(subscription, announced, partial(_added, subscription, room_state, chat), room_state.links)
        is_last = page is None or not page.has_more or len(announced) < len(messages)
        cursor.index = chat.next_index - 1 if is_last and sent == len(announced) else announced[sent - 1].index

    async def _send_edits(
        self, subscription: Subscription, cursor: ReplayCursor, room_state: RoomState, chat: ChatState
    ) -> None:
        reader = cursor.reader
        page = await self._chat_reader.edited(room_state.chat, rev=cursor.edits_rev, limit=PAGE, size=PAGE_TEXT_BYTES)
        if cursor.reader is not reader:
            return
        # Edits that are stored and not published yet come live.
        edited = [] if page is None else [message for message in page.messages if message.edit_rev <= chat.rev]
        is_last = page is None or not page.has_more or len(edited) < len(page.messages)
        lacking = [
            message for message in edited if cursor.lacks(message) and visible_to(message, subscription.identity.role)
        ]
        sent = _push(subscription, lacking, partial(_updated, subscription, room_state, chat), room_state.links)
        if sent < len(lacking):
            cursor.edits_rev = lacking[sent - 1].edit_rev
        else:
            cursor.edits_rev = chat.rev if is_last else edited[-1].edit_rev

    async def _send_statuses(
        self, subscription: Subscription, cursor: ReplayCursor, room_state: RoomState, chat: ChatState
    ) -> None:
        """Send the statuses in `cursor.ranges` and shrink the ranges, so that nothing is repeated after a crash."""
        reader = cursor.reader
        (author_role, low, high), *others = cursor.ranges
        upto = min(high, cursor.index)
        page: Page | None = None
        if low < upto:
            page = await self._chat_reader.authored(
                room_state.chat, author_role, after=low, upto=upto, limit=PAGE, size=PAGE_TEXT_BYTES
            )
            if cursor.reader is not reader:
                return
        if page is None or not page.messages:
            cursor.ranges = tuple(others)
            return
        sent = _push(subscription, page.messages, partial(room_state.encoder.updated, chat), room_state.links)
        cursor.ranges = ((author_role, page.messages[sent - 1].index, high), *others)


def _push(
    subscription: Subscription,
    messages: Sequence[StoredMessage],
    encode: Callable[[StoredMessage], bytes],
    links: Links,
) -> int:
    """Send the first of `messages`, up to `PIECE_BYTES`; returns how many."""
    payloads: list[bytes] = []
    size = 0
    for message in messages:
        if size >= PIECE_BYTES:
            break
        payloads.append(encode(message))
        size += len(payloads[-1])
    if payloads:
        _push_payloads(subscription, payloads, messages, links)
    return len(payloads)


def _push_payloads(
    subscription: Subscription, payloads: Sequence[bytes], messages: Iterable[StoredMessage], links: Links
) -> None:
    """Send `payloads`, which may show `messages`."""
    frames = Frames.of(payloads)
    if any(message.attachments for message in messages):
        frames = fill_links(frames, subscription.identity, links)
    subscription.session.push(frames)


def _finish(subscription: Subscription, cursor: ReplayCursor, room_state: RoomState, chat: ChatState) -> bool:
    """Send what is missing from the room's messages in memory, and make the subscription live, in one step.

    Returns False if these messages do not reach far enough back, or are so many that a piece has to be sent first.
    """
    tail, role, encoder = room_state.tail, subscription.identity.role, room_state.encoder
    if cursor.ranges:
        return False
    first_in_memory = tail[0].index if tail else chat.next_index
    strict = subscription.profile is Profile.STRICT
    ranges = status_ranges(cursor.seen, chat) if strict else ()
    lowest = min([cursor.index, *(low for _, low, high in ranges if low < min(high, cursor.index))])
    if lowest + 1 < first_in_memory:
        return False
    updated = [message for message in changed_messages(tail, ranges) if message.index <= cursor.index]
    added = [message for message in tail if message.index > cursor.index and visible_to(message, role)]
    if cursor.edits_rev < room_state.edits_after:
        return False
    edited = [message for message in room_state.edits.values() if cursor.lacks(message) and visible_to(message, role)]
    edited.sort(key=attrgetter("edit_rev"))
    # Every encoded message is longer than its text, so this usually rejects too much data before it is encoded.
    if sum(len(message.text) for message in (*updated, *added, *edited)) > PIECE_BYTES:
        return False
    payloads: list[bytes] = []
    size = 0
    for encode, messages in (
        (partial(encoder.updated, chat), updated),
        (partial(_added, subscription, room_state, chat), added),
        (partial(_updated, subscription, room_state, chat), edited),
    ):
        for message in messages:
            if size > PIECE_BYTES:
                return False
            payloads.append(encode(room_state.profiles.message(message)))
            size += len(payloads[-1])
    if not strict:
        payloads += [encoder.receipts(chat, side) for side in Role]
        payloads.append(encoder.chat_updated(chat))
    if payloads:
        _push_payloads(subscription, payloads, (*updated, *added, *edited), room_state.links)
    room_state.go_live(subscription)
    return True


def _added(subscription: Subscription, room_state: RoomState, chat: ChatState, message: StoredMessage) -> bytes:
    """Encode `message_added`, with the `client_id` if the subscription is an extended one of the author."""
    own = message.author is not None and identity_of(message.author) == subscription.identity
    client_id = message.client_id if own and subscription.profile is Profile.EXTENDED else None
    payload = room_state.encoder.added(chat, message, client_id)
    return room_state.encoder.edit_of(payload, message) if subscription.profile is Profile.EXTENDED else payload


def _updated(subscription: Subscription, room_state: RoomState, chat: ChatState, message: StoredMessage) -> bytes:
    """Encode `message_updated` for an edit or a redaction."""
    payload = room_state.encoder.updated(chat, message)
    return room_state.encoder.edit_of(payload, message) if subscription.profile is Profile.EXTENDED else payload


def status_ranges(before: ChatState | None, after: ChatState) -> tuple[tuple[Role, int, int], ...]:
    """Ranges of standard messages whose status changed: (author's role, exclusive low index, inclusive high index)."""
    return () if before is None else tuple(_ranges(before, after))


def _ranges(before: ChatState, after: ChatState) -> Iterator[tuple[Role, int, int]]:
    for author_role, delivered, read in (
        (
            Role.OPERATOR,
            (before.visitor_delivered, after.visitor_delivered),
            (before.visitor_read, after.visitor_read),
        ),
        (
            Role.USER,
            (before.operators_delivered, after.operators_delivered),
            (before.operators_read, after.operators_read),
        ),
    ):
        was_delivered, was_read = delivered[0], read[0]
        if read[1] > was_read and read[1] >= was_delivered:
            # The two ranges overlap or touch: merge them.
            yield author_role, was_read, max(read[1], delivered[1])
            continue
        if read[1] > was_read:
            yield author_role, was_read, read[1]
        if delivered[1] > was_delivered:
            yield author_role, was_delivered, delivered[1]


def changed_messages(tail: Sequence[StoredMessage], ranges: tuple[tuple[Role, int, int], ...]) -> list[StoredMessage]:
    """The standard messages of `tail` that are in `ranges`, in index order."""
    return [
        message
        for message in tail
        if message.type is MessageType.STANDARD
        and any(low < message.index <= high and message.type_role is author_role for author_role, low, high in ranges)
    ]
