"""The benchmark of nodes counts what it should: real nodes, small numbers, and no time is judged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.nodes import _rate, _Reader, _send_and_read, _two_nodes
from bench.rolling_restart import check, restart_nodes
from tests.postgres_server import QUICK, PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer(*QUICK)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.close()


@pytest.mark.slow
async def test_messages_are_timed_on_both_nodes(server: PostgresServer, tmp_path: Path) -> None:
    with _two_nodes(tmp_path / "two", server.new_database(), "postgres") as two:
        own, other, _ = await _send_and_read(two.ports, two.sockets(2, 2), 0.5)
        writers = two.sockets(2, 1)
        assert _rate(two.ports, (writers[:1], writers[1:]), 0.5) > 0
    assert len(own) == len(other) == 50
    assert min(own + other) > 0


@pytest.mark.slow
async def test_clients_write_through_a_rolling_restart(server: PostgresServer, tmp_path: Path) -> None:
    restarted = await restart_nodes(server.new_database(), tmp_path, pairs=1, nodes=2)
    assert restarted.messages > 0
    assert restarted.reconnects >= 2
    assert restarted.longest_away > 0


def test_a_text_that_is_cut_in_two_is_timed_once() -> None:
    reader = _Reader(counted_from=2_000_000_000)
    event = b'{"type":"message_added","data":{"text":"%d"}}'
    reader.take(event % 1_999_999_999 + (event % 2_000_000_000)[:-8])
    assert not reader.late
    reader.take((event % 2_000_000_000)[-8:])
    [(due, late)] = reader.late.items()
    reader.take(event % 2_000_000_000)
    assert reader.late == {due: late}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ([(0, "a"), (2, "b")], "not in order"),
        ([(0, "a"), (1, "b"), (1, "b")], "saw messages twice"),
        ([(0, "a"), (1, "b"), (2, "b")], "1 of its messages not exactly once"),
        ([(0, "a")], "1 of its messages not exactly once"),
    ],
)
def test_what_a_client_missed_or_saw_twice_fails_the_restart(seen: list[tuple[int, str]], said: str) -> None:
    check("visitor", ["a", "b"], [(0, "a"), (1, "b")])
    with pytest.raises(RuntimeError, match=said):
        check("visitor", ["a", "b"], seen)
