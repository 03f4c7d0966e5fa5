"""An operator's consoles: feed sockets that are held open with the project's client library."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

import trio

from actorchat.client import ConnectionEnded, open_feed
from actorchat.testing.simulation.sockets import dial

if TYPE_CHECKING:
    from actorchat.testing.simulation.people import Person

__all__ = ["Consoles"]


class Consoles:
    """The consoles of one operator, at most two at a time."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._open: list[trio.CancelScope] = []

    @property
    def handlers(self) -> Mapping[str, Callable[[int, int, int], Awaitable[None]]]:
        return {"console": self._open_console, "console_off": self._close_console}

    async def _open_console(self, a: int, b: int, c: int) -> None:
        if len(self._open) < 2:
            sources = () if b % 3 else tuple(sorted(self._person.sources))[:1]
            self._person.nursery.start_soon(self._hold, sources, (1, 32, 256)[c % 3])

    async def _close_console(self, a: int, b: int, c: int) -> None:
        if self._open:
            self._open[a % len(self._open)].cancel()

    async def _hold(self, sources: tuple[str, ...], inbox: int) -> None:
        person = self._person
        world, used = person.world, person.token_use()
        scope = trio.CancelScope()
        self._open.append(scope)
        try:
            with scope:
                async with open_feed(
                    world.url,
                    token=person.current,
                    sources=sources,
                    inbox=inbox,
                    random=person.tabs.client_random(),
                    dial=lambda host, port, tls: dial(world.network, host, port, tls),
                ) as feed:
                    async for _ in feed:
                        pass
        except ConnectionEnded as error:
            world.log(person.name, "console ended", error.code)
            if not person.judge_end(error, used):
                world.fail("client", f"{person.name}: the console ended with {error!r}")
        finally:
            self._open.remove(scope)
