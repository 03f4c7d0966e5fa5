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
    from actorchat.chat.ports import StorageUnavailable
    from actorchat.chat.service import ChatRefused
    from actorchat.server.bootstrap import StartFailed
    from actorchat.server.embedded import LocalSocket
    from actorchat.server.embedded_api import LocalApi
    from actorchat.server.serving import Server, ServerStatistics, open_server
    from actorchat.server.settings import (
        AttachmentSettings,
        ChatSettings,
        HttpSettings,
        InvalidSettings,
        LimitSettings,
        Settings,
    )

    __version__: str

__all__ = [
    "AttachmentSettings",
    "ChatRefused",
    "ChatSettings",
    "HttpSettings",
    "InvalidSettings",
    "LimitSettings",
    "LocalApi",
    "LocalSocket",
    "Server",
    "ServerStatistics",
    "Settings",
    "StartFailed",
    "StorageUnavailable",
    "open_server",
]

_MODULES: Final = {
    "ChatRefused": "actorchat.chat.service",
    "ChatSettings": "actorchat.server.settings",
    "AttachmentSettings": "actorchat.server.settings",
    "HttpSettings": "actorchat.server.settings",
    "InvalidSettings": "actorchat.server.settings",
    "LimitSettings": "actorchat.server.settings",
    "LocalApi": "actorchat.server.embedded_api",
    "LocalSocket": "actorchat.server.embedded",
    "Server": "actorchat.server.serving",
    "ServerStatistics": "actorchat.server.serving",
    "Settings": "actorchat.server.settings",
    "StartFailed": "actorchat.server.bootstrap",
    "StorageUnavailable": "actorchat.chat.ports",
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
