"""Runs the checker with each healing of several servers switched off, and says whether it was seen.

`python -m tests.system.switched_off [NAME …]`
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import trio

from actorchat.testing.checker import HEALINGS, CheckFailed, CheckOptions, check_cluster
from tests.postgres_server import PostgresServer

__all__ = ["find"]


async def find(
    name: str, server: PostgresServer, folder: Path, *, seconds: float = 10, settle: float = 15, seed: int = 0
) -> str | None:
    """What the checker says to servers without that healing, None if it sees nothing wrong."""
    healing = HEALINGS[name]
    options = CheckOptions(
        storage=await trio.to_thread.run_sync(server.new_database),
        folder=folder,
        seconds=seconds,
        settle=settle,
        seed=seed,
        database_machine=server,
        chats=3,
        newcomers=healing.newcomers,
        faults=healing.faults,
        pause=0.3,
        without=name,
    )
    try:
        await check_cluster(options)
    except CheckFailed as error:
        return str(error)
    return None


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(HEALINGS)))
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="How many are tried for each.")
@click.option("--seconds", type=click.FloatRange(1), default=10.0, show_default=True, help="How long clients write.")
@click.option("--verbose", is_flag=True, help="Print all that the checker says.")
def main(names: Sequence[str], seeds: int, seconds: float, verbose: bool) -> None:
    """Switch off each healing in turn, or those with NAMES. Exits with 1 if the checker did not see one."""
    unseen: list[str] = []
    server = PostgresServer("fsync=off")
    try:
        server.create()
        server.start()
        for name in names or HEALINGS:
            began, found = time.monotonic(), None
            for seed in range(seeds):
                with tempfile.TemporaryDirectory(prefix="actorchat-checker-") as folder:
                    found = trio.run(partial(find, name, server, Path(folder), seconds=seconds, seed=seed))
                if found is not None:
                    break
            unseen += [name] if found is None else []
            what = "NOT SEEN" if found is None else (found if verbose else found.splitlines()[0])
            click.echo(f"{name:16} seed {seed}, {time.monotonic() - began:4.0f} s: {what}")
    finally:
        server.close()
    click.echo(f"{len(unseen)} not seen: {', '.join(unseen)}" if unseen else "all were seen")
    sys.exit(1 if unseen else 0)


if __name__ == "__main__":
    main()
