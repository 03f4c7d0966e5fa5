"""Inspection of a running server: the pages, access to the socket, and robustness against bad requests."""

import json
import logging
import os
import socket
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from actorchat.actor_tree import CHECKPOINT_EVERY, ActorTree, InspectionRequest, SortOrder, make_page
from actorchat.actors import ActorInfo, open_system
from actorchat.server.inspection import (
    ANSWER_SECONDS,
    MAX_CONVERSATIONS,
    MAX_REQUEST_BYTES,
    SOCKET_NAME,
    InspectionFailed,
    inspect_server,
    serve_inspection,
)
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import Settings
from tests.server.server_under_test import TIMEOUT

IDLE = ActorInfo(
    name="a",
    actor="Room",
    parent="room",
    state="running",
    age=5.0,
    restarts=0,
    queued=0,
    bound=9,
    begun=0,
    signals=0,
    dropped=0,
    drops={},
    message=None,
    busy_for=0.0,
    waiting_on=None,
)


def info(name: str, **changes: Any) -> ActorInfo:  # Any: whatever field it is
    return attrs.evolve(IDLE, name=name, **changes)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Server]:
    with trio.fail_after(TIMEOUT):
        async with open_server(Settings(storage="memory://", port=None, data=folder)) as server:
            yield server


async def say(folder: Path, question: bytes) -> dict[str, object]:
    """The socket's answer to these bytes; {} for none."""
    async with await trio.open_unix_socket(folder / SOCKET_NAME) as stream:
        await stream.send_all(question)
        answer = b"".join([bytes(part) async for part in stream])
    decoded: dict[str, object] = json.loads(answer or b"{}")
    return decoded


def refused(answer: dict[str, object]) -> bool:
    return answer["tree"] is None and isinstance(answer["refusal"], str)


# Contents of a page


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (SortOrder.INBOX, ["full", "slow", "busy", "back"]),
        (SortOrder.HANDLED, ["busy", "full", "back", "slow"]),
        (SortOrder.AGE, ["back", "slow", "full", "busy"]),
        (SortOrder.RESTARTS, ["slow", "full", "busy", "back"]),
        (SortOrder.NAME, ["back", "busy", "full", "slow"]),
    ],
)
async def test_rows_come_in_the_order_that_was_asked_for(order: SortOrder, names: list[str]) -> None:
    infos = [
        info("busy", begun=9, age=1.0, message="OperationRequest", busy_for=1.0),
        info("back", state="backoff", age=99.0),
        info("full", queued=5),
        info("slow", age=9.0, restarts=2, message="OperationRequest", busy_for=30.0),
    ]
    seen = await make_page(infos, InspectionRequest(sort=order))
    assert [row.name for row in seen.rows] == names


async def test_totals_are_of_whole_families_whatever_is_filtered() -> None:
    infos = [
        info("directory", parent=None),
        info("r1", queued=2, begun=3, message="OperationRequest"),
        info("r2", queued=1, dropped=4),
    ]
    seen = await make_page(infos, InspectionRequest(filter="r2"), {"rejected": 4})
    assert [row.name for row in seen.rows] == ["r2"]
    room = next(family for family in seen.families if family.name == "room")
    assert (room.actors, room.busy, room.queued, room.handled, room.dropped) == (2, 1, 3, 3, 4)
    assert [family.name for family in seen.families] == [None, "room"]
    assert seen.lost == {"rejected": 4}


@pytest.mark.parametrize("words", ["6F1C", "feed", "FEEDER", "backoff", "OperationRequest", "journal"])
async def test_a_filter_matches_every_named_part(words: str) -> None:
    wanted = info(
        "6f1c", actor="Feeder", parent="feed", state="backoff", message="OperationRequest", waiting_on="journal"
    )
    seen = await make_page([info("other"), wanted], InspectionRequest(filter=words))
    assert [row.name for row in seen.rows] == ["6f1c"]


async def test_a_page_beyond_the_last_one_is_the_last() -> None:
    infos = [info(str(number)) for number in range(25)]
    seen = await make_page(infos, InspectionRequest(limit=10, page=9))
    assert (seen.page, seen.pages, seen.matched) == (3, 3, 25)
    assert [row.name for row in seen.rows] == ["20", "21", "22", "23", "24"]
    nothing = await make_page(infos, InspectionRequest(filter="nobody"))
    assert (nothing.page, nothing.pages, nothing.rows) == (1, 1, ())


async def test_an_inspection_of_many_actors_yields_to_other_tasks() -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await make_page([info(str(number)) for number in range(40 * CHECKPOINT_EVERY)], InspectionRequest())
        nursery.cancel_scope.cancel()
    assert turns >= 30


@pytest.mark.slow
async def test_two_thousand_rooms_are_counted_paged_and_filtered(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        members = [await server.connect_visitor(source="lk") for _ in range(2000)]
        first = await inspect_server(tmp_path, InspectionRequest())
        assert next(family for family in first.families if family.name == "room").actors == 2000
        assert (len(first.rows), first.pages) == (50, 41)
        pages = [
            await inspect_server(tmp_path, InspectionRequest(sort=SortOrder.NAME, limit=1000, page=page))
            for page in (1, 2, 3)
        ]
        seen = Counter(row.name for page in pages for row in page.rows)
        assert set(seen.values()) == {1}
        assert set(seen) >= {str(member.chat) for member in members}
        one = await inspect_server(tmp_path, InspectionRequest(filter=str(members[7].chat)))
        assert [(row.kind, row.state, row.family) for row in one.rows] == [("Room", "running", "room")]


# Access to the socket


@pytest.mark.parametrize("mask", [0o000, 0o077])
async def test_only_the_owner_can_use_the_socket_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask)
    try:
        async with serving(tmp_path):
            mode = (tmp_path / SOCKET_NAME).stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
    finally:
        os.umask(old)


async def test_the_socket_is_removed_with_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path):
        assert SOCKET_NAME in os.listdir(tmp_path)
    assert SOCKET_NAME not in os.listdir(tmp_path)
    with pytest.raises(InspectionFailed, match="no server runs on"):
        await inspect_server(tmp_path, InspectionRequest())


async def test_the_socket_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(InspectionFailed, match="no server runs on"):
        await inspect_server(tmp_path, InspectionRequest())
    async with serving(tmp_path):
        assert (await inspect_server(tmp_path, InspectionRequest())).pid == os.getpid()


async def test_the_socket_of_a_running_server_is_not_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.server.inspection.RETRY_SECONDS", 0.01)
    async with serving(tmp_path) as first:
        async with serving(tmp_path):
            member = await first.connect_visitor(source="lk")
            assert [row.name for row in (await inspect_server(tmp_path, InspectionRequest(filter="Room"))).rows] == [
                str(member.chat)
            ]
            with trio.fail_after(TIMEOUT):
                while not caplog.records:  # noqa: ASYNC110 - the log has no event
                    await trio.sleep(0.01)
        assert (await inspect_server(tmp_path, InspectionRequest(filter="Room"))).matched == 1
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        f"another server uses {tmp_path}: `actorchat actors tree` shows the actors of that server"
    ]


async def test_a_server_that_is_about_to_end_is_no_reason_for_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.server.inspection.RETRY_SECONDS", 0.01)
    stop = trio.Event()

    async def first(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with serving(tmp_path):
            task_status.started()
            await stop.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(first)
        async with serving(tmp_path) as second:
            stop.set()
            member = await second.connect_visitor(source="lk")
            with trio.fail_after(TIMEOUT):
                while True:
                    with suppress(InspectionFailed):
                        rows = (await inspect_server(tmp_path, InspectionRequest(filter="Room"))).rows
                        if [row.name for row in rows] == [str(member.chat)]:
                            break
                    await trio.sleep(0.01)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_file_that_is_not_a_socket_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / SOCKET_NAME).write_text("somebody's notes")
    async with serving(tmp_path) as server:
        await server.connect_visitor(source="lk")
    assert (tmp_path / SOCKET_NAME).read_text() == "somebody's notes"
    assert "does not work for" in caplog.text


async def test_a_long_folder_path_is_supported(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    async with serving(folder):
        assert (await inspect_server(folder, InspectionRequest())).pages == 1
    assert SOCKET_NAME not in os.listdir(folder)


async def test_a_server_without_a_folder_has_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_server(Settings(storage="memory://", port=None)):
        assert os.listdir(tmp_path) == []


async def test_a_server_of_another_user_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def forbidden(_: str) -> trio.SocketStream:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(trio, "open_unix_socket", forbidden)
    with pytest.raises(InspectionFailed, match="only that user may inspect it"):
        await inspect_server(tmp_path, InspectionRequest())


# Robustness


@pytest.mark.parametrize(
    "junk",
    [
        b"\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"limit": 1001}\n',
        b'{"limit": 0}\n',
        b'{"page": 0}\n',
        b'{"sort": "colour"}\n',
        b'{"filter": null}\n',
        b'{"filter": "' + b"x" * 201 + b'"}\n',
        b'{"x": ' + b"[" * 4000 + b"\n",
        b"x" * (MAX_REQUEST_BYTES + 1),
    ],
    ids=lambda junk: repr(junk[:20]),
)
async def test_an_invalid_inspection_request_is_refused_and_the_next_answered(tmp_path: Path, junk: bytes) -> None:
    async with serving(tmp_path):
        assert refused(await say(tmp_path, junk))
        assert (await inspect_server(tmp_path, InspectionRequest())).pages == 1


async def test_several_inspections_may_run_at_once(tmp_path: Path) -> None:
    pages: list[int] = []

    async def ask() -> None:
        pages.append((await inspect_server(tmp_path, InspectionRequest())).pages)

    async with serving(tmp_path), trio.open_nursery() as nursery:
        for _ in range(MAX_CONVERSATIONS):
            nursery.start_soon(ask)
    assert pages == [1] * MAX_CONVERSATIONS


async def test_too_many_inspections_at_once_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path):
        held = [await trio.open_unix_socket(tmp_path / SOCKET_NAME) for _ in range(MAX_CONVERSATIONS)]
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(
            InspectionFailed, match=f"refused the request: {MAX_CONVERSATIONS} inspections are running already"
        ):
            await inspect_server(tmp_path, InspectionRequest())
        for stream in held:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await inspect_server(tmp_path, InspectionRequest())).pages == 1


async def test_an_inspection_client_without_a_request_is_closed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        await nursery.start(serve_inspection, tmp_path, ActorTree(system))
        assert await say(tmp_path, b'{"limit":') == {}
        assert trio.current_time() == pytest.approx(ANSWER_SECONDS)
        nursery.cancel_scope.cancel()


async def test_an_inspection_client_that_leaves_early_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path):
        for question in (b"", b"{}\n", b"junk\n"):
            async with await trio.open_unix_socket(tmp_path / SOCKET_NAME) as stream:
                await stream.send_all(question)
        await trio.testing.wait_all_tasks_blocked()
        assert (await inspect_server(tmp_path, InspectionRequest())).pages == 1
    assert caplog.records == []


async def test_an_error_in_an_inspection_does_not_stop_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_system() as system, trio.open_nursery() as nursery:
        await nursery.start(serve_inspection, tmp_path, ActorTree(system))
        system.dead_letters.counts = None  # type: ignore[assignment] # makes every inspection fail
        with pytest.raises(InspectionFailed, match="closed the connection without an answer"):
            await inspect_server(tmp_path, InspectionRequest())
        nursery.cancel_scope.cancel()
    assert "an inspection of the actors failed" in caplog.text


async def test_an_answer_of_another_version_is_reported_as_such(tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b'{"tree": {"version": 9}}')
        await stream.aclose()

    with trio.fail_after(TIMEOUT), socket.socket(socket.AF_UNIX) as raw:
        raw.bind(str(tmp_path / SOCKET_NAME))
        raw.listen()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(raw))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            with pytest.raises(InspectionFailed, match="another answer format"):
                await inspect_server(tmp_path, InspectionRequest())
            nursery.cancel_scope.cancel()


async def test_a_server_takes_over_the_socket_when_the_other_one_in_its_folder_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.server.inspection.RETRY_SECONDS", 0.01)
    second_serves, first_ended = trio.Event(), trio.Event()

    async def first(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with serving(tmp_path):
            task_status.started()
            await second_serves.wait()
        first_ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(first)
        async with serving(tmp_path) as second:
            await second.connect_visitor(source="lk")
            second_serves.set()
            await first_ended.wait()
            while True:
                with suppress(InspectionFailed):
                    found = await inspect_server(tmp_path, InspectionRequest(filter="Room"))
                    break
                await trio.sleep(0.01)
            assert found.matched == 1
