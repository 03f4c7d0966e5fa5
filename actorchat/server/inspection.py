"""Reports the actors of a running server through a Unix socket in its data folder; contains both server and client.

Inspection changes nothing, and a failure of it never stops the server.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import attrs
import msgspec
import trio
from msgspec import Meta

from actorchat.actors import ActorInfo, ActorSystem

__all__ = [
    "DEFAULT_ROWS",
    "MAX_ROWS",
    "ActorRow",
    "Family",
    "InspectionFailed",
    "InspectionRequest",
    "SortOrder",
    "Tree",
    "inspect_server",
    "make_page",
    "serve_inspection",
]

DEFAULT_ROWS: Final = 50
MAX_ROWS: Final = 1000
SOCKET_NAME: Final = "actors.sock"
ANSWER_SECONDS: Final = 5.0
"""Seconds that one request and its answer may take, on the server and on the client."""
MAX_CONVERSATIONS: Final = 16
"""Requests at a time. Further ones are refused with a text that says so."""
CHECKPOINT_EVERY: Final = 256
"""Actors processed between two checkpoints, which takes well under a millisecond."""
MAX_REQUEST_BYTES: Final = 4096
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
MAX_PATH_BYTES: Final = 103
"""Length of a socket's path that every platform allows. Linux allows four bytes more."""

_log: Final = logging.getLogger("actorchat.server")


class SortOrder(StrEnum):
    """How rows are sorted: numbers in descending order, names in ascending order."""

    INBOX = "inbox"
    HANDLED = "handled"
    AGE = "age"
    RESTARTS = "restarts"
    NAME = "name"


@attrs.frozen(kw_only=True)
class InspectionRequest:
    """A request for one page of actors, of those with the text `filter` in any of their text fields."""

    sort: SortOrder = SortOrder.INBOX
    filter: Annotated[str, Meta(max_length=200)] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_ROWS)] = DEFAULT_ROWS
    page: Annotated[int, Meta(ge=1, le=2**31)] = 1


@attrs.frozen(kw_only=True)
class ActorRow:
    """The state of one actor. Times are in seconds.

    `inbox` is the number of waiting messages, `bound` its maximum. `handled` counts messages and signals. `dropped`
    counts the messages that the inbox lost, and `drops` counts them by reason. `message` is the type of the message
    being handled, and `busy_for` how long it has taken so far.
    """

    name: str
    family: str | None
    kind: str
    state: str
    age: float
    inbox: int
    bound: int
    handled: int
    restarts: int
    message: str | None
    busy_for: float
    waiting_on: str | None
    dropped: int
    drops: dict[str, int]


@attrs.frozen(kw_only=True)
class Family:
    """Totals of all actors with the same family or supervisor, whatever the filter is; `name` is None for the rest."""

    name: str | None
    actors: int
    busy: int
    queued: int
    handled: int
    dropped: int


@attrs.frozen(kw_only=True)
class Tree:
    """The answer to an `InspectionRequest`.

    `page` is the last page if the request asked for a later one. `matched` counts the rows of all pages. `lost` counts
    the system's dead letters by reason. `families` are in start order.
    """

    pid: int
    families: tuple[Family, ...]
    rows: tuple[ActorRow, ...]
    matched: int
    page: int
    pages: int
    lost: dict[str, int]


@attrs.frozen(kw_only=True)
class _Answer:
    """The answer on the wire: exactly one of the two fields is set."""

    tree: Tree | None = None
    refusal: str | None = None


class InspectionFailed(Exception):  # noqa: N818 - says what happened
    """The server could not be inspected. The text is one line for the user."""


class _BadRequest(Exception):  # noqa: N818 - describes what was received
    pass


# The content of an answer

_SORT_KEYS: Final[dict[SortOrder, Callable[[ActorRow], tuple[float, float] | str]]] = {
    SortOrder.INBOX: lambda row: (-row.inbox, -row.busy_for),
    SortOrder.HANDLED: lambda row: (-row.handled, -row.inbox),
    SortOrder.AGE: lambda row: (-row.age, -row.inbox),
    SortOrder.RESTARTS: lambda row: (-row.restarts, -row.inbox),
    SortOrder.NAME: lambda row: row.name,
}


@attrs.define
class _Totals:
    actors: int = 0
    busy: int = 0
    queued: int = 0
    handled: int = 0
    dropped: int = 0

    def add(self, info: ActorInfo) -> None:
        self.actors += 1
        self.busy += info.message is not None
        self.queued += info.queued
        self.handled += info.begun + info.signals
        self.dropped += info.dropped


async def make_page(infos: Iterable[ActorInfo], request: InspectionRequest, lost: dict[str, int] | None = None) -> Tree:
    """Return the page that `request` asks for. The sort is stable. Checkpoints every `CHECKPOINT_EVERY` actors."""
    totals: defaultdict[str | None, _Totals] = defaultdict(_Totals)
    wanted = request.filter.casefold()
    rows: list[ActorRow] = []
    for number, info in enumerate(infos, 1):
        totals[info.parent].add(info)
        if not wanted or wanted in _searchable_text(info):
            rows.append(_row(info))
        if number % CHECKPOINT_EVERY == 0:
            await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    rows.sort(key=_SORT_KEYS[request.sort])
    pages = max(1, -(-len(rows) // request.limit))
    page = min(request.page, pages)
    return Tree(
        pid=os.getpid(),
        families=tuple([Family(name=name, **attrs.asdict(total)) for name, total in totals.items()]),
        rows=tuple(rows[(page - 1) * request.limit : page * request.limit]),
        matched=len(rows),
        page=page,
        pages=pages,
        lost=lost or {},
    )


def _searchable_text(info: ActorInfo) -> str:
    fields = (info.name, info.actor, info.parent, info.state, info.message, info.waiting_on)
    # One line for each field, so that no filter matches across two fields.
    return "\n".join([field for field in fields if field]).casefold()


def _row(info: ActorInfo) -> ActorRow:
    return ActorRow(
        name=info.name,
        family=info.parent,
        kind=info.actor,
        state=info.state,
        inbox=info.queued,
        handled=info.begun + info.signals,
        message=info.message,
        busy_for=info.busy_for,
        waiting_on=info.waiting_on,
        dropped=info.dropped,
        age=info.age,
        bound=info.bound,
        restarts=info.restarts,
        drops={loss.value: count for loss, count in info.drops.items()},
    )


# The server's side


async def serve_inspection(
    folder: Path, system: ActorSystem, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer inspection requests about `system` on a Unix socket in `folder`, which only its owner may use.

    Runs until cancelled, and then removes the socket. Reports started once the socket listens. If the socket can't be
    created, or another server has one in `folder`, logs a warning and returns. Errors are logged, never raised.
    """
    with ExitStack() as stack:
        try:
            listener = _listen(stack, folder)
        except BlockingIOError:
            _log.warning("another server uses %s: `actorchat actors tree` shows the actors of that server", folder)
            listener = None
        except OSError as error:
            _log.warning("`actorchat actors tree` does not work for %s: %s", folder, error.strerror or error)
            listener = None
        task_status.started()
        if listener is None:
            return
        try:
            await trio.serve_listeners(_Inspector(system).serve, [trio.SocketListener(listener)])
        except Exception:
            _log.exception("`actorchat actors tree` stopped working for %s", folder)


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
    """Answers requests one at a time. Limits the number of connections, the length of a request, and the time."""

    def __init__(self, system: ActorSystem) -> None:
        self._system = system
        self._one_at_a_time = trio.Lock()
        self._conversations = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self._conversations += 1
        try:
            with trio.move_on_after(ANSWER_SECONDS):
                async with stream:
                    await stream.send_all(msgspec.json.encode(await self._answer(stream)))
        except trio.BrokenResourceError:
            # The client is gone.
            return
        except Exception:
            _log.exception("an inspection of the actors failed")
        finally:
            self._conversations -= 1

    async def _answer(self, stream: trio.SocketStream) -> _Answer:
        if self._conversations > MAX_CONVERSATIONS:
            return _Answer(refusal=f"{MAX_CONVERSATIONS} inspections are running already")
        try:
            request = await _read_request(stream)
        except _BadRequest as error:
            return _Answer(refusal=str(error))
        async with self._one_at_a_time:
            lost = {loss.value: count for loss, count in self._system.dead_letters.counts.items()}
            return _Answer(tree=await make_page(self._system.walk(), request, lost))


async def _read_request(stream: trio.SocketStream) -> InspectionRequest:
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
        return msgspec.json.decode(line.partition(b"\n")[0], type=InspectionRequest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _BadRequest(f"invalid request: {error}") from None


# The client's side


async def inspect_server(folder: Path, request: InspectionRequest) -> Tree:
    """Send a request to the server whose data folder is `folder`, and return its answer. Raises InspectionFailed.

    Has no timeout of its own: the caller sets one.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise InspectionFailed("this platform has no Unix sockets")
    received = bytearray()
    try:
        with _socket_path(folder) as path:
            stream = await trio.open_unix_socket(path)
        async with stream:
            # The server may refuse and close before it reads the request. Its refusal can still be received.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(msgspec.json.encode(request) + b"\n")
            with suppress(trio.BrokenResourceError):
                async for part in stream:
                    received += part
                    if len(received) > MAX_ANSWER_BYTES:
                        raise InspectionFailed(f"the answer of the server on {folder} is too long")
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise InspectionFailed(f"no server runs on {folder}; start one with: actorchat serve --data {folder}") from None
    except PermissionError:
        raise InspectionFailed(f"the server on {folder} runs as another user: only that user may inspect it") from None
    except OSError as error:
        raise InspectionFailed(f"the server on {folder} can't be reached: {error.strerror or error}") from None
    if not received:
        raise InspectionFailed(f"the server on {folder} closed the connection without an answer")
    try:
        answer = msgspec.json.decode(received, type=_Answer)
    except msgspec.MsgspecError:
        raise InspectionFailed(f"the server on {folder} runs a version with another answer format") from None
    if answer.tree is None:
        raise InspectionFailed(f"the server on {folder} refused the request: {answer.refusal}")
    return answer.tree
