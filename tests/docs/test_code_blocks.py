"""Proves that every Python block of the README and the docs runs and prints what the page says."""

from __future__ import annotations

import ast
import inspect
from types import CodeType
from typing import Any

import pytest
import trio
import trio.testing

from tests.docs.code_blocks import PAGES, ROOT, blocks_of

LEAST = {
    "README.md": (1, 0),
    "docs/actors.md": (15, 2),
    "docs/backend.md": (1, 0),
    "docs/embedding.md": (4, 0),
    "docs/telemetry.md": (1, 0),
    "docs/testing.md": (1, 0),
}
"""The blocks and the tests among them that each page has at least."""


def run(code: CodeType, names: dict[str, Any]) -> None:  # a block's names are of every type
    """Run a block as it is read: at the top level, or inside an async function if it awaits."""
    if not code.co_flags & inspect.CO_COROUTINE:
        exec(code, names)  # noqa: S102 - our own guide
        return

    async def body() -> None:
        with trio.fail_after(1_000):
            await eval(code, names)  # noqa: S307 - our own guide

    trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0))


def run_tests_among(names: dict[str, Any]) -> list[str]:
    """Run the tests that a block has defined, as pytest-trio does."""
    tests = [name for name in names if name.startswith("test_")]
    for name in tests:
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(names.pop(name), clock, clock=clock)
    return tests


def test_every_page_with_python_is_tested() -> None:
    with_python = {str(page.relative_to(ROOT)) for page in PAGES if list(blocks_of(page.read_text()))}
    assert with_python == set(LEAST)


@pytest.mark.parametrize("name", LEAST)
def test_every_block_runs_and_prints_what_the_page_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    tests: list[str] = []
    page = ROOT / name
    blocks = list(blocks_of(page.read_text()))
    for block in blocks:
        # The line numbers of a traceback are then those of the page.
        source = "\n" * (block.line - 1) + block.code
        run(compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
        found = run_tests_among(names)
        tests += found
        printed = capsys.readouterr().out
        assert found or printed == block.output, f"the block in line {block.line} of {name}"
    least_blocks, least_tests = LEAST[name]
    assert len(blocks) >= least_blocks
    assert len(tests) >= least_tests
