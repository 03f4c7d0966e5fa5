"""Reports the actors of a running server through a Unix socket in its data folder; contains both server and client.

Inspection changes nothing, and a failure of it never stops the server. Requests about operators' accounts use the same
socket.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Final, TypeVar

import attrs
import msgspec
import trio

from actorchat.actor_tree import ActorTree, InspectionRequest, Tree
from actorchat.server.account_administration import AccountAnswer, AccountRequest, administer
from actorchat.server.accounts import Accounts
from actorchat.server.privacy import Privacy
from actorchat.server.privacy_requests import PrivacyAnswer, PrivacyRequest, carry_out

__all__ = [
    "InspectionFailed",
    "NoServer",
    "TreeAnswer",
    "administer_server",
    "inspect_server",
    "request_privacy",
    "serve_inspection",
]

SOCKET_NAME: Final = "actors.sock"

RETRY_SECONDS: Final = 1.0
"""How often a server looks whether another one in its folder, such as the worker that it replaces, has ended."""

SILENT_TRIES: Final = 20
"""How often it looks before it warns. A worker that is replaced ends within 15 seconds."""

ANSWER_SECONDS: Final = 5.0
"""Seconds that one request and its answer may take, on the server and on the client."""
MAX_CONVERSATIONS: Final = 16
"""Requests at a time. Further ones are refused with a text that says so."""
MAX_REQUEST_BYTES: Final = 131_072
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
MAX_PATH_BYTES: Final = 103
"""Length of a socket's path that every platform allows. Linux allows four bytes more."""

_log: Final = logging.getLogger("actorchat.server")

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class TreeAnswer:
    """The answer on the wire: exactly one of the two fields is set."""

    tree: Tree | None = None
    refusal: str | None = None


@attrs.frozen
class _AccountsRequest:
    """A request about accounts on the wire. Other requests have no such field."""

    accounts: AccountRequest | None = None
    privacy: PrivacyRequest | None = None


class InspectionFailed(Exception):  # noqa: N818 - says what happened
    """The server could not be inspected. The text is one line for the user."""


class NoServer(InspectionFailed):
    """No server runs on that data folder."""


class _BadRequest(Exception):  # noqa: N818 - describes what was received
    pass


# The server's side


async def serve_inspection(
    folder: Path,
    actors: ActorTree,
    accounts: Accounts | None = None,
    privacy: Privacy | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests about `actors` and `accounts` on a Unix socket in `folder`, which only its owner may use.

    Runs until cancelled, and then removes the socket. Reports started once the socket listens, or waits for another
    server that has one in `folder` to end. If the socket can't be created, logs a warning and returns. Errors are
    logged, never raised.
    """
    tries = 0
    while True:
        with ExitStack() as stack:
            try:
                listener = _listen(stack, folder)
            except BlockingIOError:
                listener = None
            except OSError as error:
                _log.warning("`actorchat actors tree` does not work for %s: %s", folder, error.strerror or error)
                task_status.started()
                return
            if not tries:
                task_status.started()
            if listener is not None:
                try:
                    inspector = _Inspector(actors, accounts, privacy)
                    await trio.serve_listeners(inspector.serve, [trio.SocketListener(listener)])
                except Exception:
                    _log.exception("`actorchat actors tree` stopped working for %s", folder)
                    return
            elif tries == SILENT_TRIES:
                _log.warning("another server uses %s: `actorchat actors tree` shows the actors of that server", folder)
        tries += 1
        await trio.sleep(RETRY_SECONDS)


def _listen(stack: ExitStack, folder: Path) -> trio.socket.SocketType:
    """Create the socket in `folder`; leaving `stack` removes it. Raises OSError, BlockingIOError if it is in use."""
    if sys.platform == "win32":
        raise OSError("this platform has no Unix sockets")
    import fcntl

    lock = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, lock)
    # The lock ends with its process. So if it is free, an existing socket file was left behind and can be removed.
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(SOCKET_NAME, dir_fd=lock, follow_symlinks=False).st_mode):
            os.unlink(SOCKET_NAME, dir_fd=lock)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    with suppress(OSError):
        # Linux creates the file with the mode of the descriptor. Other systems need the chmod below, which is in time:
        # no client can connect before `listen`.
        os.fchmod(listener.fileno(), 0o600)
    with _socket_path(folder) as path:
        listener.bind(path)
        stack.callback(_remove_socket, lock)
        os.chmod(path, 0o600)
    listener.listen()
    return trio.socket.from_stdlib_socket(listener)


def _remove_socket(folder: int) -> None:
    with suppress(OSError):
        os.unlink(SOCKET_NAME, dir_fd=folder)


@contextmanager
def _socket_path(folder: Path) -> Iterator[str]:
    """Yield a path of the socket that is short enough for a socket address. Raises OSError if there is none."""
    path = os.fspath(folder / SOCKET_NAME)
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield path
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        short = f"/proc/self/fd/{handle}"
        if not os.path.isdir(short):
            raise OSError(errno.ENAMETOOLONG, f"a socket's path may have at most {MAX_PATH_BYTES} bytes on this system")
        yield f"{short}/{SOCKET_NAME}"
    finally:
        os.close(handle)


class _Inspector:
    """Answers requests. Limits the number of connections, the length of a request, and the time."""

    def __init__(self, actors: ActorTree, accounts: Accounts | None, privacy: Privacy | None) -> None:
        self._privacy = privacy
        self._actors = actors
        self._accounts = accounts
        self._conversations = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self._conversations += 1
        try:
            with trio.move_on_after(ANSWER_SECONDS) as time_limit:
                async with stream:
                    await stream.send_all(msgspec.json.encode(await self._answer(stream, time_limit)))
        except trio.BrokenResourceError:
            # The client is gone.
            return
        except Exception:
            _log.exception("an inspection of the actors failed")
        finally:
            self._conversations -= 1

    async def _answer(
        self, stream: trio.SocketStream, time_limit: trio.CancelScope
    ) -> TreeAnswer | AccountAnswer | PrivacyAnswer:
        if self._conversations > MAX_CONVERSATIONS:
            return TreeAnswer(refusal=f"{MAX_CONVERSATIONS} inspections are running already")
        try:
            request = await _read_request(stream)
        except _BadRequest as error:
            return TreeAnswer(refusal=str(error))
        if isinstance(request, PrivacyRequest):
            if self._privacy is None:
                return PrivacyAnswer(refusal="this server can't export or erase people")
            # A person may have very many messages.
            time_limit.deadline = inf
            return await carry_out(self._privacy, request)
        if isinstance(request, AccountRequest):
            if self._accounts is None:
                return AccountAnswer(refusal="this server has no accounts")
            return await administer(self._accounts, request)
        return TreeAnswer(tree=await self._actors.page(request))


async def _read_request(stream: trio.SocketStream) -> InspectionRequest | AccountRequest | PrivacyRequest:
    """Read a request, which is one line of JSON. Raises _BadRequest."""
    line = bytearray()
    while b"\n" not in line:
        part = await stream.receive_some(MAX_REQUEST_BYTES)
        line += part
        if len(line) > MAX_REQUEST_BYTES:
            raise _BadRequest(f"a request may have at most {MAX_REQUEST_BYTES} bytes")
        if not part:
            break
    try:
        text = line.partition(b"\n")[0]
        other = msgspec.json.decode(text, type=_AccountsRequest)
        return other.accounts or other.privacy or msgspec.json.decode(text, type=InspectionRequest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _BadRequest(f"invalid request: {error}") from None


# The client's side


async def inspect_server(folder: Path, request: InspectionRequest) -> Tree:
    """Send a request to the server whose data folder is `folder`, and return its answer. Raises InspectionFailed.

    Has no timeout of its own: the caller sets one.
    """
    answer = _decoded(folder, await _ask(folder, msgspec.json.encode(request)), TreeAnswer)
    if answer.tree is None:
        raise InspectionFailed(f"the server on {folder} refused the request: {answer.refusal}")
    return answer.tree


async def administer_server(folder: Path, request: AccountRequest) -> AccountAnswer:
    """Send a request about accounts to the server whose data folder is `folder`, and return its answer.

    Raises NoServer if none runs there, and InspectionFailed. Has no timeout of its own.
    """
    answer = await _ask(folder, msgspec.json.encode(_AccountsRequest(request)))
    return _decoded(folder, answer, AccountAnswer)


async def request_privacy(folder: Path, request: PrivacyRequest) -> PrivacyAnswer:
    """Send a request about a person to the server whose data folder is `folder`, and return its answer.

    Raises NoServer if none runs there, and InspectionFailed. Has no timeout of its own.
    """
    answer = await _ask(folder, msgspec.json.encode(_AccountsRequest(privacy=request)))
    return _decoded(folder, answer, PrivacyAnswer)


def _decoded(folder: Path, answer: bytes, cls: type[T]) -> T:
    try:
        return msgspec.json.decode(answer, type=cls)
    except msgspec.MsgspecError:
        raise InspectionFailed(f"the server on {folder} runs a version with another answer format") from None


async def _ask(folder: Path, request: bytes) -> bytes:
    if not hasattr(socket, "AF_UNIX"):
        raise InspectionFailed("this platform has no Unix sockets")
    received = bytearray()
    try:
        with _socket_path(folder) as path:
            stream = await trio.open_unix_socket(path)
        async with stream:
            # The server may refuse and close before it reads the request. Its refusal can still be received.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(request + b"\n")
            with suppress(trio.BrokenResourceError):
                async for part in stream:
                    received += part
                    if len(received) > MAX_ANSWER_BYTES:
                        raise InspectionFailed(f"the answer of the server on {folder} is too long")
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise NoServer(f"no server runs on {folder}; start one with: actorchat serve --data {folder}") from None
    except PermissionError:
        raise InspectionFailed(f"the server on {folder} runs as another user: only that user may inspect it") from None
    except OSError as error:
        raise InspectionFailed(f"the server on {folder} can't be reached: {error.strerror or error}") from None
    if not received:
        raise InspectionFailed(f"the server on {folder} closed the connection without an answer")
    return bytes(received)
