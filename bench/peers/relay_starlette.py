"""A relay on Starlette under uvicorn."""

import asyncio
import sys
from collections import defaultdict

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.peers.message import added

rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)


async def relay(socket: WebSocket) -> None:
    members = rooms[socket.url.path]
    await socket.accept()
    members.add(socket)
    try:
        while True:
            event = added(await socket.receive_text()).decode()
            await asyncio.gather(*(member.send_text(event) for member in members))
    except WebSocketDisconnect:
        members.discard(socket)


app = Starlette(routes=[WebSocketRoute("/{room}", relay)])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", ws_per_message_deflate=False)
