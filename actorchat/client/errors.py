"""Owns what a client raises, by whose fault it is.

Refuses to know how it was found out: codes come from close frames, HTTP statuses and events alike.

::

    ClientError
    ├── ConnectionEnded      the server ended the connection for good; coming back would not help
    │   ├── NotAuthenticated     the token is absent, invalid or expired (401, 4401)
    │   ├── NotAllowed           the token is good, the right is missing (403, 4403)
    │   ├── NoSuchChat           there is no such chat or source (404, 4404)
    │   └── SignedOut            every socket of this identity was ended (4410)
    ├── NotAdded             the server refused the message: it is not stored and will not be
    ├── Undelivered          the connection ended before the message's outcome was known
    ├── ApiError             the HTTP side refused a call, with its code
    └── ApiUnreachable       the HTTP side gave no usable answer
"""

# ruff: noqa: N818 - they say what happened, as Trio's do: `raise NotAdded`, `except ConnectionEnded`

from collections.abc import Sequence
from uuid import UUID


class ClientError(Exception):
    """Everything this package raises on purpose."""


class ConnectionEnded(ClientError):
    """The server ended the connection; ``code`` is its close code or HTTP status, ``detail`` for people."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail


class NotAuthenticated(ConnectionEnded):
    """The token is absent, invalid or expired."""


class NotAllowed(ConnectionEnded):
    """This identity may not open this room or feed."""


class NoSuchChat(ConnectionEnded):
    """There is no such chat, or no such source."""


class SignedOut(ConnectionEnded):
    """This identity signed out everywhere."""


class NotAdded(ClientError):
    """The server refused the message.

    ``code`` is one of `RefusalCode`'s values, ``attachments`` are the offending ones, ``retry_after`` is
    in seconds or None. ``text`` and ``client_id`` are those of the message.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        text: str,
        client_id: str,
        retry_after: float | None = None,
        attachments: Sequence[UUID] = (),
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.text = text
        self.client_id = client_id
        self.retry_after = retry_after
        self.attachments: tuple[UUID, ...] = tuple(attachments)


class Undelivered(ClientError):
    """The connection ended first: the message may be stored or not.

    Sending it again with the same ``client_id`` stores it once.
    """

    def __init__(self, text: str, client_id: str, attachments: Sequence[UUID]) -> None:
        super().__init__("the connection ended before it was known whether the message is stored")
        self.text = text
        self.client_id = client_id
        self.attachments: tuple[UUID, ...] = tuple(attachments)


class ApiError(ClientError):
    """The HTTP side refused a call: HTTP's ``status``, the server's ``code``, the faulty field's ``path``."""

    def __init__(self, status: int, code: str, detail: str, path: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.status = status
        self.code = code
        self.detail = detail
        self.path = path


class ApiUnreachable(ClientError):
    """No usable answer came: no connection, too slow, or not what this API answers.

    ``asked`` is false when the call did not get as far as the server: it was not carried out.
    """

    def __init__(self, detail: str, *, asked: bool = True) -> None:
        super().__init__(detail)
        self.asked = asked
