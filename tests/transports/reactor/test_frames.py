"""The reactor's frame parser agrees with wsproto on messages, answers and refusals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from random import Random

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from actorchat.transports.reactor.frames import FrameReader, Progress

LIMIT = 200
FOR_EVER = 10**9
Happened = tuple[str, object]


@attrs.define
class Recorder:
    """Records the calls of a frame reader as wsproto events. It pauses after every `pause_every`th message.

    It gets no message while it is `paused`.
    """

    pause_every: int = FOR_EVER
    happened: list[Happened] = attrs.Factory(list)
    paused: bool = False
    _messages: int = 0

    def received(self, payload: bytes) -> bool:
        try:
            self.happened.append(("text", payload.decode()))
        except UnicodeDecodeError:
            self.refuse(1007, "")
            return False
        return self._go_on()

    def received_binary(self) -> bool:
        self.happened.append(("binary", None))
        return self._go_on()

    def _go_on(self) -> bool:
        assert not self.paused
        self._messages += 1
        self.paused = self._messages % self.pause_every == 0
        return not self.paused

    def answer_ping(self, frame: bytes) -> None:
        self.happened.append(("pong", frame))

    def answer_close(self, frame: bytes) -> None:
        self.happened.append(("close", frame))

    def refuse(self, code: int, reason: str) -> None:
        self.happened.append(("refused", int(code)))

    @property
    def over(self) -> bool:
        return bool(self.happened) and self.happened[-1][0] in ("close", "refused")

    def until_over(self) -> list[Happened]:
        """The events up to the Close, after which a peer sees nothing."""
        ends = [place for place, (what, _) in enumerate(self.happened) if what in ("close", "refused")]
        return self.happened[: ends[0] + 1] if ends else self.happened


@attrs.frozen
class Wire:
    """One frame on the wire, right or wrong."""

    first: int
    payload: bytes
    mask: bytes | None
    width: int

    @property
    def header(self) -> bytes:
        length = len(self.payload)
        bit = 0 if self.mask is None else 0x80
        if self.width == 0:
            head = bytes((self.first, bit | length))
        else:
            head = bytes((self.first, bit | (126 if self.width == 2 else 127))) + length.to_bytes(self.width)
        return head + (self.mask or b"")

    @property
    def data(self) -> bytes:
        mask = self.mask or bytes(4)
        return self.header + bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.payload))


def judged_by_wsproto(wires: Iterable[Wire], limit: int = LIMIT) -> list[Happened]:
    """How wsproto, with the limit for messages, reads these frames."""
    connection = Connection(ConnectionType.SERVER)
    recorder = Recorder()
    text: list[str] = []
    size = 0
    for wire in wires:
        control = bool(wire.first & 8)
        new_size = len(wire.payload) + (0 if control else size)
        for piece in (wire.header, wire.data[len(wire.header) :]):
            connection.receive_data(piece)
            for event in connection.events():
                if isinstance(event, TextMessage):
                    text.append(event.data)
                    if event.message_finished:
                        recorder.received("".join(text).encode())
                        text.clear()
                elif isinstance(event, BytesMessage):
                    if event.message_finished:
                        recorder.received_binary()
                elif isinstance(event, Ping):
                    recorder.answer_ping(connection.send(event.response()))
                elif isinstance(event, CloseConnection):
                    if connection.state is ConnectionState.REMOTE_CLOSING:
                        recorder.answer_close(connection.send(event.response()))
                    else:
                        recorder.refuse(event.code, "")
            if recorder.over:
                return recorder.happened
            if new_size > limit:
                recorder.refuse(1009, "")
                return recorder.happened
        if not control:
            size = 0 if wire.first & 0x80 else new_size
    return recorder.happened


def read(pieces: Sequence[bytes], *, frames: int = FOR_EVER, pause_every: int = FOR_EVER) -> Recorder:
    """How the reactor's reader reads these bytes; a paused reader is resumed."""
    recorder = Recorder(pause_every)
    reader = FrameReader(recorder, LIMIT)
    shared = bytearray(64)
    for piece in pieces:
        for start in range(0, len(piece), len(shared)):
            part = piece[start : start + len(shared)]
            shared[: len(part)] = part
            progress = reader.feed(shared, len(part), frames=frames)
            shared[:] = bytes(len(shared))
            while progress in (Progress.BOUND, Progress.PAUSED):
                recorder.paused = False
                progress = reader.go_on(frames=frames)
            if progress is Progress.OVER:
                return recorder
    return recorder


TEXT = st.text(max_size=60).map(str.encode)
BROKEN = st.binary(max_size=60)
LONG = st.integers(100, 260).map(lambda size: b"x" * size)
CLOSES = st.builds(
    lambda code, reason: code.to_bytes(2) + reason,
    st.sampled_from([0, 999, 1000, 1001, 1004, 1005, 1006, 1007, 1015, 1016, 2999, 3000, 4999, 5000, 65_535]),
    st.sampled_from([b"", b"bye", "п".encode(), b"\xff"]),
)
PAYLOADS = st.one_of(TEXT, TEXT, TEXT, BROKEN, LONG, CLOSES)
MASKS = st.one_of(st.binary(min_size=4, max_size=4), st.just(bytes(4)))
FIRSTS = st.one_of(
    st.sampled_from([0x81, 0x81, 0x81, 0x01, 0x00, 0x00, 0x80, 0x80, 0x82, 0x02, 0x89, 0x8A, 0x89]),
    st.sampled_from([0x88, 0x09, 0x08, 0xC1, 0xA1, 0x91, 0x83, 0x8B, 0x8F]),
)


@st.composite
def wires(draw: st.DrawFn) -> Wire:
    payload = draw(PAYLOADS)
    shortest = 0 if len(payload) < 126 else 2
    right = draw(st.integers(0, 15)) > 0
    width = shortest if right else draw(st.sampled_from([2, 8]))
    mask = draw(MASKS) if draw(st.integers(0, 30)) else None
    return Wire(draw(FIRSTS), payload, mask, width)


@st.composite
def whole_messages(draw: st.DrawFn) -> list[Wire]:
    """A text message in fragments cut at any byte, with control frames in between."""
    text = draw(TEXT)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
    parts = [text[start:stop] for start, stop in pairwise([0, *cuts, len(text)])]
    frames = []
    for place, part in enumerate(parts):
        first = (0x80 if place == len(parts) - 1 else 0) | (0 if place else 1)
        frames.append(Wire(first, part, draw(MASKS), 0 if len(part) < 126 else 2))
        if first < 0x80 and draw(st.booleans()):
            frames.append(Wire(draw(st.sampled_from([0x89, 0x8A])), b"ping", draw(MASKS), 0))
    return frames


STREAMS = st.lists(st.one_of(wires().map(lambda wire: [wire]), whole_messages()), max_size=8).map(
    lambda groups: [wire for group in groups for wire in group]
)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted(place % (len(data) + 1) for place in places)
    return [data[start:stop] for start, stop in pairwise([0, *ends, len(data)])]


@given(STREAMS, st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([1, 2, FOR_EVER]), st.integers(1, 3))
@example([Wire(0x01, b"[", bytes(4), 0), Wire(0x81, b"]", bytes(4), 0)], [], FOR_EVER, 1)
@example([Wire(0x01, b"[", bytes(4), 0), Wire(0x81, b"]", bytes(4), 0)], [7], FOR_EVER, 1)
@example([Wire(0x81, b"hi", bytes(4), 2)], [], FOR_EVER, 1)
@example([Wire(0x01, b"x" * 90, bytes(4), 0), Wire(0x80, b"x" * 90, bytes(4), 0)] * 2, [], FOR_EVER, 1)
@example([Wire(0x01, b"\xd0", bytes(4), 0), Wire(0x80, b"\x00", bytes(4), 0)], [7], FOR_EVER, 1)
@example([Wire(0x01, b"x" * 120, bytes(4), 0), Wire(0x80, b"x" * 120, bytes(4), 0)], [], FOR_EVER, 1)
@example([Wire(0x81, b"x" * 200, bytes(4), 2), Wire(0x81, b"x" * 201, bytes(4), 2)], [3, 7], FOR_EVER, 1)
def test_any_stream_cut_anywhere_is_read_as_wsproto_reads_it(
    stream: list[Wire], places: list[int], frames: int, pause_every: int
) -> None:
    data = b"".join(wire.data for wire in stream)
    got = read(cut(data, places), frames=frames, pause_every=pause_every).until_over()
    assert got == judged_by_wsproto(stream)


TOO_LONG = LIMIT + 1
FEW = 0.02


def mutated(random: Random, following: bool) -> Wire:
    """A mostly right frame: a message, a fragment or a control frame. `following`: a fragment was sent before."""
    payload = bytearray("так и есть, so be it 🐌".encode() * random.randrange(4))
    if random.random() < FEW:
        payload = bytearray(random.choice((125, 126, 127, LIMIT, TOO_LONG)))
    if random.random() < 0.1 and payload:
        payload[random.randrange(len(payload))] = random.randrange(0x80 if random.random() < 0.8 else 0x100)
    first = random.choice((0x00, 0x80, 0x89, 0x8A) if following else (0x81, 0x81, 0x82, 0x01, 0x02, 0x89, 0x8A))
    if first & 8:
        payload = payload[:125]
    if random.random() < FEW:
        first = 0x88 if random.random() < 0.5 else first ^ 1 << random.randrange(8)
        payload = random.choice((payload, bytearray(random.randrange(5_100).to_bytes(2))))
    width = 0 if len(payload) < 126 else 2
    if random.random() < FEW:
        width = random.choice((2, 8))
    return Wire(first, bytes(payload), None if random.random() < FEW / 4 else random.randbytes(4), width)


def mutated_stream(random: Random) -> list[Wire]:
    wires: list[Wire] = []
    following = False
    for _ in range(40):
        wires.append(mutated(random, following))
        if not wires[-1].first & 8:
            following = not wires[-1].first & 0x80
    return wires


@pytest.mark.slow
def test_mutated_frames_are_read_as_wsproto_reads_them(request: pytest.FixtureRequest) -> None:
    """Only the frames up to the first wrong one are counted, because the rest is not read."""
    left = request.config.getoption("--parser-frames", default=None) or 5_000
    random = Random(7)
    while left > 0:
        stream = mutated_stream(random)
        data = b"".join(wire.data for wire in stream)
        places = [random.randrange(10_000) for _ in range(random.randrange(12))]
        frames, pause_every = random.choice((1, 2, FOR_EVER)), random.choice((1, 2, FOR_EVER))
        got = read(cut(data, places), frames=frames, pause_every=pause_every).until_over()
        judged = iter(stream)
        assert got == judged_by_wsproto(judged)
        left -= len(stream) - len(list(judged))


@given(st.binary(max_size=400), st.lists(st.integers(0, 10_000), max_size=6))
def test_random_bytes_are_never_read_as_more_than_wsproto_reads(noise: bytes, places: list[int]) -> None:
    """The reactor may refuse an incomplete frame later than wsproto, but not after its end."""
    recorder = read(cut(noise, places))
    reference = Recorder()
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(noise)
    for event in connection.events():
        if isinstance(event, CloseConnection):
            reference.refuse(event.code, "")
    got = recorder.until_over()
    if got and got[-1][0] == "refused" and got[-1][1] != 1009:
        assert reference.happened == [got[-1]]


WHOLE = Wire(0x81, b"hello", b"\x01\x02\x03\x04", 0)


@pytest.mark.parametrize(
    ("beginning", "code"),
    [
        (b"\x83\x80", 1002),
        (b"\x09\x80", 1002),
        (b"\xc1\xfe\x00\x80", 1002),
        (b"\x89\xfe", 1002),
        (b"\x81\x05", 1002),
        (b"\x81\xfe\x00\x05", 1002),
        (b"\x81\xff" + (300).to_bytes(8), 1002),
        (b"\x81\xff" + (2**63).to_bytes(8), 1002),
        (b"\x81\xff" + (2**62).to_bytes(8) + bytes(4), 1009),
        (b"\x82\xfe" + (201).to_bytes(2) + bytes(4), 1009),
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else str(value),
)
def test_a_wrong_frame_header_is_refused_before_its_payload_arrives(beginning: bytes, code: int) -> None:
    for pieces in ([beginning], [bytes((byte,)) for byte in beginning]):
        assert read([WHOLE.data, *pieces]).happened == [("text", "hello"), ("refused", code)]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 255, 256, 65_535])
def test_a_whole_text_frame_is_read_without_wsproto(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire(0x81, b"x" * length, b"\x01\x02\x03\x04", 0 if length < 126 else 2)
    monkeypatch.delattr("actorchat.transports.reactor.frames.Connection")
    recorder = Recorder()
    reader = FrameReader(recorder, limit=65_536)
    data = wire.data * 2
    assert reader.feed(bytearray(data), len(data), frames=FOR_EVER) is Progress.WAITS
    assert recorder.happened == [("text", "x" * length)] * 2


def test_nothing_is_kept_between_whole_frames() -> None:
    reader = FrameReader(Recorder(), LIMIT)
    data = bytearray(WHOLE.data * 3)
    assert reader.feed(data, len(data), frames=FOR_EVER) is Progress.WAITS
    assert (reader._unread, reader._wsproto, reader._message) == (None, None, None)


@pytest.mark.parametrize("last", [Wire(0x88, b"", bytes(4), 0), Wire(0x83, b"", bytes(4), 0)])
def test_input_after_the_end_is_not_kept(last: Wire) -> None:
    reader = FrameReader(Recorder(), LIMIT)
    data = bytearray(WHOLE.data + last.data + WHOLE.data)
    assert reader.feed(data, len(data), frames=FOR_EVER) is Progress.OVER
    assert reader._unread is None


def test_while_paused_only_control_frames_are_read() -> None:
    recorder = Recorder()
    reader = FrameReader(recorder, LIMIT)
    ping = Wire(0x89, b"?", bytes(4), 0)
    data = bytearray(ping.data + WHOLE.data + ping.data)
    assert reader.feed(data, len(data), frames=FOR_EVER, messages=False) is Progress.PAUSED
    assert [what for what, _ in recorder.happened] == ["pong"]
    assert reader.go_on(frames=FOR_EVER) is Progress.WAITS
    assert [what for what, _ in recorder.happened] == ["pong", "text", "pong"]


def test_a_frame_in_many_pieces_is_parsed_once() -> None:
    recorder = Recorder()
    reader = FrameReader(recorder, LIMIT)
    looks = 0

    class Counting(FrameReader):
        def _other(self, data: bytearray, start: int, end: int, messages: bool) -> int:
            nonlocal looks
            looks += 1
            return super()._other(data, start, end, messages)

    reader = Counting(recorder, LIMIT)
    for byte in Wire(0x81, b"x" * 200, bytes(4), 2).data:
        reader.feed(bytearray((byte,)), 1, frames=FOR_EVER)
    assert recorder.happened == [("text", "x" * 200)]
    assert looks <= 10
