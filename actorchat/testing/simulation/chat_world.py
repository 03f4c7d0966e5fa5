"""Runs a plan: the whole server, its people and its faults, and the checks during the run and at its end."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock
from uuid import UUID

import argon2
import attrs
import trio

from actorchat.actors import ActorCrashed
from actorchat.server import passwords
from actorchat.server.auth import Tokens
from actorchat.server.environment import Environment
from actorchat.testing.simulation.actor_crashes import Crashes
from actorchat.testing.simulation.administration import lift_restrictions
from actorchat.testing.simulation.bounds import bounded_environment, small_constants
from actorchat.testing.simulation.coverage import Coverage
from actorchat.testing.simulation.faults import Nemesis
from actorchat.testing.simulation.faulty_blobs import FaultyBlobs
from actorchat.testing.simulation.faulty_storage import FaultyStorage
from actorchat.testing.simulation.network import Connection
from actorchat.testing.simulation.people import URL, Operator, Person, make_people
from actorchat.testing.simulation.plan import Plan
from actorchat.testing.simulation.server import SECRET, ServerProcess, settings_of
from actorchat.testing.simulation.socket_watch import Watch
from actorchat.testing.simulation.truth import Truth
from actorchat.testing.simulation.wire_tap import SocketTap
from actorchat.testing.simulation.world import Verdict, Violation, World
from actorchat.transports.outbox import Outbox

__all__ = ["ChatVerdict", "ChatWorld", "play"]

CALM: Final = 140.0
"""Seconds without faults before the final checks: a silent peer is closed after 85, a client's backoff takes 30."""
LATE_REQUESTS: Final = 20.0
"""Seconds of the calm after which no request from before it is committed any more."""
QUIET: Final = 10.0
"""Seconds in which nothing may happen before the final checks: until then slow clients read what they missed."""
MOST_CALM: Final = 900.0
"""Seconds after the last fault by which everything must have come to rest."""
FAREWELL: Final = 45.0
"""Seconds after the last person left until nothing of theirs may be left: grace periods take up to 30."""
_UNKNOWN: Final = 3.0
"""Seconds after a commit, or after it was in doubt, until the server must know of it."""
_KEY_HORIZON: Final = 256
_LOSING: Final = frozenset({"crash", "crash_draining", "restart", "files_away"})
"""Faults after which the bytes of a deleted file may stay for an hour."""


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
    """`shaken` are the chats in which a broadcast crashed: events there are checked less strictly.

    `contents` are the bytes of every uploaded file. `folder` is for the database and for files.
    """

    url = URL

    def __init__(self, plan: Plan, folder: Path, *, known: Iterable[str] = ()) -> None:
        super().__init__(plan.seed, known=known)
        setup = plan.setup
        self.plan = plan
        self.calm: bool = False
        self.watches: list[Watch] = []
        self.taps: dict[Connection, SocketTap] = {}
        self.shaken: set[str] = set()
        self.coverage: Coverage = Coverage()
        self.tokens: Tokens = Tokens(SECRET, now=self.wall)
        self.folder = folder
        self._uncertain_until = 0.0
        self.contents: dict[UUID, bytes] = {}
        self.truth: Truth = Truth(
            self.fail, self.log, settings_of(setup).policy, int(setup.bounds.get("key_horizon", _KEY_HORIZON))
        )
        self.storage: FaultyStorage = FaultyStorage(
            self.random("disk"),
            self.log,
            self.truth.committed,
            self.truth.found_new,
            folder if setup.store == "sqlite" else None,
        )
        self.blobs: FaultyBlobs = FaultyBlobs(self.random("blobs"), self.wall, folder)
        self.crashes: Crashes = Crashes(self.log, lambda: self.process.server is not None)
        self.environment: Environment = bounded_environment(
            attrs.evolve(self.environment, open_store=self.storage.open_store, open_blobs=self.blobs.open_blobs),
            setup.bounds,
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

    def may_seem_disabled(self, who: tuple[str, int], since: float) -> bool:
        """Whether the server may have seen the account of an operator as disabled after `since`, of Trio's clock."""
        truth = self.truth
        enabled_at = truth.enabled_at.get(who)
        # While the commit that enabled it is in doubt, the server does not know of it.
        late = enabled_at is not None and max(enabled_at, self._uncertain_until) > since - _UNKNOWN
        return late or who in truth.disabled

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
            administrator = self.people["o0"]
            assert isinstance(administrator, Operator)  # noqa: S101 - named as one
            await lift_restrictions(self, administrator)
            # What was requested before the calm may be committed later.
            await trio.sleep(LATE_REQUESTS)
            await lift_restrictions(self, administrator)
            await trio.sleep(CALM - QUIET - LATE_REQUESTS)
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
            if self.process.server._parts.journal.statistics().away:
                self._uncertain_until = trio.current_time()
            for watch in self.watches:
                why = self._must_be_closed(watch)
                if why is not None and watch in overdue:
                    self.fail(*why)
                (overdue.discard if why is None else overdue.add)(watch)

    def _must_be_closed(self, watch: Watch) -> tuple[str, str] | None:
        """Why a socket that is open must have been closed some seconds ago, None if it need not."""
        truth, record = self.truth, self.truth.people.get(watch.who)
        if not (watch.alive and watch.prompt) or record is None:
            return None
        what = f"socket {watch.connection.number} of {watch.who} is open"
        if watch.issued <= record.signed_out_at and self._is_long_ago(truth.signed_out[watch.who]):
            return "signed-out", f"{what} though its user has signed out"
        if watch.who in truth.disabled and self._is_long_ago(truth.disabled[watch.who]):
            return "signed-out", f"{what} though the account is disabled"
        blocked = any(block.user == watch.who[1] and block.until is None for block in truth.blocks.values())
        if watch.who[0] == "user" and blocked and self._is_long_ago(truth.blocked[watch.who[1]]):
            return "blocked", f"{what} though the visitor is blocked"
        return None

    def _is_long_ago(self, committed_at: float) -> bool:
        """Whether the server has known of a commit for seconds. While one is in doubt, it does not know of it."""
        return max(committed_at, self._uncertain_until) < trio.current_time() - _UNKNOWN

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
        self.truth.check_storage(self.storage.store)
        self._check_files()
        self._check_removed_texts()
        wrong = self.storage.corrected_counters
        self.check(not wrong, "counters", f"{wrong} counters had to be corrected when a server started")
        self.log("AT REST", sum(watch.alive for watch in self.watches))
        for person in self.people.values():
            await person.look_up()

    def _check_files(self) -> None:
        """Check that every stored file has its bytes, and that those of deleted ones are gone."""
        for file in self.truth.model.uploads:
            stored = self.blobs.blobs.get(file.hex, (None, 0.0))[0]
            same = stored is not None and stored == self.contents.get(file, stored)
            self.check(same, "files", f"the bytes of {file} are lost")
        if not _LOSING & {step.verb for step in self.plan.steps}:
            left = [str(file) for file in self.truth.gone if file.hex in self.blobs.blobs]
            self.check(not left, "files", f"the bytes of {left} are left")

    def _check_removed_texts(self) -> None:
        """Check that no table of the database has a text that was edited or removed."""
        removed = self.truth.removed_texts()
        database = self.folder / "chat.db"
        if not removed or not database.exists():
            return
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - names of our own tables
                    left = removed.intersection(row)
                    self.check(not left, "erased", f"{sorted(left)} is still in the table {table}")

    def _all_gone(self) -> None:
        idle = self.plan.setup.bounds.get("room_idle", 60) * 2 < FAREWELL - 10
        left = self.process.leftovers(rooms_are_idle=idle)
        self.check(not any(left.values()), "left-behind", f"{left}")
        for record in self.storage.store.operators(None):
            user = record.person.user
            self.check(not record.person.online, "online", f"operator {user.id} is online without a socket")
        self.truth.check_storage(self.storage.store)


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
        "files can't be stored or read",
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
        return text.replace(str(self._world.folder), "~")


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
        folder = Path(tempfile.mkdtemp(prefix="simulation-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108 - mkdtemp makes a new folder
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        world = ChatWorld(plan, folder, known=known)
        stack.enter_context(_logging_to(_ErrorLog(world)))
        during = ExitStack()
        during.enter_context(world.crashes.planted())
        during.enter_context(_watched_outboxes(world))
        during.enter_context(small_constants(plan.setup.bounds))
        # A quick hash of passwords.
        during.enter_context(mock.patch.object(passwords, "_hasher", argon2.PasswordHasher(1, 8, 1)))
        verdict = world.run(world.main, during=during)
    return ChatVerdict(
        plan=plan,
        verdict=verdict,
        operations=world.truth.operations,
        commits=world.truth.commits,
        coverage=world.coverage.counts,
    )
