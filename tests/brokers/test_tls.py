"""Brokers are spoken to over TLS, and only if their certificate is trusted."""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.primitives.serialization import NoEncryption

from actorchat.brokers import BrokerUnavailable, open_broker, parse_broker_url
from actorchat.client import open_broker_consumer
from actorchat.protocol import BrokerChannel, BrokerMessage
from tests.brokers.readers import Open, amqp_reader, redis_reader
from tests.brokers.servers import RabbitMq, Valkey
from tests.server.test_tls import certified

CAP = 30.0
MESSAGE = BrokerMessage(BrokerChannel.MESSAGE, "shop", "chat/1/1", b"{}")


async def serve_tls(folder: Path, port: int, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
    """Terminate TLS with a certificate of its own in front of `port`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    async def copy(
        receive: Callable[[int], Awaitable[bytes | bytearray]], send: Callable[[bytes | bytearray], Awaitable[None]]
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await receive(65_536):
                await send(data)

    async def serve(near: trio.SSLStream[trio.SocketStream]) -> None:
        async with near, await trio.open_tcp_stream("127.0.0.1", port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(copy, far.receive_some, near.send_all)
            await copy(near.receive_some, far.send_all)
            nursery.cancel_scope.cancel()

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
    task_status.started(listeners[0].transport_listener.socket.getsockname()[1])  # type: ignore[attr-defined]
    await trio.serve_listeners(serve, listeners)


async def check_tls(scheme: str, port: int, login: str, open_reader: Open, folder: Path) -> None:
    certified(folder, NoEncryption())
    with trio.fail_after(CAP):
        async with open_reader(BrokerChannel.MESSAGE) as reader, trio.open_nursery() as nursery:
            encrypted: int = await nursery.start(serve_tls, folder, port)
            url = f"{scheme}://{login}127.0.0.1:{encrypted}"
            async with open_broker(parse_broker_url(f"{url}?ca={folder}/cert.pem")).connect() as connection:
                await connection.publish([MESSAGE])
            assert list(await reader.read(1)) == [MESSAGE]
            with pytest.raises(BrokerUnavailable) as refused:
                async with open_broker(parse_broker_url(url)).connect() as connection:
                    await connection.ping()
            assert str(refused.value) == "its certificate is not trusted: self-signed certificate"
            nursery.cancel_scope.cancel()


async def test_valkey_is_reached_over_tls_and_only_if_it_is_trusted(valkey: Valkey, tmp_path: Path) -> None:
    await check_tls("rediss", valkey.port, "", redis_reader(valkey.port), tmp_path)


@pytest.mark.slow
async def test_rabbitmq_is_reached_over_tls_and_only_if_it_is_trusted(rabbitmq: RabbitMq, tmp_path: Path) -> None:
    await check_tls("amqps", rabbitmq.port, "guest:guest@", amqp_reader(rabbitmq.url), tmp_path)


async def test_the_clients_consumer_reads_over_tls(valkey: Valkey, tmp_path: Path) -> None:
    certified(tmp_path, NoEncryption())
    with trio.fail_after(CAP):
        async with trio.open_nursery() as nursery:
            encrypted: int = await nursery.start(serve_tls, tmp_path, valkey.port)
            async with open_broker(parse_broker_url(f"{valkey.url}?prefix=tls.")).connect() as connection:
                await connection.publish([MESSAGE])
            url = f"rediss://127.0.0.1:{encrypted}?prefix=tls.&ca={tmp_path}/cert.pem"
            async with open_broker_consumer(url, "message", group="g", from_start=True) as messages:
                assert await anext(messages) == MESSAGE
            nursery.cancel_scope.cancel()
