"""A relay on plain trio-websocket, with a `send_message` for each socket."""

import sys
from collections import defaultdict

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from bench.peers.message import added

rooms: defaultdict[str, set[WebSocketConnection]] = defaultdict(set)


async def serve(request: WebSocketRequest) -> None:
    members, socket = rooms[request.path], await request.accept()
    members.add(socket)
    try:
        while True:
            event = added(await socket.get_message()).decode()
            for member in list(members):
                await member.send_message(event)
    except ConnectionClosed:
        members.discard(socket)


trio.run(serve_websocket, serve, "127.0.0.1", int(sys.argv[1]), None)
