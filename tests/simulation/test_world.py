"""The world of a simulated program, and the verdict of its run."""

from __future__ import annotations

import random
import secrets
import socket
import threading
import time
from contextlib import suppress
from uuid import uuid4

import pytest
import trio
import trio.lowlevel

import actorchat
from actorchat.actors import Actor, open_system
from actorchat.testing.simulation import Node, NotSimulated, Violation, World, simulate


async def _draw(world: World) -> None:
    world.log(uuid4(), secrets.token_hex(4), random.random(), time.time(), world.random("mine").random())
    async with trio.open_nursery() as nursery:
        for name in range(5):
            nursery.start_soon(_tick, world, name)


async def _tick(world: World, name: int) -> None:
    for _ in range(3):
        await trio.sleep(1)
        world.log(name)


def test_each_seed_gives_its_own_repeatable_run() -> None:
    one, again, other = simulate(_draw, 1), simulate(_draw, 1), simulate(_draw, 2)
    assert one.lines == again.lines
    assert one.digest == again.digest != other.digest
    assert one.violation is None


def test_time_is_virtual() -> None:
    async def program(world: World) -> None:
        await trio.sleep(50_000)

    verdict = simulate(program, 1)
    assert verdict.virtual == 50_000
    assert verdict.real < 30


def test_a_broken_promise_ends_the_run_and_is_raised_with_its_seed() -> None:
    async def program(world: World) -> None:
        await trio.sleep(3)
        world.check(True, "fine", "never")
        world.check(False, "broken", "two and two")
        await trio.sleep_forever()

    verdict = simulate(program, 7)
    assert verdict.violation is not None
    assert (verdict.violation.kind, verdict.violation.at) == ("broken", 3)
    with pytest.raises(Violation, match="two and two") as caught:
        verdict.check()
    assert "seed 7" in caught.value.__notes__[0]
    assert simulate(program, 7, known=["broken"]).violation is not None  # no-end: it sleeps for ever


def test_known_kinds_are_counted() -> None:
    async def program(world: World) -> None:
        for _ in range(3):
            world.fail("old", "again")

    verdict = simulate(program, 1, known=["old"])
    assert (verdict.violation, verdict.known) == (None, {"old": 3})


@pytest.mark.parametrize(
    ("kind", "raised"), [("raised", "division by zero"), ("raised", "ExceptionGroup")], ids=["an error", "a group"]
)
def test_what_a_program_raises_is_a_violation(kind: str, raised: str) -> None:
    async def program(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            print(1 / 0)  # noqa: T201 - never printed

    verdict = simulate(program, 1)
    assert verdict.violation is not None
    assert verdict.violation.kind == kind
    assert raised in verdict.violation.detail


def test_a_program_that_never_ends_is_stopped() -> None:
    async def program(world: World) -> None:
        await trio.sleep_forever()

    verdict = simulate(program, 1)
    assert verdict.violation is not None
    assert verdict.violation.kind == "no-end"


def test_a_task_that_is_left_behind_is_a_violation() -> None:
    async def program(world: World) -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await trio.lowlevel.checkpoint()

    verdict = simulate(program, 1)
    assert verdict.violation is not None
    assert verdict.violation.kind == "tasks"


def test_threads_and_real_sockets_are_refused() -> None:
    async def program(world: World) -> None:
        await trio.lowlevel.checkpoint()
        with pytest.raises(NotSimulated, match="thread"):
            threading.Thread(target=print).start()
        with socket.socket() as sock, pytest.raises(NotSimulated, match="real socket"):
            sock.connect(("127.0.0.1", 9))

    simulate(program, 1).check()


def test_replaced_functions_are_restored() -> None:
    before = (time.time, time.monotonic, threading.Thread.start, random.getstate())
    simulate(_draw, 1).check()
    assert (time.time, time.monotonic, threading.Thread.start, random.getstate()) == before


def test_the_wall_clock_jumps_and_trios_goes_on() -> None:
    async def program(world: World) -> None:
        begun = world.wall()
        world.jump_clock(-100)
        await trio.sleep(10)
        assert world.wall() == time.time() == time.time_ns() / 1e9 == begun - 90
        assert world.latest_wall == begun
        assert trio.current_time() == 10

    simulate(program, 1).check()


async def _echo(stream: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in stream:
            await stream.send_all(data)


@pytest.mark.parametrize("seed", range(5))
def test_bytes_arrive_whole_and_in_order_over_a_slow_network(seed: int) -> None:
    async def program(world: World) -> None:
        world.network.slow = 1.0
        world.nursery.start_soon(trio.serve_listeners, _echo, [world.listen(80)])
        await trio.lowlevel.checkpoint()
        stream = await world.dial(80)
        sent, got = bytes(range(256)) * 20, bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, sent)
            while len(got) < len(sent):
                got += await stream.receive_some()
        assert bytes(got) == sent
        await stream.aclose()

    simulate(program, seed).check()


def test_connections_are_cut_and_silenced_and_refused() -> None:
    async def program(world: World) -> None:
        with pytest.raises(ConnectionRefusedError):
            await world.dial(80)
        world.nursery.start_soon(trio.serve_listeners, _echo, [world.listen(80)])
        await trio.lowlevel.checkpoint()
        with pytest.raises(OSError, match="in use"):
            world.listen(80)
        cut, silent = await world.dial(80), await world.dial(80)
        await trio.sleep(1)
        cut.connection.cut()
        with pytest.raises(trio.BrokenResourceError):
            await cut.receive_some()
        silent.connection.silence(up=True, down=True)
        await silent.send_all(b"hello")
        with trio.move_on_after(1_000) as waiting:
            await silent.receive_some()
        assert waiting.cancelled_caught
        world.network.die(silent=False)

    simulate(program, 3).check()


def test_a_node_is_killed_and_started_again() -> None:
    lives: list[str] = []

    async def process(node: Node) -> None:
        lives.append("up")
        try:
            await trio.sleep(100)
            lives.append("done")
        except trio.Cancelled:
            lives.append("killed")
            raise

    async def program(world: World) -> None:
        node = world.node("one", process)
        node.start()
        with pytest.raises(RuntimeError, match="is already running"):
            node.start()
        await trio.sleep(10)
        await node.kill()
        assert not node.running
        node.start()
        await node.wait_ended()

    simulate(program, 1).check()
    assert lives == ["up", "killed", "up", "done"]


def test_actors_live_in_a_simulated_world() -> None:
    heard: list[str] = []

    class Parrot(Actor[str]):
        async def receive(self, message: str) -> None:
            heard.append(message)

    async def program(world: World) -> None:
        async with open_system(seed=world.random("actors").getrandbits(32)) as system:
            system.spawn(Parrot, name="parrot").tell("hello")

    simulate(program, 1).check()
    assert heard == ["hello"]


def test_a_whole_server_is_embedded_in_a_simulated_world() -> None:
    async def program(world: World) -> None:
        settings = actorchat.Settings(storage="memory://", port=8_000, secret="a-secret-for-tests-of-enough-bytes")
        async with actorchat.open_server(settings, environment=world.environment) as server:
            visitor = await server.connect_visitor(source="lk")
            await visitor.send_message("hello")
            async for event in visitor:
                world.log(type(event).__name__)
                if type(event).__name__ == "MessageAdded":
                    break
            stream = await world.dial(8_000)
            await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: chat.test\r\nConnection: close\r\n\r\n")
            world.check((await stream.receive_some()).startswith(b"HTTP/1.1 200"), "health", "the server is up")
            await stream.aclose()

    one, again = simulate(program, 5), simulate(program, 5)
    one.check()
    assert one.digest == again.digest
