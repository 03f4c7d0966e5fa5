"""Owns how a member that is behind reads up to the present: resume, and receipts over more than the room remembers.

Reads storage outside the room, at the reader's pace. Becoming live and the last missing thing are one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from actorchat.chat.model import ChatState, StoredMessage, identity_of, visible_to
from actorchat.chat.ports import Archive
from actorchat.chat.roster import Member, Position, Roster
from actorchat.protocol import Frames, MessageType, Profile, Role

__all__ = ["PAGE", "catch_up", "changed_messages", "status_ranges"]

PAGE = 100
"""Messages read from storage at a time."""

PIECE_BYTES = 131_072
"""What is sent at a time. With what may still wait before it, a fraction of any outbox: messages can be large."""


async def catch_up(member: Member, position: Position, roster: Roster, archive: Archive) -> None:
    """Send `member` what it misses since `position`, then make it live. Returns early if it has left.

    Raises `StorageUnavailable` if storage can't be read. May be cancelled at any time; the member then stays behind.
    """
    session, role = member.session, member.identity.role
    # A reading in a thread can't be cut short: one of a crashed incarnation may come back while the next one reads.
    reader = position.reader = object()
    while member in roster.behind and position.reader is reader:
        chat = None if roster.announced is None else roster.profiles.chat(roster.announced)
        if chat is None or _finish(member, position, roster, chat):
            return
        if not position.ranges and member.profile is Profile.STRICT:
            position.ranges, position.seen = status_ranges(position.seen, chat), chat
        await _update(member, position, roster, archive, chat)
        if position.reader is reader and position.index < chat.next_index - 1:
            page = await archive.after(roster.chat, role, after=position.index, limit=PAGE)
            if position.reader is not reader:
                return
            messages = () if page is None else page.messages
            announced = [message for message in messages if message.index < chat.next_index]
            for last, frames in _pieces(announced, partial(_added, member, roster, chat)):
                session.push(frames)
                position.index = last
                await session.wait_drained()
            if page is None or not page.has_more or len(announced) < len(messages):
                position.index = chat.next_index - 1


def _pieces(
    messages: Sequence[StoredMessage], encode: Callable[[StoredMessage], bytes]
) -> Iterator[tuple[int, Frames]]:
    """Each piece of the way to the last message, with the index it reaches."""
    payloads: list[bytes] = []
    size = 0
    for message in messages:
        payloads.append(encode(message))
        size += len(payloads[-1])
        if size >= PIECE_BYTES or message is messages[-1]:
            yield message.index, Frames.of(payloads)
            payloads, size = [], 0


async def _update(member: Member, position: Position, roster: Roster, archive: Archive, chat: ChatState) -> None:
    """Send the statuses in `position.ranges` as `chat` has them, taking off what was sent: a crash repeats nothing."""
    reader = position.reader
    while position.ranges:
        (author_role, low, high), *others = position.ranges
        upto = min(high, position.index)
        page = None
        if low < upto:
            page = await archive.authored(roster.chat, author_role, after=low, upto=upto, limit=PAGE)
            if position.reader is not reader:
                return
        if page is None or not page.messages:
            position.ranges = tuple(others)
            continue
        for last, frames in _pieces(page.messages, partial(roster.encoder.updated, chat)):
            member.session.push(frames)
            position.ranges = ((author_role, last, high), *others)
            await member.session.wait_drained()


def _finish(member: Member, position: Position, roster: Roster, chat: ChatState) -> bool:
    """Fill what is missing from the room's tail and go live, in one step.

    False if the tail does not reach back, or holds so much that it is better read at the reader's pace.
    """
    tail, role, encoder = roster.tail, member.identity.role, roster.encoder
    if position.ranges:
        return False
    reach = tail[0].index if tail else chat.next_index
    strict = member.profile is Profile.STRICT
    ranges = status_ranges(position.seen, chat) if strict else ()
    lowest = min([position.index, *(low for _, low, high in ranges if low < min(high, position.index))])
    if lowest + 1 < reach:
        return False
    payloads = [
        encoder.updated(chat, roster.profiles.message(message))
        for message in changed_messages(tail, ranges)
        if message.index <= position.index
    ]
    payloads += [
        _added(member, roster, chat, roster.profiles.message(message))
        for message in tail
        if message.index > position.index and visible_to(message, role)
    ]
    if sum(map(len, payloads)) > PIECE_BYTES:
        return False
    if not strict:
        payloads += [encoder.receipts(chat, side) for side in Role]
        payloads.append(encoder.chat_updated(chat))
    if payloads:
        member.session.push(Frames.of(payloads))
    roster.go_live(member)
    return True


def _added(member: Member, roster: Roster, chat: ChatState, message: StoredMessage) -> bytes:
    """`message_added`; on extended sockets of its author with the `client_id` it was sent with."""
    own = message.author is not None and identity_of(message.author) == member.identity
    client_id = message.client_id if own and member.profile is Profile.EXTENDED else None
    return roster.encoder.added(chat, message, client_id)


def status_ranges(before: ChatState | None, after: ChatState) -> tuple[tuple[Role, int, int], ...]:
    """Which standard messages changed their status: (author's role, exclusive low index, inclusive high index)."""
    if before is None or (
        before.visitor_read == after.visitor_read
        and before.visitor_delivered == after.visitor_delivered
        and before.operators_read == after.operators_read
        and before.operators_delivered == after.operators_delivered
    ):
        return ()
    return tuple(_ranges(before, after))


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
            # Nothing lies between what was delivered and what was read: one range.
            yield author_role, was_read, max(read[1], delivered[1])
            continue
        if read[1] > was_read:
            yield author_role, was_read, read[1]
        if delivered[1] > was_delivered:
            yield author_role, was_delivered, delivered[1]


def changed_messages(tail: Sequence[StoredMessage], ranges: tuple[tuple[Role, int, int], ...]) -> list[StoredMessage]:
    """The standard messages of `tail` that lie in `ranges`, in index order."""
    return [
        message
        for message in tail
        if message.type is MessageType.STANDARD
        and any(low < message.index <= high and message.type_role is author_role for author_role, low, high in ranges)
    ]
