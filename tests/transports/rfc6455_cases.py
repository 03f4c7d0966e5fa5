"""Test cases for RFC 6455, under the numbers of the Autobahn test suite, translated for a chat server.

`test_autobahn` runs the suite itself; these cases need nothing but Python. A message that the suite expects back is a
command with a text here, which is echoed; any other message is reported as malformed. Where the contract is stricter,
with 64 KiB a message and no binary messages, the expected result is the contract's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, groupby
from typing import Final

import attrs

from actorchat.testing._raw_peer import frame_of

__all__ = ["CASES", "FINE", "MALFORMED", "Case"]

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
RSV: Final = 0x10
ALL_AT_ONCE, FRAME_BY_FRAME, BYTE_BY_BYTE = 0, -1, 1
ANSWER: Final = b""
"""An item of `send`: wait for the next answer."""
LIMIT: Final = 65_536
FINE: Final = 1000
BROKEN, NOT_UTF8, TOO_BIG = 1002, 1007, 1009
MALFORMED: Final = (TEXT, b"malformed")
_HEAD, _TAIL = b'{"type":"send_message","data":{"text":"', b'"}}'
_SPARE: Final = len(_HEAD) + len(_TAIL)

Seen = tuple[int, bytes]


@attrs.frozen
class Case:
    """What the client sends, `chop` bytes at a time, the expected answers, and the code of the server's Close.

    If the code is FINE, the client sends a Close after `send` and gets it back.
    """

    number: str
    send: tuple[bytes, ...]
    answers: tuple[Seen, ...] = ()
    code: int = FINE
    chop: int = ALL_AT_ONCE

    def pieces(self) -> Iterator[bytes]:
        """`send` cut into pieces of `chop` bytes."""
        for waits, group in groupby(self.send, ANSWER.__eq__):
            frames = list(group)
            if waits or self.chop == FRAME_BY_FRAME:
                yield from frames
            else:
                data = b"".join(frames)
                size = self.chop or len(data)
                yield from (data[start : start + size] for start in range(0, len(data), size))


def command(text: bytes) -> bytes:
    return _HEAD + text + _TAIL


def say(text: bytes, first: int = TEXT) -> bytes:
    return frame_of(first, command(text))


def part(payload: bytes, first: int = 0, *, last: bool = False) -> bytes:
    return frame_of(first, payload, final=last)


def parts(payload: bytes, size: int, opcode: int = TEXT) -> tuple[bytes, ...]:
    """A message in fragments of `size` bytes."""
    starts = range(0, max(1, len(payload)), size)
    return tuple(
        part(payload[start : start + size], opcode if start == 0 else 0, last=start + size >= len(payload))
        for start in starts
    )


def echoed(text: bytes) -> Seen:
    return TEXT, text


def close(code: int, reason: bytes = b"") -> bytes:
    return frame_of(CLOSE, code.to_bytes(2) + reason)


HELLO: Final = b"Hello, world!"
NO_TEXT: Final = bytes.fromhex("00fffefdfcfb00ff")
HELLO_SENT, HELLO_TOLD = say(HELLO), echoed(HELLO)
PINGED, PONGED = frame_of(PING, b"ping"), (PONG, b"ping")


def _sizes(group: str, opcode: int) -> Iterator[Case]:
    """1.1 and 1.2: messages with each encoding of a length. The first is shorter than any command."""
    sizes = (0, 125, 126, 127, 128, 65_535, 65_536, 65_536)
    for number, size in enumerate(sizes, 1):
        text = b"*" * max(0, size - _SPARE)
        payload = command(text) if size else b""
        answer = echoed(text) if opcode == TEXT and size else MALFORMED
        yield Case(f"{group}.{number}", (frame_of(opcode, payload),), (answer,), chop=997 if number == 8 else 0)


def _pings() -> Iterator[Case]:
    full = b"\xfe" * 125
    for number, payload in enumerate((b"", HELLO, NO_TEXT, full), 1):
        yield Case(f"2.{number}", (frame_of(PING, payload),), ((PONG, payload),))
    yield Case("2.5", (frame_of(PING, b"\xfe" * 126),), code=BROKEN)
    yield Case("2.6", (frame_of(PING, full),), ((PONG, full),), chop=BYTE_BY_BYTE)
    yield Case("2.7", (frame_of(PONG, b""),))
    yield Case("2.8", (frame_of(PONG, b"unsolicited"),))
    yield Case("2.9", (frame_of(PONG, b"unsolicited"), PINGED), (PONGED,))
    ten = tuple(b"payload-%d" % number for number in range(10))
    for number, chop in ((10, ALL_AT_ONCE), (11, BYTE_BY_BYTE)):
        pings, pongs = tuple(frame_of(PING, each) for each in ten), tuple((PONG, each) for each in ten)
        yield Case(f"2.{number}", pings, pongs, chop=chop)


def _reserved_bits() -> Iterator[Case]:
    yield Case("3.1", (say(HELLO, TEXT | RSV),), code=BROKEN)
    for number, chop in ((2, ALL_AT_ONCE), (3, FRAME_BY_FRAME), (4, BYTE_BY_BYTE)):
        sent = (HELLO_SENT, say(HELLO, TEXT | number * RSV), PINGED)
        yield Case(f"3.{number}", sent, (HELLO_TOLD,), BROKEN, chop)
    yield Case("3.5", (frame_of(BINARY | 5 * RSV, NO_TEXT),), code=BROKEN)
    yield Case("3.6", (frame_of(PING | 6 * RSV, HELLO),), code=BROKEN)
    yield Case("3.7", (frame_of(CLOSE | 7 * RSV, b""),), code=BROKEN)


def _opcodes() -> Iterator[Case]:
    for group, opcodes in ((1, range(3, 8)), (2, range(11, 16))):
        for number, opcode in enumerate(opcodes, 1):
            strange = frame_of(opcode, b"" if number in (1, 3) else HELLO)
            if number < 3:
                yield Case(f"4.{group}.{number}", (strange,), code=BROKEN)
            else:
                sent = (HELLO_SENT, strange, PINGED)
                chop = BYTE_BY_BYTE if number == 5 else ALL_AT_ONCE
                yield Case(f"4.{group}.{number}", sent, (HELLO_TOLD,), BROKEN, chop)


def _fragments() -> Iterator[Case]:
    for number, opcode in ((1, PING), (2, PONG)):
        yield Case(f"5.{number}", (part(b"frag", opcode), part(b"ment", last=True)), code=BROKEN)
    first, second = parts(command(b"fragment1fragment2"), 50)
    both = echoed(b"fragment1fragment2")
    for nth, chop in enumerate((ALL_AT_ONCE, FRAME_BY_FRAME, BYTE_BY_BYTE)):
        yield Case(f"5.{3 + nth}", (first, second), (both,), chop=chop)
        yield Case(f"5.{6 + nth}", (first, PINGED, second), (PONGED, both), chop=chop)
        for number, last in ((9 + nth, True), (12 + nth, False)):
            sent = (part(b"non-continuation payload", last=last), HELLO_SENT)
            yield Case(f"5.{number}", sent, code=BROKEN, chop=chop)
    yield Case("5.15", (first, second, part(b"fragment3"), HELLO_SENT), (both,), BROKEN)
    for number, last in ((16, False), (17, True)):
        round_ = (part(b"fragment1", last=last), part(b"fragment2", TEXT), part(b"fragment3", last=True))
        yield Case(f"5.{number}", round_ * 2, code=BROKEN)
    yield Case("5.18", (first, part(b"fragment2", TEXT, last=True)), code=BROKEN)
    text = b"fragment1fragment2fragment3fragment4fragment5"
    five = parts(command(text), 20)
    assert len(five) == 5
    # The first ping is answered before the rest of the message arrives.
    mixed = (*five[:2], PINGED, ANSWER, *five[2:4], frame_of(PING, b"again"), five[4])
    for number, chop in ((19, ALL_AT_ONCE), (20, FRAME_BY_FRAME)):
        yield Case(f"5.{number}", mixed, (PONGED, (PONG, b"again"), echoed(text)), chop=chop)


def _text() -> Iterator[Case]:
    """6.1 to 6.4: where text may be split, and when invalid UTF-8 is detected."""
    yield Case("6.1.1", (frame_of(TEXT, b""),), (MALFORMED,))
    yield Case("6.1.2", (part(b"", TEXT), part(b""), part(b"", last=True)), (MALFORMED,))
    whole = command(b"middle frame payload")
    yield Case("6.1.3", (part(b"", TEXT), part(whole), part(b"", last=True)), (echoed(b"middle frame payload"),))
    good = "Hello-µ@ßöäüàá-UTF-8!!".encode()
    middle = len(_HEAD) + good.index("üàá".encode())
    payload = command(good)
    yield Case("6.2.1", (say(good),), (echoed(good),))
    yield Case("6.2.2", (part(payload[:middle], TEXT), part(payload[middle:], last=True)), (echoed(good),))
    yield Case("6.2.3", parts(payload, 1), (echoed(good),))
    yield Case("6.2.4", parts(command(_KOSME), 1), (echoed(_KOSME),))
    bad = _KOSME + b"\xed\xa0\x80edited"
    yield Case("6.3.1", (say(bad),), code=NOT_UTF8)
    yield Case("6.3.2", parts(command(bad), 1), code=NOT_UTF8)
    # Nothing after the invalid byte is sent, so the server must detect it at once.
    spoilt = (_KOSME, b"\xf4\x90\x80\x80", b"edited")
    yield Case("6.4.1", (part(spoilt[0], TEXT), part(spoilt[1])), code=NOT_UTF8, chop=FRAME_BY_FRAME)
    yield Case("6.4.2", (part(_KOSME + b"\xf4", TEXT), part(b"\x90")), code=NOT_UTF8, chop=FRAME_BY_FRAME)
    # Inside one frame, detection at the frame's end is enough; the suite calls that "non-strict".
    frame = frame_of(TEXT, b"".join(spoilt))
    start = len(frame) - len(b"".join(spoilt[1:]))
    for number, step in ((3, 4), (4, 1)):
        pieces = (frame[:start], frame[start : start + step], frame[start + step :])
        yield Case(f"6.4.{number}", pieces, code=NOT_UTF8, chop=FRAME_BY_FRAME)


_KOSME: Final = bytes.fromhex("cebae1bdb9cf83cebcceb5")
_CONTINUATIONS: Final = b"\x80\xbf" * 3
_NONCHARACTERS: Final = [0xFFFE, 0xFFFF, *(plane << 16 | low for plane in range(1, 17) for low in (0xFFFE, 0xFFFF))]

UTF8: Final[dict[int, list[bytes]]] = {
    5: [*(f"hello{each}world".encode() for each in "$¢€\U00024b62"), _KOSME],
    6: [_KOSME[:end] for end in range(1, len(_KOSME) + 1)],
    7: [b"\0", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"],
    8: [b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"],
    9: [b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"],
    10: [b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"],
    11: [b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80"],
    12: [b"\x80", b"\xbf", *(_CONTINUATIONS[:length] for length in (2, 3, 4, 5, 6)), bytes(range(0x80, 0xBF))],
    13: [
        b"".join(bytes((start, 0x20)) for start in range(low, high))
        for low, high in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD))
    ],
    14: [
        bytes.fromhex(each)
        for each in ("c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf")
    ],
    15: [bytes.fromhex("c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf")],
    16: [b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"],
    17: [bytes.fromhex(each) for each in ("c0af", "e080af", "f08080af", "f8808080af", "fc80808080af")],
    18: [bytes.fromhex(each) for each in ("c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf")],
    19: [bytes.fromhex(each) for each in ("c080", "e08080", "f0808080", "f880808080", "fc8080808080")],
    20: [bytes.fromhex(each) for each in ("eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf")],
    21: [
        bytes.fromhex(high + low)
        for high, low in (
            ("eda080", "edb080"),
            ("eda080", "edbfbf"),
            ("edadbf", "edb080"),
            ("edadbf", "edbfbf"),
            ("edae80", "edb080"),
            ("edae80", "edbfbf"),
            ("edafbf", "edb080"),
            ("edafbf", "edbfbf"),
        )
    ],
    22: [chr(point).encode() for point in _NONCHARACTERS],
    23: [chr(point).encode() for point in range(0xFFF9, 0x10000)],
}
"""6.5 to 6.23: valid and invalid UTF-8 sequences. Python's decoder decides which they are."""


def _utf8() -> Iterator[Case]:
    for group, sequences in UTF8.items():
        for number, sequence in enumerate(sequences, 1):
            # A control character is valid UTF-8, but not allowed in a JSON string.
            answers: tuple[Seen, ...] = (echoed(sequence) if sequence != b"\0" else MALFORMED,)
            code = FINE
            try:
                sequence.decode()
            except UnicodeDecodeError:
                answers, code = (), NOT_UTF8
            yield Case(f"6.{group}.{number}", (say(sequence),), answers, code)
            yield Case(f"6.{group}.{number} in parts", parts(command(sequence), 1), answers, code)


def _closes() -> Iterator[Case]:
    end = close(1000)
    yield Case("7.1.1", (HELLO_SENT, end), (HELLO_TOLD,))
    yield Case("7.1.2", (end, end))
    yield Case("7.1.3", (end, PINGED))
    yield Case("7.1.4", (end, HELLO_SENT))
    first, second = parts(command(HELLO), 30)
    yield Case("7.1.5", (first, end, second))
    yield Case("7.1.6", (frame_of(TEXT, b"*" * 262_144), HELLO_SENT, end, PINGED), code=TOO_BIG)
    yield Case("7.3.1", (frame_of(CLOSE, b""),), code=1005)
    yield Case("7.3.2", (frame_of(CLOSE, b"a"),), code=BROKEN)
    yield Case("7.3.3", (end,))
    yield Case("7.3.4", (close(1000, HELLO),))
    yield Case("7.3.5", (close(1000, b"*" * 123),))
    yield Case("7.3.6", (close(1000, b"*" * 124),), code=BROKEN)
    yield Case("7.5.1", (close(1000, _KOSME + b"\xed\xa0\x80edited"),), code=NOT_UTF8)
    good = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
    for number, code in enumerate(good, 1):
        yield Case(f"7.7.{number}", (close(code),), code=code)
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield Case(f"7.9.{number}", (close(code),), code=BROKEN)
    for number, code in enumerate((5000, 65_535), 1):
        yield Case(f"7.13.{number}", (close(code),), code=BROKEN)


def _limits() -> Iterator[Case]:
    """9.1 to 9.6: a message of more than 64 KiB is refused with 1009, fragmented or not.

    Only the first cases of 9.1 and 9.2 are smaller. The suite expects all messages back, from a larger limit.
    """
    kib = 1_024
    for number, size in enumerate((64, 256, kib, 4 * kib, 8 * kib, 16 * kib), 1):
        text = b"*" * (size * kib - _SPARE)
        fits = size * kib <= LIMIT
        yield Case(f"9.1.{number}", (say(text),), (echoed(text),) if fits else (), FINE if fits else TOO_BIG)
        yield Case(f"9.2.{number}", (say(text, BINARY),), (MALFORMED,) if fits else (), FINE if fits else TOO_BIG)
    large = b"*" * (4 * kib * kib)
    sizes = (64, 256, kib, 4 * kib, 16 * kib, 64 * kib, 256 * kib, kib * kib, 4 * kib * kib)
    for number, size in enumerate(sizes, 1):
        # Of the 4 MiB, only enough is sent to exceed the limit.
        sent = (b"".join(parts(large, size)[: 1 + 2 * LIMIT // size]),)
        yield Case(f"9.3.{number}", sent, code=TOO_BIG)
        sent = (b"".join(parts(large, size, BINARY)[: 1 + 2 * LIMIT // size]),)
        yield Case(f"9.4.{number}", sent, code=TOO_BIG)
    for number, chop in enumerate((64, 128, 256, 512, 1_024, 2_048), 1):
        yield Case(f"9.5.{number}", (frame_of(TEXT, large[: kib * kib]),), code=TOO_BIG, chop=chop)
        yield Case(f"9.6.{number}", (frame_of(BINARY, large[: kib * kib]),), code=TOO_BIG, chop=chop)


def _many() -> Iterator[Case]:
    """9.7 and 9.8: a thousand messages, one by one and all at once; binary ones are no commands."""
    for number, size in enumerate((0, 16, 64, 256, 1_024, 4_096), 1):
        texts = [b"%d" % nth + b"*" * size for nth in range(1_000)]
        for group, sent, answers in (
            (7, tuple(map(say, texts)), tuple(map(echoed, texts))),
            (8, (frame_of(BINARY, b"*" * size),) * 1_000, (MALFORMED,) * 1_000),
        ):
            in_turn = tuple(chain.from_iterable((each, ANSWER) for each in sent))
            yield Case(f"9.{group}.{number}", in_turn, answers)
            yield Case(f"9.{group}.{number} at once", sent, answers)


def _auto_fragmented() -> Iterator[Case]:
    text = b"*" * (LIMIT - _SPARE)
    yield Case("10.1.1", parts(command(text), 1_300), (echoed(text),))


CASES: Final = tuple(
    chain(
        _sizes("1.1", TEXT),
        _sizes("1.2", BINARY),
        _pings(),
        _reserved_bits(),
        _opcodes(),
        _fragments(),
        _text(),
        _utf8(),
        _closes(),
        _limits(),
        _many(),
        _auto_fragmented(),
    )
)
