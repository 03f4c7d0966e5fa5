"""Sends HTTP requests over the simulated network: a transport for `httpx`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpcore
import httpx
import trio

from actorchat.testing.simulation.network import Network
from actorchat.testing.simulation.sockets import ClientStream

__all__ = ["SimulatedTransport"]

_PATIENCE = 60.0


class SimulatedTransport(httpx.AsyncHTTPTransport):
    """For `httpx.AsyncClient(transport=…)`. Has at most four connections, and keeps idle ones for five seconds."""

    def __init__(self, network: Network) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            network_backend=_Backend(network), max_connections=4, keepalive_expiry=5.0
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.stream = _Body(await request.aread())
        return await super().handle_async_request(request)


class _Body(httpx.AsyncByteStream):
    """A body in one piece. Unlike httpx's generator, it needs no closing when a request is cancelled."""

    def __init__(self, body: bytes) -> None:
        self._pieces = iter([body] if body else [])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, network: Network) -> None:
        self._network = network

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,  # Any: as httpcore declares it
    ) -> httpcore.AsyncNetworkStream:
        try:
            with trio.fail_after(_PATIENCE if timeout is None else timeout):
                return _Stream(await ClientStream.dial(self._network, port))
        except trio.TooSlowError as error:
            raise httpcore.ConnectTimeout from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: ClientStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            with trio.fail_after(_PATIENCE if timeout is None else timeout):
                return await self._stream.receive_some(max_bytes)
        except trio.TooSlowError as error:
            raise httpcore.ReadTimeout from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            with trio.fail_after(_PATIENCE if timeout is None else timeout):
                if buffer:
                    await self._stream.send_all(buffer)
        except trio.TooSlowError as error:
            raise httpcore.WriteTimeout from error
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.WriteError from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> object:
        return self._stream.end.readable if info == "is_readable" else None
