"""Owns `actorchat actors`: its options, how often it looks, and how it ends.

Refuses to know how a look is made and drawn.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import click
import trio

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.options import data_option
from actorchat.cli.output import echo_json
from actorchat.server.inspection import (
    DEFAULT_ROWS,
    MOST_ROWS,
    SECONDS,
    InspectionFailed,
    InspectionRequest,
    SortOrder,
    Tree,
    look,
)
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings
from actorchat.server.settings_loader import load_settings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["actors"]

EVERY: Final = 1.0
"""Seconds between two looks of `--watch`."""
FURNITURE: Final = 12
"""Lines of a screen that `--watch` leaves to all that is no actor's."""
PIPE_WIDTH: Final = 240


@click.group(short_help="See the live actors of a server.")
def actors() -> None:
    """See the live actors of a server on this machine."""


@actors.command(short_help="Show who lives, who is busy and who waits.")
@data_option
@click.option(
    "--sort",
    type=click.Choice([order.value for order in SortOrder]),
    default=SortOrder.INBOX.value,
    show_default=True,
    help="The largest first; names as in a dictionary.",
)
@click.option(
    "--filter",
    "words",
    metavar="TEXT",
    default="",
    help="Only actors with TEXT in their name, kind, family, state, message, or whom they wait for.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_ROWS),
    metavar="N",
    help=f"Actors on a page, 1 to {MOST_ROWS}.  [default: {DEFAULT_ROWS}; with --watch what fits]",
)
@click.option("--page", type=click.IntRange(1, 2**31), default=1, show_default=True, metavar="N", help="Which page.")
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="JSON for programs; with --watch a line for each look.")
def tree(data: Path | None, sort: str, words: str, limit: int | None, page: int, watch: bool, as_json: bool) -> None:
    """Show the live actors of the server whose data folder is --data.

    Totals count all actors of a family; rows are one page of those that --filter leaves. INBOX is what waits, HANDLED
    what was begun, BUSY WITH the current message and how long it has been seen to take, WAITS FOR who is asked.
    Columns in which nothing would stand are left out. Only the owner of the server's process may look; looking changes
    nothing.

    \b
    Examples:
      actorchat actors tree                            the fullest inboxes first
      actorchat actors tree --watch                    the same, every second
      actorchat actors tree --filter backoff           who crashed and is about to come back
      actorchat actors tree --filter 6f1c0a3e          one chat's room
      actorchat actors tree --sort handled --limit 10  the ten that worked most
      actorchat actors tree --sort name --page 3
      actorchat actors tree --json | jq '.rows[] | select(.busy_for > 1) | .name'
    """
    try:
        folder = load_settings(None, {"data": data}).data or DEFAULT_DATA
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    if limit is None:
        limit = min(DEFAULT_ROWS, max(5, console.height - FURNITURE)) if watch and console.is_terminal else DEFAULT_ROWS
    question = InspectionRequest(sort=SortOrder(sort), filter=words, limit=limit, page=page)
    show = _watch if watch else _once
    try:
        trio.run(partial(show, folder, question, console, as_json))
    except InspectionFailed as error:
        fail((error,), FAILED)
    except KeyboardInterrupt:
        # What ends --watch.
        return


async def _once(folder: Path, question: InspectionRequest, console: Console, as_json: bool) -> None:
    from actorchat.cli.actor_tree_table import draw

    seen = await _look(folder, question)
    if as_json:
        echo_json(attrs.asdict(seen), indent=2)
    else:
        console.print(draw(seen, question, folder))


@trio.lowlevel.enable_ki_protection  # Ctrl-C comes between two drawings: within one it would leave half a screen
async def _watch(folder: Path, question: InspectionRequest, console: Console, as_json: bool) -> None:
    from rich.live import Live

    from actorchat.cli.actor_tree_table import draw

    if as_json or not console.is_terminal:
        while True:
            seen = await _look(folder, question)
            if as_json:
                echo_json(attrs.asdict(seen))
            else:
                console.print(draw(seen, question, folder), "")
            await trio.sleep(EVERY)
    picture = draw(await _look(folder, question), question, folder)
    # Without its thread: it draws when there is something new.
    with Live(picture, console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(picture, refresh=True)
            await trio.sleep(EVERY)
            picture = draw(await _look(folder, question), question, folder)


async def _look(folder: Path, question: InspectionRequest) -> Tree:
    with trio.move_on_after(SECONDS):
        return await look(folder, question)
    raise InspectionFailed(f"the server on {folder} does not answer within {SECONDS:.0f} s")
