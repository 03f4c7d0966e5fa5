"""Owns the look into a running server: its local socket, who may use it, and what one look tells. Both ends.

Refuses to know what the actors do, and how a look is shown. It changes nothing and never stops the server.
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
    "MOST_ROWS",
    "ActorRow",
    "Family",
    "InspectionFailed",
    "InspectionRequest",
    "SortOrder",
    "Tree",
    "look",
    "serve_inspection",
    "survey",
]

DEFAULT_ROWS: Final = 50
MOST_ROWS: Final = 1000
SOCKET: Final = "actors.sock"
SECONDS: Final = 5.0
"""What one conversation may take."""
AT_ONCE: Final = 16
"""Conversations; who comes while there are so many is told so."""
SLICE: Final = 256
"""Actors looked at between two checkpoints: well under a millisecond."""
LONGEST_QUESTION: Final = 4096
LONGEST_ANSWER: Final = 8 * 1024 * 1024
LONGEST_ADDRESS: Final = 103
"""Bytes of a socket's path that every platform takes; Linux takes four more."""

_log: Final = logging.getLogger("actorchat.server")


class SortOrder(StrEnum):
    """How rows are sorted: the largest first, names as in a dictionary."""

    INBOX = "inbox"
    HANDLED = "handled"
    AGE = "age"
    RESTARTS = "restarts"
    NAME = "name"


@attrs.frozen(kw_only=True)
class InspectionRequest:
    """One page of the actors whose name, kind, family, state, message or wait has `filter` in it."""

    sort: SortOrder = SortOrder.INBOX
    filter: Annotated[str, Meta(max_length=200)] = ""
    limit: Annotated[int, Meta(ge=1, le=MOST_ROWS)] = DEFAULT_ROWS
    page: Annotated[int, Meta(ge=1, le=2**31)] = 1


@attrs.frozen(kw_only=True)
class ActorRow:
    """One actor now; times in seconds. `handled` counts both lanes; `dropped` what the inbox lost, `drops` why.

    `message` is the type of the current one, `busy_for` how long it has been seen to take.
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
    """Totals of those with one family or supervisor, or of those with none, whatever was filtered."""

    name: str | None
    actors: int
    busy: int
    queued: int
    handled: int
    dropped: int


@attrs.frozen(kw_only=True)
class Tree:
    """One page of a look. `page` is the last one if there are fewer than asked for; `matched` counts all pages' rows.

    `lost` counts the system's dead letters by reason, `families` comes in start order.
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
    """Either, never both."""

    tree: Tree | None = None
    refusal: str | None = None


class InspectionFailed(Exception):  # noqa: N818 - says what happened
    """There is nothing to look at; the text is one line for whoever asked."""


class _Junk(Exception):  # noqa: N818 - what came in
    pass


# What a look tells

_KEYS: Final[dict[SortOrder, Callable[[ActorRow], tuple[float, float] | str]]] = {
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


async def survey(infos: Iterable[ActorInfo], question: InspectionRequest, lost: dict[str, int] | None = None) -> Tree:
    """The page that answers `question`. Lets others run after every `SLICE` actors; equals stay in start order."""
    totals: defaultdict[str | None, _Totals] = defaultdict(_Totals)
    words = question.filter.casefold()
    rows: list[ActorRow] = []
    for number, info in enumerate(infos, 1):
        totals[info.parent].add(info)
        if not words or words in _words_of(info):
            rows.append(_row(info))
        if number % SLICE == 0:
            await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    rows.sort(key=_KEYS[question.sort])
    pages = max(1, -(-len(rows) // question.limit))
    page = min(question.page, pages)
    return Tree(
        pid=os.getpid(),
        families=tuple([Family(name=name, **attrs.asdict(total)) for name, total in totals.items()]),
        rows=tuple(rows[(page - 1) * question.limit : page * question.limit]),
        matched=len(rows),
        page=page,
        pages=pages,
        lost=lost or {},
    )


def _words_of(info: ActorInfo) -> str:
    fields = (info.name, info.actor, info.parent, info.state, info.message, info.waiting_on)
    # A line each, so that no filter matches across two of them.
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


# The server's end


async def serve_inspection(
    folder: Path, system: ActorSystem, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer looks at `system` through a socket in `folder`, for its owner only, until cancelled; then it is gone.

    Started means: it can be asked. Where it can't be, or another server does it for `folder`, that is logged and this
    ends. Nothing that goes wrong here comes out.
    """
    with ExitStack() as stack:
        try:
            listener = _listen(stack, folder)
        except BlockingIOError:
            _log.warning("another server uses %s: `actorchat actors tree` shows that one's actors", folder)
            listener = None
        except OSError as error:
            _log.warning("`actorchat actors tree` can't be used on %s: %s", folder, error.strerror or error)
            listener = None
        task_status.started()
        if listener is None:
            return
        try:
            await trio.serve_listeners(_Inspector(system).serve, [trio.SocketListener(listener)])
        except Exception:
            _log.exception("`actorchat actors tree` can't be used on %s any more", folder)


def _listen(stack: ExitStack, folder: Path) -> trio.socket.SocketType:
    """The socket in `folder`, which goes with `stack`. Raises OSError; BlockingIOError if another server has one."""
    if sys.platform == "win32":
        raise OSError("this platform has no Unix sockets")
    import fcntl

    claim = os.open(folder, os.O_RDONLY)
    stack.callback(os.close, claim)
    # Who holds this lock lives, whatever the socket's file looks like: the system drops it with the process.
    fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(SOCKET, dir_fd=claim, follow_symlinks=False).st_mode):
            os.unlink(SOCKET, dir_fd=claim)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    with suppress(OSError):
        # Linux makes the file with this mode. Elsewhere it gets it below: nobody can connect before `listen`.
        os.fchmod(listener.fileno(), 0o600)
    with _address(folder) as address:
        listener.bind(address)
        stack.callback(_remove, claim)
        os.chmod(address, 0o600)
    listener.listen()
    return trio.socket.from_stdlib_socket(listener)


def _remove(folder: int) -> None:
    with suppress(OSError):
        os.unlink(SOCKET, dir_fd=folder)


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """A path of the socket that is short enough for a socket's address. Raises OSError."""
    path = os.fspath(folder / SOCKET)
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield path
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        short = f"/proc/self/fd/{handle}"
        if not os.path.isdir(short):
            raise OSError(errno.ENAMETOOLONG, f"a socket's path has at most {LONGEST_ADDRESS} bytes here")
        yield f"{short}/{SOCKET}"
    finally:
        os.close(handle)


class _Inspector:
    """Takes questions and answers them, one at a time. Bounded: conversations, their length and their time."""

    def __init__(self, system: ActorSystem) -> None:
        self._system = system
        self._turn = trio.Lock()
        self._conversations = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self._conversations += 1
        try:
            with trio.move_on_after(SECONDS):
                async with stream:
                    await stream.send_all(msgspec.json.encode(await self._answer(stream)))
        except trio.BrokenResourceError:
            # Whoever asked has gone.
            return
        except Exception:
            _log.exception("a look at the actors failed")
        finally:
            self._conversations -= 1

    async def _answer(self, stream: trio.SocketStream) -> _Answer:
        if self._conversations > AT_ONCE:
            return _Answer(refusal=f"{AT_ONCE} others look already")
        try:
            question = await _question(stream)
        except _Junk as error:
            return _Answer(refusal=str(error))
        async with self._turn:
            lost = {loss.value: count for loss, count in self._system.dead_letters.counts.items()}
            return _Answer(tree=await survey(self._system.walk(), question, lost))


async def _question(stream: trio.SocketStream) -> InspectionRequest:
    """The one line of JSON. Raises _Junk."""
    line = bytearray()
    while b"\n" not in line:
        part = await stream.receive_some(LONGEST_QUESTION)
        line += part
        if len(line) > LONGEST_QUESTION:
            raise _Junk(f"a question has at most {LONGEST_QUESTION} bytes")
        if not part:
            break
    try:
        return msgspec.json.decode(line.partition(b"\n")[0], type=InspectionRequest)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _Junk(f"no question: {error}") from None


# The asker's end


async def look(folder: Path, question: InspectionRequest) -> Tree:
    """Ask the server whose data folder is `folder`. The caller owns the clock. Raises NotSeen."""
    if not hasattr(socket, "AF_UNIX"):
        raise InspectionFailed("this platform has no Unix sockets")
    received = bytearray()
    try:
        with _address(folder) as address:
            stream = await trio.open_unix_socket(address)
        async with stream:
            # It may refuse and close before it has read: the refusal is there all the same.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(msgspec.json.encode(question) + b"\n")
            with suppress(trio.BrokenResourceError):
                async for part in stream:
                    received += part
                    if len(received) > LONGEST_ANSWER:
                        raise InspectionFailed(f"the server on {folder} does not stop answering")
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        raise InspectionFailed(f"no server runs on {folder}; start one with: actorchat serve --data {folder}") from None
    except PermissionError:
        raise InspectionFailed(f"the server on {folder} is somebody else's: only its owner may look") from None
    except OSError as error:
        raise InspectionFailed(f"the server on {folder} can't be asked: {error.strerror or error}") from None
    if not received:
        raise InspectionFailed(f"the server on {folder} has gone")
    try:
        answer = msgspec.json.decode(received, type=_Answer)
    except msgspec.MsgspecError:
        raise InspectionFailed(f"the server on {folder} answers what this version doesn't understand") from None
    if answer.tree is None:
        raise InspectionFailed(f"the server on {folder} refuses: {answer.refusal}")
    return answer.tree
