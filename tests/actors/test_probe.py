"""A probe returns messages in order, and names a message that does not come."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actorchat.actors import Cause
from actorchat.testing import Probe
from tests.actors.checked_system import open_system
from tests.actors.counter_actor import Add, Boom, Message


async def test_a_probe_waits_for_a_message_and_names_one_that_does_not_come(autojump_clock: MockClock) -> None:
    probe = Probe[Message]()
    async with open_system() as system:
        ref = system.spawn(lambda: probe)
        for message in (Add(1), Add(2), Boom()):
            ref.tell(message)
        assert await probe.expect(Add) == Add(1)
        with pytest.raises(AssertionError, match="expected a Boom, got Add"):
            await probe.expect(Boom)
        assert await probe.expect(Boom) == Boom()
        with pytest.raises(AssertionError, match="no Add arrived within 3 s"):
            await probe.expect(Add, within=3)
        assert trio.current_time() == 3
        ref.tell(Add(4))
        ref.stop()
        await ref.join()
        assert probe.drain() == [Add(4)]
        assert probe.drain() == []
    assert [end.cause for end in probe.ends] == [Cause.STOPPED]
