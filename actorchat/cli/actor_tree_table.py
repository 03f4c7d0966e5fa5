"""Draws the tree of a server's actors as a table: a row for each actor, and the totals of each family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from actorchat.actor_tree import ActorRow, Family, InspectionRequest, Tree
from actorchat.cli.text import counted, one_line

__all__ = ["draw"]

SLOW: Final = 1.0
STUCK: Final = 10.0
"""Seconds an actor may spend on one message before its row is shown in yellow (`SLOW`) or bold red (`STUCK`)."""

_OTHERS: Final = "`actorchat nodes` lists the nodes of the same database, such as other workers; --node NAME shows one"


def draw(tree: Tree, request: InspectionRequest, folder: str | None) -> RenderableType:
    """Draw `tree`, the answer to `request` of the server on `folder`; None if a node was asked by its name.

    Empty columns are left out.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    rows = _rows_with_branches(tree)
    columns = [column for column in _COLUMNS if any(column.cell(entry).plain for _, entry in rows)]
    for column in columns:
        right = column.right
        table.add_column(column.title, justify="right" if right else "left", no_wrap=right, overflow="ellipsis")
    for branch, entry in rows:
        cells = [column.cell(entry) for column in columns]
        cells[0] = Text.assemble((branch, "dim"), cells[0], no_wrap=True, overflow="ellipsis")
        table.add_row(*cells)
    parts: list[RenderableType] = [_header(tree, folder), "", table, "", _footer(tree, request)]
    if folder and tree.node:
        parts.append(Text(_OTHERS, "dim"))
    return Group(*parts)


def _rows_with_branches(tree: Tree) -> list[tuple[str, Family | ActorRow]]:
    """Every row of the table with the line art before it: actors without a family, then families and their actors."""
    single: list[tuple[Family | ActorRow, list[ActorRow]]] = [(row, []) for row in tree.rows if row.family is None]
    families: list[tuple[Family | ActorRow, list[ActorRow]]] = [
        (family, [row for row in tree.rows if row.family == family.name])
        for family in tree.families
        if family.name is not None
    ]
    rows: list[tuple[str, Family | ActorRow]] = []
    top_level = single + families
    for position, (entry, children) in enumerate(top_level):
        is_last = position == len(top_level) - 1
        rows.append(("└─ " if is_last else "├─ ", entry))
        for number, row in enumerate(children):
            rows.append((("   " if is_last else "│  ") + ("└─ " if number == len(children) - 1 else "├─ "), row))
    return rows


def _header(tree: Tree, folder: str | None) -> Text:
    queued = sum(family.queued for family in tree.families)
    busy = sum(family.busy for family in tree.families)
    server = " · ".join(filter(None, (folder, tree.node and f"node {tree.node}")))
    line = Text.assemble(("actorchat ", "bold"), one_line(server), (f" · pid {tree.pid}", "dim"))
    line.append(f" · {counted(sum(family.actors for family in tree.families), 'actor')}")
    line.append(f" · {busy:,} busy · {queued:,} queued", "yellow" if queued else "")
    if tree.lost:
        line.append(" · lost: " + ", ".join(f"{count:,} {reason}" for reason, count in tree.lost.items()), "red")
    return line


def _footer(tree: Tree, request: InspectionRequest) -> Text:
    matching = f" matching “{one_line(request.filter)}”" if request.filter else ""
    if not tree.matched:
        return Text(f"no actors{matching}", "dim")
    first = (tree.page - 1) * request.limit + 1
    last = first + len(tree.rows) - 1
    line = f"{first:,} to {last:,} of {counted(tree.matched, 'actor')}{matching} · sorted by {request.sort}"
    if tree.pages > 1:
        line += f" · page {tree.page:,} of {tree.pages:,} (--page {tree.page % tree.pages + 1})"
    return Text(line, "dim")


def _text(content: str, style: str = "") -> Text:
    return Text(one_line(content), style, no_wrap=True, overflow="ellipsis")


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"


def _state(row: ActorRow) -> Text:
    return _text(row.state, {"running": "green", "starting": "cyan", "backoff": "red"}.get(row.state, "magenta"))


def _inbox(row: ActorRow) -> Text:
    nearly_full = row.inbox * 5 >= row.bound * 4
    style = "bold red" if nearly_full else "yellow" if row.inbox else "dim"
    return _text(f"{row.inbox:,}" + f"/{row.bound:,}", style)


def _busy(row: ActorRow) -> Text:
    if row.message is None:
        return _text("")
    style = "bold red" if row.busy_for >= STUCK else "yellow" if row.busy_for >= SLOW else ""
    return _text(f"{row.message} {_duration(row.busy_for)}", style)


def _dropped(row: ActorRow) -> Text:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in row.drops.items() if count)
    return _text(reasons or _blank_if_zero(row.dropped), "red")


def _blank_if_zero(number: int) -> str:
    return f"{number:,}" if number else ""


def _age(row: ActorRow) -> Text:
    return _text(_duration(row.age))


def _family(family: Family) -> Text:
    return Text.assemble((one_line(family.name or ""), "bold"), f" {family.actors:,}", no_wrap=True)


def _blank(_: Family) -> Text:
    return Text()


@attrs.frozen
class _Column:
    title: str
    for_actor: Callable[[ActorRow], Text]
    for_family: Callable[[Family], Text] = _blank
    right: bool = False

    def cell(self, entry: Family | ActorRow) -> Text:
        return self.for_family(entry) if isinstance(entry, Family) else self.for_actor(entry)


_COLUMNS: Final = (
    _Column("ACTOR", lambda row: _text(row.name), _family),
    _Column("KIND", lambda row: _text(row.kind)),
    _Column("STATE", _state),
    _Column("AGE", _age, right=True),
    _Column("INBOX", _inbox, lambda family: _text(_blank_if_zero(family.queued), "yellow"), right=True),
    _Column(
        "HANDLED",
        lambda row: _text(f"{row.handled:,}"),
        lambda family: _text(_blank_if_zero(family.handled)),
        right=True,
    ),
    _Column("RESTARTS", lambda row: _text(_blank_if_zero(row.restarts), "red"), right=True),
    _Column("BUSY WITH", _busy, lambda family: _text(f"{family.busy:,} busy" if family.busy else "")),
    _Column("WAITS FOR", lambda row: _text(row.waiting_on or "")),
    _Column("LOST", _dropped, lambda family: _text(_blank_if_zero(family.dropped), "red")),
)
