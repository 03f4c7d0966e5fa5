"""Runs a plan: the whole server, its people and its faults, and the checks during the run and at its end."""

from __future__ import annotations

import logging
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import attrs
import trio

from actorchat.actors import ActorCrashed
from actorchat.chat.model import OnClosed, Policy
from actorchat.server.auth import Tokens
from actorchat.server.environment import Environment
from actorchat.testing.simulation.bounds import bounded_environment, small_constants
from actorchat.testing.simulation.coverage import Coverage
from actorchat.testing.simulation.crashes import Crashes
from actorchat.testing.simulation.disk import Disk
from actorchat.testing.simulation.faults import Nemesis
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.people import URL, Person, make_people
from actorchat.testing.simulation.plan import Plan
from actorchat.testing.simulation.server import SECRET, ServerProcess
from actorchat.testing.simulation.socket_watch import Watch
from actorchat.testing.simulation.truth import Truth
from actorchat.testing.simulation.wire_tap import SocketTap
from actorchat.testing.simulation.world import Verdict, Violation, World
from actorchat.transports.outbox import Outbox

__all__ = ["ChatVerdict", "ChatWorld", "play"]

CALM: Final = 140.0
"""Seconds without faults before the final checks: a silent peer is closed after 85, a client's backoff takes 30."""
QUIET: Final = 10.0
"""Seconds in which nothing may happen before the final checks: until then slow clients read what they missed."""
MOST_CALM: Final = 900.0
"""Seconds after the last fault by which everything must have come to rest."""
FAREWELL: Final = 45.0
"""Seconds after the last person left until nothing of theirs may be left: grace periods take up to 30."""
_KEY_HORIZON: Final = 256


@attrs.frozen(kw_only=True)
class ChatVerdict:
    """The result of a plan."""

    plan: Plan
    verdict: Verdict
    operations: int
    commits: int
    coverage: Counter[tuple[str, str]] = attrs.field(repr=False)

    @property
    def violation(self) -> Violation | None:
        """The promise that was broken, or None."""
        return self.verdict.violation


class ChatWorld(World):
    """`shaken` are the chats in which a broadcast crashed: events there are checked less strictly."""

    url = URL

    def __init__(self, plan: Plan, *, known: Iterable[str] = (), folder: Path | None = None) -> None:
        super().__init__(plan.seed, known=known)
        setup = plan.setup
        self.plan = plan
        self.calm: bool = False
        self.watches: list[Watch] = []
        self.taps: dict[Connection, SocketTap] = {}
        self.shaken: set[str] = set()
        self.coverage: Coverage = Coverage()
        self.tokens: Tokens = Tokens(SECRET, now=self.wall)
        policy = Policy(
            capacity=setup.capacity,
            on_closed=OnClosed(setup.on_closed),
            answer_timeout=setup.answer_timeout,
            idle_timeout=setup.idle_timeout,
            reserved_timeout=setup.reserved_timeout,
        )
        self.truth: Truth = Truth(self.fail, self.log, policy, int(setup.bounds.get("key_horizon", _KEY_HORIZON)))
        self.disk: Disk = Disk(self.random("disk"), self.log, self.truth.committed, self.truth.found_new, folder)
        self.crashes: Crashes = Crashes(self.log, lambda: self.process.server is not None)
        self.environment: Environment = bounded_environment(
            attrs.evolve(self.environment, open_store=self.disk.open_store), setup.bounds
        )
        self.network.tap = self._tap
        self.process: ServerProcess = ServerProcess(self)
        self.nemesis: Nemesis = Nemesis(self)
        self.people: dict[str, Person] = {}

    def _tap(self, connection: Connection) -> SocketTap:
        tap = self.taps[connection] = SocketTap(self, connection)
        return tap

    @property
    def drops_typing(self) -> bool:
        return bool(self.plan.setup.bounds.keys() & {"outbox_frames", "outbox_bytes"})

    def may_have_expired(self, moment: float) -> bool:
        """Whether the server's clock, which may be set back, can have shown the time `moment`."""
        return moment <= self.latest_wall + 1

    # The run

    async def main(self, _: World) -> None:
        await self.nursery.start(self.process.serve)
        self.nursery.start_soon(self._watch_always)
        async with trio.open_nursery() as crowd:
            self.people = make_people(self)
            for person in self.people.values():
                crowd.start_soon(person.run)
            await self.nemesis.run()
            self.log("CALM")
            self.calm = True
            self.nemesis.calm()
            await self.process.wait_up()
            await trio.sleep(CALM - QUIET)
            await self._quiet()
            await self._at_rest()
            for person in self.people.values():
                person.leave()
        await trio.sleep(FAREWELL)
        self._all_gone()
        await self.process.stop()

    def judge_error(self, error: BaseException) -> None:
        if any(isinstance(leaf, ActorCrashed) for leaf in _leaves(error)):
            self.fail("drain-over-crash", "an actor crashed while the server drained")
        else:
            super().judge_error(error)

    async def _watch_always(self) -> None:
        """Check again and again what must hold at any moment."""
        overdue: set[object] = set()
        while True:
            await trio.sleep(1.0)
            if self.process.server is None:
                continue
            for session in self.process.server._parts.websockets.sessions:
                late = self.wall() - session.expires_at
                expired = late > 3 and not session.closed
                if expired and session in overdue:
                    self.fail("token-expiry", f"{session!r} is open {late:.1f} s after its token expired")
                (overdue.add if expired else overdue.discard)(session)

    async def _quiet(self) -> None:
        """Wait until nothing has happened for a while."""
        for _ in range(int((MOST_CALM - CALM) / QUIET)):
            before = len(self.lines)
            await trio.sleep(QUIET)
            if len(self.lines) == before:
                return
        self.fail("no-end", f"the world is not at rest {MOST_CALM:.0f} s after the last fault")

    async def _at_rest(self) -> None:
        for watch in self.watches:
            if watch.alive:
                watch.at_rest()
        for person in self.people.values():
            await person.at_rest()
        for connection in self.network.connections:
            silent = connection.client.out.lossy and not connection.server.closed
            if silent and self.taps[connection].upgraded:
                self.fail("silent-peer", f"socket {connection.number} has been silent for over {CALM:.0f} s")
        self.truth.check_storage(self.disk.store)
        wrong = self.disk.corrected_counters
        self.check(not wrong, "counters", f"{wrong} counters had to be corrected when a server started")
        self.log("AT REST", sum(watch.alive for watch in self.watches))
        for person in self.people.values():
            await person.look_up()

    def _all_gone(self) -> None:
        idle = self.plan.setup.bounds.get("room_idle", 60) * 2 < FAREWELL - 10
        left = self.process.leftovers(rooms_are_idle=idle)
        self.check(not any(left.values()), "left-behind", f"{left}")
        for record in self.disk.store.operators(None):
            user = record.person.user
            self.check(not record.person.online, "online", f"operator {user.id} is online without a socket")
        self.truth.check_storage(self.disk.store)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


@contextmanager
def _watched_outboxes(world: ChatWorld) -> Iterator[None]:
    """Inside the block, report an outbox that exceeds its limits as a violation."""
    add = Outbox._add

    def watched(self: Outbox, entry: Any, sent: int) -> None:  # Any: a private type of the outbox
        add(self, entry, sent)
        queue, limits = self._queue, self._limits
        if queue is None or self.closed or queue.unbounded or len(queue.entries) < 2:
            return
        if queue.bytes > limits.outbox_bytes or queue.frames > limits.outbox_frames:
            world.fail("bounded", f"an outbox holds {queue.bytes} bytes in {queue.frames} frames")

    with mock.patch.object(Outbox, "_add", watched):
        yield


class _ErrorLog(logging.Handler):
    """Reports errors that the server logs as violations, except those that planned faults cause."""

    _PLANNED: Final = (
        "storage is away",
        "is in doubt",
        "draining took longer",
        "announcing in chat",
        "crashed",
        "a command failed in chat",
        "was cancelled",
    )

    def __init__(self, world: ChatWorld) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        world = self._world
        text = self._clean(record.getMessage())
        error = record.exc_info[1] if record.exc_info else None
        cause = "" if error is None else self._clean(repr(error))
        if error is not None:
            world.shaken.update(chat for chat in world.truth.chats if chat in text)
        world.log("log", record.levelname, text[:120], cause[:120])
        expected = record.levelno < logging.ERROR or any(planned in text for planned in self._PLANNED)
        planned = "planned" in cause
        if world.process.killed or planned or (expected and error is None):
            return
        trace = "" if error is None else "".join(traceback.format_exception(error))[-1_500:]
        world.fail("error-log", f"{text}: {trace}")

    def _clean(self, text: str) -> str:
        return text.replace(str(self._world.disk.folder), "~")


@contextmanager
def _logging_to(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("actorchat")
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers, logger.propagate, level = before
        logger.setLevel(level)


def play(plan: Plan, *, known: Iterable[str] = ()) -> ChatVerdict:
    """Run a plan: all of its steps, then a time without faults, the final checks, and the people's leaving.

    Violations of the kinds in `known` are counted and do not end the run.
    """
    with ExitStack() as stack:
        folder = None
        if plan.setup.store == "sqlite":
            folder = Path(tempfile.mkdtemp(prefix="simulation-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108 - mkdtemp makes a new folder
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        world = ChatWorld(plan, known=known, folder=folder)
        stack.enter_context(_logging_to(_ErrorLog(world)))
        during = ExitStack()
        during.enter_context(world.crashes.planted())
        during.enter_context(_watched_outboxes(world))
        during.enter_context(small_constants(plan.setup.bounds))
        verdict = world.run(world.main, during=during)
    return ChatVerdict(
        plan=plan,
        verdict=verdict,
        operations=world.truth.operations,
        commits=world.truth.commits,
        coverage=world.coverage.counts,
    )
