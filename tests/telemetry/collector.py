"""A collector on loopback that takes spans by OTLP over HTTP, or keeps its clients waiting."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import h11
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@attrs.define
class Collector:
    """What has arrived: spans by name, the attributes of their resources, and the paths and headers of requests.

    While it is `deaf`, requests get no answer.
    """

    port: int = 0
    deaf: bool = False
    spans: list[str] = attrs.field(factory=list)
    resources: list[dict[str, str]] = attrs.field(factory=list)
    paths: list[str] = attrs.field(factory=list)
    headers: list[dict[str, str]] = attrs.field(factory=list)
    arrived: trio.Event = attrs.field(factory=trio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        body = b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                body = b""
                self.paths.append(event.target.decode())
                self.headers.append({name.decode(): value.decode() for name, value in event.headers})
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.arrived.set()
                if self.deaf:
                    await trio.sleep_forever()
                self._take(body)
                await self._answer(stream, connection)
                connection.start_next_cycle()
            else:
                return

    def _take(self, body: bytes) -> None:
        if self.headers[-1].get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = resource_spans.resource.attributes
            self.resources.append({each.key: each.value.string_value for each in attributes})
            for scope_spans in resource_spans.scope_spans:
                self.spans += [span.name for span in scope_spans.spans]

    async def _answer(self, stream: trio.SocketStream, connection: h11.Connection) -> None:
        body = ExportTraceServiceResponse().SerializeToString()
        headers = [("content-type", "application/x-protobuf"), ("content-length", str(len(body)))]
        for event in (h11.Response(status_code=200, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            await stream.send_all(connection.send(event) or b"")


@asynccontextmanager
async def open_collector(*, deaf: bool = False) -> AsyncIterator[Collector]:
    collector = Collector(deaf=deaf)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, collector.serve, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(serve)
        collector.port = listeners[0].socket.getsockname()[1]
        try:
            yield collector
        finally:
            nursery.cancel_scope.cancel()
