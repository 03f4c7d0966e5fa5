"""Undoes what a test configures about logging."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("actorchat")
    before = root.handlers[:], root.level, ours.level
    try:
        yield
    finally:
        root.handlers[:], level, own_level = before
        root.setLevel(level)
        ours.setLevel(own_level)
