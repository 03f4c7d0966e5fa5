"""Correct calls, as users write them: a type checker must report nothing here. This module is never run."""

from __future__ import annotations

from typing import Unpack, assert_type

import attrs
import trio

from actorchat.actors import (
    Actor,
    ActorOptions,
    ActorSystem,
    Coalesce,
    Down,
    End,
    Group,
    Overflow,
    Pending,
    Ref,
    Request,
    Restart,
    Strategy,
    Virtual,
    open_supervisor,
    open_system,
)
from actorchat.testing import Probe


@attrs.frozen
class Put:
    key: str
    value: int


@attrs.frozen
class Get(Request[int]):
    key: str


@attrs.frozen
class Keys(Request[tuple[str, ...]]):
    pass


@attrs.frozen
class Gone:
    name: str


Message = Put | Get | Keys | Gone


class Cache(Actor[Message]):
    def __init__(self, name: str = "cache") -> None:
        self.name = name
        self.values: dict[str, int] = {}
        self.waiting: list[Pending[int]] = []

    async def on_start(self) -> None:
        assert_type(self.ref, Ref[Message])
        self.every(60.0, Put("tick", 0), key="tick")

    async def on_stop(self, end: End) -> None:
        self.cancel("tick")

    async def receive(self, message: Message) -> None:
        match message:
            case Put(key, value):
                self.values[key] = value
            case Get(key) if key in self.values:
                self.reply(message, self.values[key])
            case Get(key):
                self.waiting.append(self.defer(message))
                self.pipe(lambda: load(key), ok=lambda value: Put(key, value), err=lambda error: Gone(str(error)))
            case Keys():
                self.reply(message, tuple(self.values))
            case Gone():
                for pending in self.waiting:
                    pending.reply(0)

    def follow(self, other: Ref[Put]) -> None:
        self.watch(other, as_=lambda down: Gone(down.ref.name))


class Anchored(Cache):
    def __init__(self, key: str, anchor: list[str]) -> None:
        super().__init__(key)
        self.anchor = anchor


def give_up(key: str, anchor: list[str], error: BaseException) -> None:
    anchor.append(repr(error))


async def load(key: str) -> int:
    await trio.sleep(1)
    return len(key)


def gone(down: Down) -> Message:
    return Gone(down.ref.name)


def spawn_cache(system: ActorSystem, **options: Unpack[ActorOptions[Message]]) -> Ref[Message]:
    return system.spawn(Cache, "cache", **options)


async def calls() -> None:
    async with open_system(drain=1.0) as system:
        cache = system.spawn(Cache, name="cache", restart=Restart(max=3, within=60.0, backoff=0.1))
        assert_type(cache, Ref[Message])
        assert_type(cache.tell(Put("a", 1)), bool)
        assert_type(cache.tell(Get("a")), bool)
        assert_type(cache.signal(Gone("b")), bool)
        await cache.send(Put("a", 1))
        assert_type(await cache.ask(Get("a")), int)
        assert_type(await cache.ask(Keys(), timeout=2.0), tuple[str, ...])

        only_put: Ref[Put] = cache
        only_put.tell(Put("a", 1))
        ready = await system.start(lambda: Cache("b"), inbox=64, overflow=Coalesce(key=key_of))
        assert_type(ready, Ref[Message])

        caches = system.virtual(Cache, idle=300.0)
        assert_type(caches, Virtual[str, Message, None])
        assert_type(await caches["a"].ask(Get("a")), int)

        anchored = system.virtual(Anchored, anchor=lambda key: [key], idle=300.0, on_give_up=give_up)
        assert_type(anchored, Virtual[str, Message, list[str]])
        assert_type(anchored.anchor("a"), list[str])

        group: Group[Put] = Group()
        group.add(cache)
        group.add(caches["a"])
        assert_type(group.publish(Put("a", 1)), int)

        assert_type(system.find("cache", Cache), Ref[Message] | None)
        probe = Probe[Put]()
        group.add(system.spawn(lambda: probe, overflow=Overflow.DROP_OLD))
        assert_type(await probe.expect(Put), Put)
        async with open_supervisor(system, Strategy.ONE_FOR_ALL) as supervisor:
            assert_type(supervisor.spawn(Cache, "c"), Ref[Message])


def key_of(message: Message) -> str | None:
    return message.key if isinstance(message, Put) else None
