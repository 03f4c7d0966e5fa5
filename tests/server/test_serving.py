"""A server inside another program starts, drains, and leaves nothing behind."""

import gc
import json
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from uuid import UUID

import attrs
import psutil  # type: ignore[import-untyped] # it has no types
import pytest
import trio
from trio._core._thread_cache import THREAD_CACHE
from trio.testing import MockClock
from trio_websocket import ConnectionClosed

import actorchat
from actorchat.chat.model import Policy
from actorchat.protocol import CloseCode, MessageAdded, Profile, Role, User
from actorchat.server import serving
from actorchat.server.bootstrap import StartFailed
from actorchat.server.embedded import LocalSocket
from actorchat.server.environment import Environment
from actorchat.server.serving import ANSWER_SECONDS, DRAIN_SECONDS, open_server
from actorchat.server.settings import Settings
from actorchat.storage import Storage, open_store
from actorchat.testing._store_faults import CommitFault, FaultyStore
from actorchat.testing._transport_harness import until
from tests.server.server_under_test import SECRET, TIMEOUT, ApiClient, customer, error_of, run_server, websocket

MEMORY = Settings(storage="memory://", port=None)


async def text_of_next_message(member: LocalSocket) -> str:
    async for event in member:
        if isinstance(event, MessageAdded):
            return event.message.text
    raise AssertionError(f"the socket ended with {member.close_code}")


async def test_the_example_of_the_readme_talks_without_a_port() -> None:
    with trio.fail_after(TIMEOUT):
        async with actorchat.open_server(actorchat.Settings(storage="memory://", port=None)) as server:
            visitor = await server.connect_visitor(source="lk")
            assert visitor.chat is not None
            operator = await server.connect_operator(1, sources=["lk"], chat=visitor.chat)
            await visitor.send_message("hello")
            assert await text_of_next_message(operator) == "hello"


async def test_a_visitor_comes_back_to_the_same_chat_with_a_profile() -> None:
    async with open_server(MEMORY) as server:
        ann = User(7, Role.USER, firstname="Ann")
        first = await server.connect_visitor(source="lk", user=ann)
        again = await server.connect_visitor(source="lk", user=7, profile=Profile.STRICT)
        assert first.chat == again.chat
        assert again.user == ann


async def test_a_feed_shows_what_visitors_write() -> None:
    async with open_server(MEMORY) as server:
        feed = await server.connect_feed(1, sources=["lk"])
        visitor = await server.connect_visitor(source="lk")
        await visitor.send_message("hello")
        assert await text_of_next_message(feed) == "hello"


async def test_a_wrong_role_raises_in_the_caller() -> None:
    async with open_server(MEMORY) as server:
        with pytest.raises(ValueError, match="role operator"):
            await server.connect_feed(User(1, Role.USER), sources=["lk"])


async def test_ids_of_anonymous_visitors_are_given_by_the_server_only() -> None:
    async with open_server(MEMORY) as server:
        visitor = await server.connect_visitor(source="lk")
        again = await server.connect_visitor(source="lk", user=visitor.user.id)
        assert again.chat == visitor.chat
        with pytest.raises(ValueError, match=r"from 2\^52 on"):
            await server.connect_visitor(source="lk", user=2**52)
        with pytest.raises(ValueError, match=r"from 2\^52 on"):
            await server.connect_feed(visitor.user.id, sources=["lk"])


async def test_an_operator_in_an_unknown_chat_is_closed_with_4404() -> None:
    async with open_server(MEMORY) as server:
        member = await server.connect_operator(1, sources=["lk"], chat=UUID(int=0))
        assert [event async for event in member] == []
        assert member.close_code == CloseCode.NO_SUCH_CHAT


async def test_two_servers_in_one_process_know_nothing_of_each_other() -> None:
    async with run_server() as one, run_server() as other:
        visitor, chat = await one.talk()
        assert one.server.port != other.server.port
        assert (await one.call("GET", f"/api/chats/{chat}", visitor)).status_code == 200
        assert (await other.call("GET", f"/api/chats/{chat}", visitor)).status_code == 404


@pytest.mark.parametrize("settings", [MEMORY, Settings(storage="memory://", port=0, secret=SECRET)])
async def test_leaving_tells_sockets_that_the_server_goes(settings: Settings) -> None:
    with trio.fail_after(TIMEOUT):
        async with open_server(settings) as server:
            visitor = await server.connect_visitor(source="lk")
            await visitor.send_message("last words")
            await text_of_next_message(visitor)
    assert visitor.close_code == CloseCode.DRAINING
    assert server.drained
    assert server.statistics().draining


@pytest.mark.parametrize("transport", ["reactor", "trio-websocket"])
async def test_websockets_get_1001_and_idle_http_connections_are_closed(transport: str) -> None:
    closed: list[int] = []

    async def listen(api: ApiClient, token: str, chat: UUID, task_status: trio.TaskStatus[None]) -> None:
        async with api.socket(f"/ws/chats/{chat}", token) as member:
            await member.get_message()
            task_status.started()
            with pytest.raises(ConnectionClosed) as caught:
                await member.get_message()
            assert caught.value.reason is not None
            closed.append(caught.value.reason.code)

    settings = Settings(storage="memory://", port=0, secret=SECRET, transport=transport)
    async with trio.open_nursery() as nursery, run_server(settings) as api:
        token, chat = await api.visit()
        await nursery.start(lambda task_status: listen(api, token, chat, task_status))
        assert api.server.statistics().websockets == 1
        assert api.server.statistics().http_connections == 1
    assert closed == [1001]


async def test_an_exception_of_the_block_is_raised_unchanged() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with open_server(MEMORY):
            raise LookupError("mine")


async def test_a_cancelled_block_still_drains() -> None:
    with trio.move_on_after(TIMEOUT) as scope:
        async with open_server(MEMORY) as server:
            visitor = await server.connect_visitor(source="lk")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert server.drained
    assert visitor.close_code == CloseCode.DRAINING


async def test_a_stuck_journal_does_not_keep_the_program_running(autojump_clock: MockClock) -> None:
    async with open_server(MEMORY) as server:
        journal = server._parts.journal
        for wait in ("barrier", "drain"):
            setattr(journal, wait, trio.sleep_forever)
    assert trio.current_time() == DRAIN_SECONDS
    assert not server.drained


async def test_sockets_are_closed_with_1001_while_a_commit_is_uncertain(autojump_clock: MockClock) -> None:
    async with open_server(MEMORY) as server:
        visitor = await server.connect_visitor(source="lk")
        journal = server._parts.journal
        for wait in ("barrier", "drain"):
            setattr(journal, wait, trio.sleep_forever)
    assert visitor.close_code == CloseCode.DRAINING
    assert trio.current_time() == DRAIN_SECONDS
    assert not server.drained


class _Doubt:
    """Storage whose commits are uncertain from `begin` on."""

    def __init__(self) -> None:
        self._begun = False

    def begin(self) -> None:
        self._begun = True

    @asynccontextmanager
    async def open_store(
        self,
        url: str,
        policy: Policy,
        *,
        clock: Callable[[], float],
        brokers: Collection[str] = (),
        folder: Path | None = None,
    ) -> AsyncIterator[Storage]:
        async with open_store(url, policy, clock=clock) as storage:
            yield attrs.evolve(storage, store=FaultyStore(storage.store, self._faults(), away_for=sys.maxsize))

    def _faults(self) -> Iterator[CommitFault | None]:
        while True:
            yield CommitFault.STORED if self._begun else None


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["reactor", "trio-websocket"])
async def test_websockets_get_1001_and_no_answer_while_a_commit_is_uncertain(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("DRAIN_SECONDS", 1.0), ("COMMIT_SECONDS", 0.2), ("ANSWER_SECONDS", 0.2)):
        monkeypatch.setattr(serving, name, seconds)
    doubt = _Doubt()
    settings = Settings(storage="memory://", port=0, secret=SECRET, transport=transport)
    heard: list[str] = []

    async def talk(server: actorchat.Server, chat: UUID | None) -> None:
        protocols = (f"bearer.{customer(7)}", "actorchat.v1.ext")
        async with websocket(server.port, f"/ws/chats/{chat}", None, protocols) as member:
            await member.get_message()
            doubt.begin()
            command = {"type": "send_message", "data": {"text": "hello", "client_id": "k"}}
            await member.send_message(json.dumps(command))
            with suppress(ConnectionClosed):
                while True:
                    heard.append(json.loads(await member.get_message())["type"])
            assert member.closed is not None
            assert member.closed.code == CloseCode.DRAINING

    async with (
        trio.open_nursery() as nursery,
        open_server(settings, environment=Environment(open_store=doubt.open_store)) as server,
    ):
        visitor = await server.connect_visitor(source="lk", user=7)
        nursery.start_soon(talk, server, visitor.chat)
        await until(lambda: server.statistics().journal.away, "the commit is in doubt")
    assert not {"message_added", "message_not_added"}.intersection(heard)
    assert not server.drained


async def test_a_drain_with_slow_storage_still_counts_as_drained(autojump_clock: MockClock) -> None:
    async with open_server(MEMORY) as server:
        server._parts.journal.barrier = partial(trio.sleep, 7)  # type: ignore[method-assign] # simulates slow storage
    assert server.drained


async def test_an_unread_answer_does_not_prevent_the_stop(autojump_clock: MockClock) -> None:
    async with open_server(MEMORY) as server:
        http, cut = server._http, trio.Event()
        http.drain = cut.wait  # type: ignore[method-assign] # simulates a connection that does not end
        http.abort = cut.set  # type: ignore[method-assign] # simulates a connection that does not end
        begun = trio.current_time()
    assert trio.current_time() - begun == ANSWER_SECONDS
    assert server.drained


async def test_a_request_on_its_way_is_answered_while_draining() -> None:
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            async with run_server() as api:
                stream = await trio.open_tcp_stream("127.0.0.1", api.server.port)
                await stream.send_all(b"POST /api/visitors HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(_finish_when_draining, api, stream, b'"source":"lk"}')
            assert api.server.drained


async def _finish_when_draining(api: ApiClient, stream: trio.SocketStream, rest: bytes) -> None:
    async with stream:
        while not api.server.statistics().draining:
            await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(rest)
        assert b'"draining"' in b"".join([bytes(part) async for part in stream])


async def test_a_drain_that_takes_too_long_is_cut_off(autojump_clock: MockClock) -> None:
    async def stuck(code: int = 0, reason: str = "") -> None:
        await trio.sleep_forever()

    async with open_server(MEMORY) as server:
        server._parts.memory.drain = stuck  # type: ignore[method-assign] # simulates a hanging socket
        started = trio.current_time()
    assert trio.current_time() - started == DRAIN_SECONDS
    assert not server.drained


def _open_files() -> int:
    return int(psutil.Process().num_fds())


def _threads() -> int:
    # Trio keeps idle threads for a while; they do not count.
    return threading.active_count() - len(THREAD_CACHE._idle_workers)


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


@pytest.mark.parametrize("transport", ["reactor", "trio-websocket"])
@pytest.mark.parametrize("storage", ["memory", "sqlite"])
@pytest.mark.parametrize("count", [_open_files, _threads, _tasks], ids=["files", "threads", "tasks"])
async def test_a_stopped_server_leaves_nothing_behind(
    tmp_path: Path, storage: str, count: Callable[[], int], transport: str
) -> None:
    url = "memory://" if storage == "memory" else f"sqlite:///{tmp_path}/chat.db"

    settings = Settings(storage=url, data=tmp_path, port=0, secret=SECRET, transport=transport)

    async def live() -> None:
        async with run_server(settings) as api:
            visitor, chat = await api.talk()
            member = await api.server.connect_visitor(source="lk", user=customer_id)
            await member.send_message("hello")
            async with api.socket(f"/ws/chats/{chat}", visitor) as socket:
                await socket.get_message()

    customer_id = 7
    await live()
    gc.collect()
    before = count()
    for _ in range(3):
        await live()
    gc.collect()
    assert count() == before


async def test_memory_storage_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_server(MEMORY) as server:
        await server.connect_visitor(source="lk")
    assert os.listdir(tmp_path) == []


async def test_the_data_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    async with open_server(Settings(storage="memory://", port=None, data=folder)):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "secret").exists()


async def test_a_server_is_not_ready_while_storage_is_away() -> None:
    async with run_server() as api:
        journal = api.server._parts.journal
        away = attrs.evolve(journal.statistics(), away=True)
        journal.statistics = lambda: away  # type: ignore[method-assign] # simulates an outage
        answer = await api.call("GET", "/health/ready")
        assert error_of(answer) == (503, "storage_unavailable", "")
        assert (await api.call("GET", "/health/live")).status_code == 200


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartFailed, match=f"127.0.0.1:{port} is in use"):
            async with open_server(Settings(storage="memory://", port=port)):
                pass


async def test_an_invalid_host_is_one_clear_line() -> None:
    with pytest.raises(StartFailed, match=r"can't listen on 203\.0\.113\.1:0"):
        async with open_server(Settings(storage="memory://", host="203.0.113.1", port=0)):
            pass


async def test_a_folder_that_can_not_be_created_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartFailed, match=r"data folder can't be used: .*file/data cannot exist"):
        async with open_server(Settings(data=tmp_path / "file" / "data", port=None)):
            pass


async def test_the_url_is_reachable_from_this_machine() -> None:
    async with open_server(Settings(storage="memory://", host="0.0.0.0", port=0)) as server:  # noqa: S104 - meant
        assert server.url == f"http://127.0.0.1:{server.port}"
    async with open_server(MEMORY) as server:
        with pytest.raises(RuntimeError, match="does not listen"):
            _ = server.url


async def test_new_visitors_of_one_address_are_limited() -> None:
    limits = actorchat.LimitSettings(visitors_per_minute=2)
    async with run_server(Settings(storage="memory://", port=0, secret=SECRET, limits=limits)) as api:
        answers = [await api.call("POST", "/api/visitors", json={"source": "lk"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [201, 201, 429]
        assert answers[-1].json()["error"]["code"] == "rate_limited"
        assert int(answers[-1].headers["retry-after"]) > 0
        known = await api.call("POST", "/api/visitors", customer(), {"source": "lk"})
        assert known.status_code == 200


async def test_messages_over_http_count_against_the_users_rate() -> None:
    limits = actorchat.LimitSettings(messages_per_second=0.01, burst=2)
    async with run_server(Settings(storage="memory://", port=0, secret=SECRET, limits=limits)) as api:
        visitor, chat = await api.visit()
        statuses = [(await api.write(visitor, chat)).status_code for _ in range(3)]
        assert statuses == [201, 201, 429]


async def test_with_sources_configured_others_are_404() -> None:
    settings = Settings(storage="memory://", port=0, secret=SECRET, sources=("shop",))
    async with run_server(settings) as api:
        answers = [await api.call("POST", "/api/visitors", json={"source": name}) for name in ("shop", "lk")]
        assert [answer.status_code for answer in answers] == [201, 404]
        assert answers[1].json()["error"]["code"] == "not_found"
