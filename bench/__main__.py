"""`python -m bench`: the measurements, with progress, and one table of ratios at the end."""

import click

from bench.actors import actors
from bench.fanout import fanout
from bench.idle import idle
from bench.journal import journal


@click.group(help=__doc__)
def main() -> None:
    pass


main.add_command(actors)
main.add_command(fanout)
main.add_command(idle)
main.add_command(journal)
main(prog_name="python -m bench")
