"""A relay on websockets, with its `broadcast`."""

import asyncio
import sys
from collections import defaultdict

from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench.peers.message import added

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def relay(socket: ServerConnection) -> None:
    assert socket.request is not None
    members = rooms[socket.request.path]
    members.add(socket)
    try:
        async for frame in socket:
            broadcast(members, added(frame).decode())
    finally:
        members.discard(socket)


async def main() -> None:
    async with serve(relay, "127.0.0.1", int(sys.argv[1]), compression=None):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
