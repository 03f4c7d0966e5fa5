"""Owns taking a guide apart: its Python blocks, each with the output that the text after it promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["ROOT", "Block", "blocks_of"]

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


@attrs.frozen
class Block:
    """`line` is where its code starts; `output` is what it prints."""

    line: int
    code: str
    output: str


def blocks_of(page: str) -> Iterator[Block]:
    fences = list(FENCED.finditer(page))
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        if fence[1] == "python":
            promised = following is not None and following[1] == "text"
            promised = promised and not page[fence.end() : following.start()].strip() if following else False
            yield Block(
                page.count("\n", 0, fence.start()) + 2, fence[2], following[2] if promised and following else ""
            )
