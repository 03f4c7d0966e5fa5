"""Presents the statistics of a server in the format of Prometheus.

Everything is collected when it is asked for, from counters that the parts of the server keep anyway. No metric names a
chat or a person.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator
from importlib.metadata import version
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Final

import attrs
from starlette.requests import Request
from starlette.responses import Response

from actorchat.actors import ActorSystem
from actorchat.brokers import RelayStatistics
from actorchat.chat.service import ChatStatistics
from actorchat.histogram import HistogramSnapshot
from actorchat.http.problems import Problem
from actorchat.http.proxies import FORWARDED
from actorchat.http.request_counts import RequestCounts
from actorchat.http.unix_user import UNIX_USER
from actorchat.server.attachments import UploadStatistics
from actorchat.server.settings import MetricsSettings
from actorchat.storage import JournalStatistics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["Metrics", "Sources"]

_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers that show that a proxy has passed the request on."""

_LOOPBACK: Final = ip_address("127.0.0.1")
"""The address of the server's user at a Unix socket."""


@attrs.frozen(kw_only=True)
class Sources:
    """Where metrics come from. The functions are called for each scrape."""

    system: ActorSystem
    requests: RequestCounts
    journal: Callable[[], JournalStatistics]
    chats: Callable[[], ChatStatistics]
    uploads: Callable[[], UploadStatistics]
    brokers: Callable[[], tuple[RelayStatistics, ...]]
    messages: Callable[[], int]
    losses: Callable[[], int]
    sockets: Callable[[], int]
    memory_sockets: Callable[[], int]
    slow_sockets: Callable[[], int]
    http_connections: Callable[[], int]
    draining: Callable[[], bool]
    storage_readable: Callable[[], bool]


def _address(request: Request) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(request.client.host if request.client else "")
    except ValueError:
        return None


class Metrics:
    """Answers `GET /metrics` for those whom the settings allow it."""

    def __init__(self, settings: MetricsSettings, sources: Sources) -> None:
        self._networks = tuple(map(ip_network, settings.networks))
        self._token = settings.token
        self._sources = sources
        self._registry: CollectorRegistry | None = None

    async def answer(self, request: Request) -> Response:
        """Return the metrics in the format that the request accepts. Raises Problem 401 or 403."""
        self._check(request)
        # Imported at the first scrape, because most servers of tests and development are never asked.
        from prometheus_client.exposition import choose_encoder

        if self._registry is None:
            self._registry = self._make_registry()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    def _check(self, request: Request) -> None:
        authorization = request.headers.get("authorization", "")
        if authorization.lower().startswith("bearer "):
            given = authorization.partition(" ")[2].strip()
            if self._token is None or not hmac.compare_digest(given.encode(), self._token.encode()):
                raise Problem("not_authenticated", "the token is not that of the setting metrics.token")
            return
        forwarded = FORWARDED in request.scope
        if any(name in request.headers for name in _FORWARDED) and not forwarded:
            raise Problem("not_allowed", "metrics are not shown through a proxy; use the setting metrics.token")
        state = request.scope.get("state", {})
        if UNIX_USER in state and not forwarded:
            # Another user may be a proxy that adds no headers. So may be this one, if both run as root.
            client = _LOOPBACK if state[UNIX_USER] == os.geteuid() else None
        else:
            client = _address(request)
            if UNIX_USER in state and client is not None and client.is_loopback:
                # A proxy that passes on what strangers claim; nobody has named it as a trusted one.
                client = None
        if client is None or not any(client in network for network in self._networks):
            raise Problem(
                "not_allowed",
                "metrics are shown to the addresses of metrics.networks, to the server's user through its Unix socket,"
                " or with a token",
            )

    def _make_registry(self) -> CollectorRegistry:
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. The registry of `prometheus_client` calls this for each scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        def gauge(name: str, text: str, value: float) -> Metric:
            return GaugeMetricFamily(f"actorchat_{name}", text, value)

        def counter(name: str, text: str, value: float) -> Metric:
            return CounterMetricFamily(f"actorchat_{name}", text, value)

        def histogram(name: str, text: str, taken: HistogramSnapshot) -> Metric:
            return HistogramMetricFamily(f"actorchat_{name}", text, _buckets(taken), taken.total)

        sources = self._sources
        info = GaugeMetricFamily("actorchat_info", "The running version.", labels=["version"])
        info.add_metric([version("actorchat")], 1)
        yield info
        yield gauge("draining", "1 while the server stops.", sources.draining())

        sockets = GaugeMetricFamily("actorchat_sockets", "Open sockets of rooms and feeds.", labels=["transport"])
        sockets.add_metric(["websocket"], sources.sockets())
        sockets.add_metric(["memory"], sources.memory_sockets())
        yield sockets
        text = "Sockets that were closed with 1013, because their peers did not read what waited in the outbox."
        yield counter("outbox_overflows", text, sources.slow_sockets())
        yield gauge("http_connections", "Open HTTP connections.", sources.http_connections())

        chats = sources.chats()
        yield gauge(
            "rooms", "Rooms in memory: those in use, and those that were used in the last minutes.", chats.rooms
        )
        yield gauge("consoles", "Feed sockets that are live.", chats.consoles)
        text = "Events of rooms that the feeds have not sent to their consoles yet."
        yield gauge("feed_items_waiting", text, chats.feed_items)
        text = "Operations of sockets and requests that are not decided yet."
        yield gauge("operations_in_flight", text, chats.operations_in_flight)
        yield counter("messages_stored", "Messages that were committed, system messages included.", sources.messages())
        text = "How often the database had an older state than before, and so had lost commits."
        yield counter("storage_losses", text, sources.losses())
        text = "How often a room's sockets were closed, because storage had lost what they had been shown."
        yield counter("rooms_ahead", text, chats.rooms_ahead)

        journal = sources.journal()
        yield counter("journal_operations", "Operations that were given to a commit.", journal.operations)
        text = "Operations that wait for a commit."
        yield gauge("journal_operations_waiting", text, journal.waiting)
        yield histogram("journal_batch_size", "Operations in one commit.", journal.batch_sizes)
        text = "How long a commit took, in seconds."
        yield histogram("journal_commit_seconds", text, journal.commit_seconds)
        text = "1 if storage can be read and written."
        yield gauge("storage_available", text, not journal.away and sources.storage_readable())
        yield counter("storage_outages", "Outages of writing.", journal.outages)
        text = "Commits whose outcome was unknown until storage was back."
        yield counter("storage_commits_in_doubt", text, journal.in_doubt)

        system = sources.system
        yield counter("actor_restarts", "Restarts of actors after crashes.", system.restarts)
        text = "Actors that crashed too often and were not restarted."
        yield counter("actors_given_up", text, system.given_up)
        lost = CounterMetricFamily("actorchat_dead_letters", "Messages that actors lost.", labels=["reason"])
        for reason, count in sorted(system.dead_letters.counts.items(), key=lambda pair: pair[0].value):
            lost.add_metric([reason.value], count)
        yield lost

        uploads = sources.uploads()
        yield gauge("uploads_in_progress", "Files that are being received.", uploads.receiving)
        yield counter("uploads", "Files that were stored.", uploads.stored)
        yield counter("upload_bytes", "Bytes of stored files.", uploads.bytes)

        yield from self._brokers(sources.brokers())
        yield from self._requests(sources.requests)

    def _brokers(self, brokers: tuple[RelayStatistics, ...]) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        text = "Seconds since the oldest commit that the broker has not confirmed, 0 if it has them all."
        behind = GaugeMetricFamily("actorchat_broker_lag_seconds", text, labels=["broker"])
        up = GaugeMetricFamily("actorchat_broker_available", "1 if the broker takes messages.", labels=["broker"])
        text = "Messages that were published, repeats included."
        published = CounterMetricFamily("actorchat_broker_published", text, labels=["broker"])
        outages = CounterMetricFamily("actorchat_broker_outages", "Outages of the broker.", labels=["broker"])
        for each in brokers:
            behind.add_metric([each.broker], each.behind)
            up.add_metric([each.broker], each.problem is None)
            published.add_metric([each.broker], each.published)
            outages.add_metric([each.broker], each.outages)
        yield from (behind, up, published, outages)

    def _requests(self, counts: RequestCounts) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        labels = ["method", "route", "status"]
        requests = CounterMetricFamily("actorchat_http_requests", "HTTP requests that were answered.", labels=labels)
        for (method, route, status), count in sorted(counts.requests.items()):
            requests.add_metric([method, route, str(status)], count)
        text = "How long HTTP requests took, in seconds."
        seconds = HistogramMetricFamily("actorchat_http_request_seconds", text, labels=["route"])
        for route, histogram in sorted(counts.seconds.items()):
            taken = histogram.snapshot()
            seconds.add_metric([route], _buckets(taken), taken.total)
        text = "HTTP requests that are being answered."
        yield from (
            requests,
            seconds,
            GaugeMetricFamily("actorchat_http_requests_in_progress", text, counts.in_progress),
        )


def _buckets(taken: HistogramSnapshot) -> list[tuple[str, float]]:
    return [("+Inf" if bound == float("inf") else str(float(bound)), count) for bound, count in taken.buckets]
