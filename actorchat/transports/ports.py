"""Owns what a transport needs of the server, and what the server tells it of one socket.

Refuses to know what an admission means, and what becomes of a command.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol
from uuid import UUID

import attrs

from actorchat.chat.ports import Session
from actorchat.protocol import (
    MALFORMED_IN_A_ROW,
    MAX_FRAME_BYTES,
    Command,
    Malformed,
    Profile,
    UnknownType,
    User,
)

__all__ = ["Admission", "Application", "FeedTarget", "Limits", "Receiver", "RoomTarget"]


@attrs.frozen
class RoomTarget:
    """The room of `chat`; `after` is the index a resuming client has, -1 for none, None for no replay."""

    chat: UUID
    after: int | None = None


@attrs.frozen
class FeedTarget:
    """The operators' feed of these sources."""

    sources: frozenset[str]


@attrs.frozen(kw_only=True)
class Admission:
    """Who opens a socket and where.

    `expires_at` (epoch seconds) ends the socket with 4401; `peer` is the address, for logs.
    """

    user: User
    profile: Profile
    target: RoomTarget | FeedTarget
    expires_at: float | None = None
    peer: str = ""


class Receiver(Protocol):
    """Where a session's input goes, one frame after the other. Never blocks.

    What it raises is logged and ends that socket with 1011.
    """

    def receive(self, command: Command | UnknownType) -> bool | None:
        """Take a valid frame.

        True: an operation was taken, and `session.operation_done()` will answer it exactly once, perhaps
        from within this call. False: it was refused at once, and a transport may let who sends such frames wait a few
        milliseconds, and for others, before it reads on.
        """

    def malformed(self, fault: Malformed) -> None:
        """Take note of a malformed frame; after the third in a row the transport closes the socket."""

    def leave(self) -> None:
        """The socket has ended: leave the target. Called once, also under a cancelled scope; nothing comes after it."""


class Application(Protocol):
    """What sockets are opened for: a room or a feed behind each."""

    def join(self, session: Session, admission: Admission) -> Receiver | Awaitable[Receiver]:
        """Enter the target: events are pushed to `session` from now on; input goes to what this returns.

        Where something has to be waited for, what has to be awaited is returned instead, and nothing has happened yet.
        The receiver's `leave` is the way out. If this raises or is cancelled, there is nothing to leave. While it
        waits, a session that is lost or closed says so: `wait_drained` returns False.
        """


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of every socket of a transport; sizes in bytes, times in seconds.

    `outbox_bytes` and `outbox_frames` bound what the peer's kernel did not take; `wait_drained` returns at
    `outbox_low`. A peer that takes nothing of what waits for it for `stuck` seconds is closed with 1013.
    `close_linger` is how long a peer may take to read what is left and answer a Close, `overflow_linger` the same for
    one that was too slow.
    """

    outbox_bytes: int = 1_048_576
    outbox_frames: int = 4_096
    outbox_low: int = 32_768
    stuck: float = 30.0
    operations_in_flight: int = 8
    frame_bytes: int = MAX_FRAME_BYTES
    malformed_in_a_row: int = MALFORMED_IN_A_ROW
    close_linger: float = 5.0
    overflow_linger: float = 2.0
    ping_every: float = 25.0
    silence: float = 60.0
