"""Spans arrive at a collector. One that is away neither keeps the server from stopping nor fills the log."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio
from opentelemetry.exporter.otlp.proto.http import trace_exporter

from actorchat.server.settings import InvalidSettings, Settings, TelemetrySettings
from actorchat.telemetry import export
from tests.cli.server_process import environment, open_server_process
from tests.server.server_under_test import run_server
from tests.telemetry.collector import open_collector
from tests.telemetry.test_requests import SETTINGS

TIMEOUT = 60.0


@pytest.fixture(autouse=True)
def settings_of_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    # A busy machine may need longer than the server waits.
    monkeypatch.setattr(export, "FLUSH_SECONDS", TIMEOUT)


def sending_to(url: str, **more: object) -> Settings:
    return attrs.evolve(SETTINGS, telemetry=TelemetrySettings(enabled=True, endpoint=url, **more))  # type: ignore[arg-type]


@pytest.mark.slow
async def test_the_spans_of_a_server_arrive_when_it_stops_at_the_latest() -> None:
    async with open_collector() as collector:
        async with run_server(sending_to(f"{collector.url}/", service_name="shop chat")) as api:
            await api.talk()
        assert collector.paths[0] == "/v1/traces"
        assert {"POST /api/visitors", "POST /api/chats/{chat:uuid}/messages", "journal commit"} <= set(collector.spans)
        assert collector.resources[0]["service.name"] == "shop chat"
        assert collector.resources[0]["service.version"] == "0.1.0"


@pytest.mark.slow
async def test_variables_of_opentelemetry_win_over_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{collector.url}/base")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=shop")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "from the environment")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        async with run_server(sending_to("http://127.0.0.1:9")) as api:
            await api.call("GET", "/health/live")
        assert collector.paths[0] == "/base/v1/traces"
        assert collector.headers[0]["x-tenant"] == "shop"
        assert collector.headers[0]["content-encoding"] == "gzip"
        assert collector.resources[0]["service.name"] == "from the environment"
        assert collector.resources[0]["deployment.environment.name"] == "test"


@pytest.mark.parametrize(("sampler", "expected"), [("always_off", []), ("always_on", ["GET /health/live"])])
@pytest.mark.slow
async def test_the_sampler_of_the_environment_decides_what_is_sent(
    sampler: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    async with open_collector() as collector:
        async with run_server(sending_to(collector.url)) as api:
            await api.call("GET", "/health/live")
        assert [name for name in collector.spans if name.startswith("GET")] == expected


async def test_the_variable_that_turns_opentelemetry_off_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with open_collector() as collector:
        async with run_server(sending_to(collector.url)) as api:
            await api.call("GET", "/health/live")
        assert collector.paths == []


@pytest.mark.slow
async def test_another_protocol_than_http_is_ignored_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    async with open_collector() as collector, run_server(sending_to(collector.url)):
        pass
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc is ignored: spans are sent by http/protobuf" in caplog.text


@pytest.mark.slow
async def test_a_collector_that_does_not_answer_does_not_keep_a_server_from_stopping(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FLUSH_SECONDS", 0.1)
    with trio.fail_after(TIMEOUT):
        async with open_collector(deaf=True) as collector:
            async with run_server(sending_to(collector.url)) as api:
                await api.talk()
            await collector.arrived.wait()
    assert "the last spans are lost: the collector didn't take them" in caplog.text


async def test_the_last_spans_are_sent_although_the_server_is_cancelled() -> None:
    async with open_collector() as collector:
        with trio.CancelScope() as scope:
            async with export.open_provider(collector.url, "chat") as provider:
                provider.get_tracer("test").start_span("last").end()
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert collector.spans == ["last"]


@pytest.mark.slow
async def test_ctrl_c_ends_a_server_whose_collector_does_not_answer(tmp_path: Path) -> None:
    async with open_collector(deaf=True) as collector:
        options = ("--port", "0", "--storage", "memory://", "--config", "chat.toml", "--log-format", "json")
        (tmp_path / "chat.toml").write_text(f'[telemetry]\nenabled = true\nendpoint = "{collector.url}"\n')
        async with open_server_process(tmp_path, *options, env={"OTEL_BSP_SCHEDULE_DELAY": "10"}) as server:
            await server.read_log_until("the server listens")
            async with await trio.open_tcp_stream("127.0.0.1", port_of(server.log)) as stream:
                await stream.send_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                await stream.receive_some()
            await collector.arrived.wait()
            assert await server.stop(signal.SIGINT) == 0
            assert "the last spans are lost" in await server.rest_of_stderr()


def port_of(log: str) -> int:
    return int(log.partition("http://127.0.0.1:")[2].partition('"')[0])


@pytest.mark.slow
async def test_a_collector_that_is_away_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FLUSH_SECONDS", 0.1)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    logger = logging.getLogger(trace_exporter.__name__)
    async with open_collector() as collector:
        url = collector.url
    async with run_server(sending_to(url)) as api:
        await api.call("GET", "/health/live")
        while not caplog.text:  # noqa: ASYNC110 - the log has no event
            await trio.sleep(0.01)
        logger.warning("one more attempt")
    assert "one more attempt" not in caplog.text
    logger.warning("of another exporter")
    assert "of another exporter" in caplog.text


@pytest.mark.slow
async def test_a_wrong_variable_of_opentelemetry_fails_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "chat.toml").write_text("[telemetry]\nenabled = true\n")
    options = ("--port", "0", "--storage", "memory://", "--config", "chat.toml")
    async with open_server_process(tmp_path, *options, env={"OTEL_PROPAGATORS": "pigeon"}) as server:
        assert await server.process.wait() == 1
        log = await server.rest_of_stderr()
    assert "telemetry can't be set up: Propagator pigeon not found" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("found", [None, ModuleNotFoundError("opentelemetry")])
def test_telemetry_without_the_extra_is_a_fault_that_names_it(
    found: ModuleNotFoundError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> None:
        if found is not None:
            raise found

    monkeypatch.setattr("actorchat.server.setting_values.find_spec", find_spec)
    with pytest.raises(InvalidSettings) as caught:
        Settings(telemetry={"enabled": True})  # type: ignore[arg-type]
    assert str(caught.value) == (
        'telemetry.enabled: OpenTelemetry is not installed: type pip install "actorchat[otel]"'
    )
    assert not Settings(telemetry={"enabled": False}).telemetry.enabled  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "endpoint",
    ["127.0.0.1:4318", "ftp://h", "http://", "http://u:p@h", "http://h?x=1", "http://h#x", "http://h:0", "http://a b"],
)
def test_an_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidSettings, match=r"telemetry\.endpoint: expected an address like http://127.0.0.1:4318"):
        Settings(telemetry=TelemetrySettings(endpoint=endpoint))


@pytest.mark.slow
def test_without_telemetry_opentelemetry_is_not_imported() -> None:
    program = """
import sys, trio, actorchat

async def main():
    async with actorchat.open_server(actorchat.Settings(storage="memory://", port=0, broker=["memory://"])) as server:
        async with await server.connect_visitor(source="lk"):
            pass

trio.run(main)
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=TIMEOUT, check=True)
    assert done.stdout == "[]\n"
