"""Owns what a socket in a room may say, and how it is answered when it is refused.

The transport calls it with decoded commands; it hands them to the room and keeps the count of operations in flight.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from actorchat.chat.limits import Intake
from actorchat.chat.operations import Refused
from actorchat.chat.ports import Session
from actorchat.chat.roster import Member, Roster
from actorchat.protocol import (
    RETRYABLE,
    Command,
    ErrorEvent,
    Event,
    Frames,
    Malformed,
    MarkMessageDelivered,
    MarkMessageRead,
    MessageNotAdded,
    Profile,
    RefusalCode,
    SendMessage,
    UnknownType,
    encode_event,
)

__all__ = ["FeedReceiver", "FromMember", "RoomReceiver", "push_event", "refuse"]

OperationCommand = SendMessage | MarkMessageDelivered | MarkMessageRead
"""The commands that become operations of the journal, and are answered."""


@attrs.define(eq=False)
class FromMember:
    """A command of a member, on its way to the room and, as an operation's origin, back from the journal."""

    roster: Roster
    member: Member
    command: Command
    intake: Intake
    begun: bool = False

    def settle(self) -> None:
        """It is answered, or needs no answer: the socket may have one more in flight."""
        if isinstance(self.command, OperationCommand):
            self.intake.done()
            self.member.session.operation_done()

    def lost(self) -> None:
        """The room did not take it: a full inbox, a crash, a stop."""
        if isinstance(self.command, OperationCommand) and not self.begun:
            self.settle()
            self.refuse(Refused(RefusalCode.OVERLOADED, "the chat has too much to do", 1.0))

    def refuse(self, refused: Refused) -> None:
        refuse(self.roster, self.member.session, self.command, refused)


def push_event(session: Session, event: Event) -> None:
    session.push(Frames.of([encode_event(event, session.profile)]))


def refuse(roster: Roster, session: Session, command: Command, refused: Refused) -> None:
    """Tell the sending socket, and it alone: `message_not_added` for messages, `error` for marks *(ext)*."""
    if isinstance(command, SendMessage):
        code = RefusalCode(refused.code)
        push_event(
            session,
            MessageNotAdded(
                code=code,
                detail=refused.detail,
                retryable=code in RETRYABLE,
                retry_after=refused.retry_after,
                text=command.text,
                client_id=command.client_id,
                chat_id=roster.chat,
                attachments=command.attachments if code in _ABOUT_ATTACHMENTS else (),
            ),
        )
    elif session.profile is Profile.EXTENDED:
        push_event(session, ErrorEvent(refused.code, refused.detail, "data.message_id"))


_ABOUT_ATTACHMENTS = (
    RefusalCode.ATTACHMENT_UNKNOWN,
    RefusalCode.ATTACHMENT_REJECTED,
    RefusalCode.TOO_MANY_ATTACHMENTS,
)


class RoomReceiver:
    """What one socket in a room says (`transports.ports.Receiver`). Never blocks, never raises."""

    __slots__ = ("_intake", "_member", "_roster", "_tell")

    def __init__(self, roster: Roster, member: Member, intake: Intake, tell: Callable[[FromMember], object]) -> None:
        self._roster, self._member, self._intake, self._tell = roster, member, intake, tell

    def receive(self, command: Command | UnknownType) -> bool:
        """True: the session has one more operation in flight, until `operation_done`."""
        if isinstance(command, UnknownType):
            _answer_unknown(self._member.session, command)
            return False
        item = FromMember(self._roster, self._member, command, self._intake)
        if not isinstance(command, OperationCommand):
            self._tell(item)
            return False
        refused = self._intake.take()
        if refused is not None:
            item.refuse(refused)
            return False
        self._tell(item)
        return True

    def malformed(self, fault: Malformed) -> None:
        session = self._member.session
        if fault.type == SendMessage.type:
            push_event(
                session,
                MessageNotAdded(
                    code=RefusalCode.MALFORMED,
                    detail=fault.detail,
                    retryable=False,
                    retry_after=None,
                    text=fault.text or "",
                    client_id=fault.client_id,
                    chat_id=self._roster.chat,
                    attachments=(),
                ),
            )
        else:
            _answer_malformed(session, fault)


class FeedReceiver:
    """What one console says: the feed takes no commands."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

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
