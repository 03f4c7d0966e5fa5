"""Collects the numbers of a server that administrators see in the console."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from math import isinf

from actorchat.http.answers import BrokerNumbers, CountUpTo, ServerNumbers
from actorchat.server.metrics import Sources

__all__ = ["server_numbers"]


def server_numbers(sources: Sources, clock: Callable[[], float]) -> ServerNumbers:
    """Return the numbers of this moment. `clock` returns epoch seconds."""
    journal, chats, system = sources.journal(), sources.chats(), sources.system
    return ServerNumbers(
        time=round(clock(), 3),
        version=version("actorchat"),
        draining=sources.draining(),
        storage_available=not journal.away and sources.storage_readable(),
        sockets=sources.sockets() + sources.memory_sockets(),
        http_connections=sources.http_connections(),
        rooms=chats.rooms,
        consoles=chats.consoles,
        feed_items_waiting=chats.feed_items,
        operations_waiting=chats.operations_in_flight,
        messages_stored=sources.messages(),
        commit_seconds=[
            CountUpTo(None if isinf(limit) else limit, count) for limit, count in journal.commit_seconds.buckets
        ],
        slow_sockets=sources.slow_sockets(),
        actor_restarts=system.restarts,
        actors_given_up=system.given_up,
        dead_letters=sum(system.dead_letters.counts.values()),
        brokers=[BrokerNumbers(each.broker, each.problem is None, round(each.behind, 1)) for each in sources.brokers()],
    )
