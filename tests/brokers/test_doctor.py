"""`actorchat doctor` asks each broker."""

from __future__ import annotations

from actorchat.server.diagnosis import Finding, Verdict, diagnose
from actorchat.server.settings import Settings
from tests.brokers.servers import Valkey


async def test_a_broker_that_answers_is_fine(valkey: Valkey) -> None:
    settings = Settings(storage="memory://", port=None, broker=(valkey.url,))
    findings = [finding async for finding in diagnose(settings)]
    assert Finding(Verdict.OK, f"broker redis://127.0.0.1:{valkey.port}", "takes messages") in findings
