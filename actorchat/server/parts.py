"""The parts of a server that runs, and its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from actorchat.actors import ActorSystem
from actorchat.brokers import MemoryBroker, Relays
from actorchat.chat.console_documents import ConsoleDocuments
from actorchat.chat.service import ChatService
from actorchat.http.origins import AllowedOrigins
from actorchat.http.proxies import Proxies
from actorchat.nodes.node import Node
from actorchat.server.access_control import AccessControl
from actorchat.server.accounts import Accounts
from actorchat.server.attachments import Attachments
from actorchat.server.auth import Tokens
from actorchat.server.blocks import Blocks
from actorchat.server.bootstrap import ServerEnded
from actorchat.server.embedded import EmbeddedSockets
from actorchat.server.jwks import KeySet
from actorchat.server.privacy import Privacy
from actorchat.server.socket_endings import SocketEndings
from actorchat.server.user_cache import UserCache
from actorchat.storage import Journal, Storage
from actorchat.transports.listener import Listener
from actorchat.transports.memory import MemoryTransport
from actorchat.transports.reactor import ReactorTransport
from actorchat.transports.websocket import WebsocketTransport
from actorchat.web import Assets

if TYPE_CHECKING:
    from actorchat.telemetry.sockets import SocketSpans
    from actorchat.telemetry.tracing import Tracing

__all__ = ["Parts", "State"]


@attrs.frozen(kw_only=True)
class Parts:
    """The parts of a server below its HTTP side. The optional ones are None if the settings need none.

    `origins` are those of all sources.
    """

    system: ActorSystem
    chats: ChatService
    documents: ConsoleDocuments
    journal: Journal
    storage: Storage
    users: UserCache
    local: EmbeddedSockets
    access_control: AccessControl
    accounts: Accounts
    blocks: Blocks
    tokens: Tokens
    key_set: KeySet
    origins: AllowedOrigins
    proxies: Proxies
    attachments: Attachments
    privacy: Privacy
    memory: MemoryTransport
    websockets: ReactorTransport | WebsocketTransport
    endings: SocketEndings
    relays: Relays | None
    memory_broker: MemoryBroker | None
    node: Node | None
    tracing: Tracing | None
    spans: SocketSpans | None
    assets: Assets


@attrs.define
class State:
    """The mutable state of a server."""

    listener: Listener | None = None
    port: int | None = None
    draining: bool = False
    drained: bool = False
    ended: ServerEnded | None = None
    """Why the server has to stop by itself."""
    on_end: Callable[[], object] = lambda: None

    def end(self, reason: ServerEnded) -> None:
        """Stop the server, which raises `reason` then."""
        self.ended = reason
        self.on_end()
