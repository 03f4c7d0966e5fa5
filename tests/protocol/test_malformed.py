"""Every wrong frame is malformed, with the path of its first fault."""

from typing import Final

import pytest

from actorchat.protocol import Malformed, NotUtf8, decode_command

UUID: Final = "3f439f10-9c19-4bd4-81a8-d6e048b97ba4"


def send(data: str) -> str:
    return f'{{"type":"send_message","data":{data}}}'


def mark(data: str) -> str:
    return f'{{"type":"mark_message_delivered","data":{data}}}'


def read(data: str) -> str:
    return f'{{"type":"mark_message_read","data":{data}}}'


def typing(data: str) -> str:
    return f'{{"type":"update_typing","data":{data}}}'


NOT_UTF8: Final = [
    b"\xff",
    b'{"type":"send_message","data":{"text":"\xff"}}',
    b'{"type":"send_message","data":{"text":"hi","unknown":"\xc3"}}',
    b'{"type":"send_message","data":{"text":"\xed\xa0\x80"}}',
    b'{"type":"send_message","data":{"text":"\xc0\x80"}}',
    b'{"type":"dance\xf5"}',
    '{"type":"send_message","data":{"text":"hi"}}'.encode("utf-16"),
]

# (frame, path of the first fault)
MALFORMED: Final = [
    # Not JSON.
    ("", ""),
    (" ", ""),
    ("hello", ""),
    ("{", ""),
    ('{"type":"send_message"', ""),
    ('{"type":"send_message","data":{"text":"hi"}} {}', ""),
    ('{"type":"send_message","data":{"text":"hi",}}', ""),
    ("{'type':'send_message'}", ""),
    ('{"type":"send_message","data":{"text":"\t"}}', ""),
    ('{"type":"send_message","data":{"text":"\\x"}}', ""),
    ('{"type":"send_message","data":{"text":"\\ud8"}}', ""),
    ("\ufeff" + send('{"text":"hi"}'), ""),
    (mark('{"message_id":NaN}'), ""),
    (mark('{"message_id":Infinity}'), ""),
    (mark('{"message_id":-Infinity}'), ""),
    (mark('{"message_id":01}'), ""),
    (mark('{"message_id":0x1}'), ""),
    (mark('{"message_id":+1}'), ""),
    # Too deeply nested.
    ("[" * 30_000, ""),
    ('{"type":"send_message","data":' + "[" * 30_000 + "]" * 30_000 + "}", ""),
    # Python 3.13 reads up to 10,000 levels; as many as fit into a frame are too many for every version.
    (send('{"text":"hi","unknown":' + '{"a":' * 10_900 + "1" + "}" * 10_901), ""),
    # Not an object.
    ("null", ""),
    ("true", ""),
    ("0", ""),
    ('"send_message"', ""),
    ("[]", ""),
    ('[{"type":"send_message"}]', ""),
    # A wrong envelope.
    ("{}", "type"),
    ('{"data":{"text":"hi"}}', "type"),
    ('{"type":null}', "type"),
    ('{"type":5,"data":{}}', "type"),
    ('{"type":["send_message"],"data":{"text":"hi"}}', "type"),
    ('{"type":"a\\u0000b"}', "type"),
    ('{"type":"\\udc00"}', "type"),
    ('{"type":"send_message"}', "data"),
    ('{"type":"update_typing"}', "data"),
    (send("null"), "data"),
    (send('"hi"'), "data"),
    (send('["hi"]'), "data"),
    (mark("7"), "data"),
    (typing("false"), "data"),
    # send_message
    (send("{}"), "data.text"),
    (send('{"Text":"hi"}'), "data.text"),
    (send('{"text":null}'), "data.text"),
    (send('{"text":5}'), "data.text"),
    (send('{"text":true}'), "data.text"),
    (send('{"text":["hi"]}'), "data.text"),
    (send('{"text":{"text":"hi"}}'), "data.text"),
    (send('{"text":"a\\u0000b"}'), "data.text"),
    (send('{"text":"\\ud800"}'), "data.text"),
    (send('{"text":"\\udc00"}'), "data.text"),
    (send('{"text":"\\udc00\\ud800"}'), "data.text"),
    (send('{"text":"hi","attachments":null}'), "data.attachments"),
    (send(f'{{"text":"hi","attachments":"{UUID}"}}'), "data.attachments"),
    (send(f'{{"text":"hi","attachments":{{"{UUID}":1}}}}'), "data.attachments"),
    (send('{"text":"hi","attachments":[""]}'), "data.attachments[0]"),
    (send('{"text":"hi","attachments":[5]}'), "data.attachments[0]"),
    (send(f'{{"text":"hi","attachments":["{UUID}","{UUID}x"]}}'), "data.attachments[1]"),
    (send(f'{{"text":"hi","attachments":["{UUID}",null]}}'), "data.attachments[1]"),
    (send(f'{{"text":"hi","attachments":["{{{UUID}}}"]}}'), "data.attachments[0]"),
    (send(f'{{"text":"hi","attachments":["urn:uuid:{UUID}"]}}'), "data.attachments[0]"),
    (send(f'{{"text":"hi","attachments":["{UUID}\\n"]}}'), "data.attachments[0]"),
    (send('{"text":"hi","client_id":5}'), "data.client_id"),
    (send('{"text":"hi","client_id":["a"]}'), "data.client_id"),
    (send(f'{{"text":"hi","client_id":"{"x" * 65}"}}'), "data.client_id"),
    (send('{"text":"hi","client_id":"a\\u0000"}'), "data.client_id"),
    (send('{"text":"hi","client_id":"\\ud800"}'), "data.client_id"),
    # marks
    (mark("{}"), "data.message_id"),
    (read("{}"), "data.message_id"),
    (mark('{"message_id":null}'), "data.message_id"),
    (mark('{"message_id":"7"}'), "data.message_id"),
    (mark('{"message_id":true}'), "data.message_id"),
    (read('{"message_id":7.0}'), "data.message_id"),
    (read('{"message_id":7e0}'), "data.message_id"),
    (read('{"message_id":[7]}'), "data.message_id"),
    (mark('{"message_id":9007199254740993}'), "data.message_id"),
    (mark('{"message_id":-9007199254740993}'), "data.message_id"),
    (read('{"message_id":18446744073709551616}'), "data.message_id"),
    (read(f'{{"message_id":{"9" * 10_000}}}'), "data.message_id"),
    (read('{"message_id":1e999}'), "data.message_id"),
    # typing
    (typing("{}"), "data.text"),
    (typing('{"text":"hi"}'), "data.stopped"),
    (typing('{"stopped":true}'), "data.text"),
    (typing('{"text":"hi","stopped":null}'), "data.stopped"),
    (typing('{"text":"hi","stopped":0}'), "data.stopped"),
    (typing('{"text":"hi","stopped":"true"}'), "data.stopped"),
    (typing('{"text":0,"stopped":true}'), "data.text"),
    (typing('{"text":"\\u0000","stopped":true}'), "data.text"),
]


@pytest.mark.parametrize(("frame", "path"), MALFORMED)
def test_a_wrong_frame_is_malformed_with_its_path(frame: str, path: str) -> None:
    for payload in (frame, frame.encode()):
        with pytest.raises(Malformed) as caught:
            decode_command(payload)
        error = caught.value
        assert (error.code, error.path) == ("malformed", path)
        assert not isinstance(error, NotUtf8)
        assert error.faults[0].detail in error.detail


@pytest.mark.parametrize("payload", NOT_UTF8)
def test_invalid_utf8_anywhere_is_not_text(payload: bytes) -> None:
    with pytest.raises(NotUtf8) as caught:
        decode_command(payload)
    assert caught.value.path == ""


def test_a_text_with_a_raw_surrogate_is_malformed() -> None:
    with pytest.raises(Malformed) as caught:
        decode_command(send('{"text":"\ud800"}'))
    assert caught.value.path == "data.text"


def test_a_frame_full_of_faults_reports_a_bounded_number() -> None:
    with pytest.raises(Malformed) as caught:
        decode_command(send(f'{{"text":5,"attachments":[{",".join("0" * 30_000)}]}}'))
    assert len(caught.value.faults) == 32
    assert len(caught.value.detail) < 4_000
