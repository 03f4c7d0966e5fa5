"""A scripted websocket server, right or wrong, over in-memory streams and so with virtual time."""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from uuid import UUID

import attrs
import msgspec
import trio
import trio.testing
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, wrap_server_stream

from actorchat.protocol.codec import decode_command, encode_event
from actorchat.protocol.commands import Command, SendMessage
from actorchat.protocol.entities import (
    Chat,
    ChatStatus,
    Message,
    MessageStatus,
    MessageType,
    Role,
    User,
    Widget,
)
from actorchat.protocol.events import (
    ChatUpdated,
    Event,
    MessageAdded,
    MessageNotAdded,
    Receipts,
    RefusalCode,
    UserConnected,
)
from actorchat.protocol.profiles import Profile

VISITOR = User(2**52 + 1, Role.USER)
OPERATOR = User(7, Role.OPERATOR, firstname="Olga")
CHAT = Chat(UUID("d599cb9b-a451-4bb3-ac0c-1465b9a1c4de"), Widget("lk"), ChatStatus.OPEN, VISITOR, OPERATOR)

MemoryPair = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
Script = Callable[["ServerSocket"], Awaitable[None]]


def message(index: int, text: str = "", *, user: User = OPERATOR) -> Message:
    return Message(
        id=1000 + index,
        type=MessageType.STANDARD,
        type_role=user.role,
        status=MessageStatus.NEW,
        text=text or f"message {index}",
        send_time="2026-01-01T00:00:00+00:00",
        message_index=index,
        chat=CHAT,
        user=user,
        attachments=(),
    )


@attrs.define
class ServerSocket:
    """The server's end of one websocket."""

    socket: WebSocketConnection
    stream: MemoryPair
    resource: str

    async def tell(self, *events: Event) -> None:
        for event in events:
            await self.socket.send_message(encode_event(event, Profile.EXTENDED).decode())

    async def end_replay(self, last_index: int = -1) -> None:
        receipts = [Receipts(CHAT.uuid, role, last_index, last_index) for role in Role]
        await self.tell(*receipts, ChatUpdated(CHAT))

    async def hear(self) -> Command:
        command = decode_command(await self.socket.get_message())
        assert isinstance(command, Command)
        return command

    async def hear_message(self) -> SendMessage:
        command = await self.hear()
        assert isinstance(command, SendMessage)
        return command

    async def close(self, code: int) -> None:
        await self.socket.aclose(code)

    async def deafen(self) -> None:
        """Stop reading. The ping is answered by a pong, which ends the read in progress."""
        self.stream.receive_stream.receive_some_hook = trio.sleep_forever
        await self.socket.ping()

    async def drop(self) -> None:
        await trio.aclose_forcefully(self.stream)


def refusal(command: SendMessage, code: RefusalCode, *, retry_after: float | None = None) -> MessageNotAdded:
    retryable = retry_after is not None
    return MessageNotAdded(code, "no", retryable, retry_after, command.text, command.client_id, CHAT.uuid, ())


async def answer(peer: ServerSocket, index: int) -> SendMessage:
    """Receive the next message, and send it back as stored under `index`."""
    command = await peer.hear_message()
    await peer.tell(MessageAdded(message(index, command.text, user=VISITOR), command.client_id))
    return command


async def presence(peer: ServerSocket, *users: User) -> None:
    await peer.tell(*(UserConnected(user) for user in users))


class ScriptedServer:
    """A server that runs one script for each socket in order, and refuses sockets beyond the last script.

    A script may also be an HTTP status to reject the upgrade with, raw bytes to answer with, or None to refuse the
    connection.
    """

    def __init__(self, nursery: trio.Nursery, *scripts: Script | int | bytes | None, strict: bool = False) -> None:
        self._nursery = nursery
        self._strict = strict
        self._scripts = list(scripts)
        self.resources: list[str] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.dialled_at: list[float] = []

    async def dial(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.dialled_at.append(trio.current_time())
        if not self._scripts:
            raise ConnectionRefusedError("nobody listens")
        script = self._scripts.pop(0)
        if script is None:
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs, script)
        return ours

    async def _serve(self, stream: MemoryPair, script: Script | int | bytes) -> None:
        if isinstance(script, bytes):
            await stream.receive_some()
            await stream.send_all(script)
            await stream.aclose()
            return
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            self.resources.append(request.path)
            self.headers.append(dict(request.headers))
            if isinstance(script, int):
                await _reject(request, script)
            else:
                socket = await request.accept(subprotocol=None if self._strict else request.proposed_subprotocols[0])
                with suppress(ConnectionClosed):
                    await script(ServerSocket(socket, stream, request.path))
                await socket.aclose()
            nursery.cancel_scope.cancel()


async def _reject(request: WebSocketRequest, status: int) -> None:
    await request.reject(status, body=msgspec.json.encode({"error": {"code": "x", "detail": "", "path": ""}}))


class NoJitter(Random):
    """A random generator that always gives the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b
