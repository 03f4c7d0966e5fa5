"""Talks to the deployment that is judged: HTTP calls and websockets, each with a time limit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import attrs
import httpx
import trio

from actorchat.client.server_urls import ServerAddress
from actorchat.client.websocket import dial_tcp, tls_context
from actorchat.testing._raw_peer import RawPeer

__all__ = ["EXTENDED", "STRICT", "Broken", "Deployment", "Room", "Visitor", "expect", "open_deployment"]

STRICT: Final = "actorchat.v1"
EXTENDED: Final = "actorchat.v1.ext"

ANSWER_SECONDS: Final = 10.0
"""How long one answer or event may take."""

QUIET_SECONDS: Final = 0.3
"""How long a socket is watched for events that must not come."""

# Any: what the deployment sends is JSON of every shape.
Json = Any


class Broken(AssertionError):  # noqa: N818 - says what happened
    """The deployment broke the rule. The text says what was expected and what came."""


def expect(condition: object, detail: str) -> None:
    """Raise Broken with `detail` unless `condition` is true."""
    if not condition:
        raise Broken(detail)


@attrs.frozen
class Visitor:
    """A visitor with its token, its id and its chat."""

    token: str
    id: int
    chat: str


class Room:
    """A websocket of a room or of the feed. `seen` are all events that were received."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.seen: list[Json] = []

    async def send(self, type_: str, **data: object) -> None:
        await self.peer.send_text(json.dumps({"type": type_, "data": data}))

    async def event(self, type_: str, where: Callable[[Json], bool] = lambda data: True) -> Json:
        """Return the data of the next event of that type for which `where` is true. Others are skipped."""
        with trio.move_on_after(ANSWER_SECONDS):
            while True:
                event = await self.next()
                if event["type"] == type_ and where(event["data"]):
                    return event["data"]
        raise Broken(f"expected the event {type_} within {ANSWER_SECONDS:.0f} s; {self._received()}")

    async def message(self, text: str) -> Json:
        """Return the data of the `message_added` with that text."""
        return await self.event("message_added", lambda data: data["message"]["text"] == text)

    async def next(self) -> Json:
        """Return the next event. Raises Broken if there is none in time, the socket ends, or it is not an event."""
        try:
            with trio.fail_after(ANSWER_SECONDS):
                raw = await self.peer.receive()
        except trio.TooSlowError:
            raise Broken(f"no event came within {ANSWER_SECONDS:.0f} s; {self._received()}") from None
        except trio.EndOfChannel:
            raise Broken(f"the socket was closed with {self.peer.close_code}; {self._received()}") from None
        try:
            event = json.loads(raw)
        except ValueError:
            raise Broken(f"a frame is not JSON: {raw[:200]!r}") from None
        expect(
            isinstance(event, dict) and event.keys() == {"type", "data"} and isinstance(event["data"], dict),
            f'expected {{"type": …, "data": {{…}}}}, got {raw[:200]!r}',
        )
        self.seen.append(event)
        return event

    async def until_quiet(self) -> Sequence[Json]:
        """Return the events that arrive until there is none for a moment."""
        found: list[Json] = []
        while True:
            with trio.move_on_after(QUIET_SECONDS) as quiet:
                found.append(await self.next())
            if quiet.cancelled_caught:
                return found

    async def close_code(self) -> int | None:
        """Wait until the server closes the socket, and return the code."""
        with trio.move_on_after(ANSWER_SECONDS):
            await self.peer.read_to_end()
        return self.peer.close_code

    def _received(self) -> str:
        return "received were " + (", ".join(event["type"] for event in self.seen[-8:]) or "no events")


class Deployment:
    """The deployment at `address`. `operators` are tokens of operators of `source`, at least none, better two."""

    def __init__(self, address: ServerAddress, http: httpx.AsyncClient, source: str, operators: Sequence[str]) -> None:
        self.address = address
        self.source = source
        self.operators: tuple[str, ...] = tuple(operators)
        self._http = http

    async def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        files: Mapping[str, tuple[str, bytes]] | None = None,
    ) -> httpx.Response:
        """Make a request. `body` is sent as JSON, `content` as it is, `files` as a form."""
        bearer = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            return await self._http.request(
                method, path, headers={**bearer, **(headers or {})}, json=body, content=content, files=files
            )
        except httpx.HTTPError as error:
            raise Broken(f"{method} {path} got no answer: {type(error).__name__} {error}") from None

    async def ok(self, method: str, path: str, token: str | None = None, body: object = None) -> Json:
        """Like `call`, and return the JSON of a successful answer."""
        answer = await self.call(method, path, token, body)
        expect(answer.is_success, f"{method} {path} was answered with {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    async def refused(
        self, status: int, code: str, method: str, path: str, token: str | None = None, body: object = None
    ) -> None:
        """Check that a request is refused with that status and code."""
        answer = await self.call(method, path, token, body)
        found = f"{method} {path} was answered with {answer.status_code} {answer.text[:200]}"
        expect(answer.status_code == status, f"expected {status} {code}; {found}")
        expect(answer.json()["error"]["code"] == code, f"expected {status} {code}; {found}")

    async def visitor(self) -> Visitor:
        """Make a visitor, with a chat that has no message yet."""
        made = await self.ok("POST", "/api/visitors", body={"source": self.source})
        return Visitor(made["token"], made["user"]["id"], made["chat"]["uuid"])

    async def write(self, visitor: Visitor, text: str, **fields: object) -> Json:
        """Send a message over HTTP, and return it."""
        return await self.ok("POST", f"/api/chats/{visitor.chat}/messages", visitor.token, {"text": text, **fields})

    async def history(self, chat: str, token: str) -> Sequence[Json]:
        page: Sequence[Json] = (await self.ok("GET", f"/api/chats/{chat}/messages?limit=200", token))["messages"]
        return page

    @asynccontextmanager
    async def room(
        self, chat: str, token: str, profile: str = EXTENDED, *, after: int | None = None
    ) -> AsyncIterator[Room]:
        query = "" if after is None else f"?after={after}"
        async with self._socket(f"/ws/chats/{chat}{query}", token, profile) as room:
            yield room

    @asynccontextmanager
    async def feed(self, token: str, profile: str = EXTENDED) -> AsyncIterator[Room]:
        async with self._socket(f"/ws/operators?source={self.source}", token, profile) as room:
            yield room

    @asynccontextmanager
    async def _socket(self, path: str, token: str, profile: str) -> AsyncIterator[Room]:
        async with self.connection() as peer:
            head = await self.upgrade(peer, path, (profile,), token)
            lines = head.decode("latin-1").lower().split("\r\n")
            expect(" 101 " in f"{lines[0]} ", f"{path} was not upgraded: {lines[0]}")
            expect(f"sec-websocket-protocol: {profile}" in lines, f"the subprotocol {profile} was not selected")
            yield Room(peer)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[RawPeer]:
        """Connect, with TLS if the address says so."""
        address = self.address
        try:
            with trio.fail_after(ANSWER_SECONDS):
                stream = await dial_tcp(address.host, address.port, tls_context(address, None))
        except (OSError, trio.TooSlowError) as error:
            raise Broken(f"can't connect to {address.authority}: {error or 'no answer'}") from None
        try:
            yield RawPeer(stream)
        finally:
            await trio.aclose_forcefully(stream)

    async def upgrade(self, peer: RawPeer, path: str, subprotocols: tuple[str, ...], token: str | None = None) -> bytes:
        """Ask for an upgrade, and return the head of the answer."""
        headers = () if token is None else (f"Authorization: Bearer {token}",)
        with trio.move_on_after(ANSWER_SECONDS):
            return await peer.handshake(
                f"{self.address.prefix}{path}", subprotocols, host=self.address.authority, headers=headers
            )
        raise Broken(f"the upgrade of {path} was not answered within {ANSWER_SECONDS:.0f} s")


@asynccontextmanager
async def open_deployment(url: str, source: str = "lk", operators: Sequence[str] = ()) -> AsyncIterator[Deployment]:
    """Open the deployment at `url`, whose widget source is `source`. `operators` are tokens of its operators.

    Raises ValueError for an address that is none.
    """
    address = ServerAddress.parse(url)
    async with httpx.AsyncClient(base_url=address.origin, timeout=ANSWER_SECONDS) as http:
        yield Deployment(address, http, source, operators)
