"""What an idle socket costs: resident memory of the server before and after connecting many."""

from __future__ import annotations

import time

import click

from bench.load import connect
from bench.servers import actorchat_server, resident_kib


@click.command(help=__doc__)
@click.option("--sockets", default=1_000, show_default=True)
def idle(sockets: int) -> None:
    with actorchat_server("memory") as target:
        # The first sockets pay for what is imported and pooled once.
        readers = [connect(target, target.readers) for _ in range(50)]
        time.sleep(1)
        before = resident_kib(target.process)
        with click.progressbar(range(sockets), label="connecting") as numbers:
            readers += [connect(target, target.readers) for _ in numbers]
        time.sleep(2)
        after = resident_kib(target.process)
        click.echo(f"{(after - before) / sockets:.1f} KiB per idle socket ({sockets} sockets in one room)")
        for reader in readers:
            reader.sock.close()
