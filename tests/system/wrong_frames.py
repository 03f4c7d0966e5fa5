"""A table of wrong frames for a room, with the answers that the contract demands.

Each entry has the expected answer in the extended profile and in the strict one.
"""

from __future__ import annotations

import json
from typing import Final
from uuid import UUID

import attrs

from actorchat.protocol import CloseCode
from actorchat.testing._raw_peer import frame_of

__all__ = ["CUT", "WRONG", "Expected", "Wrong", "frame", "sending"]

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10
PROTOCOL_ERROR: Final = 1002
LIMIT: Final = 65_536
NOWHERE: Final = str(UUID(int=7))
MASK: Final = b"\0\0\0\0"


@attrs.frozen
class Expected:
    """The expected answer: an `error` or a `message_not_added` with its code, a close code, a message, or nothing."""

    error: str | None = None
    refused: str | None = None
    closed: int | None = None
    added: bool = False


NOTHING: Final = Expected()
ADDED: Final = Expected(added=True)


@attrs.frozen
class Wrong:
    name: str
    data: bytes
    extended: Expected
    strict: Expected


def frame(payload: str | bytes) -> bytes:
    """A text frame with these bytes."""
    return frame_of(TEXT, payload.encode() if isinstance(payload, str) else payload)


def sending(text: str = "fine", **data: object) -> str:
    """A command with this `data`, which may be malformed."""
    return json.dumps({"type": "send_message", "data": {"text": text, **data}}, ensure_ascii=False)


def _told(name: str, payload: str | bytes, code: str = "malformed") -> Wrong:
    """A frame answered with an `error` in the extended profile, and with nothing in the strict one."""
    return Wrong(name, frame(payload), Expected(error=code), NOTHING)


def _command(name: str, type_: str, data: str) -> Wrong:
    return _told(f"{type_}: {name}", f'{{"type":"{type_}","data":{data}}}')


def _shown(name: str, data: str) -> Wrong:
    """Typing that is repaired instead of being refused."""
    return Wrong(f"update_typing: {name}", frame(f'{{"type":"update_typing","data":{data}}}'), NOTHING, NOTHING)


def _mark(name: str, message_id: str, code: str = "malformed") -> Wrong:
    return _told(f"mark: {name}", f'{{"type":"mark_message_read","data":{{"message_id":{message_id}}}}}', code)


def _refused(name: str, data: str, code: str = "malformed") -> Wrong:
    """A message that is answered with `message_not_added` in both profiles."""
    expected = Expected(refused=code)
    return Wrong(f"send: {name}", frame(f'{{"type":"send_message","data":{data}}}'), expected, expected)


def _bad_client_id(name: str, value: str) -> Wrong:
    """A wrong field that the strict profile does not know and ignores."""
    data = f'{{"type":"send_message","data":{{"text":"fine","client_id":{value}}}}}'
    return Wrong(f"client_id: {name}", frame(data), Expected(refused="malformed"), ADDED)


def _closed(name: str, code: int, *data: bytes) -> Wrong:
    return Wrong(name, b"".join(data), Expected(closed=code), Expected(closed=code))


def _fine(name: str, *data: bytes) -> Wrong:
    """An unusual but valid frame."""
    return Wrong(name, b"".join(data), ADDED, ADDED)


def _part(payload: bytes, opcode: int = CONTINUATION) -> bytes:
    return frame_of(opcode, payload, final=False)


def _close(code: int, reason: bytes = b"") -> bytes:
    return frame_of(CLOSE, code.to_bytes(2) + reason)


def _long(opcode: int, length: int, width: int, payload: bytes) -> bytes:
    """A frame whose length is encoded in `width` bytes, even if that is not the shortest form."""
    marker = 126 if width == 2 else 127
    return bytes((0x80 | opcode, 0x80 | marker)) + length.to_bytes(width) + MASK + payload


_WHOLE: Final = sending("wholeж").encode()
_INSIDE: Final = _WHOLE.index("ж".encode()) + 1
"""A split between the two bytes of a character."""

_NOT_COMMANDS: Final = (
    _told("no JSON", "hello"),
    _told("an empty text", ""),
    _told("only blanks", " \n"),
    _told("JSON cut off", '{"type":"send_message"'),
    _told("JSON and more", "{}{}"),
    _told("single quotes", "{'type':'update_typing'}"),
    _told("a byte order mark", "\ufeff" + sending()),
    _told("NaN", '{"type":NaN}'),
    _told("a bare control character", '{"type":"a\nb"}'),
    _told("a bad escape", r'{"type":"\x41"}'),
    _told("an array", "[]"),
    _told("a string", '"send_message"'),
    _told("a number", "7"),
    _told("null", "null"),
    _told("no type", "{}"),
    _told("only data", '{"data":{}}'),
    _told("type: a number", '{"type":1,"data":{}}'),
    _told("type: null", '{"type":null,"data":{}}'),
    _told("type: an array", '{"type":["send_message"],"data":{}}'),
    _told("type: a lone surrogate", r'{"type":"\ud800","data":{}}'),
    _told("deep nesting", "[" * 30_000),
    _told("deep objects", '{"a":' * 10_000),
    _told("type: unknown", '{"type":"dance","data":{}}', "unknown_type"),
    _told("type: empty", '{"type":"","data":{}}', "unknown_type"),
    _told("type: an event", '{"type":"message_added","data":{}}', "unknown_type"),
    _told("type: in capitals", '{"type":"SEND_MESSAGE","data":{"text":"x"}}', "unknown_type"),
    Wrong("binary", frame_of(BINARY, sending().encode()), Expected(error="malformed"), NOTHING),
    Wrong("binary, empty", frame_of(BINARY, b""), Expected(error="malformed"), NOTHING),
    Wrong("binary parts", _part(b"\xff", BINARY) + frame_of(CONTINUATION, b""), Expected(error="malformed"), NOTHING),
)

_MESSAGES: Final = (
    Wrong("send: no data", frame('{"type":"send_message"}'), *[Expected(refused="malformed")] * 2),
    _refused("data null", "null"),
    _refused("data an array", "[]"),
    _refused("data a string", '"text"'),
    _refused("no text", "{}"),
    _refused("text a number", '{"text":1}'),
    _refused("text null", '{"text":null}'),
    _refused("text an object", '{"text":{}}'),
    _refused("a NUL", r'{"text":"a\u0000b"}'),
    _refused("a lone surrogate", r'{"text":"\udc00"}'),
    _refused("half a pair", r'{"text":"\ud83dx"}'),
    _refused("attachments null", '{"text":"x","attachments":null}'),
    _refused("attachments a string", '{"text":"x","attachments":"x"}'),
    _refused("an attachment a number", '{"text":"x","attachments":[1]}'),
    _refused("an attachment no uuid", '{"text":"x","attachments":["x"]}'),
    _refused("empty", '{"text":""}', "empty"),
    _refused("too long", f'{{"text":"{"x" * 4001}"}}', "too_long"),
    _refused("too long in characters of four bytes", f'{{"text":"{"🐌" * 4001}"}}', "too_long"),
    _refused("unknown attachment", f'{{"text":"x","attachments":["{NOWHERE}"]}}', "attachment_unknown"),
    _refused("too many attachments", json.dumps({"text": "x", "attachments": [NOWHERE] * 11}), "too_many_attachments"),
    _bad_client_id("a number", "1"),
    _bad_client_id("an object", "{}"),
    _bad_client_id("too long", f'"{"c" * 65}"'),
    _bad_client_id("a NUL", r'"\u0000"'),
)

_OTHER_COMMANDS: Final = (
    _told("mark: no data", '{"type":"mark_message_read"}'),
    _command("no id", "mark_message_delivered", "{}"),
    _command("data null", "mark_message_delivered", "null"),
    _mark("a string", '"1"'),
    _mark("a fraction", "1.5"),
    _mark("true", "true"),
    _mark("null", "null"),
    _mark("too large", str(2**53 + 1)),
    _mark("too small", str(-(2**53) - 1)),
    _mark("4,000 digits", "9" * 4_000),
    _mark("infinite", "1e999"),
    _mark("unknown", "123456789", "message_not_found"),
    _mark("negative", "-1", "message_not_found"),
    _mark("the largest", str(2**53), "message_not_found"),
    _command("no stopped", "update_typing", '{"text":"a"}'),
    _command("no text", "update_typing", '{"stopped":true}'),
    _command("stopped a number", "update_typing", '{"text":"a","stopped":0}'),
    _command("stopped null", "update_typing", '{"text":"a","stopped":null}'),
    _command("text a number", "update_typing", '{"text":1,"stopped":false}'),
    _command("a NUL", "update_typing", r'{"text":"\u0000","stopped":false}'),
    _shown("half an emoji", r'{"text":"\ud83d","stopped":true}'),
    _shown("the other half of an emoji", r'{"text":"\udc0c","stopped":true}'),
)

_TOO_BIG: Final = (
    _closed("a byte too much", CloseCode.TOO_BIG, frame(sending().ljust(LIMIT + 1))),
    _closed("too much in two-byte characters", CloseCode.TOO_BIG, frame("ж" * (LIMIT // 2 + 1))),
    _closed("too much in parts", CloseCode.TOO_BIG, _part(b" " * 40_000, TEXT), frame_of(CONTINUATION, b" " * 40_000)),
    _closed("too much and never an end", CloseCode.TOO_BIG, _part(b"[" * 40_000, TEXT), _part(b"[" * 40_000)),
    _closed("too much binary", CloseCode.TOO_BIG, frame_of(BINARY, b"x" * 70_000)),
    _closed("a terabyte announced", CloseCode.TOO_BIG, _long(TEXT, 2**40, 8, b"x" * 70_000)),
    _fine("just as much as may be", frame(sending().ljust(LIMIT))),
)

_NOT_UTF8: Final = (
    _closed("a byte that begins nothing", CloseCode.NOT_UTF8, frame(b'"\xff"')),
    _closed("a character cut off", CloseCode.NOT_UTF8, frame(b'"\xc3')),
    _closed("an overlong NUL", CloseCode.NOT_UTF8, frame(b"\xc0\x80")),
    _closed("an encoded surrogate", CloseCode.NOT_UTF8, frame(b"\xed\xa0\x80")),
    _closed("beyond Unicode", CloseCode.NOT_UTF8, frame(b"\xf4\x90\x80\x80")),
    _closed("a character never finished", CloseCode.NOT_UTF8, _part(b'"\xc3', TEXT), frame_of(CONTINUATION, b'("')),
    _closed("cut off in the last part", CloseCode.NOT_UTF8, _part(b'"', TEXT), frame_of(CONTINUATION, b"\xe2\x82")),
    _closed("known to be wrong before its end", CloseCode.NOT_UTF8, _part(b"\xff", TEXT)),
    _closed("the reason of a close", CloseCode.NOT_UTF8, _close(1000, b"\xff")),
)

_NOT_FRAMES: Final = (
    _closed("not masked", PROTOCOL_ERROR, frame_of(TEXT, sending().encode(), masked=False)),
    *(_closed(f"reserved bit {bit:#x}", PROTOCOL_ERROR, frame_of(TEXT | bit, b"{}")) for bit in (RSV1, RSV2, RSV3)),
    *(_closed(f"opcode {code:#x}", PROTOCOL_ERROR, frame_of(code, b"")) for code in (0x3, 0x7, 0xB, 0xF)),
    _closed("a ping too long", PROTOCOL_ERROR, frame_of(PING, b"x" * 126)),
    _closed("a pong too long", PROTOCOL_ERROR, frame_of(PONG, b"x" * 126)),
    _closed("a close too long", PROTOCOL_ERROR, _close(1000, b"x" * 124)),
    _closed("a ping in parts", PROTOCOL_ERROR, _part(b"", PING)),
    _closed("a part of nothing", PROTOCOL_ERROR, frame_of(CONTINUATION, b"x")),
    _closed("a text within a text", PROTOCOL_ERROR, _part(b"{", TEXT), frame("}")),
    _closed("binary within a text", PROTOCOL_ERROR, _part(b"{", TEXT), frame_of(BINARY, b"}")),
    _closed("a length written too long", PROTOCOL_ERROR, _long(TEXT, 2, 2, b"{}")),
    _closed("a length written far too long", PROTOCOL_ERROR, _long(TEXT, 300, 8, b" " * 300)),
    _closed("a negative length", PROTOCOL_ERROR, _long(TEXT, 2**63, 8, b"{}")),
    _closed("HTTP again", PROTOCOL_ERROR, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    _closed("a close of one byte", PROTOCOL_ERROR, frame_of(CLOSE, b"x")),
    *(
        _closed(f"close {code}", PROTOCOL_ERROR, _close(code))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535)
    ),
    *(_closed(f"close {code}, which is right", code, _close(code)) for code in (1000, 1001, 3000, 4999)),
    _closed("close without a code", 1005, frame_of(CLOSE, b"")),
    _closed("more after a close", 1000, _close(1000), frame(sending("too late"))),
    _fine("an unasked pong", frame_of(PONG, b"?"), frame(sending())),
    _fine("the largest ping", frame_of(PING, b"x" * 125), frame(sending())),
    _fine("a ping between parts", _part(_WHOLE[:9], TEXT), frame_of(PING, b"!"), frame_of(CONTINUATION, _WHOLE[9:])),
    _fine("a character in two parts", _part(_WHOLE[:_INSIDE], TEXT), frame_of(CONTINUATION, _WHOLE[_INSIDE:])),
    _fine("empty parts", _part(b"", TEXT), _part(b""), _part(_WHOLE), frame_of(CONTINUATION, b"")),
    _fine("a byte a part", _part(b"", TEXT), *(_part(bytes((byte,))) for byte in _WHOLE), frame_of(CONTINUATION, b"")),
    _fine("unknown fields", frame(sending(colour="red", attachments=[])[:-1] + ',"v":{"deep":[[[]]]}}')),
)

WRONG: Final = (*_NOT_COMMANDS, *_MESSAGES, *_OTHER_COMMANDS, *_TOO_BIG, *_NOT_UTF8, *_NOT_FRAMES)

CUT: Final = {
    "half a header": frame(sending())[:1],
    "half a mask": frame(sending())[:4],
    "half a payload": frame(sending())[:-5],
    "parts without an end": _part(b'{"type":', TEXT),
    "half a ping between parts": _part(b"{", TEXT) + frame_of(PING, b"ping")[:-2],
}
"""Beginnings of frames, after which the client disconnects."""
