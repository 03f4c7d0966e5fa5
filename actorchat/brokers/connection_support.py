"""Makes TLS contexts and time limits for connections to brokers, and describes in one line why a connection failed."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from actorchat.brokers.ports import BrokerUnavailable

__all__ = ["CONNECT_SECONDS", "answered_within", "first_error", "reason_of", "tls_context"]

CONNECT_SECONDS = 10.0
"""How many seconds connecting to a broker may take."""


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Raise `BrokerUnavailable` if the block takes longer."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise BrokerUnavailable(f"no answer within {seconds:.0f} s")


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """A context that trusts the certificates in `ca`, or those of the system. Raises OSError."""
    return ssl.create_default_context(cafile=None if ca is None else str(ca))


def first_error(error: BaseException) -> BaseException:
    """The first error in a group, also in nested groups. An error that is not a group is returned as it is."""
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
