"""Owns the server's answer to a websocket's opening handshake (RFC 6455, section 4.2.2).

`actorchat.transports.request_head` has checked the request before.
"""

from __future__ import annotations

from wsproto.utilities import generate_accept_token

from actorchat.transports.request_head import Upgrade

__all__ = ["accept"]


def accept(upgrade: Upgrade) -> bytes:
    """The head of the answer that opens the websocket, with the subprotocol if any."""
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + generate_accept_token(upgrade.key)
    )
    if upgrade.subprotocol is None:
        return head + b"\r\n\r\n"
    return head + b"\r\nSec-WebSocket-Protocol: " + upgrade.subprotocol.encode("ascii") + b"\r\n\r\n"
