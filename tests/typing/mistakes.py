"""Mistakes that a type checker must report, on each marked line and no other. This module is never run."""

from __future__ import annotations

from typing import assert_never

import attrs

from actorchat.actors import Actor, Coalesce, Group, Ref, Request, open_system
from actorchat.testing import Probe
from tests.typing.correct_calls import Anchored, Cache, Get, Gone, Keys, Message, Put, load


@attrs.frozen
class Foreign(Request[str]):
    pass


class Wrong(Actor[Message]):
    async def receive(self, message: Message) -> None:
        match message:
            case Get():
                self.reply(message, "one")  # mistake: the reply is an int
            case Keys():
                self.reply(message, 1)  # mistake: the reply is a tuple of str
            case Put():
                self.reply(message, None)  # mistake: a plain message has no reply
                self.fail(message, ValueError())  # mistake: nor can it be refused
            case _:
                assert_never(message)  # mistake: Gone has no case

    def later(self, request: Get, ref: Ref[Put]) -> None:
        self.defer(request).reply("one")  # mistake: the reply is an int
        self.after(1.0, "tick", key="tick")  # mistake: this actor takes no str
        self.watch(ref, as_=lambda down: down.ref.name)  # mistake: the message made is a str
        self.pipe(lambda: load("a"), ok=Gone)  # mistake: the result is an int, Gone takes a str


class Narrow(Actor[Message]):
    async def receive(self, message: Put) -> None:  # mistake: the other messages have no handler
        pass


async def calls() -> None:
    async with open_system() as system:
        cache = system.spawn(Cache)
        cache.tell("a")  # mistake: this actor takes no str
        await cache.send(1)  # mistake: nor an int
        cache.signal(1)  # mistake: as above
        await cache.ask(Put("a", 1))  # mistake: a plain message can't be asked
        await cache.ask(Foreign())  # mistake: a request, and none of its own

        system.spawn(Cache, inbx=64)  # mistake: no such option
        system.spawn(Cache, inbox="64")  # mistake: a bound is a number
        system.spawn(Cache, overflow=Coalesce[str](key=len))  # mistake: of an actor that takes str

        caches = system.virtual(Cache)
        caches[1].tell(Put("a", 1))  # mistake: the key is a str
        system.virtual(Anchored)  # mistake: it needs an anchor

        await Probe[Put]().expect()  # mistake: of which kind?


async def answer(cache: Ref[Message]) -> str:
    return await cache.ask(Get("a"))  # mistake: the reply is an int


def widened(cache: Ref[Message]) -> Ref[object]:
    return cache  # mistake: it does not take every object


def widened_from_narrow(puts: Ref[Put]) -> Ref[Message]:
    return puts  # mistake: it takes Put only


def keyed_by_what_it_is_not() -> Coalesce[Put]:
    return Coalesce(key=lambda message: message.name)  # mistake: a Put has no name


async def narrow(puts: Ref[Put], group: Group[Message]) -> None:
    puts.tell(Gone("a"))  # mistake: this address takes Put only
    await puts.ask(Get("a"))  # mistake: as above
    group.add(puts)  # mistake: that member does not take all that is published
