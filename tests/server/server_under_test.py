"""Runs a whole server on a free port, with a client for its HTTP API and websockets."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from uuid import UUID

import attrs
import httpx
import trio
from opentelemetry.trace import TracerProvider
from trio_websocket import ConnectionRejected, WebSocketConnection, wrap_client_stream

from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from actorchat.server.environment import Environment
from actorchat.server.serving import Server, open_server
from actorchat.server.settings import LimitSettings, Settings

SECRET = "a-secret-for-tests-of-enough-bytes"
TIMEOUT = 20.0
"""Seconds after which a test fails."""


def token(
    role: Role,
    user_id: int,
    sources: Collection[str] = ("lk",),
    ttl: float = 60,
    firstname: str = "",
    lastname: str = "",
) -> str:
    user = User(user_id, role, firstname=firstname, lastname=lastname)
    return Tokens(SECRET).issue(user, sources, ttl)


def operator(user_id: int = 1, sources: Collection[str] = ("lk",), firstname: str = "") -> str:
    return token(Role.OPERATOR, user_id, sources, firstname=firstname)


def customer(user_id: int = 100, firstname: str = "", lastname: str = "") -> str:
    return token(Role.USER, user_id, firstname=firstname, lastname=lastname)


@asynccontextmanager
async def websocket(
    port: int, path: str, bearer: str | None, protocols: Sequence[str] = (), **headers: str
) -> AsyncIterator[WebSocketConnection]:
    """Open a websocket with that token. Raises ConnectionRejected if the server does not upgrade."""
    extra = [(b"Authorization", f"Bearer {bearer}".encode())] if bearer else []
    extra += [(name.encode(), value.encode()) for name, value in headers.items()]
    # The library does not close a stream of its own if the server ends the websocket first.
    try:
        async with (
            await trio.open_tcp_stream("127.0.0.1", port) as stream,
            trio.open_nursery() as nursery,
        ):
            socket = await wrap_client_stream(
                nursery, stream, f"127.0.0.1:{port}", path, subprotocols=protocols, extra_headers=extra
            )
            async with socket:
                yield socket
    except ExceptionGroup as group:
        rejected, rest = group.split(ConnectionRejected)
        if rejected is None or rest is not None:
            raise
        raise rejected.exceptions[0] from None


async def get_live(stream: trio.abc.Stream) -> None:
    """Send one request over `stream` and read the answer; the stream stays open."""
    await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while not answer.endswith(b"}"):
        part = bytes(await stream.receive_some())
        assert part, f"it was closed after {answer!r}"
        answer += part
    assert answer.startswith(b"HTTP/1.1 200")


@attrs.frozen
class ApiClient:
    """A client for the server's HTTP API and websockets. Each call takes a token."""

    server: Server
    http: httpx.AsyncClient

    async def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.http.request(method, path, headers={**bearer, **(headers or {})}, json=json)

    async def visit(self, source: str = "lk", token: str | None = None) -> tuple[str, UUID]:
        """Make a visitor, or renew the token of one. Returns (token, chat)."""
        answer = await self.call("POST", "/api/visitors", token, {"source": source})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()["token"], UUID(answer.json()["chat"]["uuid"])

    async def write(self, token: str, chat: UUID, text: str = "hello", **fields: object) -> httpx.Response:
        return await self.call("POST", f"/api/chats/{chat}/messages", token, {"text": text, **fields})

    def socket(
        self, path: str, bearer: str | None, protocols: Sequence[str] = (), **headers: str
    ) -> AbstractAsyncContextManager[WebSocketConnection]:
        return websocket(self.server.port, path, bearer, protocols, **headers)

    async def talk(self) -> tuple[str, UUID]:
        """Make a visitor who has sent a message. Returns (token, chat)."""
        visitor, chat = await self.visit()
        assert (await self.write(visitor, chat)).status_code == 201
        return visitor, chat


@asynccontextmanager
async def run_server(
    settings: Settings | None = None,
    environment: Environment | None = None,
    tracer_provider: TracerProvider | None = None,
) -> AsyncIterator[ApiClient]:
    settings = settings or Settings(
        storage="memory://", port=0, secret=SECRET, limits=LimitSettings(messages_per_second=0)
    )
    with trio.fail_after(TIMEOUT):
        async with (
            open_server(settings, environment=environment, tracer_provider=tracer_provider) as server,
            httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT, trust_env=False) as http,
        ):
            yield ApiClient(server, http)


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    """Return (status, code, path) of a refusal, and check that its body has exactly the contract's fields."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "detail", "path"}
    return answer.status_code, body["error"]["code"], body["error"]["path"]
