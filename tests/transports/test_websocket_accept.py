"""The answer to a websocket handshake."""

from __future__ import annotations

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection

from actorchat.transports.request_head import Upgrade
from actorchat.transports.websocket_accept import accept


@pytest.mark.parametrize("subprotocol", [None, "actorchat.v1", "actorchat.v1.ext"])
def test_the_handshake_answer_is_byte_for_byte_the_same_as_wsprotos(subprotocol: str | None) -> None:
    upgrade = Upgrade(b"dGhlIHNhbXBsZSBub25jZQ==", subprotocol, b"")
    protocol = WSConnection(ConnectionType.SERVER)
    protocol.receive_data(upgrade.request)
    assert len(list(protocol.events())) == 1
    assert accept(upgrade) == protocol.send(AcceptConnection(subprotocol=subprotocol))
