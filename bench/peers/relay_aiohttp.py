"""A relay on aiohttp."""

import asyncio
import sys
from collections import defaultdict

from aiohttp import WSMsgType, web

from bench.peers.message import added

rooms: defaultdict[str, set[web.WebSocketResponse]] = defaultdict(set)


async def relay(request: web.Request) -> web.WebSocketResponse:
    members = rooms[request.path]
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    members.add(socket)
    try:
        async for frame in socket:
            if frame.type == WSMsgType.TEXT:
                event = added(frame.data).decode()
                await asyncio.gather(*(member.send_str(event) for member in members))
    finally:
        members.discard(socket)
    return socket


app = web.Application()
app.router.add_get("/{room}", relay)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
