"""Live customer chat for websites as a Trio actor system.

::

    async with actorchat.open_server(actorchat.Settings(storage="memory://")) as server: ...

Also public: `actorchat.actors`, `actorchat.protocol`, `actorchat.client`, `actorchat.testing`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from actorchat.chat.accounts import Rights
    from actorchat.chat.ports import StorageUnavailable
    from actorchat.chat.submitter import ChatRefused
    from actorchat.server.bootstrap import ServerEnded, StartFailed
    from actorchat.server.embedded import LocalSocket
    from actorchat.server.embedded_api import LocalApi
    from actorchat.server.serving import Server, ServerStatistics, open_server
    from actorchat.server.settings import (
        AccountSettings,
        AttachmentSettings,
        BlockedSettings,
        ChatSettings,
        HttpSettings,
        InvalidSettings,
        KeySettings,
        LimitSettings,
        MetricsSettings,
        Settings,
        SourceAttachmentSettings,
        TelemetrySettings,
    )

    __version__: str

__all__ = [
    "AccountSettings",
    "AttachmentSettings",
    "BlockedSettings",
    "ChatRefused",
    "ChatSettings",
    "HttpSettings",
    "InvalidSettings",
    "KeySettings",
    "LimitSettings",
    "LocalApi",
    "LocalSocket",
    "MetricsSettings",
    "Rights",
    "Server",
    "ServerEnded",
    "ServerStatistics",
    "Settings",
    "SourceAttachmentSettings",
    "StartFailed",
    "StorageUnavailable",
    "TelemetrySettings",
    "open_server",
]

_MODULES: Final = {
    "AccountSettings": "actorchat.server.settings",
    "ChatRefused": "actorchat.chat.service",
    "ChatSettings": "actorchat.server.settings",
    "AttachmentSettings": "actorchat.server.settings",
    "BlockedSettings": "actorchat.server.settings",
    "SourceAttachmentSettings": "actorchat.server.settings",
    "HttpSettings": "actorchat.server.settings",
    "InvalidSettings": "actorchat.server.settings",
    "KeySettings": "actorchat.server.settings",
    "LimitSettings": "actorchat.server.settings",
    "MetricsSettings": "actorchat.server.settings",
    "LocalApi": "actorchat.server.embedded_api",
    "LocalSocket": "actorchat.server.embedded",
    "Rights": "actorchat.chat.accounts",
    "Server": "actorchat.server.serving",
    "ServerEnded": "actorchat.server.bootstrap",
    "ServerStatistics": "actorchat.server.serving",
    "Settings": "actorchat.server.settings",
    "StartFailed": "actorchat.server.bootstrap",
    "StorageUnavailable": "actorchat.chat.ports",
    "TelemetrySettings": "actorchat.server.settings",
    "open_server": "actorchat.server.serving",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that the client and the command line do not load the server."""
    if name == "__version__":
        return version("actorchat")
    if name not in _MODULES:
        raise AttributeError(f"module 'actorchat' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
