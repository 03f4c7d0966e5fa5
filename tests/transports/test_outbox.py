"""The outbox under random pushes, partial writes, pongs and Closes, without IO."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from actorchat.protocol import CloseCode, Frames, close_frame, pong_frame
from actorchat.transports.outbox import Outbox
from actorchat.transports.ports import Limits

LIMITS = Limits(outbox_bytes=1_000, outbox_frames=12, outbox_low=100)
CLOSE_BYTES = 127


class ScriptedWire:
    """A connection that accepts as many bytes as the test allows."""

    def __init__(self) -> None:
        self.taken = bytearray()
        self.room = 0
        self.broken = False
        self.calls = 0
        self.lingers: list[float] = []
        self._flush: Callable[[], None] | None = None

    def send(self, data: bytes | memoryview, /) -> int:
        self.calls += 1
        if self.broken:
            raise BrokenPipeError
        if not self.room:
            raise BlockingIOError
        part = data[: self.room]
        self.taken += part
        self.room -= len(part)
        return len(part)

    def want_write(self, flush: Callable[[], None]) -> None:
        self._flush = flush

    def closing(self, linger: float) -> None:
        self.lingers.append(linger)

    def make_room(self, count: int) -> None:
        self.room += count
        flush, self._flush = self._flush, None
        if flush is not None:
            flush()

    def frames(self) -> list[tuple[int, bytes]]:
        """Split all accepted bytes into frames. Fails if the last one is incomplete."""
        found = []
        data = bytes(self.taken)
        while data:
            length, start = (data[1], 2) if data[1] < 126 else (int.from_bytes(data[2:4]), 4)
            assert len(data) >= start + length, "a frame is incomplete"
            found.append((data[0] & 0x0F, data[start : start + length]))
            data = data[start + length :]
        return found


@attrs.frozen
class Push:
    sizes: tuple[int, ...]
    typing: bool


@attrs.frozen
class Pong:
    pass


@attrs.frozen
class Close:
    pass


@attrs.frozen
class Room:
    count: int


steps = st.one_of(
    st.builds(Push, st.lists(st.integers(0, 300), min_size=1, max_size=4).map(tuple), st.booleans()),
    st.builds(Pong),
    st.builds(Close),
    st.builds(Room, st.integers(0, 400)),
)


@attrs.define
class Model:
    """Applies steps to an outbox and records the expected frames."""

    wire: ScriptedWire = attrs.field(factory=ScriptedWire)
    outbox: Outbox = attrs.field(init=False)
    events: list[bytes] = attrs.field(factory=list)
    pongs: int = 0
    largest: int = 0

    def __attrs_post_init__(self) -> None:
        self.outbox = Outbox(self.wire, LIMITS)

    def play(self, step: Push | Pong | Close | Room) -> None:
        match step:
            case Push(sizes, typing):
                start = len(self.events)
                kind = b"t" if typing else b"e"
                payloads = [b"%d%s" % (start + n, kind * (size + 1)) for n, size in enumerate(sizes)]
                self.events.extend(payloads)
                frames = Frames.of(payloads, typing)
                if not self.outbox.buffered_bytes:
                    self.largest = max(self.largest, len(frames.data))
                self.outbox.push(frames)
            case Pong():
                self.pongs += 1
                self.outbox.pong(pong_frame(b"%d" % self.pongs))
            case Close():
                self.outbox.close(CloseCode.DONE)
            case Room(count):
                self.wire.make_room(count)
        # A push to an empty outbox is always accepted, however large.
        bound = max(LIMITS.outbox_bytes, self.largest)
        assert self.outbox.buffered_bytes <= bound + CLOSE_BYTES, "the outbox exceeds its bound"


@given(st.lists(steps, max_size=60))
def test_frames_are_whole_in_order_and_nothing_follows_a_close(script: list[Push | Pong | Close | Room]) -> None:
    model = Model()
    for step in script:
        model.play(step)
    model.wire.make_room(1_000_000)
    frames = model.wire.frames()
    events = [payload for opcode, payload in frames if opcode == 1]
    places = [model.events.index(payload) for payload in events]
    assert places == sorted(set(places)), "in order, once"
    closes = [place for place, (opcode, _) in enumerate(frames) if opcode == 8]
    assert closes == ([len(frames) - 1] if model.outbox.closed else []), "one Close, the last frame"
    assert model.outbox.buffered_bytes == 0


@given(st.lists(steps, max_size=60))
def test_only_typing_is_lost_before_the_close(script: list[Push | Pong | Close | Room]) -> None:
    model = Model()
    for step in script:
        if not isinstance(step, Close):
            model.play(step)
    model.wire.make_room(1_000_000)
    frames = model.wire.frames()
    if not model.outbox.closed:
        got = [payload for opcode, payload in frames if opcode == 1 and b"e" in payload]
        assert got == [payload for payload in model.events if b"e" in payload], "every event arrives"
        pongs = [int(payload) for opcode, payload in frames if opcode == 10]
        assert pongs == sorted(pongs)
        assert pongs[-1:] == [model.pongs][: model.pongs], "the latest pong arrives"
    else:
        assert frames[-1][1][:2] == int(CloseCode.OVERLOADED).to_bytes(2)
        assert model.wire.lingers == [LIMITS.overflow_linger]


def frames_of(*payloads: bytes, typing: bool = False) -> Frames:
    return Frames.of(payloads, typing)


def test_with_nothing_waiting_a_push_is_one_send_of_the_shared_bytes() -> None:
    wire = ScriptedWire()
    wire.room = 10_000
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"a" * 600))
    assert (wire.calls, outbox.buffered_bytes) == (1, 0)


def test_waiting_frames_are_joined_into_one_send() -> None:
    wire = ScriptedWire()
    outbox = Outbox(wire, LIMITS)
    for _ in range(10):
        outbox.push(frames_of(b"x" * 50))
    calls = wire.calls
    wire.make_room(10_000)
    assert wire.calls == calls + 1
    assert len(wire.frames()) == 10


def test_joined_frames_are_no_larger_than_a_kernel_accepts_at_once() -> None:
    wire = ScriptedWire()
    outbox = Outbox(wire, Limits())
    for _ in range(10):
        outbox.push(frames_of(b"x" * 20_000))
    calls = wire.calls
    wire.make_room(1_000_000)
    assert wire.calls == calls + 3
    assert len(wire.frames()) == 10


def test_an_overflow_keeps_the_tail_of_the_half_sent_frame_only() -> None:
    wire = ScriptedWire()
    wire.room = 150
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"a" * 100, b"b" * 100, b"c" * 100))
    outbox.push(frames_of(b"d" * 900))
    wire.make_room(10_000)
    assert [payload[:1] for opcode, payload in wire.frames() if opcode == 1] == [b"a", b"b"]
    assert wire.frames()[-1][0] == 8


def test_an_overflow_at_a_frames_end_keeps_nothing() -> None:
    wire = ScriptedWire()
    wire.room = 102
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"a" * 100, b"b" * 100, b"c" * 100))
    outbox.push(frames_of(b"d" * 900))
    wire.make_room(10_000)
    assert [payload[:1] for opcode, payload in wire.frames() if opcode == 1] == [b"a"]


def test_typing_makes_room_for_newer_typing_and_never_closes() -> None:
    wire = ScriptedWire()
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"e" * 500))
    outbox.push(frames_of(b"t" * 400, typing=True))
    outbox.push(frames_of(b"u" * 400, typing=True))
    outbox.push(frames_of(b"v" * 600, typing=True))
    assert not outbox.closed
    outbox.push(frames_of(b"w" * 400, typing=True))
    wire.make_room(10_000)
    assert [payload[:1] for _, payload in wire.frames()] == [b"e", b"w"]


def test_the_outbox_holds_as_many_bytes_as_its_bound() -> None:
    outbox = Outbox(ScriptedWire(), LIMITS)
    for _ in range(2):
        outbox.push(frames_of(b"a" * 496))
    assert (outbox.buffered_bytes, outbox.closed) == (LIMITS.outbox_bytes, False)
    outbox.push(frames_of(b""))
    assert outbox.closed


def test_many_small_frames_are_bounded_by_their_number() -> None:
    outbox = Outbox(ScriptedWire(), LIMITS)
    for _ in range(12):
        outbox.push(frames_of(b""))
    assert not outbox.closed
    outbox.push(frames_of(b""))
    assert outbox.closed


def test_a_half_sent_pong_is_finished() -> None:
    wire = ScriptedWire()
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"a"))
    outbox.pong(pong_frame(b"first"))
    wire.make_room(5)
    outbox.pong(pong_frame(b"the second"))
    wire.make_room(1_000)
    assert wire.frames() == [(1, b"a"), (10, b"first"), (10, b"the second")]


def test_a_half_sent_typing_frame_is_finished() -> None:
    wire = ScriptedWire()
    wire.room = 5
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"t" * 100, b"u" * 100, typing=True))
    outbox.push(frames_of(b"e" * 500))
    outbox.push(frames_of(b"f" * 350))
    wire.make_room(10_000)
    assert [payload[:1] for _, payload in wire.frames()] == [b"t", b"e", b"f"]


def test_one_push_over_the_bound_is_accepted_and_the_next_closes_the_peer() -> None:
    wire = ScriptedWire()
    wire.room = 10
    outbox = Outbox(wire, LIMITS)
    closed = []
    for frames in (frames_of(b"a" * 400, b"b" * 400, b"c" * 400), frames_of(b"d")):
        outbox.push(frames)
        closed.append(outbox.closed)
    assert closed == [False, True]
    wire.make_room(10_000)
    assert [opcode for opcode, _ in wire.frames()] == [1, 8]


def test_a_reading_peer_loses_nothing_of_a_push_over_the_bound() -> None:
    wire = ScriptedWire()
    wire.room = 10
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"a" * 400, b"b" * 400, b"c" * 400))
    wire.make_room(10_000)
    outbox.push(frames_of(b"d"))
    assert [payload[:1] for _, payload in wire.frames()] == [b"a", b"b", b"c", b"d"]


def test_many_pings_are_answered_with_one_pong() -> None:
    wire = ScriptedWire()
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"a"))
    for number in range(1_000):
        outbox.pong(pong_frame(b"%d" % number))
    assert outbox.buffered_bytes < 20
    wire.make_room(10_000)
    assert wire.frames() == [(1, b"a"), (10, b"999")]


@pytest.mark.parametrize("breaks_at", ["push", "flush", "close"])
def test_a_broken_connection_discards_the_outbox_and_is_reported_once(breaks_at: str) -> None:
    wire = ScriptedWire()
    outbox = Outbox(wire, LIMITS)
    if breaks_at != "push":
        outbox.push(frames_of(b"a"))
    wire.broken = True
    if breaks_at == "push":
        outbox.push(frames_of(b"a"))
    elif breaks_at == "close":
        outbox.close(CloseCode.DONE)
    wire.make_room(1)
    outbox.push(frames_of(b"b"))
    outbox.close(CloseCode.DONE)
    outbox.lost()
    assert outbox.closed
    assert outbox.buffered_bytes == 0
    assert not wire.taken


async def test_wait_drained_returns_at_the_low_mark_and_wait_flushed_at_none() -> None:
    wire = ScriptedWire()
    outbox = Outbox(wire, LIMITS)
    outbox.push(frames_of(b"a" * 496))
    order: list[str] = []

    async def note(name: str, wait: Callable[[], Awaitable[object]]) -> None:
        await wait()
        order.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "drained", outbox.wait_drained)
        nursery.start_soon(note, "flushed", outbox.wait_flushed)
        for expected in ([], ["drained"], ["drained", "flushed"]):
            await trio.testing.wait_all_tasks_blocked()
            assert order == expected
            wire.make_room(500 - LIMITS.outbox_low)


@pytest.mark.parametrize("end", [Outbox.lost, lambda outbox: outbox.close(CloseCode.DONE)], ids=["lost", "closed"])
async def test_wait_drained_returns_when_the_connection_ends(end: Callable[[Outbox], None]) -> None:
    outbox = Outbox(ScriptedWire(), LIMITS)
    outbox.push(frames_of(b"a" * 500))
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 5
        nursery.start_soon(outbox.wait_drained)
        await trio.testing.wait_all_tasks_blocked()
        end(outbox)
    assert not nursery.cancel_scope.cancelled_caught


def test_frames_pushed_during_a_hold_are_sent_as_one_on_flush() -> None:
    wire = ScriptedWire()
    wire.room = 1_000
    outbox = Outbox(wire, LIMITS)
    outbox.hold()
    outbox.push(Frames(b"head", (4,)))
    outbox.push(Frames(b"event", (5,)))
    assert wire.calls == 0
    outbox.flush()
    assert (bytes(wire.taken), wire.calls) == (b"headevent", 1)
    outbox.push(Frames(b"next", (4,)))
    assert (bytes(wire.taken), wire.calls) == (b"headeventnext", 2)


def test_a_flush_sends_earlier_unsent_bytes_first() -> None:
    wire = ScriptedWire()
    wire.room = 3
    outbox = Outbox(wire, LIMITS)
    outbox.push(Frames(b"first", (5,)))
    wire.room = 1_000
    outbox.hold()
    outbox.push(Frames(b"next", (4,)))
    outbox.flush()
    assert bytes(wire.taken) == b"firstnext"


def test_a_hold_without_a_push_sends_nothing() -> None:
    wire = ScriptedWire()
    wire.room = 1_000
    outbox = Outbox(wire, LIMITS)
    outbox.hold()
    outbox.flush()
    outbox.push(Frames(b"event", (5,)))
    assert (bytes(wire.taken), wire.calls) == (b"event", 1)


def test_a_close_during_a_hold_comes_after_the_held_frames() -> None:
    wire = ScriptedWire()
    wire.room = 1_000
    outbox = Outbox(wire, LIMITS)
    outbox.hold()
    outbox.push(Frames(b"head", (4,)))
    outbox.close(CloseCode.DRAINING)
    outbox.flush()
    assert bytes(wire.taken) == b"head" + close_frame(CloseCode.DRAINING, "")


def test_events_of_a_join_are_never_limited_by_the_outbox() -> None:
    wire = ScriptedWire()
    wire.room = 10_000
    outbox = Outbox(wire, LIMITS)
    outbox.hold(unbounded=True)
    outbox.push(Frames(b"head", (4,)))
    outbox.push(Frames(b"x" * 2_000, (2_000,)))
    outbox.flush()
    assert bytes(wire.taken) == b"head" + b"x" * 2_000


def test_events_of_a_join_count_towards_the_limit_after_the_flush() -> None:
    outbox = Outbox(ScriptedWire(), LIMITS)
    outbox.hold(unbounded=True)
    outbox.push(Frames(b"head", (4,)))
    outbox.push(Frames(b"x" * 2_000, (2_000,)))
    outbox.flush()
    assert not outbox.closed
    outbox.push(Frames(b"more", (4,)))
    assert outbox.closed
