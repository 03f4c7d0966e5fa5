"""An actor library for Trio: actors, addresses, inboxes, supervision, virtual actors, timers, watches and groups.

It does not depend on chats, protocols or sockets. `docs/actors.md` is the guide.
"""

from actorchat.actors._actor import Actor
from actorchat.actors._errors import (
    ActorCrashed,
    ActorError,
    ActorStopped,
    AskCycle,
    AskTimeout,
    MailboxFull,
    NoReply,
    SystemClosing,
    TooManyRestarts,
)
from actorchat.actors._events import (
    ActorInfo,
    Cause,
    DeadLetter,
    DeadLetterReason,
    DeadLetters,
    Down,
    End,
    Event,
    EventKind,
    Events,
    Instrument,
)
from actorchat.actors._group import Group
from actorchat.actors._inbox import Coalesce, Overflow, Stop
from actorchat.actors._ref import Ref
from actorchat.actors._request import Askable, Pending, Request
from actorchat.actors._supervise import ActorOptions, InboxOptions, Restart, Strategy, Supervisor, open_supervisor
from actorchat.actors._system import ActorSystem, open_system
from actorchat.actors._virtual import Virtual

__all__ = [
    "Actor",
    "ActorCrashed",
    "ActorError",
    "ActorInfo",
    "ActorOptions",
    "ActorStopped",
    "ActorSystem",
    "AskCycle",
    "AskTimeout",
    "Askable",
    "Cause",
    "Coalesce",
    "DeadLetter",
    "DeadLetterReason",
    "DeadLetters",
    "Down",
    "End",
    "Event",
    "EventKind",
    "Events",
    "Group",
    "InboxOptions",
    "Instrument",
    "MailboxFull",
    "NoReply",
    "Overflow",
    "Pending",
    "Ref",
    "Request",
    "Restart",
    "Stop",
    "Strategy",
    "Supervisor",
    "SystemClosing",
    "TooManyRestarts",
    "Virtual",
    "open_supervisor",
    "open_system",
]
