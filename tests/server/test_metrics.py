"""`/metrics` shows what happened, only to its owner, and names no chat or person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actorchat.histogram import Histogram
from actorchat.server.settings import HttpSettings, LimitSettings, MetricsSettings, Settings
from tests.server.server_under_test import SECRET, ApiClient, error_of, operator, run_server

SETTINGS = Settings(storage="memory://", port=0, secret=SECRET, limits=LimitSettings(messages_per_second=0))
TOKEN = "a-token-for-metrics"


async def scrape(api: ApiClient, headers: Mapping[str, str] | None = None) -> dict[str, float]:
    """The samples by name and labels."""
    answer = await api.http.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {
        ",".join([sample.name.removeprefix("actorchat_"), *sample.labels.values()]): sample.value for sample in samples
    }


async def test_messages_sockets_and_requests_are_counted() -> None:
    async with run_server(SETTINGS) as api:
        before = await scrape(api)
        visitor, chat = await api.visit()
        async with api.socket(f"/ws/chats/{chat}", visitor), api.socket("/ws/operators", operator()) as feed:
            await feed.get_message()
            for _ in range(3):
                await api.write(visitor, chat)
            await api.call("GET", "/nowhere")
            found = await scrape(api)
    assert found["messages_stored_total"] - before["messages_stored_total"] == 3
    assert (before["sockets,websocket"], found["sockets,websocket"]) == (0, 2)
    assert (found["rooms"], found["consoles"], found["feed_items_waiting"]) == (1, 1, 0)
    assert found["http_requests_total,POST,/api/chats/{chat:uuid}/messages,201"] == 3
    assert found["http_requests_total,GET,none,404"] == 1
    assert found["http_request_seconds_count,/api/visitors"] == 1
    assert found["journal_batch_size_count"] >= 3
    assert found["journal_commit_seconds_bucket,+Inf"] == found["journal_commit_seconds_count"]
    assert found["journal_batch_size_sum"] == found["journal_operations_total"]
    assert (found["storage_available"], found["draining"], found["outbox_overflows_total"]) == (1, 0, 0)
    assert found["info,0.1.0"] == 1
    assert found["process_open_fds"] > 0


@pytest.mark.slow
async def test_messages_of_a_database_are_counted(tmp_path: Path) -> None:
    async with run_server(attrs.evolve(SETTINGS, storage=None, data=tmp_path)) as api:
        await api.talk()
        assert (await scrape(api))["messages_stored_total"] == 1


async def test_uploads_are_counted() -> None:
    async with run_server(SETTINGS) as api:
        visitor, _ = await api.visit()
        await api.http.post(
            "/api/attachments", headers={"Authorization": f"Bearer {visitor}"}, files={"file": ("a.txt", b"1234")}
        )
        found = await scrape(api)
    assert (found["uploads_total"], found["upload_bytes_total"], found["uploads_in_progress"]) == (1, 4, 0)


async def test_brokers_are_shown_with_their_lag() -> None:
    async with run_server(attrs.evolve(SETTINGS, broker=("memory://",))) as api:
        await api.talk()
        found = await scrape(api)
    assert found["broker_available,memory://"] == 1
    assert found["broker_lag_seconds,memory://"] < 60


async def test_no_chat_and_no_person_is_named() -> None:
    async with run_server(SETTINGS) as api:
        visitor, chat = await api.talk()
        await api.call("GET", f"/api/chats/{chat}/messages", visitor)
        await api.call("GET", f"/ws/chats/{chat}", visitor)
        await api.call("BREW", f"/{chat}", visitor)
        user = (await api.call("GET", f"/api/chats/{chat}", visitor)).json()["owner_user"]["id"]
        text = (await api.http.get("/metrics")).text
    assert str(chat) not in text
    assert str(user) not in text
    assert "BREW" not in text


async def test_two_servers_in_one_process_count_for_themselves() -> None:
    async with run_server(SETTINGS) as one, run_server(SETTINGS) as two:
        await one.talk()
        assert (await scrape(one))["messages_stored_total"] == 1
        assert (await scrape(two))["messages_stored_total"] == 0


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"])
async def test_a_request_through_an_unknown_proxy_is_refused(header: str) -> None:
    async with run_server(SETTINGS) as api:
        answer = await api.http.get("/metrics", headers={header: "127.0.0.1"})
        assert error_of(answer)[:2] == (403, "not_allowed")


async def test_behind_a_trusted_proxy_the_clients_address_decides() -> None:
    settings = attrs.evolve(SETTINGS, http=HttpSettings(trusted_proxies=("127.0.0.1",)))
    async with run_server(settings) as api:
        assert (await api.http.get("/metrics", headers={"X-Forwarded-For": "9.9.9.9"})).status_code == 403
        allowed = MetricsSettings(networks=("9.9.0.0/16",))
    async with run_server(attrs.evolve(settings, metrics=allowed)) as api:
        assert (await api.http.get("/metrics", headers={"X-Forwarded-For": "9.9.9.9"})).status_code == 200
        assert (await api.http.get("/metrics")).status_code == 403


async def test_the_token_opens_metrics_to_everybody_who_has_it() -> None:
    async with run_server(attrs.evolve(SETTINGS, metrics=MetricsSettings(networks=(), token=TOKEN))) as api:
        assert error_of(await api.http.get("/metrics"))[:2] == (403, "not_allowed")
        for wrong in ("another", operator(), "ключ".encode().decode("latin-1")):
            answer = await api.http.get("/metrics", headers={b"Authorization": f"Bearer {wrong}".encode("latin-1")})
            assert error_of(answer)[:2] == (401, "not_authenticated")
        assert (await scrape(api, {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "9.9.9.9"}))["draining"] == 0


async def test_openmetrics_is_negotiated() -> None:
    async with run_server(SETTINGS) as api:
        answer: httpx.Response = await api.http.get("/metrics", headers={"Accept": "application/openmetrics-text"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


def test_a_histogram_counts_values_up_to_each_bound() -> None:
    histogram = Histogram((1, 5))
    for value in (0.5, 1, 3, 7, 5):
        histogram.observe(value)
    taken = histogram.snapshot()
    assert list(taken.buckets) == [(1, 2), (5, 4), (float("inf"), 5)]
    assert (taken.count, taken.total) == (5, 16.5)
