"""Sets up OpenTelemetry for a server, if the settings or the embedding program want it."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from actorchat.server.bootstrap import StartFailed
from actorchat.server.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from actorchat.telemetry.tracing import Tracing

__all__ = ["open_tracing"]


async def open_tracing(stack: AsyncExitStack, settings: Settings, provider: TracerProvider | None) -> Tracing | None:
    """Return the tracing with `provider`, or else as the settings say; None without any. Raises StartFailed.

    Closing `stack` sends what is left.
    """
    telemetry = settings.telemetry
    # What OpenTelemetry's own libraries do with this variable.
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if provider is None and (not telemetry.enabled or disabled):
        return None
    try:
        # Not imported otherwise: it is an extra.
        from actorchat.telemetry.tracing import Tracing

        if provider is None:
            from actorchat.telemetry.export import open_provider

            exporting = open_provider(telemetry.endpoint, telemetry.service_name)
            provider = await stack.enter_async_context(exporting)
        return Tracing(provider, continue_traces=telemetry.continue_traces)
    except ValueError as error:
        # A variable of OpenTelemetry's environment is invalid.
        raise StartFailed(f"telemetry can't be set up: {error}") from None
