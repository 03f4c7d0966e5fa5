"""Owns what can go wrong between actors, as exceptions. Knows no actor, only their names.

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
    """Whatever the actor core raises in those who use it."""


class ActorCrashed(ActorError):
    """An actor raised; `__cause__` is what it raised."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} crashed")
        self.name = name


class ActorStopped(ActorError):
    """The address takes no more messages, or what had the request is gone."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has stopped")
        self.name = name


class AskTimeout(ActorError):
    """No answer in time. `begun`: the handler had begun with the request, and may still finish it."""

    def __init__(self, name: str, message: type[object], queued: int, *, begun: bool) -> None:
        state = "begun" if begun else "not begun"
        super().__init__(f"{name} did not answer {message.__name__} in time ({state}, {queued} queued)")
        self.name, self.message, self.queued, self.begun = name, message, queued, begun


class AskCycle(ActorError):
    """Raised in the actor whose wait would close a ring in which everyone waits for the next. `path` names it."""

    def __init__(self, path: tuple[str, ...]) -> None:
        super().__init__(" -> ".join(path))
        self.path = path


class MailboxFull(ActorError):
    """The inbox was at its bound, or its overflow policy dropped the request.

    `retry_after`: seconds after which it is worth another try, if the policy is a `Stop` that says so.
    """

    def __init__(self, name: str, retry_after: float | None = None) -> None:
        super().__init__(f"the inbox of {name} is full")
        self.name, self.retry_after = name, retry_after


class NoReply(ActorError):
    """The handler of a request returned and neither replied nor deferred the answer."""

    def __init__(self, name: str, message: type[object]) -> None:
        super().__init__(f"{name} handled {message.__name__} without a reply")
        self.name, self.message = name, message


class TooManyRestarts(ActorError):
    """The budget of a `Restart` is spent; `__cause__` is the last crash."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} crashed too often to be restarted again")
        self.name = name


class SystemClosing(ActorError):
    """The system drains or has closed: nothing new starts in it."""

    def __init__(self) -> None:
        super().__init__("the actor system is closing: it takes no new actors")
