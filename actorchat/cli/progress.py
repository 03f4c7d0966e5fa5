"""Draws a progress bar on stderr for commands that copy files or rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from actorchat.server.backup import BackupProgress

__all__ = ["file_size", "show_progress"]


class _Bars(BackupProgress):
    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def begin(self, step: str) -> Callable[[int, int], None]:
        for task in self._bars.task_ids:
            self._bars.update(task, visible=False)
        current = self._bars.add_task(step, total=None)
        return lambda done, total: self._bars.update(current, completed=done, total=total)


@contextmanager
def show_progress(*, rows: bool = False) -> Iterator[BackupProgress]:
    """Yield an object that draws the progress reported to it. It draws nothing if stderr is not a terminal.

    What is reported are bytes, or with `rows` a number of rows.
    """
    console = Console(stderr=True, highlight=False)
    amounts: tuple[ProgressColumn, ...] = (DownloadColumn(binary_units=True), TransferSpeedColumn())
    if rows:
        amounts = (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield _Bars(bars)


def file_size(size: int) -> str:
    """Return a size in bytes as people read it, such as "1.2 MiB"."""
    number, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if number < 1024:
            break
        number, unit = number / 1024, larger
    return f"{size:,} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
