"""An independent websocket library reads the frames back."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from actorchat.protocol import (
    COME_BACK,
    CloseCode,
    Frames,
    close_frame,
    join_frames,
    ping_frame,
    pong_frame,
    text_frame,
)
from tests.protocol import strategies

payload_lists = st.lists(st.text(strategies.characters, max_size=300).map(str.encode), max_size=6)


def read_back(data: bytes) -> list[tuple[Opcode, object]]:
    """How a client reads a server's bytes: (opcode, payload) of each event."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(data)
    return [(frame.opcode, frame.payload) for frame in protocol.received_frames()]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536, 70_000])
def test_a_text_frame_of_any_length_is_read_back_whole(length: int) -> None:
    assert read_back(text_frame(b"x" * length)) == [(Opcode.TEXT, "x" * length)]
    assert Frames.of([b"x" * length, b"y"]).payloads() == (b"x" * length, b"y")


@given(payload_lists)
def test_frames_are_whole_and_back_to_back(payloads: list[bytes]) -> None:
    frames = Frames.of(payloads)
    assert read_back(frames.data) == [(Opcode.TEXT, payload.decode()) for payload in payloads]
    assert frames.payloads() == tuple(payloads)


@given(payload_lists)
def test_each_end_is_the_offset_after_its_frame(payloads: list[bytes]) -> None:
    frames = Frames.of(payloads)
    start = 0
    for end, payload in zip(frames.ends, payloads, strict=True):
        assert frames.data[start:end] == text_frame(payload)
        start = end
    assert start == len(frames.data)


@given(st.lists(payload_lists, max_size=4))
def test_joined_frames_equal_those_made_at_once(batches: list[list[bytes]]) -> None:
    joined = join_frames([Frames.of(payloads) for payloads in batches])
    assert joined == Frames.of([payload for payloads in batches for payload in payloads])


@pytest.mark.parametrize(
    ("kinds", "typing"), [([True], True), ([True, True], True), ([True, False], False), ([], False)]
)
def test_joined_frames_are_typing_only_if_all_of_them_are(kinds: Sequence[bool], typing: bool) -> None:
    assert join_frames([Frames.of([b"{}"], typing=kind) for kind in kinds]).typing is typing


def test_a_ping_and_its_pong_carry_the_payload() -> None:
    assert read_back(ping_frame(b"abc")) == [(Opcode.PING, b"abc")]
    assert read_back(pong_frame(b"x" * 125)) == [(Opcode.PONG, b"x" * 125)]
    assert read_back(ping_frame()) == [(Opcode.PING, b"")]


@pytest.mark.parametrize("frame", [ping_frame, pong_frame])
def test_a_control_frame_holds_125_bytes(frame: object) -> None:
    assert callable(frame)
    with pytest.raises(ValueError, match="125"):
        frame(b"x" * 126)


@pytest.mark.parametrize("code", CloseCode)
def test_a_close_carries_its_code_and_reason(code: CloseCode) -> None:
    assert read_back(close_frame(code, "why")) == [(Opcode.CLOSE, (code, "why"))]


def test_a_long_reason_is_cut_at_a_whole_character() -> None:
    assert read_back(close_frame(CloseCode.TOO_BIG, "é" * 100)) == [(Opcode.CLOSE, (1009, "é" * 61))]


def test_clients_reconnect_after_server_faults_only() -> None:
    assert {code for code in CloseCode if code in COME_BACK} == {
        CloseCode.DRAINING,
        CloseCode.SERVER_FAILED,
        CloseCode.RESTARTING,
        CloseCode.OVERLOADED,
    }
