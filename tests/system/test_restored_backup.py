"""A client reconnects to a server whose database was restored from an older backup."""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import trio

from actorchat.client import RoomConnection, open_room
from actorchat.protocol import MessageAdded, ResyncRequired
from actorchat.server.settings import LimitSettings, Settings
from tests.server.server_under_test import SECRET, run_server


async def texts(room: RoomConnection, until: str) -> list[str]:
    """The messages of the room up to that one; a resync starts the list again."""
    told: list[str] = []
    async for event in room:
        if isinstance(event, ResyncRequired):
            told = ["resync"]
        elif isinstance(event, MessageAdded):
            told.append(event.message.text)
            if event.message.text == until:
                break
    return told


async def test_a_client_forgets_messages_that_a_restored_backup_lacks(tmp_path: Path) -> None:
    data, backup = tmp_path / "data", tmp_path / "backup"
    settings = Settings(data=data, port=0, secret=SECRET, limits=LimitSettings(messages_per_second=0))
    async with run_server(settings) as api:
        visitor, chat = await api.visit()
        await api.write(visitor, chat, "in the backup")
        settings = attrs.evolve(settings, port=api.server.port)
    shutil.copytree(data, backup)
    with trio.fail_after(60):
        async with open_room(f"http://127.0.0.1:{settings.port}", chat, token=visitor, after=-1) as room:
            async with run_server(settings) as api:
                for text in ("lost", "lost too"):
                    await api.write(visitor, chat, text)
                assert await texts(room, "lost too") == ["in the backup", "lost", "lost too"]
            shutil.rmtree(data)
            shutil.copytree(backup, data)
            async with run_server(settings) as api:
                delivery = await room.send("new")
                assert await texts(room, "new") == ["resync", "in the backup", "new"]
                assert (await delivery.wait()).message_index == room.last_index == 1
