"""The yardstick: a plain trio-websocket relay that calls `send_message` for each member of the one room."""

import json
import sys

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

USER = {"id": 7, "role": "user", "avatar": "", "lastname": "", "firstname": "", "patronymic": ""}
CHAT = {"uuid": "d599cb9b-a451-4bb3-ac0c-1465b9a1c4de", "widget": {"source": "lk"}, "status": "open"}
members: set[WebSocketConnection] = set()


async def serve(request: WebSocketRequest) -> None:
    socket = await request.accept()
    members.add(socket)
    index = 0
    try:
        while True:
            text = json.loads(await socket.get_message())["data"]["text"]
            message = {"id": index, "type": "standard", "type_role": "user", "status": "new", "text": text}
            message |= {"send_time": "2025-01-20T16:31:04+03:00", "message_index": index, "attachments": []}
            message |= {"chat": CHAT | {"owner_user": USER, "operator_user": USER}, "user": USER}
            index += 1
            event = json.dumps({"type": "message_added", "data": {"message": message}})
            for member in list(members):
                await member.send_message(event)
    except ConnectionClosed:
        members.discard(socket)


trio.run(serve_websocket, serve, "127.0.0.1", int(sys.argv[1]), None)
