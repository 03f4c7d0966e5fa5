"""The benchmark of stores counts committed messages."""

from pathlib import Path

import pytest

from bench.stores import _commit


@pytest.mark.slow
async def test_what_counts_as_committed_is_stored(tmp_path: Path) -> None:
    rate, microseconds = await _commit(f"sqlite:///{tmp_path / 'chat.db'}", 1, 0.2)
    assert rate > 0
    assert microseconds > 0
