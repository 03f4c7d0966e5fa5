"""The command `python -m actorchat.testing.checker.without NAME serve …`: `actorchat serve …` without one healing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from actorchat.cli import main
from actorchat.testing.checker.healings import HEALINGS

__all__: Sequence[str] = ()


def _main(arguments: Sequence[str]) -> None:
    name, *rest = arguments
    HEALINGS[name].switch_off()
    main(rest, prog_name="actorchat")


if __name__ == "__main__":
    _main(sys.argv[1:])
