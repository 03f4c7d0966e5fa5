"""Times are written and read in one format."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorchat.protocol import parse_wire_time, wire_time


@given(st.integers(0, 253_402_300_799))
def test_a_written_time_is_read_back(seconds: int) -> None:
    text = wire_time(seconds)
    assert text.endswith("+00:00")
    assert len(text) == 25
    assert parse_wire_time(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def test_the_contracts_own_example_is_read_with_its_offset() -> None:
    moment = parse_wire_time("2025-01-20T16:31:04+03:00")
    assert moment.isoformat() == "2025-01-20T16:31:04+03:00"
    assert wire_time(int(moment.timestamp())) == "2025-01-20T13:31:04+00:00"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2025-01-20",
        "2025-01-20T16:31:04",
        "2025-01-20T16:31:04Z",
        "2025-01-20 16:31:04+03:00",
        "2025-01-20T16:31:04+0300",
        "2025-01-20T16:31:04.000+03:00",
        "2025-01-20T16:31:04+03:00\n",
        "2025-13-20T16:31:04+03:00",
        "2025-02-30T16:31:04+03:00",
        "٢٠٢٥-01-20T16:31:04+03:00",
    ],
)
def test_every_other_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_wire_time(text)
