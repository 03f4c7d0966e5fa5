"""Every wrong frame gets the answer of the contract, and the server goes on.

All tests of this module talk to one server of each transport, which must not have failed anywhere when they are done.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import UUID

import attrs
import pytest
import trio

from actorchat.protocol import (
    CloseCode,
    ErrorEvent,
    Event,
    MarkMessageRead,
    MessageAdded,
    MessageNotAdded,
    Profile,
    Role,
    SendMessage,
    UserConnected,
)
from actorchat.testing import RawPeer
from actorchat.testing._raw_peer import frame_of
from tests.system.clients import Socket, connect, open_http, open_socket
from tests.system.server_process import TRANSPORTS, ServerProcess, server_process, token
from tests.system.wrong_frames import CUT, WRONG, Expected, Wrong, frame, sending

CAP = 20.0
VISITOR, OTHER_VISITOR, OPERATOR = token(Role.USER, 100), token(Role.USER, 101), token(Role.OPERATOR, 1)
NOWHERE = UUID(int=7)
PROBE = "and a normal message"
NOT_JSON = frame("nonsense")
BOTH_PROFILES = pytest.mark.parametrize("profile", Profile, ids=lambda profile: profile.name.lower())


@attrs.frozen
class Scene:
    """A chat, messages that its visitor can't mark, and another visitor's chat."""

    server: ServerProcess
    chat: UUID
    other_chat: UUID
    unmarkable: dict[str, int]

    @asynccontextmanager
    async def room(self, profile: Profile = Profile.EXTENDED) -> AsyncIterator[Socket]:
        with trio.fail_after(CAP):
            async with open_socket(self.server.port, f"/ws/chats/{self.chat}", VISITOR, profile) as socket:
                yield socket

    @asynccontextmanager
    async def feed(self, profile: Profile) -> AsyncIterator[Socket]:
        with trio.fail_after(CAP):
            async with open_socket(self.server.port, "/ws/operators", OPERATOR, profile) as socket:
                yield socket

    async def serves(self) -> None:
        """Check that a normal message still works."""
        async with self.room() as socket:
            await answers_before_a_message(socket)


@pytest.fixture(scope="module", params=TRANSPORTS)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with server_process(tmp_path_factory.mktemp("wrong") / "data", request.param) as server:
        yield trio.run(_prepare, server)
        assert server.stop() == 0
        assert "Traceback" not in server.log


async def _prepare(server: ServerProcess) -> Scene:
    async with open_http(server.url) as http:
        chat, other = await http.reserve(VISITOR), await http.reserve(OTHER_VISITOR)
        own = await http.post(VISITOR, chat, text="mine")
        foreign = await http.post(OTHER_VISITOR, other, text="somebody else's")
        system = await http.post(OPERATOR, chat, text="for visitors", type="system", type_role="user")
        note = await http.post(OPERATOR, chat, text="for operators", type="system", type_role="operator")
        ids = {"unknown": 2**40, "foreign": foreign.id, "note": note.id, "own": own.id, "system": system.id}
        return Scene(server, chat, other, ids)


async def answers_before_a_message(socket: Socket) -> list[Event]:
    """Send a normal message, and return the events before it."""
    await socket.send(SendMessage(PROBE))
    return [event for event in (await socket.until_message(PROBE))[:-1] if not isinstance(event, UserConnected)]


async def last_words(socket: Socket) -> list[Event]:
    """The events until the socket ends."""
    events: list[Event] = []
    while True:
        try:
            events.append(await socket.next())
        except trio.EndOfChannel:
            return [event for event in events if not isinstance(event, UserConnected)]


def check(answers: list[Event], expected: Expected) -> None:
    """Check that the only answer, if any, is the expected one."""
    match answers:
        case []:
            assert expected in (Expected(), Expected(closed=expected.closed))
        case [ErrorEvent(code=code)]:
            assert expected == Expected(error=code)
        case [MessageNotAdded(code=code)]:
            assert expected == Expected(refused=code)
        case [MessageAdded()]:
            assert expected.added
        case _:
            raise AssertionError(answers)


@BOTH_PROFILES
@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
async def test_a_wrong_frame_gets_what_the_contract_says(scene: Scene, wrong: Wrong, profile: Profile) -> None:
    expected = wrong.extended if profile is Profile.EXTENDED else wrong.strict
    async with scene.room(profile) as socket:
        await socket.peer.stream.send_all(wrong.data)
        if expected.closed is None:
            check(await answers_before_a_message(socket), expected)
        else:
            check(await last_words(socket), expected)
            assert socket.peer.close_code == expected.closed
            assert socket.peer.after_close == 0
            await scene.serves()


def test_the_table_of_wrong_frames_is_long_enough_and_has_unique_names() -> None:
    assert len({wrong.name for wrong in WRONG}) == len(WRONG) >= 60


@BOTH_PROFILES
@pytest.mark.parametrize("which", ["unknown", "foreign", "note", "own", "system"])
async def test_a_mark_of_an_unmarkable_message_changes_nothing(scene: Scene, which: str, profile: Profile) -> None:
    async with scene.room(profile) as socket:
        await socket.send(MarkMessageRead(scene.unmarkable[which]))
        answers = await answers_before_a_message(socket)
    assert [type(answer) for answer in answers] == ([ErrorEvent] if profile is Profile.EXTENDED else [])


async def test_a_foreign_message_is_answered_just_as_one_that_does_not_exist(scene: Scene) -> None:
    answers = []
    async with scene.room() as socket:
        for which in ("unknown", "foreign", "note"):
            await socket.send(MarkMessageRead(scene.unmarkable[which]))
            answers += await answers_before_a_message(socket)
    assert len(answers) == 3
    assert len(set(answers)) == 1


@pytest.mark.parametrize("cut", CUT)
@pytest.mark.parametrize("politely", [True, False], ids=["half-closed", "reset"])
async def test_a_client_that_leaves_within_a_frame_affects_no_other(scene: Scene, cut: str, politely: bool) -> None:
    async with scene.room() as socket:
        await socket.next()
        await socket.peer.stream.send_all(CUT[cut])
        if politely:
            await socket.peer.half_close()
            assert await socket.gone() == 1006
    await scene.serves()


STREAKS = {
    "no JSON": [NOT_JSON] * 3,
    "binary": [frame_of(0x2, b"x")] * 3,
    "messages": [frame(sending(attachments=1))] * 3,
    "marks": [frame('{"type":"mark_message_read","data":{}}')] * 3,
    "of all kinds": [NOT_JSON, frame_of(0x2, b""), frame(sending(attachments={}))],
}


@BOTH_PROFILES
@pytest.mark.parametrize("streak", STREAKS)
async def test_the_third_malformed_frame_in_a_row_closes_the_socket(
    scene: Scene, streak: str, profile: Profile
) -> None:
    async with scene.room(profile) as socket:
        for data in STREAKS[streak]:
            await socket.peer.stream.send_all(data)
        answers = await last_words(socket)
        assert socket.peer.close_code == CloseCode.MALFORMED
    if profile is Profile.EXTENDED or streak == "messages":
        assert len(answers) == 3
    await scene.serves()


@BOTH_PROFILES
async def test_malformed_typing_never_closes_the_socket(scene: Scene, profile: Profile) -> None:
    async with scene.room(profile) as socket:
        await socket.peer.stream.send_all(frame('{"type":"update_typing","data":{"text":null}}') * 9)
        answers = await answers_before_a_message(socket)
    errors = [answer.code for answer in answers if isinstance(answer, ErrorEvent)]
    assert errors == (["malformed"] * 9 if profile is Profile.EXTENDED else [])


@BOTH_PROFILES
async def test_a_valid_frame_resets_the_count_of_malformed_ones(scene: Scene, profile: Profile) -> None:
    async with scene.room(profile) as socket:
        for _ in range(3):
            await socket.peer.stream.send_all(NOT_JSON * 2)
            await answers_before_a_message(socket)
        await socket.peer.stream.send_all(NOT_JSON * 3)
        assert await socket.gone() == CloseCode.MALFORMED


@BOTH_PROFILES
@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (sending(), "unknown_type"),
        ('{"type":"update_typing","data":{"text":"a","stopped":false}}', "unknown_type"),
        ('{"type":"dance","data":{}}', "unknown_type"),
        ("nonsense", "malformed"),
        ('{"type":"mark_message_read","data":{}}', "malformed"),
    ],
    ids=["send", "typing", "unknown", "no-json", "bad-mark"],
)
async def test_the_feed_takes_no_commands(scene: Scene, payload: str, code: str, profile: Profile) -> None:
    async with scene.feed(profile) as feed:
        # From the first event of the snapshot on, no live event is missed.
        answers: list[Event] = [await feed.next()]
        await feed.peer.stream.send_all(frame(payload))
        while profile is Profile.EXTENDED and not any(isinstance(event, ErrorEvent) for event in answers):
            answers.append(await feed.next())
        await scene.serves()
        answers += await feed.until_message(PROBE)
    told = [event for event in answers if isinstance(event, ErrorEvent | MessageNotAdded)]
    assert [event.code for event in told] == ([code] if profile is Profile.EXTENDED else [])


@BOTH_PROFILES
async def test_the_third_malformed_frame_in_a_row_closes_a_feed(scene: Scene, profile: Profile) -> None:
    async with scene.feed(profile) as feed:
        await feed.peer.stream.send_all(NOT_JSON * 3)
        assert await feed.gone() == CloseCode.MALFORMED
    await scene.serves()


KEY = base64.b64encode(bytes(16)).decode()
UPGRADE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Authorization": f"Bearer {VISITOR}",
}
ROOM = "GET /ws/chats/{chat} HTTP/1.1"


@attrs.frozen
class BadRequest:
    """The difference from a right upgrade request: its first line, headers (None: left out), or all of it."""

    status: int
    line: str = ROOM
    headers: dict[str, str | None] = attrs.Factory(dict)
    raw: bytes | None = None

    def data(self, scene: Scene) -> bytes:
        if self.raw is not None:
            return self.raw
        line = self.line.format(chat=scene.chat, other=scene.other_chat)
        headers = [f"{name}: {value}" for name, value in {**UPGRADE, **self.headers}.items() if value is not None]
        return "\r\n".join([line, *headers, "", ""]).encode()


BAD_REQUESTS = {
    "no key": BadRequest(400, headers={"Sec-WebSocket-Key": None}),
    "a key that is no base64": BadRequest(400, headers={"Sec-WebSocket-Key": "!" * 24}),
    "a key too short": BadRequest(400, headers={"Sec-WebSocket-Key": base64.b64encode(bytes(15)).decode()}),
    "a key too long": BadRequest(400, headers={"Sec-WebSocket-Key": base64.b64encode(bytes(17)).decode()}),
    "no version": BadRequest(426, headers={"Sec-WebSocket-Version": None}),
    "an old version": BadRequest(426, headers={"Sec-WebSocket-Version": "8"}),
    "POST": BadRequest(400, "POST /ws/chats/{chat} HTTP/1.1"),
    "HTTP/1.0": BadRequest(400, "GET /ws/chats/{chat} HTTP/1.0"),
    "a version to come": BadRequest(400, "GET /ws/chats/{chat} HTTP/2.0"),
    "no version of HTTP": BadRequest(400, "GET /ws/chats/{chat}"),
    "no Host": BadRequest(400, headers={"Host": None}),
    "two Hosts": BadRequest(400, headers={"Host": "a\r\nHost: b"}),
    "no Connection": BadRequest(400, headers={"Connection": None}),
    "no Upgrade": BadRequest(426, headers={"Upgrade": None}),
    "a huge header": BadRequest(431, headers={"X-Large": "x" * 20_000}),
    "a huge path": BadRequest(431, f"GET /{'x' * 20_000} HTTP/1.1"),
    "many headers": BadRequest(431, headers={f"X-{number}": "x" * 100 for number in range(200)}),
    "a NUL in a header": BadRequest(400, headers={"X-Odd": "a\0b"}),
    "a path with a blank": BadRequest(400, "GET /ws/ chats HTTP/1.1"),
    "no HTTP": BadRequest(400, raw=b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "frames at once": BadRequest(400, raw=frame(sending()) + b"\r\n\r\n"),
    "no token": BadRequest(401, headers={"Authorization": None}),
    "a bad token": BadRequest(401, headers={"Authorization": "Bearer x.y.z"}),
    "another scheme": BadRequest(401, headers={"Authorization": "Basic eDp5"}),
    "a foreign page": BadRequest(403, headers={"Origin": "http://elsewhere.example"}),
    "somebody else's chat": BadRequest(403, "GET /ws/chats/{other} HTTP/1.1"),
    "a visitor on the feed": BadRequest(403, "GET /ws/operators HTTP/1.1"),
    "no such chat": BadRequest(404, f"GET /ws/chats/{NOWHERE} HTTP/1.1"),
    "no uuid": BadRequest(404, "GET /ws/chats/%00 HTTP/1.1"),
    "no such path": BadRequest(404, "GET /ws HTTP/1.1"),
    "after: no number": BadRequest(400, "GET /ws/chats/{chat}?after=abc HTTP/1.1"),
    "after: too small": BadRequest(400, "GET /ws/chats/{chat}?after=-2 HTTP/1.1"),
    "after: twice": BadRequest(400, "GET /ws/chats/{chat}?after=1&after=2 HTTP/1.1"),
    "too many fields": BadRequest(400, f"GET /ws/chats/{{chat}}?{'a=1&' * 2000} HTTP/1.1"),
}


async def status_of(stream: trio.SocketStream) -> int:
    """Read the whole answer and return its status."""
    answer = b""
    while data := await stream.receive_some():
        answer += data
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("bad", BAD_REQUESTS)
async def test_a_bad_request_for_a_socket_is_refused_before_any_data(scene: Scene, bad: str) -> None:
    with trio.fail_after(CAP):
        async with await connect(scene.server.port) as stream:
            await stream.send_all(BAD_REQUESTS[bad].data(scene))
            if BAD_REQUESTS[bad].status == 426:
                # Without an upgrade it is a plain HTTP request, and the connection stays open.
                await stream.send_eof()
            assert await status_of(stream) == BAD_REQUESTS[bad].status
    await scene.serves()


async def test_half_a_request_head_is_refused_at_its_end_and_delays_no_other(scene: Scene) -> None:
    with trio.fail_after(CAP):
        async with await connect(scene.server.port) as stream:
            await stream.send_all(BadRequest(101).data(scene)[:60])
            await scene.serves()
            await stream.send_eof()
            assert await status_of(stream) == 400


@pytest.mark.parametrize(
    ("path", "token", "code"),
    [
        ("/ws/chats/{chat}", "x.y.z", CloseCode.NOT_AUTHENTICATED),
        ("/ws/chats/{other}", VISITOR, CloseCode.NOT_ALLOWED),
        ("/ws/operators", VISITOR, CloseCode.NOT_ALLOWED),
        (f"/ws/chats/{NOWHERE}", VISITOR, CloseCode.NO_SUCH_CHAT),
    ],
    ids=["token", "chat", "feed", "unknown"],
)
async def test_a_browser_gets_the_refusal_as_a_close(scene: Scene, path: str, token: str, code: CloseCode) -> None:
    target = path.format(chat=scene.chat, other=scene.other_chat)
    with trio.fail_after(CAP):
        async with open_socket(scene.server.port, target, token) as socket:
            assert await last_words(socket) == []
            assert socket.peer.close_code == code
    await scene.serves()


async def test_a_frame_in_the_same_packet_as_the_request_is_read(scene: Scene) -> None:
    with trio.fail_after(CAP):
        async with await connect(scene.server.port) as stream:
            peer = RawPeer(stream)
            await peer.handshake(
                f"/ws/chats/{scene.chat}", (f"bearer.{VISITOR}", Profile.EXTENDED.value), frame(sending(PROBE))
            )
            await Socket(peer).until_message(PROBE)
            await peer.vanish()
