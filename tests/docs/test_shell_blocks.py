"""Proves that the commands and settings that the README and the docs show are accepted by today's code."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import click
import pytest

from actorchat.cli import main
from actorchat.http.problems import STATUSES
from actorchat.protocol import decode_command
from actorchat.server.settings import (
    AccountSettings,
    AttachmentSettings,
    BlockedSettings,
    ChatSettings,
    HttpSettings,
    KeySettings,
    LimitSettings,
    MetricsSettings,
    Settings,
    TelemetrySettings,
)
from actorchat.server.settings_loader import load_settings
from tests.docs.code_blocks import PAGES, ROOT, Fence, fences_of

LEAST_COMMANDS = 15
SECTIONS = {
    "limits": LimitSettings,
    "chat": ChatSettings,
    "http": HttpSettings,
    "attachments": AttachmentSettings,
    "metrics": MetricsSettings,
    "accounts": AccountSettings,
    "keys": KeySettings,
    "blocked": BlockedSettings,
    "telemetry": TelemetrySettings,
}


def fences(*languages: str) -> Iterator[tuple[str, Fence]]:
    for page in PAGES:
        for fence in fences_of(page.read_text()):
            if fence.language in languages:
                yield f"{page.relative_to(ROOT)}:{fence.line}", fence


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """The arguments of every call of `program`, with its place in the docs."""
    for place, fence in fences("console", "ini", "dockerfile"):
        for line in fence.text.replace("\\\n", " ").splitlines():
            # Find the command behind a prompt, in a unit file, in a container file (as JSON), in `$(…)` or in a pipe.
            line = line.partition("  #")[0].removeprefix("$ ").removeprefix("ExecStart=")
            if line.startswith("CMD "):
                line = shlex.join(json.loads(line.removeprefix("CMD ")))
            for part in re.split(r"\$\(|\)|\||&&", line):
                words = shlex.split(part.replace('"', ""))
                if words and Path(words[0]).name == program:
                    yield place, words[1:]


def parse(arguments: list[str]) -> None:
    """Parse as the command line does, without running the command."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        _, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command = found
    command.make_context(command.name, arguments, parent=context)


def test_every_shown_command_of_actorchat_parses() -> None:
    shown = list(commands("actorchat"))
    assert len(shown) >= LEAST_COMMANDS
    for place, arguments in shown:
        try:
            parse(arguments)
        except click.UsageError as error:
            pytest.fail(f"{place}: actorchat {shlex.join(arguments)}: {error.format_message()}")


def test_every_shown_recipe_and_module_exists() -> None:
    recipes = set(re.findall(r"^(\w+)[ \w=\"*]*:", (ROOT / "justfile").read_text(), re.M))
    shown = [words[0] for _, words in commands("just") if words]
    assert len(shown) >= 3
    assert set(shown) <= recipes
    modules = [words[1] for _, words in commands("python") if words[:1] == ["-m"]]
    assert len(modules) >= 3
    assert [name for name in modules if find_spec(name) is None] == []


def test_every_shown_settings_file_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list(fences("toml"))
    assert len(shown) >= 2
    monkeypatch.chdir(tmp_path)
    for number, (_, fence) in enumerate(shown):
        config = Path(f"{number}.toml")
        config.write_text(fence.text)
        load_settings(config, {})


def test_every_shown_command_of_a_client_is_decoded() -> None:
    lines = [line for _, fence in fences("json") for line in fence.text.splitlines()]
    assert len(lines) >= 4
    for line in lines:
        assert decode_command(line.encode()).type in line


def settings_fields() -> Iterator[tuple[str, Any]]:  # Any: defaults are of every type
    for field in attrs.fields(Settings):
        if field.name in SECTIONS:
            yield from ((f"{field.name}.{inner.name}", inner.default) for inner in attrs.fields(SECTIONS[field.name]))
        else:
            yield field.name, field.default


def test_the_table_of_settings_has_each_with_its_variable_and_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if "| `ACTORCHAT_" in line]
    stated = {name: (row[1], row[2]) for row in rows for name in re.findall(r"`([\w.]+)`", row[0])}
    fields = dict(settings_fields())
    assert set(stated) == set(fields)
    for name, (variable, default) in stated.items():
        assert variable.startswith(f"`ACTORCHAT_{name.replace('.', '_').upper()}`") or name == "tls_key", name
        if isinstance(fields[name], bool):
            assert default.strip("`") == str(fields[name]).lower(), name
        elif isinstance(fields[name], int | float):
            assert float(default.strip("`")) == fields[name], name


def test_the_table_of_errors_has_each_code_with_its_status() -> None:
    page = (ROOT / "docs" / "http.md").read_text()
    rows = re.findall(r"^\| (4\d\d|5\d\d) \| (.+) \|$", page, re.M)
    stated = {(code, int(status)) for status, row in rows for code in re.findall(r"`(\w+)`", row)}
    # A body or query parameter that can't be read has its own status, and so have requests that are not HTTP/1.1.
    unread = {("malformed", 400), ("bad_request", 400), ("bad_request", 431)}
    assert stated == {*STATUSES.items(), *unread}
