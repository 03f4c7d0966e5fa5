import socket
import ssl
from errno import ECONNREFUSED, ENETUNREACH

import pytest
import trio

from actorchat.client.failure_messages import explain_failure


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] ...")
    error.verify_message = "self-signed certificate"
    return error


def all_attempts_failed() -> OSError:
    error = OSError("all attempts to connect to x:1 failed")
    attempts = [OSError(number, f"Error connecting to ('x', 1): {number}") for number in (ENETUNREACH, ECONNREFUSED)]
    error.__cause__ = ExceptionGroup("", attempts)
    return error


def wrapped(error: Exception) -> Exception:
    wrapper = LookupError("")
    wrapper.__context__ = error
    wrapper.__suppress_context__ = True
    return wrapper


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (all_attempts_failed(), "connection refused"),
        (wrapped(all_attempts_failed()), "connection refused"),
        (socket.gaierror(-2, "Name or service not known"), "name or service not known"),
        (wrapped(certificate_error()), "its certificate is not trusted: self-signed certificate"),
        (trio.TooSlowError(), "no answer in time"),
        (ConnectionRefusedError("nobody listens"), "nobody listens"),
        (LookupError(), "LookupError"),
    ],
)
def test_the_root_cause_of_a_failure_is_described_briefly(error: Exception, said: str) -> None:
    assert explain_failure(error) == said
