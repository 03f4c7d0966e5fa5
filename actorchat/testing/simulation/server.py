"""Starts, drains, kills and restarts the simulated server on the same storage."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import trio

from actorchat.chat.model import OnClosed
from actorchat.server.bootstrap import StartFailed
from actorchat.server.serving import Server, start_server
from actorchat.server.settings import AttachmentSettings, ChatSettings, LimitSettings, Settings
from actorchat.testing.simulation.plan import Setup

if TYPE_CHECKING:
    from actorchat.testing.simulation.chat_world import ChatWorld

__all__ = ["SECRET", "ServerProcess", "settings_of"]

SECRET: Final = "a secret of at least thirty-two bytes"  # noqa: S105 - of servers that only exist in simulations


_RESTART_SECONDS: Final = 1.0
_DAY: Final = 86_400


def settings_of(setup: Setup) -> Settings:
    return Settings(
        storage="memory://",
        port=8_000,
        secret=SECRET,
        transport=setup.transport,
        limits=LimitSettings(messages_per_second=setup.rate, burst=setup.burst, visitors_per_minute=0),
        chat=ChatSettings(
            capacity=setup.capacity,
            on_closed=OnClosed(setup.on_closed),
            answer_timeout=setup.answer_timeout,
            idle_timeout=setup.idle_timeout,
            reserved_timeout=setup.reserved_timeout,
            edit_within=setup.edit_within,
            retention_days=setup.retention / _DAY,
        ),
        attachments=AttachmentSettings(unused_timeout=setup.upload_timeout),
    )


class ServerProcess:
    """Runs at most one server at a time.

    `changing` is true while the server is restarted. `killed` is true after a kill: errors that the server logged or
    raised meanwhile do not count.
    """

    def __init__(self, world: ChatWorld) -> None:
        self.server: Server | None = None
        self.killed: bool = False
        self.changing: bool = False
        self._settled = trio.Event()
        self._world = world
        self._settings = settings_of(world.plan.setup)
        self._stop = trio.Event()
        self._ended = trio.Event()
        self._scope = trio.CancelScope()

    @property
    def stopping(self) -> bool:
        return self.server is not None and self._stop.is_set()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run a server until it is stopped or killed."""
        world = self._world
        self._stop, self._ended = trio.Event(), trio.Event()
        try:
            with trio.CancelScope() as self._scope:
                async with AsyncExitStack() as stack:
                    self.server = await self._start(stack)
                    world.log("server", "up")
                    self._settled.set()
                    task_status.started()
                    await self._stop.wait()
                    await self._drain(self.server)
        except BaseExceptionGroup as group:
            if not self.killed or group.split(trio.Cancelled)[1] is not None:
                raise
        finally:
            self.server = None
            world.network.die(silent=False)
            self._ended.set()
            world.log("server", "down")

    async def _start(self, stack: AsyncExitStack) -> Server:
        """Start the server; if that fails, try again each second, as a service manager does."""
        world = self._world
        while True:
            try:
                async with AsyncExitStack() as attempt:
                    server = await start_server(attempt, self._settings, world.environment)
                    stack.push_async_exit(attempt.pop_all())
                    return server
            except StartFailed as error:
                world.log("server", "not started", str(error))
                await trio.sleep(_RESTART_SECONDS)

    async def _drain(self, server: Server) -> None:
        world = self._world
        begun, calm = trio.current_time(), world.calm
        watches = [watch for watch in world.watches if watch.alive]
        await server.drain()
        took = trio.current_time() - begun
        world.log("server", "drained", server.drained, round(took, 3))
        if not server.drained:
            world.check(not calm, "drain", f"not drained in {took:.1f} s")
            return
        for watch in watches:
            client, end = watch.connection.client, watch.connection.server
            reachable = watch.prompt and not (client.closed or client.broken or end.broken)
            if watch.code is None and reachable:
                world.fail("drain-close", f"socket {watch.connection.number} of {watch.who} ended without a Close")
        in_flight = server._parts.chats._in_flight_limiter.in_flight
        journal = server._parts.journal.statistics()
        # What the server does by itself at the end of sockets is not awaited while storage is away.
        waiting = 0 if journal.away else journal.waiting
        world.check(not in_flight and not waiting, "drain", f"{in_flight} operations in flight, {waiting} wait")

    async def wait_up(self) -> None:
        """Wait until a server runs and is not being restarted."""
        while self.changing or self.server is None:
            self._settled = trio.Event()
            await self._settled.wait()

    async def stop(self) -> None:
        """Drain the server, and wait until it has ended."""
        self._stop.set()
        await self._ended.wait()

    async def restart(self, downtime: float) -> None:
        """Drain the server and start another one. Does nothing during a restart."""
        if self.server is None or self.changing:
            return
        self.changing = True
        self._world.log("RESTART")
        await self.stop()
        await self._start_again(downtime)

    async def crash(self, downtime: float, *, silent: bool) -> None:
        """Kill the server and start another one. Does nothing during a restart."""
        if self.server is None or self.changing:
            return
        self.changing = True
        self._world.log("CRASH", silent)
        self.kill(silent=silent)
        await self._ended.wait()
        await self._start_again(downtime)

    def kill(self, *, silent: bool) -> None:
        """Kill the server: its memory is lost, what was durable stays. `silent`: its machine fails as well."""
        self.killed = True
        self._world.network.die(silent=silent)
        self._world.storage.crash()
        self._scope.cancel()

    async def _start_again(self, downtime: float) -> None:
        self.killed = False
        await trio.sleep(downtime)
        await self._world.nursery.start(self.serve)
        self.changing = False
        self._settled.set()

    def leftovers(self, *, rooms_are_idle: bool) -> dict[str, int]:
        """Count what the server still holds although everybody has left."""
        assert self.server is not None  # noqa: S101 - asked at rest only
        parts = self.server._parts
        chats = parts.chats
        rosters = [chats._rooms.anchor(key).room_state for key in list(chats._rooms._refs)]
        return {
            "operations in flight": chats._in_flight_limiter.in_flight,
            "HTTP connections": len(self.server._http),
            "consoles": len(chats.consoles.views),
            "feeds": sum(chats.joining.listened.values()),
            "operations waiting": parts.journal.statistics().waiting,
            "people present": sum(len(room_state.present) for room_state in rosters),
            "typing": sum(typist.throttle.on for room_state in rosters for typist in room_state.typists.values()),
            "rooms": chats._rooms.active if rooms_are_idle else 0,
            "sessions": len(parts.websockets.sessions),
        }
