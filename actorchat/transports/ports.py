"""Defines the interfaces between transports and the server, and the limits of a socket."""

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
    """The room of `chat`. `after` replays the messages after that index, -1 all; None replays nothing.

    A `quiet` socket of an operator reads without being announced.
    """

    chat: UUID
    after: int | None = None
    quiet: bool = False


@attrs.frozen
class FeedTarget:
    """The operators' feed of these sources."""

    sources: frozenset[str]


@attrs.frozen(kw_only=True)
class Admission:
    """The user of a socket, and the room or feed that it joins.

    At `expires_at`, in epoch seconds, the socket is closed with 4401. `issued` is when the token was issued, None if
    that is unknown or there is none. `peer` is the client's address, for logs. `trace` says for telemetry which
    trace the socket belongs to.
    """

    user: User
    profile: Profile
    target: RoomTarget | FeedTarget
    expires_at: float | None = None
    issued: float | None = None
    peer: str = ""
    trace: object = None


class Receiver(Protocol):
    """Receives the frames of a session in order, without blocking.

    An exception is logged and closes the socket with 1011.
    """

    def receive(self, command: Command | UnknownType) -> bool | None:
        """Handle a valid frame.

        Returns True if an operation was accepted; `session.operation_done()` is then called exactly once, possibly
        during this call. Returns False if the frame was refused; the transport may then delay reading the next frame
        of this client by a few milliseconds. Returns None otherwise.
        """

    def malformed(self, fault: Malformed) -> None:
        """Handle a malformed frame. The transport closes the socket after `malformed_in_a_row` of them."""

    def leave(self) -> None:
        """Leave the room or feed, because the socket has ended.

        Called once, as the last method, possibly in a cancelled scope.
        """


class Application(Protocol):
    """Connects sockets to rooms and feeds."""

    def join(self, session: Session, admission: Admission) -> Receiver | Awaitable[Receiver]:
        """Join the target: its events are pushed to `session`, and input of the socket goes to the returned receiver.

        Returns an awaitable if joining has to wait; nothing has happened before it is awaited. The receiver's `leave`
        undoes the join. If this raises or is cancelled, there is nothing to undo. If the session ends while this waits,
        `session.wait_drained` returns False.
        """


@attrs.frozen(kw_only=True)
class Limits:
    """The limits of every socket of a transport. Sizes are in bytes, times in seconds.

    `outbox_bytes` and `outbox_frames` limit the queued data that the kernel has not accepted yet. `wait_drained`
    returns when it is below `outbox_low`. A peer that receives none of it for `stuck` seconds is closed with 1013.
    `operations_in_flight` is how many operations of one socket may be undecided before the transport pauses reading.
    `frame_bytes` limits one message, `malformed_in_a_row` the consecutive malformed ones.
    `close_linger` is how long a peer has to read the queued data and answer a close frame, `overflow_linger` the same
    for a peer that was closed because it was too slow. Pings are sent each `ping_every` seconds, and a peer that has
    sent nothing for `silence` seconds is closed.
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
