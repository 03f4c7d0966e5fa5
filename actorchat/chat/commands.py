"""Commands of sockets and operations of requests on their way to a room, each of which is answered exactly once.

Each is the `reply_to` of its operation in the journal, so that no crash of the room loses its answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import attrs
import trio

from actorchat.actors import Ref
from actorchat.chat.limits import InFlightLimiter, rate_limited
from actorchat.chat.links import fill_links
from actorchat.chat.model import Identity
from actorchat.chat.operations import Changed, ChatOperation, Decision, Refused, Unchanged, Undecided
from actorchat.chat.ports import Session
from actorchat.chat.room_state import RoomState, Subscription
from actorchat.protocol import (
    RETRYABLE,
    CloseCode,
    Command,
    ErrorEvent,
    Event,
    Frames,
    Malformed,
    MarkMessageDelivered,
    MarkMessageRead,
    PageViewed,
    Ping,
    Pong,
    Profile,
    RefusalCode,
    SendMessage,
    UnknownType,
    UpdateTyping,
    encode_event,
    message_not_added_payload,
)

__all__ = [
    "Departed",
    "FeedReceiver",
    "OperationRequest",
    "QuietReceiver",
    "RoomCommand",
    "RoomReceiver",
    "push_event",
    "refuse",
]

_log = logging.getLogger(__name__)

_OTHERS: Final = (UnknownType, Ping, PageViewed)
"""Commands that a room does not handle. The tuple is made once, because every command is compared with it."""

ChatCommand = SendMessage | MarkMessageDelivered | MarkMessageRead | UpdateTyping
"""A command that a room handles."""


@attrs.define(eq=False)
class RoomCommand:
    """A command of a socket. `begun`: the room has started to handle it.

    `counted`: it counts as an operation in flight until it is answered; typing does not count. `refusal`: refuse the
    message, unless its `client_id` is stored already.
    """

    receiver: RoomReceiver
    command: ChatCommand
    counted: bool
    refusal: Refused | None = None
    begun: bool = False

    def answer(self, decision: Decision) -> None:
        """Answer the socket, which may then have one more operation in flight. Never raises."""
        if isinstance(decision, Refused):
            self._refuse(decision)
            return
        self._settle(False)
        if isinstance(decision, Undecided):
            # The client reconnects and sends the message again.
            self.receiver.subscription.session.close(CloseCode.SERVER_FAILED, decision.detail)
        elif isinstance(decision, Unchanged) and decision.message is not None:
            message, session = decision.message, self.receiver.subscription.session
            try:
                # Only extended sockets send a client_id.
                encoder = self.receiver.room_state.encoder
                payload = encoder.edit_of(encoder.added(decision.chat, message, message.client_id), message)
            except Exception:
                # Otherwise the client would wait for an answer for ever. It reconnects and sends the message again.
                _log.exception("answering a repeated message failed in chat %s", self.receiver.room_state.chat)
                session.close(CloseCode.SERVER_FAILED, "the server failed")
            else:
                frames = Frames.of([payload])
                if message.attachments:
                    frames = fill_links(frames, self.receiver.subscription.identity, self.receiver.room_state.links)
                session.push(frames)

    def _refuse(self, refused: Refused) -> None:
        subscription, limited = self.receiver.subscription, refused.code == RefusalCode.RATE_LIMITED
        self._settle(limited and self.refusal is not None)
        if limited and refused.retry_after is not None and self.refusal is None:
            subscription.limited_until = trio.current_time() + refused.retry_after
        refuse(self.receiver.room_state, subscription.session, self.command, refused)

    def fail(self) -> None:
        """Close the socket, because the room failed before anything was submitted. Failed typing closes no socket."""
        self._settle(False)
        if isinstance(self.command, UpdateTyping):
            return
        self.receiver.subscription.session.close(CloseCode.SERVER_FAILED, "the server failed")

    def lost(self, *, crashed: bool) -> None:
        """Refuse a command that became a dead letter. The room itself answers the commands that it has begun."""
        if not self.counted or self.begun:
            return
        if crashed and self._may_be_stored:
            # The room refuses it after everything that was sent before.
            if self.refusal is None:
                self.refusal = _NOT_TAKEN
                self.receiver.in_flight_limiter.refuse()
            self.receiver.room.tell(self)
        else:
            self.refuse_untaken()

    def refuse_untaken(self) -> None:
        """Refuse a command that was not submitted. If it may be stored already, close the socket instead."""
        if not self._may_be_stored:
            self.answer(_NOT_TAKEN)
            return
        self._settle(False)
        _close_undecided(self.receiver)

    @property
    def _may_be_stored(self) -> bool:
        return isinstance(self.command, SendMessage) and self.command.client_id is not None

    def _settle(self, flooding: bool) -> None:
        if self.counted:
            self.counted = False
            receiver = self.receiver
            if self.refusal is None:
                receiver.in_flight_limiter.done()
            else:
                receiver.in_flight_limiter.refused()
            receiver.subscription.session.operation_done(flooding)


@attrs.frozen
class Departed:
    """A user's last socket in the room is gone."""

    identity: Identity


@attrs.define(eq=False)
class OperationRequest:
    """An operation of a request, the sweeper or the directory. `begun` and `refusal` are as in `RoomCommand`.

    `on_removed` is called with the files that the operation has taken from messages, also if nobody waits any more.
    `on_decided` is called in the step in which the outcomes of the operation's commit are reported.
    """

    operation: ChatOperation
    in_flight_limiter: InFlightLimiter
    refusal: Refused | None = None
    begun: bool = False
    on_removed: Callable[[Sequence[UUID]], object] | None = None
    on_decided: Callable[[], object] | None = None
    _decision: Decision | None = attrs.field(default=None, init=False)
    _decided: trio.Event = attrs.field(factory=trio.Event, init=False)

    def answer(self, decision: Decision) -> None:
        if self.refusal is None:
            self.in_flight_limiter.done()
        else:
            self.in_flight_limiter.refused()
        self._decision = decision
        self._decided.set()
        if isinstance(decision, Changed) and decision.removed and self.on_removed is not None:
            self.on_removed(decision.removed)
        if self.on_decided is not None:
            self.on_decided()

    def fail(self) -> None:
        """Refuse it, because the room failed before anything was submitted."""
        self.answer(_NOT_TAKEN)

    def lost(self, *, crashed: bool) -> None:
        """Like `RoomCommand.lost`."""
        if not self.begun:
            self.refuse_untaken()

    def refuse_untaken(self) -> None:
        """Refuse an operation that was not submitted. An earlier request may have stored the same message."""
        self.answer(_NOT_TAKEN)

    async def wait(self) -> Decision:
        """Wait for the decision. If this is cancelled, the operation goes on."""
        while self._decision is None:
            await self._decided.wait()
        return self._decision


_NOT_TAKEN = Refused(RefusalCode.OVERLOADED, "the chat could not take it", 1.0)


def push_event(session: Session, event: Event) -> None:
    session.push(Frames.of([encode_event(event, session.profile)]))


def refuse(room_state: RoomState, session: Session, command: ChatCommand, refused: Refused) -> None:
    """Send the refusal to the sending socket: `message_not_added` for messages, `error` for marks *(ext)*."""
    if isinstance(command, SendMessage):
        code = refused.code
        payload = message_not_added_payload(
            code=code,
            detail=refused.detail,
            retryable=code in RETRYABLE,
            retry_after=refused.retry_after,
            text=command.text,
            client_id=command.client_id,
            chat_id=room_state.chat,
            attachments=refused.attachments,
        )
        session.push(Frames.of([payload]))
    elif session.profile is Profile.EXTENDED:
        push_event(session, ErrorEvent(refused.code, refused.detail, "data.message_id"))


class RoomReceiver:
    """The `transports.ports.Receiver` of one socket in a room. Never blocks or raises.

    `left` is called by `leave`. `page_viewed` stores a page or returns why not; None: this socket takes none.
    """

    __slots__ = ("_left", "_page_viewed", "in_flight_limiter", "room", "room_state", "subscription")

    def __init__(
        self,
        room_state: RoomState,
        subscription: Subscription,
        in_flight_limiter: InFlightLimiter,
        room: Ref[RoomCommand | Departed],
        left: Callable[[], object] | None = None,
        page_viewed: Callable[[PageViewed], Refused | None] | None = None,
    ) -> None:
        self._left = left
        self._page_viewed = page_viewed
        self.room_state: RoomState = room_state
        self.subscription: Subscription = subscription
        self.in_flight_limiter: InFlightLimiter = in_flight_limiter
        self.room: Ref[RoomCommand | Departed] = room

    def receive(self, command: Command | UnknownType) -> bool | None:
        """True: one more operation of the session is in flight until `operation_done`. False: refused at once."""
        if isinstance(command, _OTHERS):
            self._receive_other(command)
            return False
        refused = None
        if self.subscription.limited_until and isinstance(command, SendMessage):
            refused = self._limited()
        counted = not isinstance(command, UpdateTyping)
        if counted and refused is None:
            refused = self.in_flight_limiter.take()
        if refused is not None:
            return self._refuse(command, refused)
        self.room.tell(RoomCommand(self, command, counted))
        return counted or None

    def _receive_other(self, command: UnknownType | Ping | PageViewed) -> None:
        """Handle a command that does not concern the room."""
        session = self.subscription.session
        if not isinstance(command, PageViewed) or self._page_viewed is None:
            _answer_without_room(session, command)
            return
        refused = self._page_viewed(command)
        if refused is not None:
            push_event(session, ErrorEvent(refused.code, refused.detail, ""))

    def _limited(self) -> Refused | None:
        """The refusal while the user is rate-limited, so that the room need not handle the command."""
        subscription = self.subscription
        wait = subscription.limited_until - trio.current_time()
        if wait <= 0 or self.in_flight_limiter.draining:
            subscription.limited_until = 0.0
            return None
        return rate_limited(wait)

    def _refuse(self, command: ChatCommand, refused: Refused) -> bool:
        """Refuse at once, or in the journal's order if the same `client_id` may be stored or in flight."""
        if not isinstance(command, SendMessage) or command.client_id is None:
            refuse(self.room_state, self.subscription.session, command, refused)
            return False
        if not self.in_flight_limiter.take_refusal():
            _close_undecided(self)
            return False
        self.room.tell(RoomCommand(self, command, True, refused))
        return True

    def malformed(self, fault: Malformed) -> None:
        session = self.subscription.session
        if fault.type == SendMessage.type:
            given_back = SendMessage(fault.text or "", (), fault.client_id)
            refuse(self.room_state, session, given_back, Refused(RefusalCode.MALFORMED, fault.detail))
        else:
            _answer_malformed(session, fault)

    def leave(self) -> None:
        if self.room_state.depart(self.subscription):
            self.room.signal(Departed(self.subscription.identity))
        if self._left is not None:
            self._left()


class QuietReceiver(RoomReceiver):
    """The receiver of an operator's socket that reads quietly. It takes messages and pings, but no marks or typing."""

    __slots__ = ()

    def receive(self, command: Command | UnknownType) -> bool | None:
        if isinstance(command, MarkMessageDelivered | MarkMessageRead | UpdateTyping):
            detail = f"a socket that reads quietly sends no {command.type!r}"
            push_event(self.subscription.session, ErrorEvent("not_allowed", detail, "type"))
            return False
        return super().receive(command)


def _close_undecided(receiver: RoomReceiver) -> None:
    """Close the socket because it is unknown whether a message is stored. The client reconnects and sends it again."""
    session = receiver.subscription.session
    if receiver.in_flight_limiter.draining:
        session.close(CloseCode.DRAINING, "the server is restarting")
    else:
        session.close(CloseCode.OVERLOADED, "the server has too much to do")


class FeedReceiver:
    """The `transports.ports.Receiver` of one console, which may only ping. `leave` removes the console."""

    __slots__ = ("_session", "leave")

    def __init__(self, session: Session, leave: Callable[[], None]) -> None:
        self._session = session
        self.leave: Callable[[], None] = leave

    def receive(self, command: Command | UnknownType) -> bool:
        _answer_without_room(self._session, command)
        return False

    def malformed(self, fault: Malformed) -> None:
        _answer_malformed(self._session, fault)


def _answer_without_room(session: Session, command: Command | UnknownType) -> None:
    """Answer a ping, or refuse a command that the socket doesn't take."""
    if isinstance(command, Ping):
        push_event(session, Pong(command.n))
    elif session.profile is Profile.EXTENDED:
        push_event(session, ErrorEvent("unknown_type", f"this socket takes no {command.type!r}", "type"))


def _answer_malformed(session: Session, fault: Malformed) -> None:
    if session.profile is Profile.EXTENDED:
        push_event(session, ErrorEvent(fault.code, fault.detail, fault.path))
