"""Says in one line why a broker can't be reached, and makes the TLS context for those that ask for encryption."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

__all__ = ["CONNECT_SECONDS", "first_error", "reason_of", "tls_context"]

CONNECT_SECONDS = 10.0
"""How many seconds connecting to a broker may take."""


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """A context that trusts the certificates in `ca`, or those of the system. Raises OSError."""
    return ssl.create_default_context(cafile=None if ca is None else str(ca))


def first_error(error: BaseException) -> BaseException:
    """The first error in a group, or in a group of groups; an error that is no group itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def reason_of(error: BaseException) -> str:
    """Describe the error to people in one line, without a traceback or names of this program's classes."""
    cause = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return reason_of(cause)
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(cause, OSError) and str(error).startswith("all attempts to connect"):
        return reason_of(first_error(cause))
    if isinstance(cause, BaseExceptionGroup):
        return reason_of(first_error(cause))
    return " ".join(str(error).split()) or type(error).__name__
