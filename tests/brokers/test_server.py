"""A server publishes what happens in its chats: bodies and headers as other programs get them from real brokers."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import coredis
import httpx
import pytest
import trio
from jsonschema import Draft7Validator, FormatChecker  # type: ignore[import-untyped]  # it ships no types

import actorchat
from actorchat.protocol import (
    BrokerChannel,
    BrokerMessage,
    Message,
    MessageAdded,
    MessageType,
    Role,
    User,
    asyncapi_document,
    encode_entity,
)
from tests.brokers.readers import Open, amqp_reader, nats_reader, redis_reader
from tests.brokers.servers import Nats, RabbitMq, Valkey

ANN = User(7, Role.USER, firstname="Ann")
EVE, BOB = User(1, Role.OPERATOR, firstname="Eve"), User(2, Role.OPERATOR, firstname="Bob")
CAP = 40.0
MESSAGE, CHAT = BrokerChannel.MESSAGE, BrokerChannel.CHAT
OPERATORS, GLOBAL = BrokerChannel.OPERATORS, BrokerChannel.GLOBAL
DOCUMENT = asyncapi_document()


def settings(*brokers: str, **others: Any) -> actorchat.Settings:  # Any: settings of many types
    return actorchat.Settings(**{"storage": "memory://", "port": None, "broker": list(brokers)} | others)


async def act(server: actorchat.Server) -> list[Message]:
    """First message, accept, answer, receipts, note, transfer, close. Returns the messages that the operator got."""
    async with AsyncExitStack() as stack:
        visitor = await server.connect_visitor(source="lk", user=ANN)
        stack.push_async_callback(visitor.aclose)
        assert visitor.chat is not None
        ann, eve = await server.api_for(ANN), await server.api_for(EVE, sources=["lk"])
        await server.api_for(BOB, sources=["lk"])
        # Joins the room first, to receive every message that operators may see.
        room = await server.connect_operator(EVE, sources=["lk"], chat=visitor.chat)
        stack.push_async_callback(room.aclose)
        first = await ann.add_message(visitor.chat, "hello \N{WAVING HAND SIGN}")
        await eve.accept(visitor.chat)
        await room.mark_read(first.id)
        await eve.add_message(visitor.chat, "good day")
        await eve.add_note(visitor.chat, "a regular")
        await eve.transfer(visitor.chat, BOB.id)
        await (await server.api_for(BOB, sources=["lk"])).close(visitor.chat)
        seen: list[Message] = []
        while len(seen) < 4:
            event = await anext(room)
            if isinstance(event, MessageAdded):
                seen.append(event.message)
        return seen


async def check_session(url: str, open_reader: Open) -> None:
    """Four channels, read by a program that knows nothing of actorchat."""
    with trio.fail_after(CAP):
        async with AsyncExitStack() as stack:
            read = {channel: await stack.enter_async_context(open_reader(channel)) for channel in BrokerChannel}
            async with actorchat.open_server(settings(url)) as server:
                seen = await act(server)
            messages = [*await read[MESSAGE].read(6)]
            chats = [*await read[CHAT].read(4)]
            operators, unread = [*await read[OPERATORS].read(1)], [*await read[GLOBAL].read(1)]
    check_documented([*messages, *chats, *operators, *unread])
    bodies = [json.loads(each.body) for each in messages]
    assert [(each["type"], each["type_role"], each["text"]) for each in bodies] == [
        ("standard", "user", "hello \N{WAVING HAND SIGN}"),
        ("standard", "operator", "good day"),
        ("system", "operator", "a regular"),
        ("system", "user", "The chat was passed to another operator."),
        ("system", "operator", "The chat was passed to another operator."),
        ("system", "user", "The chat was closed."),
    ]
    assert [each["message_index"] for each in bodies] == list(range(6))
    # Each body is byte for byte the entity that sockets received.
    on_sockets = {message.id: encode_entity(message) for message in seen}
    assert {json.loads(each.body)["id"]: each.body for each in messages} | on_sockets == {
        json.loads(each.body)["id"]: each.body for each in messages
    }
    states = [(body["status"], (body["operator_user"] or {}).get("id")) for body in (json.loads(c.body) for c in chats)]
    assert states == [("new", None), ("open", EVE.id), ("new", BOB.id), ("closed", BOB.id)]
    uuid = bodies[0]["chat"]["uuid"]
    epoch = chats[0].id.split("/")[1]
    assert [each.id for each in chats] == [f"{uuid}/{epoch}/{rev}/0" for rev in (1, 2, 6, 7)]
    revisions = ("1/1", "4/1", "5/1", "6/1", "6/2", "7/1")
    assert [each.id for each in messages] == [f"{uuid}/{epoch}/{each}" for each in revisions]


def check_documented(messages: list[BrokerMessage]) -> None:
    """Every body validates against the AsyncAPI document, and every header is there."""
    for message in messages:
        name = f"broker{message.channel.value.capitalize()}"
        schema = {"$ref": f"#/components/messages/{name}/payload", "components": DOCUMENT["components"]}
        Draft7Validator(schema, format_checker=FormatChecker()).validate(json.loads(message.body))
        assert message.source == "lk"
        assert message.id


@pytest.mark.slow
async def test_another_program_reads_a_whole_session_from_valkey(valkey: Valkey) -> None:
    await check_session(valkey.url, redis_reader(valkey.port))


@pytest.mark.slow
async def test_another_program_reads_a_whole_session_from_rabbitmq(rabbitmq: RabbitMq) -> None:
    await check_session(rabbitmq.url, amqp_reader(rabbitmq.url))


@pytest.mark.slow
async def test_another_program_reads_a_whole_session_from_nats(nats: Nats) -> None:
    await check_session(nats.url, nats_reader(nats.url))


async def test_an_embedding_program_reads_from_the_broker_in_memory() -> None:
    with trio.fail_after(CAP):
        async with (
            actorchat.open_server(settings("memory://")) as server,
            server.open_broker_feed("message") as feed,
        ):
            seen = await act(server)
            got = [await anext(feed) for _ in range(6)]
            assert {message.channel for message in got} == {MESSAGE}
            assert got[0].decode() == seen[0]
            kinds = [body.type for body in (message.decode() for message in got) if isinstance(body, Message)]
            assert kinds == [MessageType.STANDARD] * 2 + [MessageType.SYSTEM] * 4


async def test_files_of_a_message_are_published_with_links_that_open_them() -> None:
    with trio.fail_after(CAP):
        async with (
            actorchat.open_server(settings("memory://", port=0)) as server,
            server.open_broker_feed("message") as feed,
            ready(server) as http,
        ):
            visitor = await server.connect_visitor(source="lk", user=ANN)
            assert visitor.chat is not None
            ann = await server.api_for(ANN)
            file = await ann.upload(b"what it costs", "price list.txt")
            await ann.add_message(visitor.chat, "", [file.uuid])
            message = (await anext(feed)).decode()
            assert isinstance(message, Message)
            [published] = message.attachments
            assert (published.uuid, published.filename, published.size) == (file.uuid, "price list.txt", 13)
            assert published.url != file.url
            answer = await http.get(published.url)
            assert (answer.status_code, answer.content) == (200, b"what it costs")


async def test_a_feed_needs_a_broker_in_memory_and_a_known_channel() -> None:
    async with actorchat.open_server(settings()) as server:
        with pytest.raises(RuntimeError, match="memory://"):
            async with server.open_broker_feed():
                raise AssertionError("it opened")
    async with actorchat.open_server(settings("memory://")) as server:
        with pytest.raises(ValueError, match="nonsense"):
            async with server.open_broker_feed("nonsense"):
                raise AssertionError("it opened")


@asynccontextmanager
async def ready(server: actorchat.Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        yield http


@pytest.mark.slow
async def test_a_broker_that_is_away_from_the_start_delays_only_what_is_published(
    own_valkey: Valkey, tmp_path: Path
) -> None:
    on_disk = settings(own_valkey.url, storage=f"sqlite:///{tmp_path}/chat.db", port=0, data=tmp_path)
    with trio.fail_after(CAP):
        async with actorchat.open_server(on_disk) as server, ready(server) as http:
            await act(server)
            answer = await http.get("/health/ready")
            assert answer.status_code == 200
            [state] = answer.json()["brokers"]
            assert (state["broker"], state["status"]) == ("redis", "unavailable")
            assert str(own_valkey.port) not in answer.text
        # Changes that were not published yet survive the restart of the server.
        await trio.to_thread.run_sync(own_valkey.start)
        async with actorchat.open_server(on_disk) as server, ready(server) as http:
            await act(server)
            await until(lambda: server.statistics().brokers[0].published >= 16)
            await until(lambda: not server.statistics().brokers[0].behind)
            [state] = (await http.get("/health/ready")).json()["brokers"]
            assert state == {"broker": "redis", "status": "ok", "behind_seconds": 0}
            assert server.statistics().brokers[0].problem is None
            async with redis_reader(own_valkey.port, b"0")(CHAT) as reader:
                assert len(await reader.read(8)) == 8


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await trio.sleep(0.01)


async def refusal_by(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """Why that broker takes nothing, as the log says once."""
    with trio.fail_after(CAP):
        async with actorchat.open_server(settings(url)) as server:
            await until(lambda: server.statistics().brokers[0].problem is not None)
            await trio.sleep(0.6)
    [line] = [record.getMessage() for record in caplog.records if record.name == "actorchat.brokers"]
    assert "secret" not in line
    assert "\n" not in line
    return line.partition("they wait in storage: ")[2]


@pytest.mark.slow
async def test_a_wrong_password_is_one_clear_line(own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    own_valkey.password = "right"
    own_valkey.start()
    wrong = await refusal_by(f"redis://:secret@127.0.0.1:{own_valkey.port}", caplog)
    assert wrong == "it refuses the user name or password"
    caplog.clear()
    missing = await refusal_by(f"redis://127.0.0.1:{own_valkey.port}", caplog)
    assert missing == "it asks for a password, and its URL has none"


@pytest.mark.slow
async def test_an_unreachable_broker_is_one_clear_line(own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    assert await refusal_by(f"amqp://127.0.0.1:{own_valkey.port}", caplog) == "Connection refused"
    caplog.clear()
    assert "Unable to establish a connection" in await refusal_by(own_valkey.url, caplog)


@pytest.mark.slow
async def test_a_full_broker_is_one_clear_line_without_what_people_wrote(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    own_valkey.options = ("--maxmemory", "1")
    own_valkey.start()
    with trio.fail_after(CAP):
        async with actorchat.open_server(settings(own_valkey.url)) as server:
            await act(server)
            await until(lambda: server.statistics().brokers[0].problem is not None)
            await trio.sleep(0.6)
    [line] = [record.getMessage() for record in caplog.records if record.name == "actorchat.brokers"]
    assert "OOM command not allowed" in line
    assert "good day" not in line


@pytest.mark.slow
async def test_a_key_that_is_not_a_stream_is_named_and_the_other_channels_are_not_repeated(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    own_valkey.start()
    with trio.fail_after(CAP):
        async with coredis.Redis("127.0.0.1", own_valkey.port) as client:
            await client.set("message", "something else")
            async with actorchat.open_server(settings(own_valkey.url)) as server:
                await act(server)
                await until(lambda: server.statistics().brokers[0].problem is not None)
                await trio.sleep(2)
                assert await client.xlen("chat") <= 4
                await client.rename(b"message", b"other")
                await until(lambda: server.statistics().brokers[0].problem is None)
                assert await client.xlen("message") == 6
    lines = [record.getMessage() for record in caplog.records if record.name == "actorchat.brokers"]
    assert "its key message is not a stream: rename or delete it" in lines[0]


@pytest.mark.slow
async def test_a_wrong_password_or_virtual_host_of_rabbitmq_is_one_clear_line(
    rabbitmq: RabbitMq, caplog: pytest.LogCaptureFixture
) -> None:
    host = f"127.0.0.1:{rabbitmq.port}"
    assert await refusal_by(f"amqp://guest:secret@{host}", caplog) == "it refuses the user name or password"
    caplog.clear()
    assert "vhost nowhere not found" in await refusal_by(f"amqp://guest:guest@{host}/nowhere", caplog)
