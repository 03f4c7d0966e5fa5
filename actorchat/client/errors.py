"""Defines the exceptions of the client.

::

    ClientError
    ├── ConnectionEnded      the server ended the connection for good; reconnecting would not help
    │   ├── NotAuthenticated     the token is absent, invalid or expired (401, 4401)
    │   ├── NotAllowed           the token is valid but gives no access (403, 4403)
    │   ├── NoSuchChat           there is no such chat or source (404, 4404)
    │   └── SignedOut            the user signed out, which closes all of their sockets (4410)
    ├── NotAdded             the server refused the message: it is not stored and will not be
    ├── Undelivered          the connection ended before the message's outcome was known
    ├── ApiError             the HTTP API refused a call, with its code
    ├── ApiUnreachable       the HTTP API gave no usable response
    └── ConsumerRefused      the message broker refuses the login, or the group can't be used
"""

# ruff: noqa: N818 - they say what happened, as Trio's do: `raise NotAdded`, `except ConnectionEnded`

from collections.abc import Sequence
from uuid import UUID


class ClientError(Exception):
    """The base class of this package's exceptions."""


class ConnectionEnded(ClientError):
    """The server ended the connection for good.

    ``code`` is the websocket close code or the HTTP status; ``detail`` is a text for users.
    """

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code
        self.detail = detail


class NotAuthenticated(ConnectionEnded):
    """The token is absent, invalid or expired."""


class NotAllowed(ConnectionEnded):
    """This user may not open this room or feed."""


class NoSuchChat(ConnectionEnded):
    """The chat or the source does not exist."""


class SignedOut(ConnectionEnded):
    """This user signed out everywhere."""


class NotAdded(ClientError):
    """The server refused the message; it is not stored.

    ``code`` is a value of `RefusalCode`, ``retry_after`` is in seconds or None, and ``attachments`` are those that were
    refused. ``text`` and ``client_id`` are the message's.
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
    """The connection ended before the outcome was known: the message may or may not be stored.

    It is safe to send it again with the same ``client_id``: it is stored only once.
    """

    def __init__(self, text: str, client_id: str, attachments: Sequence[UUID]) -> None:
        super().__init__("the connection ended before the server confirmed that the message is stored")
        self.text = text
        self.client_id = client_id
        self.attachments: tuple[UUID, ...] = tuple(attachments)


class ApiError(ClientError):
    """The HTTP API refused a call.

    ``status`` is the HTTP status, ``code`` the server's error code, and ``path`` the field that is wrong, or ``""``.
    """

    def __init__(self, status: int, code: str, detail: str, path: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.status = status
        self.code = code
        self.detail = detail
        self.path = path


class ApiUnreachable(ClientError):
    """There was no usable response: no connection, a timeout, or a response that is not from this API.

    ``asked`` is false if the request never reached the server, so that it certainly had no effect.
    """

    def __init__(self, detail: str, *, asked: bool = True) -> None:
        super().__init__(detail)
        self.asked = asked


class ConsumerRefused(ClientError):
    """The message broker refuses this consumer: its login, its rights, or the name of the stream."""
