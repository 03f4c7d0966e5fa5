"""Starts servers and clients, plays faults, and compares what every client saw with what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Final
from uuid import UUID

import attrs
import httpx
import trio

from actorchat.protocol import Role, User
from actorchat.server.auth import Tokens
from actorchat.testing.checker.faults import FaultPlayer, Scene
from actorchat.testing.checker.history import tell_history
from actorchat.testing.checker.machines import Machine
from actorchat.testing.checker.node import SECRET, NodeFailed, NodeProcess
from actorchat.testing.checker.people import Console, Person, Violation

__all__ = ["CheckFailed", "CheckOptions", "CheckReport", "Progress", "check_cluster"]

_SOURCE: Final = "lk"
_ANSWERING: Final = 3
"""How many operators write in chats."""

_NEWCOMERS_AT_ONCE: Final = 10
_LONGEST_HISTORIES: Final = 3
"""How many clients are shown in full when a promise was broken."""

_WATCH_PERIOD: Final = 0.2


class CheckFailed(Exception):  # noqa: N818 - a result
    """A promise was broken. The text has a line for each, then what the clients saw, and the logs of the servers."""


@attrs.frozen(kw_only=True)
class CheckOptions:
    """The options of a run. `storage` is the URL of an empty PostgreSQL database, on this machine.

    `bus` is the setting of that name; `options` are further options of `actorchat serve`. `database_machine` and
    `bus_machine` are the servers of both, if the checker may kill them.

    `faults` are names of `FAULTS`, or several with a plus between them to play these together; `pause` is how many
    seconds are between the beginnings of two on average. They are played in any order; `in_turn`, each for an equal
    share of the time. `seconds` is how long clients write. `settle` is how many seconds after the last fault everything
    may take to be answered and shown. `without` is the name of one of `HEALINGS`, which the servers then lack.
    """

    storage: str
    folder: Path
    seconds: float = 10.0
    seed: int = 0
    nodes: int = 3
    chats: int = 6
    newcomers: int = 20
    """How many chats begin while faults are played."""
    consoles: int = 2
    bus: str = "postgres"
    database_machine: Machine | None = None
    bus_machine: Machine | None = None
    faults: Sequence[str] = ()
    in_turn: bool = False
    pause: float = 1.0
    settle: float = 60.0
    without: str | None = None
    options: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class CheckReport:
    """The faults that were played. `faults` has how often each was; `starts` and `failed_starts` are of servers.

    `messages` are stored; `shown` counts how often one was shown to a client. `repeated` counts messages that clients
    sent again, `refused` those that were refused while servers could not store them, and `given_up` those of them that
    were not sent again. No message was lost, shown twice or out of order.
    """

    messages: int
    shown: int
    repeated: int
    refused: int
    given_up: int
    chats: int
    connects: int
    starts: int
    failed_starts: int
    faults: Mapping[str, int]


@attrs.frozen
class Progress:
    """How far the check is: `seconds` have passed, and `faults` are being played."""

    seconds: float
    shown: int
    faults: tuple[str, ...]


async def check_cluster(
    options: CheckOptions,
    told: Callable[[str], object] = lambda line: None,
    watch: Callable[[Progress], object] = lambda progress: None,
) -> CheckReport:
    """Check servers under faults. `told` gets lines about what happens, `watch` is called some times a second.

    Raises `CheckFailed` with what was broken, also if a server did not start or stop.
    """
    check = _Check(options, told, watch)
    try:
        async with trio.open_nursery() as nursery:
            try:
                await check.run(nursery)
            finally:
                for node in check.nodes:
                    node.thaw()
                    node.kill()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        found = _leaves(group)
        broken = [error for error in found if isinstance(error, Violation | CheckFailed | NodeFailed)]
        if not broken:
            raise
        raise CheckFailed(check.describe(broken)) from None
    return check.report()


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


class _Check:
    def __init__(
        self, options: CheckOptions, told: Callable[[str], object], watch: Callable[[Progress], object]
    ) -> None:
        self.options = options
        self._told = told
        self._watch = watch
        self._random = Random(options.seed)  # noqa: S311 - it chooses faults
        database, bus = options.database_machine, options.bus_machine
        if bus is None and options.bus == "postgres":
            bus = database
        self.nodes = [
            NodeProcess(
                f"node-{number}",
                options.storage,
                options.folder / f"node-{number}",
                options.options,
                bus=options.bus,
                without=options.without,
                database_port=None if database is None else partial(_port, database),
                bus_port=None if bus is None else partial(_port, bus),
                random=Random(self._random.random()),  # noqa: S311 - it chooses faults
            )
            for number in range(options.nodes)
        ]
        self._tokens = Tokens(SECRET)
        self._people: list[Person] = []
        self._consoles: list[Console] = []
        self._scene = Scene(self.nodes, database, options.bus_machine)
        self._player = FaultPlayer(self._scene, options.faults, self._random, options.pause, in_turn=options.in_turn)
        self._began = 0.0
        self._deadline = inf
        self._stop_writing = trio.Event()
        self._messages = 0

    def report(self) -> CheckReport:
        return CheckReport(
            messages=self._messages,
            shown=self._shown_until_now(),
            repeated=sum(person.resent for person in self._people),
            refused=sum(person.refusals for person in self._people),
            given_up=sum(len(person.given_up) for person in self._people),
            chats=len({person.chat for person in self._people}),
            connects=sum(person.connects for person in self._people) + sum(each.connects for each in self._consoles),
            starts=sum(node.starts for node in self.nodes),
            failed_starts=sum(node.failed_starts for node in self.nodes),
            faults=dict(sorted(self._player.counts.items())),
        )

    def describe(self, broken: Sequence[BaseException]) -> str:
        """Tell what was broken, what the clients saw, which faults were played, and the ends of the logs."""
        lines = sorted({str(error) for error in broken})
        clients = [error.client for error in broken if isinstance(error, Violation)]
        for client in clients[:_LONGEST_HISTORIES]:
            lines += ["", *tell_history(client, self._player.played)]
        lines += [f"\n--- the log of {node.name}\n{node.log}" for node in self.nodes]
        return "\n".join(lines)

    def _clock(self) -> float:
        return trio.current_time() - self._began

    def _shown_until_now(self) -> int:
        return sum(len(person.seen) for person in self._people) + sum(console.shown for console in self._consoles)

    def _place(self) -> tuple[str, int] | None:
        serving = [node for node in self.nodes if node.serving]
        if not serving:
            return None
        node = self._random.choice(serving)
        return node.name, node.port

    # The course of the check

    async def run(self, nursery: trio.Nursery) -> None:
        self._began = trio.current_time()
        # The first one makes the tables.
        await self._start(self.nodes[0], nursery)
        async with trio.open_nursery() as starting:
            for node in self.nodes[1:]:
                starting.start_soon(self._start, node, nursery)
        for number in range(self.options.consoles):
            token = self._token(User(1 + number, Role.OPERATOR, firstname=f"Console {number}"))
            console = Console(f"console-{number}", token, self._random, self._clock)
            self._consoles.append(console)
            nursery.start_soon(console.run, self._place)
        for number in range(self.options.chats):
            for person in await self._begin_chat(number, None):
                nursery.start_soon(person.run, self._place)
        talking = tuple(self._people)
        self._began = trio.current_time()
        nursery.start_soon(self._keep_watch)
        nursery.start_soon(self._begin_chats)
        # Clients stop writing before the last faults are put right: nothing that is written later helps to heal them.
        await self._player.run(self.options.seconds, self._stop_writing.set)
        self._told(f"after {self._clock():.1f} s all faults are put right; waiting for the last answers")
        self._deadline = trio.current_time() + self.options.settle
        broken = await self._compare(talking)
        self._told(f"after {self._clock():.1f} s everything is compared")
        if broken:
            raise ExceptionGroup("promises were broken", broken)

    async def _start(self, node: NodeProcess, nursery: trio.Nursery) -> None:
        await nursery.start(node.proxy.run)
        if node.bus is not None:
            await nursery.start(node.bus.run)
        await node.start()
        self._told(f"{node.name} serves on port {node.port}")

    async def _keep_watch(self) -> None:
        while True:
            self._watch(Progress(self._clock(), self._shown_until_now(), self._player.now))
            await trio.sleep(_WATCH_PERIOD)

    async def _begin_chats(self) -> None:
        """Let chats begin while faults are played. Their people leave when they have seen everything."""
        limiter = trio.CapacityLimiter(_NEWCOMERS_AT_ONCE)
        async with trio.open_nursery() as nursery:
            for number in range(self.options.newcomers):
                await trio.sleep(self.options.seconds / (self.options.newcomers + 1))
                if self._stop_writing.is_set():
                    return
                nursery.start_soon(self._talk_once, self.options.chats + number, limiter)

    async def _talk_once(self, number: int, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            if self._stop_writing.is_set():
                return
            people = await self._begin_chat(number, self._random.randint(1, 4))
            async with trio.open_nursery() as nursery:
                for person in people:
                    nursery.start_soon(person.run, self._place)
                while not _have_talked(people):  # noqa: ASYNC110 - of what clients have seen
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()

    async def _begin_chat(self, number: int, most: int | None) -> Sequence[Person]:
        """Make a visitor, a chat and an operator who answers there. Both write `most` messages."""
        owner = self._token(User(100 + number, Role.USER, firstname=f"V{number}"))
        answering = self._token(User(50 + number % _ANSWERING, Role.OPERATOR, firstname="O"))
        answer = await self._call("POST", "/api/visitors", owner, {"source": _SOURCE})
        chat = UUID(answer["chat"]["uuid"])
        people = [
            Person(f"{name}-{number}", token, chat, self._random, self._stop_writing, self._clock, most)
            for name, token in (("visitor", owner), ("operator", answering))
        ]
        self._people += people
        return people

    def _token(self, user: User) -> str:
        return self._tokens.issue(user, (_SOURCE,), 86_400)

    async def _call(self, method: str, path: str, token: str, body: object = None) -> Any:  # any JSON
        """Call the API of a server. It is tried again while servers are away, until the deadline."""
        while True:
            node = self._random.choice(self.nodes)
            try:
                answer = await _request(node, method, path, {"Authorization": f"Bearer {token}"}, body)
            except httpx.HTTPError as error:
                problem = repr(error)
            else:
                if answer.status_code < 500:
                    answer.raise_for_status()
                    return answer.json()
                problem = answer.text
            if trio.current_time() >= self._deadline:
                raise CheckFailed(f"{method} {path} is not answered by {node.name}: {problem}")
            await trio.sleep(0.2)

    async def _settle(self, condition: Callable[[], bool]) -> bool:
        """Wait until it is true, until the deadline. Returns whether it is."""
        while not condition() and trio.current_time() < self._deadline:  # noqa: ASYNC110 - of what clients have seen
            await trio.sleep(0.05)
        return condition()

    # What has to hold in the end

    async def _compare(self, talking: Sequence[Person]) -> list[Exception]:
        """Wait until every client has seen everything. Returns what they did not."""
        broken: list[Exception] = []
        await self._settle(lambda: all(person.done for person in self._people))
        last: dict[UUID, int] = {}
        for visitor, operator in zip(self._people[::2], self._people[1::2], strict=True):
            stored = await self._history(operator)
            last[visitor.chat] = max(stored, default=-1)
            self._messages += len(stored)
            for person in (visitor, operator):
                broken += await self._compare_person(person, stored)
        for console in self._consoles:
            broken += await self._compare_console(console, last)
        broken += await self._compare_presence(talking)
        return broken + await self._compare_health()

    async def _history(self, person: Person) -> dict[int, str]:
        found: dict[int, str] = {}
        while True:
            after = max(found, default=-1)
            page = await self._call("GET", f"/api/chats/{person.chat}/messages?after={after}&limit=200", person.token)
            found.update((message["message_index"], message["text"]) for message in page["messages"])
            if not page["has_more"]:
                return found

    async def _compare_person(self, person: Person, stored: Mapping[int, str]) -> list[Exception]:
        broken: list[Exception] = []
        await self._settle(lambda: person.has_seen(max(stored, default=-1)))
        if person.seen != stored:
            missing = sorted(stored.keys() - person.seen.keys())
            wrong = sorted(index for index, text in person.seen.items() if stored.get(index) != text)
            differs = f"{len(missing)} missing {missing[:5]}, {len(wrong)} others {wrong[:5]}"
            broken.append(Violation(person, f"did not see what is stored: {differs}"))
        texts = Counter(stored.values())
        times = {text: texts[text] for text in person.sent if text not in person.waiting.values()}
        if wrongly := {text: count for text, count in times.items() if count != 1}:
            broken.append(Violation(person, f"messages are not stored exactly once: {wrongly}"))
        if late := [text for text in person.given_up if texts[text]]:
            broken.append(Violation(person, f"messages that were refused are stored: {late}"))
        if person.waiting:
            broken.append(Violation(person, f"has no answer to {sorted(person.waiting)}"))
        return broken

    async def _compare_console(self, console: Console, last: Mapping[UUID, int]) -> list[Exception]:
        """The chats that a console does not show as they are stored."""
        broken: list[Exception] = []
        for chat, index in last.items():
            if not await self._settle(partial(console.shows, chat, index)):
                shown = console.newest.get(chat)
                broken.append(Violation(console, f"shows {chat} up to message {shown}, stored is {index}"))
        chats = await self._call("GET", "/api/chats?limit=200", console.token)
        for stored in chats:
            chat, status = UUID(stored["uuid"]), stored["status"]
            if not await self._settle(partial(_shows_status, console, chat, status)):
                broken.append(Violation(console, f"does not show {chat} as {status}"))
        return broken

    async def _compare_presence(self, talking: Sequence[Person]) -> list[Exception]:
        """Both people of a chat have to be shown as being there, wherever their sockets are."""
        broken: list[Exception] = []
        for person in talking:
            number = int(person.name.rpartition("-")[2])
            both = {100 + number, 50 + number % _ANSWERING}
            if not await self._settle(partial(_shows_present, person, both)):
                broken.append(
                    Violation(person, f"is shown {sorted(person.present)} in the chat, there are {sorted(both)}")
                )
        return broken

    async def _compare_health(self) -> list[Exception]:
        """Every server has to be ready, and to reach the bus, if there is one."""
        broken: list[Exception] = []
        for node in self.nodes:
            problem = await _problem(node)
            while problem and trio.current_time() < self._deadline:
                await trio.sleep(0.2)
                problem = await _problem(node)
            if problem:
                broken.append(CheckFailed(f"{node.name} has not recovered: {problem}"))
        return broken


async def _request(
    node: NodeProcess, method: str, path: str, headers: Mapping[str, str], body: object = None
) -> httpx.Response:
    def work() -> httpx.Response:
        # Not with the asynchronous client: cancelled within a request, it leaves a generator to the garbage collector.
        with httpx.Client(base_url=f"http://127.0.0.1:{node.port}", trust_env=False) as client:
            return client.request(method, path, headers=headers, json=body)

    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def _port(machine: Machine) -> int:
    return machine.port


def _have_talked(people: Sequence[Person]) -> bool:
    count = sum(len(person.sent) for person in people)
    return all(person.done and len(person.seen) == count for person in people)


def _shows_status(console: Console, chat: UUID, status: str) -> bool:
    shown = console.chats.get(chat)
    return shown is not None and shown.status.value == status


def _shows_present(person: Person, ids: Set[int]) -> bool:
    return person.present >= ids


async def _problem(node: NodeProcess) -> str:
    """Why the server is not ready, "" if it is."""
    try:
        answer = await _request(node, "GET", "/health/ready", {})
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__
    if answer.status_code != 200:
        return answer.text
    return "the bus is unavailable" if answer.json().get("bus") == "unavailable" else ""
