"""Owns how the failure of a connection is said to people: its root, in a few words.

Refuses to know which connection it was.
"""

import os
import ssl
from typing import Final

import attrs
import msgspec
import trio

_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING"})
"""What OpenSSL says of a server that answers a handshake in plain text, or hangs up. Older Pythons say the latter as
`SSLZeroReturnError`, without a reason."""


@attrs.frozen
class Fault:
    """What a server's answer says is wrong; every part is ``""`` where the answer is not this API's."""

    code: str = ""
    detail: str = ""
    path: str = ""


@attrs.frozen
class _Body:
    error: Fault


def read_fault(content: bytes | None) -> Fault:
    """The fault in the body of a refused request. Never raises: a proxy may have answered."""
    try:
        return msgspec.json.decode(content or b"", type=_Body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Fault()


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors in a group and its groups, in order; never empty."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def explain_failure(error: BaseException) -> str:
    """Why it failed, without the address; of several attempts the last one counts. One line."""
    root = _informative(error)
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


def _informative(error: BaseException) -> BaseException:
    # What is raised names the address again, or nothing at all, and may suppress what it comes from.
    root = error
    while not (isinstance(root, OSError) and root.errno is not None):
        if isinstance(root, BaseExceptionGroup):
            root = leaves(root)[-1]
            continue
        before = root.__cause__ or root.__context__
        if before is None:
            break
        root = before
    return root
