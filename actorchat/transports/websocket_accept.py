"""Writes the response to a websocket's opening handshake (RFC 6455, section 4.2.2)."""

from __future__ import annotations

from wsproto.utilities import generate_accept_token

from actorchat.transports.request_head import Upgrade

__all__ = ["accept"]


def accept(upgrade: Upgrade) -> bytes:
    """Return the response head that accepts the upgrade."""
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + generate_accept_token(upgrade.key)
    )
    if upgrade.subprotocol is None:
        return head + b"\r\n\r\n"
    return head + b"\r\nSec-WebSocket-Protocol: " + upgrade.subprotocol.encode("ascii") + b"\r\n\r\n"
