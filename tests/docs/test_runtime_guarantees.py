"""Each runtime guarantee on the page names an existing test; those that no other test covers are tested here."""

from __future__ import annotations

import re

import trio
from trio.testing import MockClock

from actorchat.actors import Down, Pending, Restart, open_system
from actorchat.testing import Probe, settle
from bench.actor_cases import memory_cases, trio_cases
from tests.actors.counter_actor import Add, Boom, Call, Counter, Message, Total
from tests.docs.code_blocks import ROOT

PAGE = ROOT / "docs" / "runtime-guarantees.md"


def test_every_guarantee_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (?!guarantee)(.+?) \| `(.+?)` \|$", PAGE.read_text(), re.M)
    existing = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
    }
    assert len(rows) >= 40
    assert [(promise, name) for promise, name in rows if name not in existing] == []


def test_the_benchmark_holds_the_core_to_the_costs_that_the_page_states() -> None:
    rows = re.findall(r"^\| .*?(tell|ask|publish|parked).* \| ([\d.]+)( KiB)? \|$", PAGE.read_text(), re.M)
    stated = {what: float(most) * (1024 if kib else 1) for what, most, kib in rows}
    cases = [*trio_cases(1.0), *memory_cases()]
    held = {case.what.replace("fan-out to 200", "publish"): case.bar for case in cases if case.bar is not None}
    assert stated == held
    assert len(stated) == 4


async def test_a_restart_keeps_the_name_watchers_and_queue(autojump_clock: MockClock) -> None:
    watcher = Probe[Down]()
    async with open_system() as system:
        await system.start(lambda: watcher)
        ref = await system.start(Counter, "log", restart=Restart(backoff=1.0))
        watcher.watch(ref, as_=lambda down: down)
        ref.tell(Boom())
        ref.tell(Add(1))
        await settle(system)
        assert system.find("log", Counter) is ref
        assert await ref.ask(Total()) == (1,)
        assert watcher.drain() == []
        ref.stop()
        await settle(system)
        assert [down.ref for down in watcher.drain()] == [ref]


async def test_an_open_deferred_answer_holds_a_virtual_actor(autojump_clock: MockClock) -> None:
    kept: list[Pending[object]] = []

    class Lazy(Counter):
        def __init__(self, key: str) -> None:
            super().__init__()

        async def receive(self, message: Message) -> None:
            if isinstance(message, Call):
                kept.append(self.defer(message))

    async with open_system() as system, trio.open_nursery() as nursery:
        family = system.virtual(Lazy, idle=10.0)
        ref = family["a"]
        nursery.start_soon(ref.ask, Call(lambda _: None))
        await trio.sleep(100)
        assert family.active == 1
        kept[0].reply(None)
        await trio.sleep(30)
        assert family.active == 0
