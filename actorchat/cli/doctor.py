"""Implements `actorchat doctor`: prints what was checked, what was found, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
import click
import trio

from actorchat.cli.errors import BAD_SETTINGS, FAILED, fail, warn
from actorchat.cli.options import settings_options
from actorchat.cli.output import echo_json
from actorchat.cli.text import one_line
from actorchat.server.diagnosis import Finding, Verdict, diagnose
from actorchat.server.settings import DEFAULT_DATA, InvalidSettings, Settings
from actorchat.server.settings_loader import load_settings, unknown_variables

__all__ = ["doctor"]

_STYLES: Final = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
_PIPE_WIDTH: Final = 240


@click.command(short_help="Check machine, database and brokers.")
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(config: Path | None, as_json: bool, **options: object) -> None:
    """Check whether the server can run here, and whether a running one is well.

    Takes the settings of `actorchat serve` and changes nothing. Checks the settings, the limit for open files, the data
    folder, the secret, the disk, the database (every page), the clock, the port and each broker. Exits with 1 if a
    check fails, with 0 if there are only warnings.

    \b
    Examples:
      actorchat doctor --data /var/lib/actorchat --config /etc/actorchat.toml
      actorchat doctor --json | jq '.[] | select(.verdict != "ok")'
    """
    if not as_json:
        warn(unknown_variables())
    try:
        settings = load_settings(config, options)
    except InvalidSettings as error:
        fail(error.faults, BAD_SETTINGS)
    settings = attrs.evolve(settings, data=settings.data or DEFAULT_DATA)
    findings = trio.run(_all_findings, settings)
    if as_json:
        echo_json([attrs.asdict(finding) for finding in findings], indent=2)
    else:
        _print(findings)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise SystemExit(FAILED)


async def _all_findings(settings: Settings) -> list[Finding]:
    return [finding async for finding in diagnose(settings)]


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("CHECK", no_wrap=True)
    for title in ("FOUND", "WHAT TO DO"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        cells = (Text(one_line(text)) for text in (finding.check, finding.found, finding.advice))
        table.add_row(Text(finding.verdict.value, _STYLES[finding.verdict]), *cells)
    console.print(table)
