"""Three servers on one database are restarted in turn under load: nothing is lost, doubled or out of order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import pytest
import trio

from actorchat.protocol import CloseCode, Event, MessageNotAdded, RefusalCode, Role, SendMessage
from tests.system.clients import Http, Socket, open_http
from tests.system.server_process import ServerProcess, token
from tests.system.test_kill import WINDOW, Talker

pytestmark = pytest.mark.slow

CAP = 300.0
CHATS = 3
SERVERS = 3
PAUSE = 0.03
"""Seconds between two messages of one participant."""


class Wanderer(Talker):
    """A participant that goes on at another server whenever its socket ends."""

    def take(self, event: Event) -> None:
        if isinstance(event, MessageNotAdded) and event.code == RefusalCode.DRAINING:
            # It is sent again over the next socket.
            return
        super().take(event)

    async def stay(self, up: Sequence[ServerProcess]) -> None:
        """Talk until cancelled, over one socket after the other."""
        while True:
            try:
                async with self.connected(self.rng.choice(up).port) as socket:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._talk_on, socket)
                        await self.read(socket)
                        nursery.cancel_scope.cancel()
                    assert socket.peer.close_code == CloseCode.DRAINING
            except trio.EndOfChannel:
                # It ended during the replay.
                continue

    async def _talk_on(self, socket: Socket) -> None:
        try:
            await self.repeat(socket, self.unanswered)
            self.window = trio.Semaphore(WINDOW)
            while not self.silent:
                await self.window.acquire()
                self.sent += 1
                text = client_id = f"{self.name}-{self.sent}"
                self.unanswered[client_id] = text
                await socket.send(SendMessage(text, client_id=client_id))
                await trio.sleep(PAUSE)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def finish(self) -> None:
        """Send nothing more, and return when everything is answered."""
        self.silent = True
        while self.unanswered:  # noqa: ASYNC110 - answers come over several sockets
            await trio.sleep(0.05)


async def participants(http: Http) -> list[Wanderer]:
    found: list[Wanderer] = []
    for number in range(CHATS):
        visitor = token(Role.USER, 100 + number)
        chat = await http.reserve(visitor)
        for role, whose in ((Role.USER, visitor), (Role.OPERATOR, token(Role.OPERATOR, 1 + number))):
            found.append(Wanderer(f"{number}-{role}", role, whose, chat, random.Random(len(found))))
    return found


async def test_servers_that_are_restarted_one_after_the_other_lose_and_repeat_nothing(
    tmp_path: Path, new_postgres: Callable[[], str]
) -> None:
    extra = {"ACTORCHAT_STORAGE": await trio.to_thread.run_sync(new_postgres)}
    servers = [ServerProcess(tmp_path / str(number), extra=extra) for number in range(SERVERS)]
    try:
        with trio.fail_after(CAP):
            async with trio.open_nursery() as starting:
                for server in servers:
                    starting.start_soon(trio.to_thread.run_sync, server.start)
            up = list(servers)
            async with open_http(servers[0].url) as http:
                people = await participants(http)
            async with trio.open_nursery() as nursery:
                for person in people:
                    nursery.start_soon(person.stay, up)
                for server in servers:
                    await trio.sleep(1)
                    up.remove(server)
                    assert await trio.to_thread.run_sync(server.stop) == 0
                    await trio.to_thread.run_sync(server.start)
                    up.append(server)
                for person in people:
                    await person.finish()
                await trio.sleep(0.5)
                nursery.cancel_scope.cancel()
            async with open_http(servers[0].url) as http:
                histories = {person.chat: await http.history(person.token, person.chat) for person in people}
    finally:
        for server in servers:
            server.close()
    everything = list(chain.from_iterable(histories.values()))
    assert max(Counter(message.text for message in everything).values()) == 1
    assert len(everything) == sum(person.sent for person in people)
    for person in people:
        # `take` has seen that nothing is missing, and nothing comes twice.
        assert [message.id for message in person.live] == [message.id for message in histories[person.chat]]
    for server in servers:
        assert "Traceback" not in server.log
