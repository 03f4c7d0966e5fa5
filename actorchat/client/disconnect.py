"""Owns the verdict on a socket's end: come back, or give up and with which error.

Refuses to know sockets and clocks.
"""

from typing import Final

import attrs

from actorchat.client.errors import ConnectionEnded, NoSuchChat, NotAllowed, NotAuthenticated, SignedOut
from actorchat.protocol.frames import COME_BACK, CloseCode


@attrs.frozen
class Closed:
    """An open socket ended with this close code; 1006 is one that was lost without a close."""

    code: int
    reason: str


@attrs.frozen
class Rejected:
    """The server answered the upgrade with this HTTP status; ``retry_after`` in seconds or None.

    ``detail`` is what the answer says is wrong, ``""`` if it does not say.
    """

    status: int
    retry_after: float | None
    detail: str = ""


@attrs.frozen
class Unreachable:
    """No socket came to be, or what came out of it was no websocket of ours."""

    detail: str


@attrs.frozen
class Reopened:
    """This side closed the socket to resume at once on a new one."""


Ending = Closed | Rejected | Unreachable | Reopened

OUR_FRAME: Final = frozenset({CloseCode.NOT_UTF8, CloseCode.MALFORMED, CloseCode.TOO_BIG})
"""The closes that a frame of the closed side causes."""

_LOST: Final = COME_BACK | {1005, 1014, 1015}
_TRY_LATER: Final = frozenset({408, 425, 429})
_ENDS: Final[dict[int, tuple[type[ConnectionEnded], str]]] = {
    CloseCode.DONE: (ConnectionEnded, "the server closed the connection as done"),
    401: (NotAuthenticated, "the token is absent, invalid or expired"),
    CloseCode.NOT_AUTHENTICATED: (NotAuthenticated, "the token is not, or no longer, good"),
    403: (NotAllowed, "not allowed"),
    CloseCode.NOT_ALLOWED: (NotAllowed, "not allowed"),
    404: (NoSuchChat, "no such chat or source"),
    CloseCode.NO_SUCH_CHAT: (NoSuchChat, "no such chat or source"),
    CloseCode.SIGNED_OUT: (SignedOut, "signed out"),
}


def final_error(ending: Ending, *, blamed: bool) -> ConnectionEnded | None:
    """Judge an end: None to come back, else the error to give up with.

    ``blamed`` says that the frame which caused a 1007, 1008 or 1009 was found and is not sent again.
    """
    match ending:
        case Unreachable() | Reopened():
            return None
        case Closed(code, reason):
            if code in _LOST or (blamed and code in OUR_FRAME):
                return None
            return _error(code, reason)
        case Rejected(status, _, detail):
            return None if status in _TRY_LATER or status >= 500 else _error(status, detail)


def explain(ending: Ending) -> str:
    """Say in one line for people why there is no connection."""
    match ending:
        case Closed(code, reason):
            return f"the connection was lost ({code}{': ' + reason if reason else ''})"
        case Rejected(status, _, detail):
            return f"the server refused the connection for now (HTTP {status}{': ' + detail if detail else ''})"
        case Unreachable(detail):
            return detail
        case Reopened():
            return "resuming"


def _error(code: int, reason: str) -> ConnectionEnded:
    kind, detail = _ENDS.get(code, (ConnectionEnded, "the server refused the connection"))
    return kind(int(code), reason or detail)
