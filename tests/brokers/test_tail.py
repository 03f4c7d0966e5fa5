"""`actorchat broker tail` shows what is published, as a program of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import coredis
import pytest
import trio
from click.testing import CliRunner

import actorchat
from actorchat.brokers import BrokerUrl, open_broker, open_tail, parse_broker_url
from actorchat.cli import main
from actorchat.protocol import BrokerChannel, BrokerMessage
from tests.brokers.servers import Nats, RabbitMq, Valkey
from tests.brokers.test_server import act, settings

CAP = 60.0
NOTE = "note for operators, Eve: a regular"


@contextmanager
def tail(arguments: Sequence[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACTORCHAT_")}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "actorchat", "broker", "tail", *arguments],
            env=environment | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "40"},
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def tailed(arguments: Sequence[str], publisher: str, output: Path, shown: Callable[[str], bool]) -> list[str]:
    """The lines that it prints of sessions, which are repeated until `shown` says that all is there."""
    with tail(arguments, output) as process, trio.fail_after(CAP):
        while True:
            async with actorchat.open_server(settings(publisher)) as server:
                await act(server)
            await trio.sleep(0.5)
            printed = await trio.Path(output).read_text(encoding="utf-8")
            assert process.poll() is None, printed
            if shown(printed):
                return printed.splitlines()


@pytest.mark.slow
async def test_a_session_is_seen_on_valkey_with_notes_marked(own_valkey: Valkey, tmp_path: Path) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    lines = await tailed(
        ["--broker", own_valkey.url, "--source", "lk"], own_valkey.url, tmp_path / "out", lambda text: NOTE in text
    )
    channels = {line.split()[1] for line in lines}
    assert channels == {"chat", "operators", "message", "global"}
    assert any("open Ann with Eve" in line for line in lines)
    assert any("Eve offline, 0 new, 0 open" in line for line in lines)
    assert any("1 unread" in line or "0 unread" in line for line in lines)


@pytest.mark.skipif(os.name != "posix", reason="Windows sends no SIGINT to one process")
async def test_ctrl_c_ends_it_without_a_word(own_valkey: Valkey, tmp_path: Path) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    output = tmp_path / "out"
    with tail(["--broker", own_valkey.url], output) as process, trio.fail_after(CAP):
        async with open_broker(parse_broker_url(own_valkey.url)).connect() as connection:
            while not output.read_text():
                await connection.publish(
                    [BrokerMessage(BrokerChannel.GLOBAL, "lk", "global/lk/1", b'{"unread_chats":1}')]
                )
                await trio.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert await trio.to_thread.run_sync(process.wait, CAP) == 0
    assert "Traceback" not in output.read_text()


@pytest.mark.slow
async def test_one_channel_of_rabbitmq_comes_as_json(rabbitmq: RabbitMq, tmp_path: Path) -> None:
    arguments = ["message", "--json", "--broker", rabbitmq.url]
    lines = await tailed(arguments, rabbitmq.url, tmp_path / "out", lambda text: "a regular" in text)
    objects = list(map(json.loads, lines))
    assert {each["channel"] for each in objects} == {"message"}
    assert {each["source"] for each in objects} == {"lk"}
    assert any(each["body"]["text"] == "good day" and each["id"].endswith("/1") for each in objects)


@pytest.mark.slow
async def test_a_session_is_seen_on_nats(nats: Nats, tmp_path: Path) -> None:
    arguments = ["--broker", nats.url, "--source", "lk"]
    lines = await tailed(arguments, nats.url, tmp_path / "out", lambda text: NOTE in text)
    assert {line.split()[1] for line in lines} == {"chat", "operators", "message", "global"}


@pytest.mark.slow
async def test_entries_for_faststream_are_shown_as_well(own_valkey: Valkey, tmp_path: Path) -> None:
    await trio.to_thread.run_sync(own_valkey.start)
    publisher = f"{own_valkey.url}?format=faststream"
    await tailed(["message", "--broker", own_valkey.url], publisher, tmp_path / "out", lambda text: NOTE in text)


async def skipped(url: BrokerUrl, publish_foreign: Callable[[], Awaitable[object]]) -> None:
    """Follow `url`, and check that only actorchat's messages come out, before and after the foreign ones."""
    seen: list[BrokerMessage] = []

    async def publish_until_seen(id_: str) -> None:
        ours = BrokerMessage(BrokerChannel.MESSAGE, "shop", id_, b"{}")
        while ours not in seen:
            async with open_broker(url).connect() as connection:
                await connection.publish([ours])
            await trio.sleep(0.05)

    with trio.fail_after(CAP):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_tail(url).follow, [BrokerChannel.MESSAGE], seen.append)
            await publish_until_seen("chat/1/1/1")
            await publish_foreign()
            await publish_until_seen("chat/1/2/1")
            nursery.cancel_scope.cancel()
    assert {each.id for each in seen} == {"chat/1/1/1", "chat/1/2/1"}


async def test_what_other_programs_have_written_to_a_stream_is_not_shown(valkey: Valkey) -> None:
    async with coredis.Redis("127.0.0.1", valkey.port) as client:
        await skipped(
            parse_broker_url(f"{valkey.url}?prefix=foreign-tail."),
            lambda: client.xadd("foreign-tail.message", {b"\xff": b"x"}),
        )


async def test_what_other_programs_have_published_to_nats_is_not_shown(nats: Nats) -> None:
    async def publish_foreign() -> None:
        data = b'CONNECT {"verbose":false,"headers":true}\r\n'
        for head in (b"NATS/1.0\r\nWidget-Source: \xff\r\n\r\n", b"NATS/1.0 none\r\n\r\n"):
            data += b"HPUB foreign-tail.message.x %d %d\r\n%b\r\n" % (len(head), len(head), head)
        async with await trio.open_tcp_stream("127.0.0.1", nats.port) as stream:
            await stream.send_all(data + b"PUB foreign-tail.message.\xff 0\r\n\r\nPING\r\n")
            received = b""
            while b"PONG" not in received:
                received += await stream.receive_some()

    await skipped(parse_broker_url(f"{nats.url}?prefix=foreign-tail."), publish_foreign)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 2, "there is no broker in the settings"),
        (("--broker", "kafka://x"), 2, "expected redis://"),
        (("--broker", "memory://"), 2, "only that can read it"),
        (("nonsense", "--broker", "redis://x"), 2, "'nonsense' is not one of"),
        (("--broker", "redis://127.0.0.1:1"), 1, "redis://127.0.0.1:1 can't be read: Unable to establish"),
        (("--broker", "amqp://me:secret@127.0.0.1:1"), 1, "amqp://127.0.0.1:1 can't be read: Connection refused"),
        (("--broker", "nats://me:secret@127.0.0.1:1"), 1, "nats://127.0.0.1:1 can't be read: Connection refused"),
    ],
)
def test_what_can_not_be_watched_is_one_clear_line(
    arguments: Sequence[str], status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACTORCHAT_BROKER", raising=False)
    ended = CliRunner().invoke(main, ["broker", "tail", *arguments], prog_name="actorchat")
    assert ended.exit_code == status, ended.output
    assert words in ended.output
    assert "secret" not in ended.output
    assert "Traceback" not in ended.output
