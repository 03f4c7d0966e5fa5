"""Random bytes never crash a transport, leave a socket or task behind, or make it grow."""

from __future__ import annotations

import gc
from contextlib import suppress
from random import Random

import psutil  # type: ignore[import-untyped] # it ships no types
import pytest
import trio

from actorchat.chat.ports import Session
from actorchat.protocol import Command, Frames, Malformed, SendMessage, UnknownType, encode_command
from actorchat.testing import RawPeer, RecordingApplication, admission_of
from actorchat.testing._raw_peer import frame_of
from actorchat.testing._transport_harness import until
from actorchat.transports.ports import Admission, Limits, Receiver
from tests.transports.dialers import OPENERS, SocketDialer, open_sockets

BURST = 100
"""About how many frames a socket sends before the next socket is opened."""
SAID = encode_command(SendMessage("is anybody there? есть кто живой? 🐌"))
PLACES = [place for place, byte in enumerate(SAID) if byte < 0x80]
MEMORY_BYTES = 4 * 2**20
LIMITS = Limits(malformed_in_a_row=10**9)
"""Malformed frames in a row do not close a socket here, or few of them would be read."""


class Answering(RecordingApplication):
    """Answers every command with a frame, and records nothing."""

    async def join(self, session: Session, admission: Admission) -> Receiver:
        await trio.lowlevel.checkpoint()
        return _Answers(session)


class _Answers:
    def __init__(self, session: Session) -> None:
        self._session = session

    def receive(self, command: Command | UnknownType) -> bool | None:
        self._session.push(Frames.of([b'{"type":"heard"}']))
        return None

    def malformed(self, fault: Malformed) -> None:
        self._session.push(Frames.of([b'{"type":"what?"}']))

    def leave(self) -> None:
        pass


def harmless(random: Random) -> list[bytes]:
    """Frames that do not close a socket: right ones, and malformed ones in valid UTF-8 and valid frames."""
    kind = random.randrange(8)
    if kind == 0:
        return [frame_of(1, SAID)]
    if kind == 1:
        return [frame_of(random.choice((9, 10)), random.randbytes(random.randrange(126)))]
    if kind == 2:
        return [frame_of(2, random.randbytes(random.randrange(300)))]
    if kind == 3:
        return [frame_of(1, random.choice((b"[", b'{"', b"\xd0\xb6")) * random.randrange(1_500))]
    mutated = bytearray(SAID)
    for _ in range(random.randrange(4)):
        mutated[random.choice(PLACES)] = random.randrange(0x80)
    if kind < 6:
        return [frame_of(1, bytes(mutated))]
    frames = []
    opcode, start = random.choice((1, 1, 2)), 0
    while start < len(mutated):
        stop = start + random.randrange(40)
        frames.append(frame_of(opcode, bytes(mutated[start:stop]), final=stop >= len(mutated)))
        if stop < len(mutated) and random.random() < 0.3:
            frames.append(frame_of(random.choice((9, 10)), b"between"))
        opcode, start = 0, stop
    return frames


def wild(random: Random) -> bytes:
    """A random frame, complete or not, right or wrong."""
    kind = random.randrange(4)
    if kind == 0:
        return random.randbytes(random.randrange(1, 40))
    if kind == 1:
        return frame_of(random.randrange(16), random.randbytes(random.randrange(200)), final=random.random() < 0.5)
    frame = bytearray(frame_of(random.choice((0, 1, 1, 8, 9, 10)), SAID))
    for _ in range(random.randrange(1, 4)):
        frame[random.randrange(len(frame))] = random.randrange(256)
    return bytes(frame[: random.randrange(1, len(frame) + 1)]) if kind == 3 else bytes(frame)


async def make_noise(dialer: SocketDialer, random: Random, count: int) -> None:
    """Send `count` frames that are all read. Each socket ends with a few more, which may be wrong or incomplete."""
    while count > 0:
        dialer.verdicts.append(admission_of(1))
        async with await dialer.connect() as stream:
            peer = RawPeer(stream)
            await peer.handshake()
            for _ in range(4):
                frames: list[bytes] = []
                while len(frames) < BURST // 4:
                    frames += harmless(random)
                count -= len(frames)
                await stream.send_all(b"".join(frames))
            # The pong proves that everything before the ping was read.
            await stream.send_all(frame_of(9, b"read?"))
            while await peer.receive_frame() != (10, b"read?"):
                pass
            with suppress(trio.BrokenResourceError, trio.EndOfChannel):
                await stream.send_all(b"".join([wild(random) for _ in range(random.randrange(1, 4))]))
                if random.random() < 0.5:
                    # The server's end of the stream proves that it has read these too.
                    await peer.half_close()
                    while True:
                        await peer.receive_frame()
            await peer.vanish()
        dialer.heads.clear()
    await until(lambda: dialer.open_sockets == 0, "every socket ends")


def things() -> int:
    """The number of objects, without deadlines, of which Trio keeps up to a thousand cancelled ones."""
    gc.collect()
    return sum(type(thing) not in (tuple, trio.CancelScope) for thing in gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("transport", OPENERS)
async def test_random_bytes_crash_nothing_and_leave_nothing_behind(
    transport: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    frames = request.config.getoption("--noise-frames", default=None) or 8_000
    random = Random(7)
    process = psutil.Process()
    async with open_sockets(Answering(), LIMITS, trio.current_time, transport=transport, small_buffers=False) as dialer:
        await make_noise(dialer, random, max(frames // 4, 4_000))
        before, tasks = things(), trio.lowlevel.current_statistics().tasks_living
        memory = process.memory_info().rss
        await make_noise(dialer, random, frames)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks
        more, memory = things() - before, process.memory_info().rss - memory
        print(f"{frames} frames: {more} objects, {memory} bytes more")  # noqa: T201 - shows how close the result is to its bound
        assert more < 1_000, "as much is alive after all the noise as after the first of it"
        assert memory < MEMORY_BYTES
        async with dialer.dial(admission_of(2)) as peer:
            await peer.send_text(SAID)
            assert await peer.receive_frame() == (1, b'{"type":"heard"}')
    assert not [record for record in caplog.records if record.exc_info], "nothing failed on the way"
