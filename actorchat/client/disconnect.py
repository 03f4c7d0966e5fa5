"""Decides from how a socket ended whether to reconnect, or with which error to give up."""

from typing import Final

import attrs

from actorchat.client.errors import ConnectionEnded, NoSuchChat, NotAllowed, NotAuthenticated, SignedOut
from actorchat.protocol.frames import COME_BACK, CloseCode


@attrs.frozen
class Closed:
    """The open socket was closed with this code; 1006 means that it was lost without a close frame."""

    code: int
    reason: str


@attrs.frozen
class Rejected:
    """The server answered the upgrade request with an HTTP error.

    ``retry_after`` is the header's value in seconds, or None; ``detail`` is the error text of the body, or ``""``.
    """

    status: int
    retry_after: float | None
    detail: str = ""


@attrs.frozen
class Unreachable:
    """The connection failed, or the peer did not behave like a websocket server of this kind."""

    detail: str


@attrs.frozen
class Reopened:
    """This side closed the socket in order to resume at once on a new one."""


Ending = Closed | Rejected | Unreachable | Reopened

BAD_FRAME_CODES: Final = frozenset({CloseCode.NOT_UTF8, CloseCode.MALFORMED, CloseCode.TOO_BIG})
"""The close codes with which the server answers an invalid frame."""

_LOST: Final = COME_BACK | {1005, 1014, 1015}
_TRY_LATER: Final = frozenset({408, 425, 429})
_FINAL_ERRORS: Final[dict[int, tuple[type[ConnectionEnded], str]]] = {
    CloseCode.DONE: (ConnectionEnded, "the server closed the connection as done"),
    401: (NotAuthenticated, "the token is absent, invalid or expired"),
    CloseCode.NOT_AUTHENTICATED: (NotAuthenticated, "the token is not valid, or no longer valid"),
    403: (NotAllowed, "not allowed"),
    CloseCode.NOT_ALLOWED: (NotAllowed, "not allowed"),
    404: (NoSuchChat, "no such chat or source"),
    CloseCode.NO_SUCH_CHAT: (NoSuchChat, "no such chat or source"),
    CloseCode.SIGNED_OUT: (SignedOut, "signed out"),
}


def final_error(ending: Ending, *, frame_dropped: bool) -> ConnectionEnded | None:
    """Return the error to give up with, or None to reconnect.

    ``frame_dropped`` says that the frame that caused a close with 1007, 1008 or 1009 will not be sent again.
    """
    match ending:
        case Unreachable() | Reopened():
            return None
        case Closed(code, reason):
            if code in _LOST or (frame_dropped and code in BAD_FRAME_CODES):
                return None
            return _error(code, reason)
        case Rejected(status, _, detail):
            return None if status in _TRY_LATER or status >= 500 else _error(status, detail)


def explain(ending: Ending) -> str:
    """Explain to users, in one line, why there is no connection."""
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
    kind, detail = _FINAL_ERRORS.get(code, (ConnectionEnded, "the server refused the connection"))
    return kind(int(code), reason or detail)
