"""The HTTP clients of the benchmark are open before it measures, and fail it if they can't do what they should."""

from __future__ import annotations

import time

import attrs
import pytest
import trio

from actorchat import AccountSettings, Settings, open_server
from bench.http_clients import HttpClients, http_clients

UNLIMITED = Settings(
    storage="memory://",
    port=0,
    accounts=AccountSettings(attempts_per_minute=0, address_attempts_per_minute=0),
)


def counted(port: int) -> HttpClients:
    """What clients of each kind have counted when the block begins."""
    with http_clients(port, idle=3, slow=2, logins=2) as clients:
        return attrs.evolve(clients)


async def test_all_kinds_of_clients_are_there_until_the_block_ends() -> None:
    async with open_server(UNLIMITED) as server:
        clients = await trio.to_thread.run_sync(counted, server.port)
        with trio.fail_after(60):
            while server.statistics().http_connections:  # noqa: ASYNC110 - the server has no event for it
                await trio.sleep(0.01)
    assert (clients.idle, clients.slow, clients.refused) == (3, 2, 0)
    assert clients.checked >= 1


async def test_an_answer_that_is_not_expected_fails_the_measurement() -> None:
    limited = attrs.evolve(UNLIMITED, accounts=AccountSettings(address_attempts_per_minute=1))
    async with open_server(limited) as server:

        def sign_in() -> None:
            with http_clients(server.port, logins=2) as clients:
                while clients.failure is None:
                    time.sleep(0.01)

        with pytest.raises(RuntimeError, match="a sign-in was answered with 429"):
            await trio.to_thread.run_sync(sign_in)
