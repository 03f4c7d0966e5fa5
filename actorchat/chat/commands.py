"""Owns what sockets and requests ask of a room, and how each is answered: exactly once.

What is asked travels to the room and, as the operation's origin, through the journal and back. It belongs to the asker:
no crash of the room loses its answer.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from actorchat.actors import Ref
from actorchat.chat.limits import Intake, rate_limited
from actorchat.chat.model import Identity
from actorchat.chat.operations import Changed, ChatOperation, Decision, Refused, Unchanged
from actorchat.chat.ports import Session
from actorchat.chat.roster import Member, Roster
from actorchat.protocol import (
    RETRYABLE,
    CloseCode,
    Command,
    ErrorEvent,
    Event,
    Frames,
    Malformed,
    Profile,
    RefusalCode,
    SendMessage,
    UnknownType,
    UpdateTyping,
    encode_event,
    message_not_added_payload,
)

__all__ = ["Departed", "FeedReceiver", "FromMember", "Perform", "RoomReceiver", "push_event", "refuse"]


@attrs.define(eq=False)
class FromMember:
    """A command of a socket. `begun`: the room has seen it.

    `counted`: it becomes an operation of the journal, and is still to be answered; typing is not.
    """

    roster: Roster
    member: Member
    command: Command
    intake: Intake
    counted: bool
    begun: bool = False

    def answer(self, decision: Decision) -> None:
        """What was decided. The socket may have one more operation in flight."""
        self._settle()
        if isinstance(decision, Changed):
            return
        if isinstance(decision, Refused):
            if decision.code == RefusalCode.RATE_LIMITED and decision.retry_after is not None:
                self.member.limited_until = trio.current_time() + decision.retry_after
            refuse(self.roster, self.member.session, self.command, decision)
        elif isinstance(decision, Unchanged) and decision.message is not None:
            message = decision.message
            payload = self.roster.encoder.added(decision.chat, message, message.client_id)
            self.member.session.push(Frames.of([payload]))

    def fail(self) -> None:
        """The room failed over it; nothing was submitted. Typing is only shown: that closes no socket."""
        self._settle()
        if isinstance(self.command, UpdateTyping):
            return
        self.member.session.close(CloseCode.SERVER_FAILED, "the server failed")

    def lost(self) -> None:
        """It became a dead letter: a full inbox, a crash, a stop. What the room has begun it answers itself."""
        if self.counted and not self.begun:
            self.answer(_NOT_TAKEN)

    def _settle(self) -> None:
        if self.counted:
            self.counted = False
            self.intake.done()
            self.member.session.operation_done()


@attrs.frozen
class Departed:
    """A user's last socket in the room is gone."""

    identity: Identity


@attrs.define(eq=False)
class Perform:
    """An operation of a request, the sweeper or the directory. `begun`: the room has seen it."""

    operation: ChatOperation
    intake: Intake
    begun: bool = False
    _decision: Decision | None = attrs.field(default=None, init=False)
    _decided: trio.Event = attrs.field(factory=trio.Event, init=False)

    def answer(self, decision: Decision) -> None:
        self.intake.done()
        self._decision = decision
        self._decided.set()

    def fail(self) -> None:
        """The room failed over it; nothing was submitted."""
        self.answer(_NOT_TAKEN)

    def lost(self) -> None:
        """As `FromMember.lost`."""
        if not self.begun:
            self.answer(_NOT_TAKEN)

    async def wait(self) -> Decision:
        """Wait for the decision; cancelled, the operation goes on."""
        while self._decision is None:
            await self._decided.wait()
        return self._decision


_NOT_TAKEN = Refused(RefusalCode.OVERLOADED, "the chat could not take it", 1.0)


def push_event(session: Session, event: Event) -> None:
    session.push(Frames.of([encode_event(event, session.profile)]))


def refuse(roster: Roster, session: Session, command: Command, refused: Refused) -> None:
    """Tell the sending socket, and it alone: `message_not_added` for messages, `error` for marks *(ext)*."""
    if isinstance(command, SendMessage):
        code = refused.code
        payload = message_not_added_payload(
            code=code,
            detail=refused.detail,
            retryable=code in RETRYABLE,
            retry_after=refused.retry_after,
            text=command.text,
            client_id=command.client_id,
            chat_id=roster.chat,
            attachments=command.attachments if code in _ABOUT_ATTACHMENTS else (),
        )
        session.push(Frames.of([payload]))
    elif session.profile is Profile.EXTENDED:
        push_event(session, ErrorEvent(refused.code, refused.detail, "data.message_id"))


_ABOUT_ATTACHMENTS = frozenset(
    {RefusalCode.ATTACHMENT_UNKNOWN, RefusalCode.ATTACHMENT_REJECTED, RefusalCode.TOO_MANY_ATTACHMENTS}
)


class RoomReceiver:
    """What one socket in a room says (`transports.ports.Receiver`). Never blocks, never raises."""

    __slots__ = ("_intake", "_member", "_room", "_roster")

    def __init__(self, roster: Roster, member: Member, intake: Intake, room: Ref[FromMember | Departed]) -> None:
        self._roster, self._member, self._intake, self._room = roster, member, intake, room

    def receive(self, command: Command | UnknownType) -> bool | None:
        """True: the session has one more operation in flight, until `operation_done`. False: refused at once."""
        if isinstance(command, UnknownType):
            _answer_unknown(self._member.session, command)
            return False
        member = self._member
        if member.limited_until and isinstance(command, SendMessage) and self._refuse_limited(command):
            return False
        counted = not isinstance(command, UpdateTyping)
        if counted:
            refused = self._intake.take()
            if refused is not None:
                refuse(self._roster, member.session, command, refused)
                return False
        self._room.tell(FromMember(self._roster, member, command, self._intake, counted))
        return counted or None

    def _refuse_limited(self, command: SendMessage) -> bool:
        """Say at once what the room would say again: a flood costs it no step."""
        member = self._member
        wait = member.limited_until - trio.current_time()
        if wait <= 0 or self._intake.draining:
            member.limited_until = 0.0
            return False
        refuse(self._roster, member.session, command, rate_limited(wait))
        return True

    def malformed(self, fault: Malformed) -> None:
        session = self._member.session
        if fault.type == SendMessage.type:
            given_back = SendMessage(fault.text or "", (), fault.client_id)
            refuse(self._roster, session, given_back, Refused(RefusalCode.MALFORMED, fault.detail))
        else:
            _answer_malformed(session, fault)

    def leave(self) -> None:
        if self._roster.depart(self._member):
            self._room.signal(Departed(self._member.identity))


class FeedReceiver:
    """What one console says: the feed takes no commands. `leave` takes the console off it."""

    __slots__ = ("_session", "leave")

    def __init__(self, session: Session, leave: Callable[[], None]) -> None:
        self._session = session
        self.leave = leave

    def receive(self, command: Command | UnknownType) -> bool:
        _answer_unknown(self._session, UnknownType(command.type))
        return False

    def malformed(self, fault: Malformed) -> None:
        _answer_malformed(self._session, fault)


def _answer_unknown(session: Session, unknown: UnknownType) -> None:
    if session.profile is Profile.EXTENDED:
        push_event(session, ErrorEvent("unknown_type", f"this socket takes no {unknown.type!r}", "type"))


def _answer_malformed(session: Session, fault: Malformed) -> None:
    if session.profile is Profile.EXTENDED:
        push_event(session, ErrorEvent(fault.code, fault.detail, fault.path))
