"""Measures other in-process actor libraries in the same cases; those that are not installed are left out.

Each is used as its own documentation shows: to tell, to ask, and to send a message to each of 200 actors.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import attrs
import trio
import trio.testing

from bench.actor_cases import MEMBERS, Case, Tally

__all__ = ["ABSENT_HINTS", "library_cases"]

Library = Any  # Any: the module may be missing where types are checked

ABSENT_HINTS = {
    "pykka": "pip install pykka",
    "fauxtp": "pip install fauxtp",
    "thespian": "pip install thespian",
    "triotp": "pip install --no-deps triotp && pip install tenacity logbook trio-util",
    "xoscar": "pip install xoscar",
}


def library_cases(scale: float) -> tuple[list[Case], list[str]]:
    """The cases of the installed libraries, and the names of the missing ones."""
    makers = {"pykka": pykka, "fauxtp": fauxtp, "thespian": thespian, "triotp": triotp, "xoscar": xoscar}
    cases: list[Case] = []
    absent: list[str] = []
    scale = max(scale, 0.05)
    for name, maker in makers.items():
        if find_spec(name) is None:
            absent.append(name)
        else:
            cases += [attrs.evolve(case, optional=True) for case in maker(import_module(name), scale)]
    return cases, absent


def pykka(library: Library, scale: float) -> list[Case]:
    """Pykka runs each actor in a thread."""
    done = threading.Event()
    left = 0

    class Counter(library.ThreadingActor):  # type: ignore[misc] # of type Any, see above
        def on_receive(self, message: object) -> object:
            nonlocal left
            if message == "get":
                return 1
            # Each actor runs in its own thread.
            with lock:
                left -= 1
                if not left:
                    done.set()
            return None

    lock = threading.Lock()

    def tell(members: int, count: int) -> float:
        nonlocal left
        refs = [Counter.start() for _ in range(members)]
        try:
            done.clear()
            left = count * members
            start = perf_counter()
            for _ in range(count):
                for ref in refs:
                    ref.tell("count")
            done.wait()
            return (perf_counter() - start) / (count * members)
        finally:
            for ref in refs:
                ref.stop()

    def ask(count: int) -> float:
        ref = Counter.start()
        try:
            start = perf_counter()
            for _ in range(count):
                ref.ask("get")
            return (perf_counter() - start) / count
        finally:
            ref.stop()

    return [
        Case("tell", "Pykka", partial(tell, 1, round(10_000 * scale))),
        Case("ask", "Pykka", partial(ask, round(2_000 * scale))),
        Case("fan-out to 200", "Pykka", partial(tell, MEMBERS, max(round(10 * scale), 1))),
    ]


def fauxtp(library: Library, scale: float) -> list[Case]:
    """fauxtp runs on anyio, here with Trio."""
    anyio = import_module("anyio")

    class Counter(library.GenServer):  # type: ignore[misc] # of type Any, see above
        def __init__(self, tally: Tally) -> None:
            super().__init__()
            self.tally = tally

        async def handle_call(self, request: object, from_ref: object, state: object) -> tuple[object, object]:
            return 1, state

        async def handle_cast(self, request: object, state: object) -> object:
            self.tally.count()
            return state

    async def tell(members: int, count: int) -> float:
        async with anyio.create_task_group() as group:
            tally = Tally(members * count)
            actors = [await Counter.start(tally, task_group=group) for _ in range(members)]
            await trio.testing.wait_all_tasks_blocked()
            start = perf_counter()
            for _ in range(count):
                for actor in actors:
                    await library.cast(actor, 1)
            await tally.done.wait()
            seconds = (perf_counter() - start) / (members * count)
            group.cancel_scope.cancel()
            return seconds

    async def ask(count: int) -> float:
        async with anyio.create_task_group() as group:
            actor = await Counter.start(Tally(1), task_group=group)
            start = perf_counter()
            for _ in range(count):
                await library.call(actor, 1)
            seconds = (perf_counter() - start) / count
            group.cancel_scope.cancel()
            return seconds

    return [
        Case("tell", "fauxtp", partial(trio.run, tell, 1, round(2_000 * scale))),
        Case("ask", "fauxtp", partial(trio.run, ask, round(1_000 * scale))),
        Case("fan-out to 200", "fauxtp", partial(trio.run, tell, MEMBERS, max(round(5 * scale), 1))),
    ]


def thespian(library: Library, scale: float) -> list[Case]:
    """Thespian in its simple mode: everything runs inside the call, and nothing is concurrent."""
    actors: Library = import_module("thespian.actors")

    class Counter(actors.Actor):  # type: ignore[misc] # of type Any, see above
        def receiveMessage(self, message: object, sender: object) -> None:  # noqa: N802 - its name
            if message == "get":
                self.send(sender, 1)

    def tell(members: int, count: int) -> float:
        system = actors.ActorSystem("simpleSystemBase")
        try:
            addresses = [system.createActor(Counter) for _ in range(members)]
            start = perf_counter()
            for _ in range(count):
                for address in addresses:
                    system.tell(address, "count")
            return (perf_counter() - start) / (members * count)
        finally:
            system.shutdown()

    def ask(count: int) -> float:
        system = actors.ActorSystem("simpleSystemBase")
        try:
            address = system.createActor(Counter)
            start = perf_counter()
            for _ in range(count):
                system.ask(address, "get", 1)
            return (perf_counter() - start) / count
        finally:
            system.shutdown()

    return [
        Case("tell", "Thespian, synchronous", partial(tell, 1, round(2_000 * scale))),
        Case("ask", "Thespian, synchronous", partial(ask, round(1_000 * scale))),
        Case("fan-out to 200", "Thespian, synchronous", partial(tell, MEMBERS, max(round(5 * scale), 1))),
    ]


def triotp(library: Library, scale: float) -> list[Case]:
    """triotp requires an old Trio; installed without its dependencies it runs on the current one."""
    gen_server, mailbox = import_module("triotp.gen_server"), import_module("triotp.mailbox")

    def module_of(tally: Tally) -> SimpleNamespace:
        async def init(_: object) -> None:
            pass

        async def handle_call(message: object, caller: object, state: object) -> tuple[object, object]:
            return gen_server.Reply(payload=1), state

        async def handle_cast(message: object, state: object) -> tuple[object, object]:
            tally.count()
            return gen_server.NoReply(), state

        return SimpleNamespace(__name__="counter", init=init, handle_call=handle_call, handle_cast=handle_cast)

    async def tell(members: int, count: int) -> float:
        mailbox._init()
        async with trio.open_nursery() as nursery:
            tally = Tally(members * count)
            names = [f"counter {number}" for number in range(members)]
            for name in names:
                nursery.start_soon(gen_server.start, module_of(tally), None, name)
            await trio.testing.wait_all_tasks_blocked()
            start = perf_counter()
            for _ in range(count):
                for name in names:
                    await gen_server.cast(name, 1)
            await tally.done.wait()
            seconds = (perf_counter() - start) / (members * count)
            nursery.cancel_scope.cancel()
            return seconds

    async def ask(count: int) -> float:
        mailbox._init()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gen_server.start, module_of(Tally(1)), None, "counter")
            await trio.testing.wait_all_tasks_blocked()
            start = perf_counter()
            for _ in range(count):
                await gen_server.call("counter", 1)
            seconds = (perf_counter() - start) / count
            nursery.cancel_scope.cancel()
            return seconds

    return [
        Case("tell", "triotp", partial(trio.run, tell, 1, round(2_000 * scale))),
        Case("ask", "triotp", partial(trio.run, ask, round(1_000 * scale))),
        Case("fan-out to 200", "triotp", partial(trio.run, tell, MEMBERS, max(round(5 * scale), 1))),
    ]


def xoscar(library: Library, scale: float) -> list[Case]:
    """xoscar runs on asyncio, here with its client in the same process."""
    done: asyncio.Event
    left = 0

    class Counter(library.Actor):  # type: ignore[misc] # of type Any, see above
        async def count(self) -> int:
            nonlocal left
            left -= 1
            if not left:
                done.set()
            return 1

    async def measure(ask: bool, members: int, count: int) -> float:
        nonlocal done, left
        done, left = asyncio.Event(), members * count
        address = f"127.0.0.1:{library.utils.get_next_port()}"
        async with await library.create_actor_pool(address, n_process=0) as pool:
            refs = [
                await library.create_actor(Counter, address=pool.external_address, uid=str(number))
                for number in range(members)
            ]
            start = perf_counter()
            for _ in range(count):
                for ref in refs:
                    await (ref.count() if ask else ref.count.tell())
            await done.wait()
            seconds = (perf_counter() - start) / (members * count)
            for ref in refs:
                # This call is handled after all messages; each actor must be done before the pool stops.
                await ref.count()
                await library.destroy_actor(ref)
            return seconds

    def run(*arguments: int) -> float:
        ask, members, count = arguments
        return asyncio.run(measure(bool(ask), members, count))

    figures: list[tuple[str, Callable[[], float]]] = [
        ("tell", partial(run, False, 1, round(1_000 * scale))),
        ("ask", partial(run, True, 1, round(1_000 * scale))),
        ("fan-out to 200", partial(run, False, MEMBERS, max(round(5 * scale), 1))),
    ]
    return [Case(what, "xoscar", measured) for what, measured in figures]
