"""Both websocket transports pass the cases of `rfc6455_cases`."""

from __future__ import annotations

import attrs
import pytest
import trio

from actorchat.chat.ports import Session
from actorchat.protocol import Command, Frames, Malformed, SendMessage, UnknownType
from actorchat.testing import RawPeer, RecordingApplication, admission_of
from actorchat.testing._transport_harness import until
from actorchat.transports.ports import Admission, Limits, Receiver
from tests.transports.dialers import OPENERS, open_sockets
from tests.transports.rfc6455_cases import ANSWER, CASES, CLOSE, FINE, MALFORMED, Case


@attrs.frozen
class _Echo:
    session: Session

    def receive(self, command: Command | UnknownType) -> bool | None:
        assert isinstance(command, SendMessage)
        self.session.push(Frames.of([command.text.encode()]))
        return None

    def malformed(self, fault: Malformed) -> None:
        self.session.push(Frames.of([MALFORMED[1]]))

    def leave(self) -> None:
        return None


class EchoApplication(RecordingApplication):
    """Echoes every text, and answers everything else with an error."""

    async def join(self, session: Session, admission: Admission) -> Receiver:
        await super().join(session, admission)
        return _Echo(session)


async def send(peer: RawPeer, case: Case) -> None:
    try:
        for piece in case.pieces():
            if piece == ANSWER:
                await peer.receive_frame()
            else:
                await peer.stream.send_all(piece)
        if case.code == FINE:
            await peer.close(FINE)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        assert case.code != FINE, "only a refused client may lose its connection"


@pytest.mark.parametrize("transport", OPENERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.number)
async def test_case(case: Case, transport: str) -> None:
    application = EchoApplication()
    limits = Limits(malformed_in_a_row=10_000, outbox_bytes=16_777_216)
    with trio.fail_after(20):
        async with (
            open_sockets(application, limits, trio.current_time, transport=transport, small_buffers=False) as dialer,
            dialer.dial(admission_of(1)) as peer,
        ):
            await until(lambda: bool(application.sessions), "the peer joins")
            async with trio.open_nursery() as nursery:
                if case.number.endswith("at once"):
                    # Read while sending, because the server stops reading from a peer that does not read answers.
                    nursery.start_soon(send, peer, case)
                else:
                    await send(peer, case)
                await peer.read_to_end()
    answers = tuple((opcode, payload) for opcode, payload in peer.frames if opcode != CLOSE)
    assert answers == case.answers
    assert (peer.close_code, peer.after_close) == (case.code, 0)


def test_every_case_has_a_number_of_its_own() -> None:
    assert len({case.number for case in CASES}) == len(CASES)
