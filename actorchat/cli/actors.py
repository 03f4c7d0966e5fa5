"""Implements `actorchat actors tree`: parses its options, asks the server once or every second, and prints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import click
import trio

from actorchat.actor_tree import DEFAULT_ROWS, MAX_ROWS, InspectionRequest, SortOrder, Tree
from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail
from actorchat.cli.nodes import open_tables
from actorchat.cli.options import config_option, data_option, storage_option
from actorchat.cli.output import echo_json
from actorchat.server.inspection import ANSWER_SECONDS, InspectionFailed, inspect_server
from actorchat.server.node_inspection import inspect_node
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings
from actorchat.server.settings_loader import load_settings

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["actors"]

WATCH_SECONDS: Final = 1.0
"""How often `--watch` asks the server."""
RESERVED_LINES: Final = 12
"""Screen lines that `--watch` keeps free for headers, footers and the rows of families."""
PIPE_WIDTH: Final = 240
"""The width of the table when stdout is not a terminal."""

_Ask = Callable[[InspectionRequest], Awaitable[Tree]]
"""Asks one server, and returns its answer."""


@click.group(short_help="Inspect the live actors of a server.")
def actors() -> None:
    """Inspect the live actors of a server on this machine, or of a node of the same PostgreSQL database."""


@actors.command(short_help="Show the live actors, their queues and what they are busy with.")
@data_option
@click.option(
    "--node", metavar="NAME", help="Ask this node of the same PostgreSQL database. `actorchat nodes` lists their names."
)
@storage_option
@config_option
@click.option(
    "--sort",
    type=click.Choice([order.value for order in SortOrder]),
    default=SortOrder.INBOX.value,
    show_default=True,
    help="What to sort by: largest first, names alphabetically.",
)
@click.option(
    "--filter",
    "filter_text",
    metavar="TEXT",
    default="",
    help="Only actors with TEXT in their name, kind, family, state, current message, or the actor they wait for.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_ROWS),
    metavar="N",
    help=f"Actors per page, 1 to {MAX_ROWS}.  [default: {DEFAULT_ROWS}; with --watch as many as fit]",
)
@click.option(
    "--page", type=click.IntRange(1, 2**31), default=1, show_default=True, metavar="N", help="The page to show."
)
@click.option("--watch", is_flag=True, help="Refresh every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch, one line for each refresh.")
def tree(
    data: Path | None,
    node: str | None,
    storage: str | None,
    config: Path | None,
    sort: str,
    filter_text: str,
    limit: int | None,
    page: int,
    watch: bool,
    as_json: bool,
) -> None:
    """Show the live actors of the server whose data folder is --data, or of the node --node.

    Totals count all actors of a family; rows are one page of the actors that match --filter. INBOX: queued messages
    and the inbox's bound. HANDLED: messages started. BUSY WITH: the current message and how long it has been running.
    WAITS FOR: the actor whose reply this one awaits. LOST: messages dropped, and why. Empty columns are left out. Only
    the user who runs the server can inspect it by its folder. Whoever can write to the PostgreSQL database can inspect
    its nodes, from any machine; a node answers within about a second. Inspecting changes nothing.

    \b
    Examples:
      actorchat actors tree                            the fullest inboxes first
      actorchat actors tree --watch                    the same, every second
      actorchat actors tree --filter backoff           crashed actors that wait for their restart
      actorchat actors tree --filter 6f1c0a3e          one chat's room
      actorchat actors tree --sort handled --limit 10  the ten busiest since their start
      actorchat actors tree --sort name --page 3
      actorchat actors tree --node two --storage postgresql://chat@db.example/chat
      actorchat actors tree --json | jq '.rows[] | select(.busy_for > 1) | .name'
    """
    try:
        settings = load_settings(config, {"data": data, "storage": storage})
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    if limit is None:
        fitting = max(5, console.height - RESERVED_LINES)
        limit = min(DEFAULT_ROWS, fitting) if watch and console.is_terminal else DEFAULT_ROWS
    request = InspectionRequest(sort=SortOrder(sort), filter=filter_text, limit=limit, page=page)
    show = _watch if watch else _show_once
    folder = settings.data or DEFAULT_DATA
    try:
        with ExitStack() as stack:
            ask: _Ask = partial(_ask_server, folder)
            if node is not None:
                ask = partial(inspect_node, stack.enter_context(closing(open_tables(settings))), node)
            trio.run(partial(show, ask, request, console, str(folder) if node is None else None, as_json))
    except InspectionFailed as error:
        fail((error,), FAILED)
    except KeyboardInterrupt:
        # The normal end of --watch.
        return


async def _show_once(
    ask: _Ask, request: InspectionRequest, console: Console, folder: str | None, as_json: bool
) -> None:
    from actorchat.cli.actor_tree_table import draw

    answer = await ask(request)
    if as_json:
        echo_json(attrs.asdict(answer), indent=2)
    else:
        console.print(draw(answer, request, folder))


@trio.lowlevel.enable_ki_protection  # Ctrl-C is raised at the sleep: while drawing it would leave half a screen
async def _watch(ask: _Ask, request: InspectionRequest, console: Console, folder: str | None, as_json: bool) -> None:
    from rich.live import Live

    from actorchat.cli.actor_tree_table import draw

    if as_json or not console.is_terminal:
        while True:
            answer = await ask(request)
            if as_json:
                echo_json(attrs.asdict(answer))
            else:
                console.print(draw(answer, request, folder), "")
            await trio.sleep(WATCH_SECONDS)
    drawing = draw(await ask(request), request, folder)
    # No auto-refresh: it would start a thread that redraws an unchanged table.
    with Live(drawing, console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(drawing, refresh=True)
            await trio.sleep(WATCH_SECONDS)
            drawing = draw(await ask(request), request, folder)


async def _ask_server(folder: Path, request: InspectionRequest) -> Tree:
    with trio.move_on_after(ANSWER_SECONDS):
        return await inspect_server(folder, request)
    raise InspectionFailed(f"the server on {folder} did not answer within {ANSWER_SECONDS:.0f} s")
