"""Both websocket transports pass the Autobahn test suite, cases 1 to 7, 9 and 10.

The suite needs Python 2.7: `python2.7 -m pip install autobahntestsuite`, then `WSTEST=…/bin/wstest pytest -m autobahn`.
`test_rfc6455` runs the same cases without it. The suite expects every message back, so these transports echo instead of
decoding commands, and it sends up to 16 MiB, so the message limit is 16 MiB here; `test_rfc6455` checks the real
limits. Cases 12 and 13 are about compression, which the transports do not support.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio
from trio_websocket import WebSocketConnection
from wsproto.connection import Connection
from wsproto.events import BytesMessage, TextMessage

from actorchat.chat.ports import Session
from actorchat.protocol import Command, Fault, Frames, Malformed, NotUtf8, Profile, SendMessage, UnknownType
from actorchat.testing import RecordingApplication, admission_of
from actorchat.transports import session, websocket
from actorchat.transports.ports import Admission, Limits, Receiver
from actorchat.transports.reactor import connection
from actorchat.transports.reactor.frames import FrameReader
from actorchat.transports.request_head import RequestHead
from actorchat.transports.session import SocketSession
from tests.transports.dialers import OPENERS, SocketDialer, open_sockets

CASES: Final = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
COUNT: Final = 301
LIMITS: Final = Limits(frame_bytes=2**24, outbox_bytes=2**26, malformed_in_a_row=10**6)
CAP: Final = 1_800.0
_BINARY: Final = 0x82

PASSED: Final = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""NON-STRICT is the suite's result for a valid answer that it does not prefer."""


class EchoSession(SocketSession):
    """A session that keeps the content of binary messages, to echo it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.binary = bytearray()

    def received_binary(self) -> bool:
        frame = bytearray(Frames.of([bytes(self.binary)]).data)
        self.binary.clear()
        frame[0] = _BINARY
        self.push(Frames(bytes(frame), (len(frame),)))
        return True


class EchoReader(FrameReader):
    """The reactor's reader, which passes on the content of binary messages."""

    def _part(self, protocol: Connection, event: TextMessage | BytesMessage) -> None:
        if isinstance(event, BytesMessage):
            assert isinstance(self._sink, EchoSession)
            self._sink.binary += event.data
        super()._part(protocol, event)


@attrs.frozen
class EchoWebsocket:
    """A trio-websocket connection that passes on the content of binary messages."""

    websocket: WebSocketConnection
    session: EchoSession

    async def get_message(self) -> bytes | str:
        message: bytes | str = await self.websocket.get_message()
        if isinstance(message, bytes):
            self.session.binary += message
        return message


def echoing(read: Callable[[Any, Any], Awaitable[None]]) -> Callable[[Any, Any], Awaitable[None]]:
    async def read_and_hand_over(websocket: WebSocketConnection, session: EchoSession) -> None:
        await read(EchoWebsocket(websocket, session), session)

    return read_and_hand_over


def every_text_is_a_command(payload: bytes | str, profile: Profile) -> SendMessage:
    try:
        return SendMessage(payload if isinstance(payload, str) else payload.decode())
    except UnicodeDecodeError:
        raise NotUtf8((Fault("", "not UTF-8"),)) from None


@attrs.frozen
class Echo:
    session: Session

    def receive(self, command: Command | UnknownType) -> bool | None:
        assert isinstance(command, SendMessage)
        self.session.push(Frames.of([command.text.encode()]))
        return None

    def malformed(self, fault: Malformed) -> None:
        raise AssertionError(fault)

    def leave(self) -> None:
        return None


class EchoApplication(RecordingApplication):
    async def join(self, session: Session, admission: Admission) -> Receiver:
        await trio.lowlevel.checkpoint()
        return Echo(session)


@pytest.fixture
def echoes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "decode_command", every_text_is_a_command)
    monkeypatch.setattr(connection, "SocketSession", EchoSession)
    monkeypatch.setattr(connection, "FrameReader", EchoReader)
    monkeypatch.setattr(websocket, "SocketSession", EchoSession)
    monkeypatch.setattr(websocket, "_read", echoing(websocket._read))


async def admit(self: SocketDialer, head: RequestHead, peer: str) -> Admission:
    return admission_of(1)


async def ask(command: str, port: int, folder: Path) -> dict[str, dict[str, str]]:
    """Run the suite's client. Returns its results by case number."""
    spec = {
        "outdir": str(folder),
        "servers": [{"agent": "actorchat", "url": f"ws://127.0.0.1:{port}"}],
        "cases": CASES,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    await trio.run_process(
        [command, "--mode", "fuzzingclient", "--spec", str(folder / "spec.json")],
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    found: dict[str, dict[str, str]] = json.loads((folder / "index.json").read_text())["actorchat"]
    return found


@pytest.mark.autobahn
@pytest.mark.usefixtures("echoes")
@pytest.mark.parametrize("transport", OPENERS)
async def test_autobahns_fuzzing_client_finds_nothing_wrong(
    transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SocketDialer, "authorize", admit)
    with trio.fail_after(CAP):
        async with open_sockets(
            EchoApplication(), LIMITS, trio.current_time, transport=transport, small_buffers=False
        ) as dialer:
            found = await ask(os.environ.get("WSTEST", "wstest"), dialer.listener.port, tmp_path)
    wrong = {
        number: (case["behavior"], case["behaviorClose"])
        for number, case in found.items()
        if not PASSED.issuperset((case["behavior"], case["behaviorClose"]))
    }
    assert not wrong
    assert len(found) == COUNT
    assert not [record for record in caplog.records if record.exc_info]
