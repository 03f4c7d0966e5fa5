"""Owns the server's answer to a websocket's opening handshake; wsproto checks and writes it.

Knows nothing of who may open a socket, and of what follows.
"""

from __future__ import annotations

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from actorchat.transports.head import Upgrade

__all__ = ["accept"]


def accept(upgrade: Upgrade, subprotocol: str | None) -> bytes:
    """The head of the answer that opens the websocket, with that subprotocol if any."""
    protocol = WSConnection(ConnectionType.SERVER)
    protocol.receive_data(upgrade.request)
    requests = [event for event in protocol.events() if isinstance(event, Request)]
    assert requests, "a validated upgrade is a request"  # noqa: S101 - upgrade() has checked it
    return protocol.send(AcceptConnection(subprotocol=subprotocol))
