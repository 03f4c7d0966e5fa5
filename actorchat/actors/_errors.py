"""The exceptions of the actor library.

ActorError
├── ActorCrashed      the other actor raised while it had your request, or could not start
├── ActorStopped      the address has stopped, or the incarnation that had your request was killed
├── AskTimeout        no answer in time
├── AskCycle          waiting here would never end
├── MailboxFull       the other actor's inbox refused the request
├── NoReply           the handler returned and neither replied nor deferred
├── TooManyRestarts   a supervisor gave an actor up
└── SystemClosing     the actor system takes no new actors
"""

# ruff: noqa: N818 - these are read as sentences: "except AskTimeout"


class ActorError(Exception):
    """The base class of all errors that the library raises in its users."""


class ActorCrashed(ActorError):
    """An actor crashed; `__cause__` is the exception that it raised."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} crashed")
        self.name = name


class ActorStopped(ActorError):
    """The address accepts no more messages, or the incarnation that had the request is gone."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has stopped")
        self.name = name


class AskTimeout(ActorError):
    """There was no answer in time. `begun`: the handler had begun with the request and may still finish it."""

    def __init__(self, name: str, message: type[object], queued: int, *, begun: bool) -> None:
        state = "begun" if begun else "not begun"
        super().__init__(f"{name} did not answer {message.__name__} in time ({state}, {queued} queued)")
        self.name = name
        self.message = message
        self.queued = queued
        self.begun = begun


class AskCycle(ActorError):
    """Waiting here would be a deadlock: a cycle of actors that wait for each other. `path` names its members."""

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(" -> ".join(path))
        self.path = path


class MailboxFull(ActorError):
    """The inbox was at its bound, or its overflow policy dropped the request.

    `retry_after` is the number of seconds to wait before another try, if the policy is a `Stop` with that hint.
    """

    def __init__(self, name: str, retry_after: float | None = None) -> None:
        super().__init__(f"the inbox of {name} is full")
        self.name = name
        self.retry_after = retry_after


class NoReply(ActorError):
    """The handler of a request returned without a reply and without deferring it."""

    def __init__(self, name: str, message: type[object]) -> None:
        super().__init__(f"{name} handled {message.__name__} without a reply")
        self.name = name
        self.message = message


class TooManyRestarts(ActorError):
    """The budget of a `Restart` is spent; `__cause__` is the last crash."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} crashed too often to be restarted again")
        self.name = name


class SystemClosing(ActorError):
    """The system is draining or closed: no actor can be started in it."""

    def __init__(self) -> None:
        super().__init__("the actor system is closing: it takes no new actors")
