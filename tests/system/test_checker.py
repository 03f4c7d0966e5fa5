"""Several servers on one PostgreSQL database keep every promise while they and what they need are broken."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
import trio
from click.testing import CliRunner

from actorchat.protocol import MessageAdded
from actorchat.testing.checker import (
    FAULTS,
    CheckFailed,
    CheckOptions,
    all_pairs,
    check_cluster,
    possible_faults,
)
from actorchat.testing.checker.__main__ import main
from actorchat.testing.checker.people import Person, Violation
from actorchat.testing.checker.wire import CommitFinder, is_note, postgres_frame_end, redis_frame_end
from tests.brokers.servers import Valkey
from tests.client.scripted_server import message
from tests.postgres_server import PostgresServer
from tests.system.switched_off import find


@pytest.fixture
def mortal_postgres() -> Iterator[PostgresServer]:
    """A server that keeps what it has confirmed when its processes are killed."""
    server = PostgresServer("fsync=off")
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.close()


@pytest.mark.slow
async def test_clients_of_three_nodes_see_everything_once_under_all_faults(
    mortal_postgres: PostgresServer, tmp_path: Path
) -> None:
    names = possible_faults(bus="postgres", database_machine=mortal_postgres, bus_machine=mortal_postgres)
    assert set(FAULTS) - set(names) == {"failover"}
    options = CheckOptions(
        storage=mortal_postgres.new_database(),
        folder=tmp_path,
        seconds=8,
        seed=3,
        chats=4,
        newcomers=8,
        database_machine=mortal_postgres,
        faults=[name for name in names if name != "freeze-long"],
        pause=0.5,
    )
    report = await check_cluster(options)
    assert report.messages > 5
    assert sum(report.faults.values()) > 4


@pytest.mark.slow
async def test_clients_of_nodes_with_valkey_between_them_see_everything_once(
    new_postgres: Callable[[], str], tmp_path: Path
) -> None:
    valkey = Valkey(tmp_path)
    valkey.start()
    try:
        names = ["bus-kill", "bus-loss", "bus-shuffle", "bus-cut", "bus-away+kill"]
        options = CheckOptions(
            storage=new_postgres(),
            folder=tmp_path,
            seconds=5,
            seed=1,
            chats=3,
            newcomers=6,
            bus=valkey.url,
            bus_machine=valkey,
            faults=names,
            pause=0.5,
        )
        report = await check_cluster(options)
    finally:
        valkey.kill()
    assert report.messages > 5
    assert report.faults.get("bus-kill") or report.faults.get("bus-loss")


@pytest.mark.slow
async def test_a_client_that_is_not_shown_a_message_is_found_and_its_history_is_told(
    new_postgres: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.testing.checker.people.Person.has_seen", lambda person, index: person.seen.clear())
    options = CheckOptions(
        storage=new_postgres(), folder=tmp_path, seconds=2, seed=1, nodes=1, chats=1, consoles=1, newcomers=0, settle=3
    )
    with pytest.raises(CheckFailed, match=r"visitor-0: did not see what is stored: \d+ missing") as failed:
        await check_cluster(options)
    assert "--- the last that visitor-0 did and saw in chat" in str(failed.value)
    assert re.search(r"\n +\d+\.\d{3} got message \d+: 'visitor-0-\d+ ", str(failed.value))
    assert "--- the log of node-0" in str(failed.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("healing", "seen"),
    [
        ("doubt", "messages are not stored exactly once|came twice"),
        ("revisions", "came (twice|after|before)"),
    ],
)
async def test_a_healing_that_is_switched_off_is_seen(
    healing: str, seen: str, mortal_postgres: PostgresServer, tmp_path: Path
) -> None:
    found = await find(healing, mortal_postgres, tmp_path, seconds=5)
    assert found is not None
    assert re.search(seen, found)


def test_every_healing_can_be_switched_off() -> None:
    # In a process of its own, because it changes classes.
    program = "from actorchat.testing.checker import HEALINGS\nfor each in HEALINGS.values(): each.switch_off()"
    subprocess.run([sys.executable, "-c", program], check=True)


def person() -> Person:
    return Person("visitor-0", "", UUID(int=1), Random(0), trio.Event(), lambda: 0.0)


def test_a_message_that_is_left_out_or_comes_again_is_a_violation() -> None:
    client = person()
    client.take(MessageAdded(message(0)))
    with pytest.raises(Violation, match="message 2 came twice, or out of order, after 0"):
        client.take(MessageAdded(message(2)))
    with pytest.raises(Violation, match="message 0 came twice, or out of order, after 0"):
        client.take(MessageAdded(message(0)))


def test_the_answer_to_a_repeated_message_may_overtake_others_and_comes_again() -> None:
    client = person()
    client.waiting["visitor-0-0"], client.repeats["visitor-0-0"] = "mine", 2
    client.take(MessageAdded(message(1, "mine"), client_id="visitor-0-0"))
    assert not client.waiting
    assert not client.has_seen(0)
    client.take(MessageAdded(message(0)))
    client.take(MessageAdded(message(1, "mine"), client_id="visitor-0-0"))
    assert client.has_seen(1)


def test_all_pairs_are_each_fault_alone_and_then_each_with_each_other() -> None:
    assert all_pairs(["kill", "cut", "bus-cut"]) == [
        "kill",
        "cut",
        "bus-cut",
        "kill+cut",
        "kill+bus-cut",
        "cut+bus-cut",
    ]


def test_faults_that_need_what_is_not_there_are_refused() -> None:
    runner = CliRunner()
    done = runner.invoke(main, ["postgresql://127.0.0.1/none", "--faults", "kill+database-kill"])
    assert done.exit_code == 2
    assert "'database-kill' can't be played here" in done.output
    done = runner.invoke(main, ["postgresql://127.0.0.1/none", "--faults", "quake"])
    assert "'quake' is not one of kill, restart" in done.output
    listed = runner.invoke(main, ["postgresql://127.0.0.1/none", "--bus", "local", "--list"]).output.split("\n")
    assert "cut            its connections to the database are cut" in listed
    assert not any(line.startswith(("bus", "no-bus", "database")) for line in listed)


def test_frames_of_postgresql_are_found() -> None:
    ready, note = b"Z\0\0\0\5I", b"A\0\0\0\x0dpidxch\0x\0"
    assert postgres_frame_end(ready + note, 0) == 6
    assert postgres_frame_end(ready + note, 6) == 6 + len(note)
    assert postgres_frame_end(note[:-1], 0) is None
    assert postgres_frame_end(b"Z\0", 0) is None
    assert (is_note(ready), is_note(note)) == (False, True)


def test_frames_of_redis_are_found() -> None:
    note = b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$5\r\na\r\nbc\r\n"
    for frame in (
        b"+OK\r\n",
        b":12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"%1\r\n+a\r\n*1\r\n:1\r\n",
        note,
        b">" + note[1:],
    ):
        assert redis_frame_end(frame + b"+OK\r\n", 0) == len(frame)
        assert redis_frame_end(frame[:-1], 0) is None
        assert is_note(frame) == (b"message" in frame)


def test_the_commit_of_a_batch_is_found_and_no_other() -> None:
    reader, writer = CommitFinder(), CommitFinder()
    assert not reader.commits(b"P..._pg3_1\0COMMIT\0")
    assert not reader.commits(b"B...\0_pg3_1\0...")
    assert not writer.commits(b"P..._pg3_10\0INSERT INTO commits (writer")
    assert writer.commits(b"P..._pg3_11\0COMMIT\0")
    assert not writer.commits(b"B...\0_pg3_1\0...")
    assert writer.commits(b"B...\0_pg3_11\0...")
