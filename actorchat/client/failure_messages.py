"""Explains failed connections to users in a few words."""

import os
import ssl
from typing import Final

import attrs
import msgspec
import trio

_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING"})
"""OpenSSL's reasons when a server answers a handshake in plain text or closes the connection. In the latter case older
Pythons raise `SSLZeroReturnError` without a reason."""


@attrs.frozen
class ErrorBody:
    """The error in the body of a response; the fields are ``""`` if the body is not this API's."""

    code: str = ""
    detail: str = ""
    path: str = ""


@attrs.frozen
class _Body:
    error: ErrorBody


def parse_error_body(content: bytes | None) -> ErrorBody:
    """Parse the body of an HTTP error. Returns empty fields if it is not this API's, for example a proxy's."""
    try:
        return msgspec.json.decode(content or b"", type=_Body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ErrorBody()


def flatten(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a group and its nested groups, in order; never empty."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(flatten(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def explain_failure(error: BaseException) -> str:
    """Explain in one line, without the address, why a connection failed. Of several attempts, the last one counts."""
    root = _root_cause(error)
    match root:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {root.verify_message}"
        case ssl.SSLError() if root.reason in _NO_TLS or isinstance(root, ssl.SSLZeroReturnError):
            return "it does not seem to speak TLS; perhaps the address begins with http: or ws:"
        case ssl.SSLError() if root.reason:
            return f"TLS failed: {root.reason.lower().replace('_', ' ')}"
        case trio.TooSlowError():
            return "no answer in time"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
        case OSError(strerror=str(text)):
            return text.lower()
        case _:
            return str(root) or str(error) or type(root).__name__


def _root_cause(error: BaseException) -> BaseException:
    # The outer exceptions repeat the address or have no text. `__context__` is used even if it is suppressed.
    root = error
    while not (isinstance(root, OSError) and root.errno is not None):
        if isinstance(root, BaseExceptionGroup):
            root = flatten(root)[-1]
            continue
        cause = root.__cause__ or root.__context__
        if cause is None:
            break
        root = cause
    return root
