"""A relay on picows, the fastest websocket library for Python, with a listener and no tasks."""

import asyncio
import sys
from collections import defaultdict

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.peers.message import added

rooms: defaultdict[bytes, set[WSTransport]] = defaultdict(set)


class Relay(WSListener):
    def __init__(self, path: bytes) -> None:
        self.members = rooms[path]

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.members.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            event = added(frame.get_payload_as_bytes())
            for member in self.members:
                member.send(WSMsgType.TEXT, event)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.members.discard(transport)


def listen(request: WSUpgradeRequest) -> Relay:
    return Relay(bytes(request.path))


async def main() -> None:
    server = await ws_create_server(listen, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


asyncio.run(main())
