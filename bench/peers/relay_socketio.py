"""A relay on python-socketio under uvicorn, with its rooms; the room is in the query, since the path is Socket.IO's."""

import sys
from typing import Any
from urllib.parse import parse_qs

import socketio
import uvicorn

from bench.peers.message import answer

server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


@server.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await server.save_session(sid, parse_qs(environ["QUERY_STRING"])["room"][0])
    await server.enter_room(sid, await server.get_session(sid))


@server.event
async def send_message(sid: str, command: dict[str, Any]) -> None:
    await server.emit("message_added", answer(command["data"]["text"]), room=await server.get_session(sid))


uvicorn.run(socketio.ASGIApp(server), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
