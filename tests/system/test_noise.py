"""Proves that no bytes whatever crash a transport, leave a socket or task behind, or make it grow."""

from __future__ import annotations

import gc
from random import Random

import pytest
import trio

from actorchat.chat.ports import Session
from actorchat.protocol import Command, Frames, Malformed, SendMessage, UnknownType, encode_command
from actorchat.testing import RawPeer, RecordingApplication, admission_of
from actorchat.testing._peers import frame_of
from actorchat.testing._transports import until
from actorchat.transports.ports import Admission, Limits, Receiver
from tests.transports.harness import OPENERS, SocketDialer, open_sockets

BURST = 100
"""Frames that one socket sends before the next one does."""
SAID = encode_command(SendMessage("is anybody there?"))


class Answering(RecordingApplication):
    """Answers every command with a frame, and writes nothing down."""

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


def noise(random: Random) -> bytes:
    """A frame, whole or not, right or wrong."""
    kind = random.randrange(6)
    if kind == 0:
        return random.randbytes(random.randrange(1, 40))
    if kind == 1:
        return frame_of(1, SAID)
    if kind == 2:
        return frame_of(random.randrange(16), random.randbytes(random.randrange(200)), final=random.random() < 0.5)
    if kind == 3:
        return frame_of(1, b"[" * random.randrange(3_000))
    frame = bytearray(frame_of(random.choice((0, 1, 1, 8, 9, 10)), SAID))
    for _ in range(random.randrange(1, 4)):
        frame[random.randrange(len(frame))] = random.randrange(256)
    return bytes(frame[: random.randrange(1, len(frame) + 1)]) if kind == 5 else bytes(frame)


async def make_noise(dialer: SocketDialer, random: Random, frames: int) -> None:
    for _ in range(frames // BURST):
        dialer.verdicts.append(admission_of(1))
        async with await dialer.connect() as stream:
            peer = RawPeer(stream)
            await peer.handshake()
            try:
                # A few at once: one wrong frame ends the socket, and what follows it must not matter.
                for _ in range(10):
                    await stream.send_all(b"".join([noise(random) for _ in range(BURST // 10)]))
            except trio.BrokenResourceError:
                pass
            await peer.vanish()
    await until(lambda: dialer.open_sockets == 0, "every socket ends")
    dialer.heads.clear()


def things() -> int:
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.slow
@pytest.mark.parametrize("transport", OPENERS)
async def test_noise_crashes_nothing_and_leaves_nothing_behind(
    transport: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    frames = request.config.getoption("--noise-frames", default=None) or 8_000
    random = Random(7)
    async with open_sockets(
        Answering(), Limits(), trio.current_time, transport=transport, small_buffers=False
    ) as dialer:
        await make_noise(dialer, random, max(frames // 4, 4_000))
        before, tasks = things(), trio.lowlevel.current_statistics().tasks_living
        await make_noise(dialer, random, frames)
        assert trio.lowlevel.current_statistics().tasks_living <= tasks
        assert things() - before < 1_000, "as much is alive after all the noise as after the first of it"
        async with dialer.dial(admission_of(2)) as peer:
            await peer.send_text(SAID)
            assert await peer.receive_frame() == (1, b'{"type":"heard"}')
    assert not [record for record in caplog.records if record.exc_info], "nothing failed on the way"
