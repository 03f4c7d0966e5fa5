"""Splits a page of Markdown into its fenced blocks, and pairs Python blocks with the output that the page promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["PAGES", "ROOT", "Block", "Fence", "blocks_of", "fences_of"]

ROOT = Path(__file__).parents[2]
PAGES = tuple(sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "adr").glob("*.md")]))
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@attrs.frozen
class Fence:
    """A fenced block. `line` is where its text starts; `gap` is the text between it and the fence before."""

    line: int
    language: str
    text: str
    gap: str


@attrs.frozen
class Block:
    """A block of Python. `line` is where its code starts, `output` the expected output."""

    line: int
    code: str
    output: str


def fences_of(page: str) -> Iterator[Fence]:
    end = 0
    for fence in _FENCED.finditer(page):
        yield Fence(page.count("\n", 0, fence.start()) + 2, fence[1], fence[2], page[end : fence.start()])
        end = fence.end()


def blocks_of(page: str) -> Iterator[Block]:
    fences = list(fences_of(page))
    for position, fence in enumerate(fences):
        if fence.language == "python":
            promised = [
                after for after in fences[position + 1 :][:1] if after.language == "text" and not after.gap.strip()
            ]
            yield Block(fence.line, fence.text, promised[0].text if promised else "")
