"""Makes methods of the chat's actors, and of what they call, raise an exception when a plan says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

from actorchat.chat.broadcast import Broadcast
from actorchat.chat.encoding import Encoder
from actorchat.chat.operator_directory import Directory
from actorchat.chat.operator_feed import Feed
from actorchat.chat.publisher import PendingReplies, Publisher
from actorchat.chat.room import Room

__all__ = ["PLACES", "Crashes", "PlannedCrash"]

PLACES: Final[tuple[tuple[type[Any], str], ...]] = (  # Any: classes of any kind
    (Feed, "_flush"),
    (Directory, "_send_updates"),
    (Directory, "_count"),
    (Room, "_announce"),
    (PendingReplies, "settle"),
    (Publisher, "publish"),
    (Broadcast, "_encode"),
    (Encoder, "added"),
    (Room, "_take"),
)
"""The methods that can be made to raise."""


class PlannedCrash(Exception):  # noqa: N818 - it is raised on purpose
    """Raised inside the server because the plan demands it."""

    def __repr__(self) -> str:
        return "planned crash"


class Crashes:
    """The crashes that are still due. None happens while `is_up` returns false."""

    def __init__(self, log: Callable[..., object], is_up: Callable[[], bool]) -> None:
        self._log, self._is_up = log, is_up
        self._left: dict[int, int] = {}

    def ask(self, place: int, nth: int) -> None:
        """Make the `nth` call of `PLACES[place]` from now on raise."""
        self._left[place] = nth

    def calm(self) -> None:
        self._left.clear()

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Inside the block, make the methods raise as requested."""
        with ExitStack() as stack:
            for place, (owner, name) in enumerate(PLACES):
                stack.enter_context(mock.patch.object(owner, name, self._wrap(place, getattr(owner, name))))
            yield

    def _wrap(self, place: int, method: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            left = self._left.get(place, 0)
            if left and self._is_up():
                self._left[place] = left - 1
                if left == 1:
                    self._log("planned crash in", PLACES[place][1])
                    raise PlannedCrash
            return method(*args, **kwargs)

        return wrapped
