"""Owns how a look at the actors becomes a picture: a tree of families, a line for each actor, totals in its columns.

Refuses to know where the look comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from actorchat.cli.text import counted, one_line
from actorchat.server.inspection import ActorRow, Family, InspectionRequest, Tree

__all__ = ["draw"]

SLOW: Final = 1.0
STUCK: Final = 10.0
"""Seconds with one message from which it is coloured, mildly and boldly."""


def draw(tree: Tree, question: InspectionRequest, folder: Path) -> RenderableType:
    """The answer to `question` of the server on `folder`. Columns in which nothing would stand are left out."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    lines = _branches(tree)
    columns = [column for column in _COLUMNS if any(column.cell(entry).plain for _, entry in lines)]
    for column in columns:
        right = column.right
        table.add_column(column.title, justify="right" if right else "left", no_wrap=right, overflow="ellipsis")
    for mark, entry in lines:
        cells = [column.cell(entry) for column in columns]
        cells[0] = Text.assemble((mark, "dim"), cells[0], no_wrap=True, overflow="ellipsis")
        table.add_row(*cells)
    return Group(_headline(tree, folder), "", table, "", _footline(tree, question))


def _branches(tree: Tree) -> list[tuple[str, Family | ActorRow]]:
    """Every line of the table with the strokes before it: families with their rows below, loners beside them."""
    loners: list[tuple[Family | ActorRow, list[ActorRow]]] = [(row, []) for row in tree.rows if row.family is None]
    families: list[tuple[Family | ActorRow, list[ActorRow]]] = [
        (family, [row for row in tree.rows if row.family == family.name])
        for family in tree.families
        if family.name is not None
    ]
    lines: list[tuple[str, Family | ActorRow]] = []
    top = loners + families
    for place, (entry, below) in enumerate(top):
        last = place == len(top) - 1
        lines.append(("└─ " if last else "├─ ", entry))
        for number, row in enumerate(below):
            lines.append((("   " if last else "│  ") + ("└─ " if number == len(below) - 1 else "├─ "), row))
    return lines


def _headline(tree: Tree, folder: Path) -> Text:
    queued = sum(family.queued for family in tree.families)
    busy = sum(family.busy for family in tree.families)
    line = Text.assemble(("actorchat ", "bold"), one_line(str(folder)), (f" · pid {tree.pid}", "dim"))
    line.append(f" · {counted(sum(family.actors for family in tree.families), 'actor')}")
    line.append(f" · {busy:,} busy · {queued:,} queued", "yellow" if queued else "")
    if tree.lost:
        line.append(" · lost: " + ", ".join(f"{count:,} {reason}" for reason, count in tree.lost.items()), "red")
    return line


def _footline(tree: Tree, question: InspectionRequest) -> Text:
    words = f" with “{one_line(question.filter)}”" if question.filter else ""
    if not tree.matched:
        return Text(f"no actor{words}", "dim")
    first = (tree.page - 1) * question.limit + 1
    line = (
        f"{first:,} to {first + len(tree.rows) - 1:,} of {counted(tree.matched, 'actor')}{words} · by {question.sort}"
    )
    if tree.pages > 1:
        line += f" · page {tree.page:,} of {tree.pages:,} (--page {tree.page % tree.pages + 1})"
    return Text(line, "dim")


def _text(content: str, style: str = "") -> Text:
    return Text(one_line(content), style, no_wrap=True, overflow="ellipsis")


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {left}s" if minutes else f"{left}s"


def _state(row: ActorRow) -> Text:
    return _text(row.state, {"running": "green", "starting": "cyan", "backoff": "red"}.get(row.state, "magenta"))


def _inbox(row: ActorRow) -> Text:
    full = row.inbox * 5 >= row.bound * 4
    style = "bold red" if full else "yellow" if row.inbox else "dim"
    return _text(f"{row.inbox:,}" + f"/{row.bound:,}", style)


def _busy(row: ActorRow) -> Text:
    if row.message is None:
        return _text("")
    style = "bold red" if row.busy_for >= STUCK else "yellow" if row.busy_for >= SLOW else ""
    return _text(f"{row.message} {_duration(row.busy_for)}", style)


def _dropped(row: ActorRow) -> Text:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in row.drops.items() if count)
    return _text(reasons or _some(row.dropped), "red")


def _some(number: int) -> str:
    return f"{number:,}" if number else ""


def _age(row: ActorRow) -> Text:
    return _text(_duration(row.age))


def _family(family: Family) -> Text:
    return Text.assemble((one_line(family.name or ""), "bold"), f" {family.actors:,}", no_wrap=True)


def _nothing(_: Family) -> Text:
    return Text()


@attrs.frozen
class _Column:
    title: str
    of: Callable[[ActorRow], Text]
    total: Callable[[Family], Text] = _nothing
    right: bool = False

    def cell(self, entry: Family | ActorRow) -> Text:
        return self.total(entry) if isinstance(entry, Family) else self.of(entry)


_COLUMNS: Final = (
    _Column("ACTOR", lambda row: _text(row.name), _family),
    _Column("KIND", lambda row: _text(row.kind)),
    _Column("STATE", _state),
    _Column("AGE", _age, right=True),
    _Column("INBOX", _inbox, lambda family: _text(_some(family.queued), "yellow"), right=True),
    _Column("HANDLED", lambda row: _text(f"{row.handled:,}"), lambda family: _text(_some(family.handled)), right=True),
    _Column("RESTARTS", lambda row: _text(_some(row.restarts), "red"), right=True),
    _Column("BUSY WITH", _busy, lambda family: _text(f"{family.busy:,} busy" if family.busy else "")),
    _Column("WAITS FOR", lambda row: _text(row.waiting_on or "")),
    _Column("LOST", _dropped, lambda family: _text(_some(family.dropped), "red")),
)
