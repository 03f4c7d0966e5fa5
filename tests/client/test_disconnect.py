"""Which ends of a connection are temporary, and the errors of final ones."""

import pytest

from actorchat.client.disconnect import Closed, Ending, Rejected, Reopened, Unreachable, explain, final_error
from actorchat.client.errors import ConnectionEnded, SignedOut


@pytest.mark.parametrize(
    "ending",
    [
        *(Closed(code, "") for code in (1001, 1005, 1006, 1011, 1012, 1013)),
        *(Rejected(status, None) for status in (408, 429, 500, 503)),
        Unreachable("x"),
        Reopened(),
    ],
)
def test_temporary_errors_make_the_connection_reconnect(ending: Ending) -> None:
    assert final_error(ending, frame_dropped=False) is None
    assert explain(ending)


@pytest.mark.parametrize("code", [1000, 1002, 1010, 3000, 4400, 4401, 4403, 4404, 4410, 4999])
def test_other_closes_are_final(code: int) -> None:
    error = final_error(Closed(code, "why"), frame_dropped=True)
    assert isinstance(error, ConnectionEnded)
    assert (error.code, error.detail) == (code, "why")


def test_a_frame_error_is_retried_once_its_cause_was_found() -> None:
    for code in (1007, 1008, 1009):
        assert final_error(Closed(code, ""), frame_dropped=True) is None
        assert final_error(Closed(code, ""), frame_dropped=False) is not None


def test_signing_out_has_its_own_error() -> None:
    assert isinstance(final_error(Closed(4410, ""), frame_dropped=False), SignedOut)
