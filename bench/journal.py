"""Group commit: 300 rooms with one message each in flight, on SQLite with an fsync for every transaction."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import trio

import actorchat
from actorchat.protocol import MessageAdded, SendMessage


@click.command(help=__doc__)
@click.option("--rooms", default=300, show_default=True)
@click.option("--seconds", default=5.0, show_default=True)
def journal(rooms: int, seconds: float) -> None:
    trio.run(_journal, rooms, seconds)


async def _journal(rooms: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = actorchat.Settings(
            storage=f"sqlite:///{folder}/bench.db",
            data=Path(folder),
            port=None,
            limits=actorchat.LimitSettings(messages_per_second=0),
        )
        async with actorchat.open_server(settings) as server, trio.open_nursery() as nursery:
            with click.progressbar(range(rooms), label="opening rooms") as numbers:
                for _ in numbers:
                    await nursery.start(_talk, server)
            before = server.statistics().journal
            await trio.sleep(seconds)
            after = server.statistics().journal
            nursery.cancel_scope.cancel()
    operations, batches = after.operations - before.operations, after.batches - before.batches
    click.echo(f"{operations / batches:.0f} messages per transaction, {operations / seconds:,.0f} messages/s")


async def _talk(server: actorchat.Server, task_status: trio.TaskStatus[None]) -> None:
    visitor = await server.connect_visitor(source="lk")
    task_status.started()
    await visitor.send(SendMessage("hello"))
    async for event in visitor:
        if isinstance(event, MessageAdded):
            await visitor.send(SendMessage("hello"))
