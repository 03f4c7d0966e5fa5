"""The NATS adapter: its protocol, how it authenticates, and that messages keep their order when some are refused."""

import base64
import binascii
import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

import actorchat
from actorchat.brokers import BrokerUnavailable, open_broker, open_tail, parse_broker_url
from actorchat.brokers.nats_protocol import Delivery, NatsParser, Pinged, Ponged, Problem, Received, publish
from actorchat.protocol import BrokerChannel, BrokerMessage
from tests.brokers.readers import nats_reader
from tests.brokers.servers import Nats
from tests.brokers.test_server import CAP, act, refusal_by, settings, until
from tests.server.test_tls import certified

MESSAGE = BrokerMessage(BrokerChannel.MESSAGE, "shop", "chat/1/1", b"{}")

SPOKEN: Sequence[tuple[bytes, Received | None]] = (
    (b"PING\r\n", Pinged()),
    (b"pong \r\n", Ponged()),
    (b"+OK\r\n", None),
    (b"-ERR 'Stale Connection'\r\n", Problem("Stale Connection")),
    (b"MSG a.b 7 3\r\n\r\n\n\r\n", Delivery("a.b", "7", {}, 0, b"\r\n\n")),
    (b"MSG a.b 7 re.ply 0\r\n\r\n", Delivery("a.b", "7", {}, 0, b"")),
    (
        b"HMSG a 1 r 28 31\r\nNATS/1.0\r\nA: b:c\r\nB:\xc3\xa4 x\r\n\r\nxyz\r\n",
        Delivery("a", "1", {"A": "b:c", "B": "ä x"}, 0, b"xyz"),
    ),
    (b"HMSG a 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n", Delivery("a", "1", {}, 503, b"")),
)


@given(st.lists(st.sampled_from(SPOKEN), max_size=8), st.lists(st.integers(1, 40)))
def test_what_a_server_says_is_understood_however_it_is_cut(
    spoken: list[tuple[bytes, Received | None]], cuts: list[int]
) -> None:
    data = b"".join(said for said, _ in spoken)
    parser, understood = NatsParser(), list[Received]()
    while data:
        size = cuts.pop() if cuts else len(data)
        parser.feed(data[:size])
        data = data[size:]
        understood += parser
    assert understood == [meaning for _, meaning in spoken if meaning is not None]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 two\r\n",
        b"MSG a 1 99999999999\r\n",
        b"MSG a 1 1\r\nabcd\r\n",
        b"HMSG a 1 5 3\r\n",
        b"HMSG a 1 8 8\r\nHTTP/1.1\r\n",
        b"INFO [1]\r\n",
        b"x" * 70_000,
    ],
)
def test_another_protocol_is_a_value_error(nonsense: bytes) -> None:
    parser = NatsParser()
    parser.feed(nonsense)
    with pytest.raises(ValueError, match=r"."):
        list(parser)


async def test_a_server_of_another_protocol_is_named_as_such() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")

    with trio.fail_after(CAP):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, answer, [listener])
            assert await refused(f"nats://127.0.0.1:{listener.socket.getsockname()[1]}") == (
                "it does not speak the protocol of NATS"
            )
            nursery.cancel_scope.cancel()


async def refused(url: str, message: BrokerMessage = MESSAGE) -> str:
    """Why `message` is not taken, '' if it is."""
    try:
        async with open_broker(parse_broker_url(url)).connect() as connection:
            await connection.publish([message])
    except BrokerUnavailable as error:
        return str(error)
    return ""


def users(*users: str) -> str:
    return f"authorization {{ users: [{', '.join(users)}] }}"


@pytest.mark.slow
async def test_user_and_password_token_and_rights_are_told_apart(own_nats: Nats) -> None:
    own_nats.config = users(
        "{user: me, password: right}",
        '{user: mute, password: m, permissions: {publish: ["$JS.API.>"]}}',
    )
    own_nats.start()
    host = f"127.0.0.1:{own_nats.port}"
    with trio.fail_after(CAP):
        assert await refused(f"nats://me:right@{host}") == ""
        assert await refused(f"nats://me:secret@{host}") == "it refuses the user name, password, token or credentials"
        assert await refused(f"nats://{host}") == "it asks for credentials, and its URL has none"
        assert await refused(f"nats://mute:m@{host}") == (
            'the user may not do that: Permissions Violation for Publish to "message.shop"'
        )
        own_nats.kill()
        own_nats.config = "authorization { token: s3cret }"
        await trio.to_thread.run_sync(own_nats.start)
        assert await refused(f"nats://s3cret@{host}") == ""
        assert "refuses the user name" in await refused(f"nats://other@{host}")


ACCOUNT, OPERATOR, USER, SEED = 0, 14 << 3, 20 << 3, 18 << 3


class Key:
    """A key pair as NATS writes it."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._key = Ed25519PrivateKey.generate()

    @property
    def seed(self) -> str:
        raw = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return self._text(bytes([SEED | self._kind >> 5, (self._kind & 31) << 3]) + raw)

    @property
    def public(self) -> str:
        return self._text(bytes([self._kind]) + self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def _text(self, content: bytes) -> str:
        return base64.b32encode(content + binascii.crc_hqx(content, 0).to_bytes(2, "little")).rstrip(b"=").decode()

    def token(self, subject: "Key", nats: dict[str, object]) -> str:
        """A JWT about `subject`, signed by this key."""
        claims = {
            "jti": "1",
            "iat": 1_700_000_000,
            "iss": self.public,
            "name": "x",
            "sub": subject.public,
            "nats": nats,
        }
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        content = ".".join(_base64(json.dumps(each).encode()) for each in (header, claims))
        return f"{content}.{_base64(self._key.sign(content.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.slow
async def test_a_file_with_a_key_authenticates(own_nats: Nats, tmp_path: Path) -> None:
    key, file = Key(USER), tmp_path / "user.nk"
    own_nats.config = users(f"{{nkey: {key.public}}}")
    own_nats.start()
    url = f"{own_nats.url}?creds={file}"
    with trio.fail_after(CAP):
        assert "can't be read" in await refused(url)
        file.write_text(f"{key.seed}\n")
        assert await refused(url) == ""
        file.write_text(Key(USER).seed)
        assert "refuses the user name, password, token or credentials" in await refused(url)
        for wrong in (
            "nonsense",
            Key(ACCOUNT).seed,
            key.seed.swapcase()[:20],
            key.seed[:9] + ("A" if key.seed[9] != "A" else "B") + key.seed[10:],
            "",
        ):
            file.write_text(wrong)
            assert await refused(url) == f"{file} has no key of a NATS user"


@pytest.mark.slow
async def test_a_file_of_credentials_authenticates(own_nats: Nats, tmp_path: Path) -> None:
    operator, user, file = Key(OPERATOR), Key(USER), tmp_path / "user.creds"
    account, system = Key(ACCOUNT), Key(ACCOUNT)
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    limits = {**unlimited, **storage, "wildcards": True}
    own_nats.config = f"""
        operator: {operator.token(operator, {"type": "operator", "version": 2})}
        system_account: {system.public}
        resolver: MEMORY
        resolver_preload: {{
            {account.public}: {operator.token(account, {"type": "account", "version": 2, "limits": limits})}
            {system.public}: {operator.token(system, {"type": "account", "version": 2, "limits": unlimited})}
        }}
    """
    own_nats.start()
    token = account.token(user, {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1})
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
    )
    with trio.fail_after(CAP):
        assert await refused(f"{own_nats.url}?creds={file}") == ""


@pytest.mark.slow
async def test_tls_is_used_as_the_url_says_and_only_if_the_server_is_trusted(own_nats: Nats, tmp_path: Path) -> None:
    certified(tmp_path, NoEncryption())
    encrypted = f"tls: {{cert_file: {tmp_path}/cert.pem, key_file: {tmp_path}/key.pem}}"
    own_nats.config = encrypted
    own_nats.start()
    host = f"127.0.0.1:{own_nats.port}"
    trusted = f"tls://{host}?ca={tmp_path}/cert.pem"
    with trio.fail_after(CAP):
        assert await refused(trusted) == ""
        assert await refused(f"tls://{host}") == "its certificate is not trusted: self-signed certificate"
        assert await refused(f"nats://{host}") == "it requires TLS: write tls:// in its URL"
        own_nats.kill()
        own_nats.config = ""
        await trio.to_thread.run_sync(own_nats.start)
        assert "it offers no TLS" in await refused(trusted)


@pytest.mark.slow
async def test_a_server_without_jetstream_or_space_is_one_clear_line(
    own_nats: Nats, caplog: pytest.LogCaptureFixture
) -> None:
    own_nats.jetstream = ""
    own_nats.start()
    assert await refusal_by(own_nats.url, caplog) == "JetStream is not enabled"
    own_nats.kill()
    caplog.clear()
    own_nats.jetstream = "{{store_dir: {folder}/jetstream, max_file_store: 1}}"
    await trio.to_thread.run_sync(own_nats.start)
    with trio.fail_after(CAP):
        async with actorchat.open_server(settings(own_nats.url)) as server:
            await act(server)
            await until(lambda: server.statistics().brokers[0].problem is not None)
    [line] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.endswith("it refuses: insufficient resources")
    caplog.clear()
    own_nats.kill()
    assert await refusal_by(own_nats.url, caplog) == "Connection refused"


@pytest.mark.slow
async def test_a_message_that_is_too_large_is_named_and_not_sent(own_nats: Nats) -> None:
    own_nats.config = "max_payload: 2000"
    own_nats.start()
    large = BrokerMessage(BrokerChannel.MESSAGE, "shop", "chat/1/1", b"x" * 3_000)
    with trio.fail_after(CAP):
        assert "larger than its max_payload, 2,000 bytes" in await refused(own_nats.url, large)


def numbered(name: str, count: int) -> list[BrokerMessage]:
    return [BrokerMessage(BrokerChannel.MESSAGE, "shop", f"{name}/{number}", b"{}") for number in range(count)]


@pytest.mark.slow
async def test_servers_that_publish_to_the_same_streams_keep_their_own_order(nats: Nats) -> None:
    names = ("one", "two", "three")
    with trio.fail_after(CAP):
        async with nats_reader(nats.url)(BrokerChannel.MESSAGE) as reader:
            async with trio.open_nursery() as nursery:

                async def send(name: str) -> None:
                    async with open_broker(parse_broker_url(nats.url)).connect() as connection:
                        await connection.publish(numbered(name, 400))

                for name in names:
                    nursery.start_soon(send, name)
            got = await reader.read(1_200)
    for name in names:
        assert [message for message in got if message.id.startswith(f"{name}/")] == numbered(name, 400)


@pytest.mark.slow
async def test_what_is_published_again_is_stored_once(nats: Nats) -> None:
    with trio.fail_after(CAP):
        async with nats_reader(nats.url)(BrokerChannel.MESSAGE) as reader:
            for _ in range(3):
                async with open_broker(parse_broker_url(nats.url)).connect() as connection:
                    await connection.publish(numbered("again", 50))
            async with open_broker(parse_broker_url(nats.url)).connect() as connection:
                await connection.publish(numbered("last", 1))
            assert list(await reader.read(51)) == [*numbered("again", 50), *numbered("last", 1)]


@pytest.mark.slow
async def test_a_stream_that_exists_is_used_as_it_is(own_nats: Nats) -> None:
    own_nats.start()
    with trio.fail_after(CAP):
        async with open_broker(parse_broker_url(f"{own_nats.url}?prefix=shop.de.&maxlen=7")).connect() as connection:
            await connection.publish(numbered("first", 20))
        # Another name, other limits: what counts is that it takes the subject.
        async with nats_reader(own_nats.url)(BrokerChannel.MESSAGE) as reader:
            assert await refused(own_nats.url) == ""
            assert list(await reader.read(1)) == [MESSAGE]


class ScriptedServer:
    """A NATS server whose stream refuses what a test says, and enforces what the publisher expects."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.stored: list[str] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        received = b""
        await stream.send_all(b'INFO {"headers":true,"max_payload":1048576}\r\n')
        try:
            async for data in stream:
                received += data
                while b"\r\n" in received:
                    line, _, rest = received.partition(b"\r\n")
                    operation, *arguments = line.split()
                    size = int(arguments[-1]) if operation in (b"PUB", b"HPUB") else -2
                    if len(rest) < size + 2:
                        break
                    received = rest[size + 2 :]
                    if operation == b"PING":
                        await stream.send_all(b"PONG\r\n")
                    elif size >= 0:
                        reply = arguments[1].decode()
                        answer = json.dumps(self._answer(arguments[0], rest[:size])).encode()
                        await stream.send_all(publish(reply, "1", {}, answer).replace(b"PUB", b"MSG"))
        except trio.BrokenResourceError:
            return

    def _answer(self, subject: bytes, content: bytes) -> dict[str, object]:
        if subject == b"$JS.API.STREAM.NAMES":
            return {"streams": ["all"]}
        headers = dict(line.split(": ") for line in content.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:])
        id_, expected = headers["Nats-Msg-Id"], headers.get("Nats-Expected-Last-Msg-Id")
        if id_ in self.stored:
            return {"stream": "all", "seq": 1, "duplicate": True}
        if expected is not None and self.stored[-1:] != [expected]:
            return {"error": {"code": 400, "err_code": 10_070, "description": "wrong last msg ID"}}
        if id_ in self.refused:
            self.refused.remove(id_)
            return {"error": {"code": 503, "err_code": 10_023, "description": "insufficient resources"}}
        self.stored.append(id_)
        return {"stream": "all", "seq": len(self.stored)}


@asynccontextmanager
async def scripted(*refused: str) -> AsyncIterator[tuple[ScriptedServer, str]]:
    server = ScriptedServer(*refused)
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server, f"nats://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_messages_behind_a_refused_one_wait_for_it() -> None:
    messages = numbered("m", 20)
    with trio.fail_after(CAP):
        async with scripted("m/3", "m/11") as (server, url):
            for _ in range(2):
                with pytest.raises(BrokerUnavailable, match="insufficient resources"):
                    async with open_broker(parse_broker_url(url)).connect() as connection:
                        await connection.publish(messages)
            async with open_broker(parse_broker_url(url)).connect() as connection:
                await connection.publish(messages)
        assert server.stored == [message.id for message in messages]


async def test_a_watcher_that_is_slower_than_the_publisher_gets_everything(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actorchat.brokers.nats._PING_PERIOD", 0.5)
    monkeypatch.setattr("actorchat.brokers.nats._MOST_FOLLOWED", 1)
    url = parse_broker_url(f"{nats.url}?prefix=slow.")
    seen: list[str] = []
    count, complete = 150, trio.Event()

    def take(message: BrokerMessage) -> None:
        seen.append(message.id)
        if message.id == str(count - 1):
            complete.set()
        # Blocks, as a terminal does.
        time.sleep(0.01)

    with trio.fail_after(CAP):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_tail(url).follow, [BrokerChannel.MESSAGE], take)
            async with open_broker(url).connect() as connection:
                while not seen:
                    await connection.publish([MESSAGE])
                    await trio.sleep(0.05)
                await connection.publish([attrs.evolve(MESSAGE, id=str(number)) for number in range(count)])
            await complete.wait()
            nursery.cancel_scope.cancel()
    assert seen[-count:] == [str(number) for number in range(count)]


async def test_a_watcher_notices_a_server_that_says_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actorchat.brokers.nats._PING_PERIOD", 0.1)
    silent = trio.Event()

    async def fall_silent(stream: trio.SocketStream) -> None:
        await stream.send_all(b'INFO {"headers":true}\r\nPONG\r\n')
        silent.set()
        async for _ in stream:
            pass

    with trio.fail_after(CAP):
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, fall_silent, [listener])
            url = f"nats://127.0.0.1:{listener.socket.getsockname()[1]}"
            with pytest.raises(BrokerUnavailable, match="no answer"):
                await open_tail(parse_broker_url(url)).follow(list(BrokerChannel), lambda _: None)
            assert silent.is_set()
            nursery.cancel_scope.cancel()
