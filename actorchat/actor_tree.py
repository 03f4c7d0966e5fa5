"""Shows the live actors of a system in pages: sorted, filtered, and with the totals of each family.

No message is shown, only its type.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated, Final

import attrs
import trio
from msgspec import Meta

from actorchat.actors import ActorInfo, ActorSystem

__all__ = [
    "DEFAULT_ROWS",
    "MAX_ROWS",
    "ActorRow",
    "ActorTree",
    "Family",
    "InspectionRequest",
    "SortOrder",
    "Tree",
    "make_page",
]

DEFAULT_ROWS: Final = 50
MAX_ROWS: Final = 1000
CHECKPOINT_EVERY: Final = 256
"""Actors processed between two checkpoints, which takes well under a millisecond."""


class SortOrder(StrEnum):
    """How rows are sorted: numbers in descending order, names in ascending order."""

    INBOX = "inbox"
    HANDLED = "handled"
    AGE = "age"
    RESTARTS = "restarts"
    NAME = "name"


@attrs.frozen(kw_only=True)
class InspectionRequest:
    """A request for one page of actors, of those with the text `filter` in any of their text fields."""

    sort: SortOrder = SortOrder.INBOX
    filter: Annotated[str, Meta(max_length=200)] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_ROWS)] = DEFAULT_ROWS
    page: Annotated[int, Meta(ge=1, le=2**31)] = 1


@attrs.frozen(kw_only=True, slots=False)
class ActorRow:
    """The state of one actor. Times are in seconds.

    `inbox` is the number of waiting messages, `bound` its maximum. `handled` counts messages and signals. `dropped`
    counts the messages that the inbox lost, and `drops` counts them by reason. `message` is the type of the message
    being handled, and `busy_for` how long it has taken so far.
    """

    name: str
    family: str | None
    kind: str
    state: str
    age: float
    inbox: int
    bound: int
    handled: int
    restarts: int
    message: str | None
    busy_for: float
    waiting_on: str | None
    dropped: int
    drops: dict[str, int]


@attrs.frozen(kw_only=True, slots=False)
class Family:
    """Totals of all actors with the same family or supervisor, whatever the filter is; `name` is None for the rest."""

    name: str | None
    actors: int
    busy: int
    queued: int
    handled: int
    dropped: int


@attrs.frozen(kw_only=True, slots=False)
class Tree:
    """The answer to an `InspectionRequest`.

    `page` is the last page if the request asked for a later one. `matched` counts the rows of all pages. `lost` counts
    the system's dead letters by reason. `families` are in start order. `node` is the name of the server among those of
    its PostgreSQL database, "" with another storage.
    """

    pid: int
    families: tuple[Family, ...]
    rows: tuple[ActorRow, ...]
    matched: int
    page: int
    pages: int
    lost: dict[str, int]
    node: str = ""


_SORT_KEYS: Final[dict[SortOrder, Callable[[ActorRow], tuple[float, float] | str]]] = {
    SortOrder.INBOX: lambda row: (-row.inbox, -row.busy_for),
    SortOrder.HANDLED: lambda row: (-row.handled, -row.inbox),
    SortOrder.AGE: lambda row: (-row.age, -row.inbox),
    SortOrder.RESTARTS: lambda row: (-row.restarts, -row.inbox),
    SortOrder.NAME: lambda row: row.name,
}


@attrs.define
class _Totals:
    actors: int = 0
    busy: int = 0
    queued: int = 0
    handled: int = 0
    dropped: int = 0

    def add(self, info: ActorInfo) -> None:
        self.actors += 1
        self.busy += info.message is not None
        self.queued += info.queued
        self.handled += info.begun + info.signals
        self.dropped += info.dropped


async def make_page(infos: Iterable[ActorInfo], request: InspectionRequest, lost: dict[str, int] | None = None) -> Tree:
    """Return the page that `request` asks for. The sort is stable. Checkpoints every `CHECKPOINT_EVERY` actors."""
    totals: defaultdict[str | None, _Totals] = defaultdict(_Totals)
    wanted = request.filter.casefold()
    rows: list[ActorRow] = []
    for number, info in enumerate(infos, 1):
        totals[info.parent].add(info)
        if not wanted or wanted in _searchable_text(info):
            rows.append(_row(info))
        if number % CHECKPOINT_EVERY == 0:
            await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    rows.sort(key=_SORT_KEYS[request.sort])
    pages = max(1, -(-len(rows) // request.limit))
    page = min(request.page, pages)
    return Tree(
        pid=os.getpid(),
        families=tuple([Family(name=name, **attrs.asdict(total)) for name, total in totals.items()]),
        rows=tuple(rows[(page - 1) * request.limit : page * request.limit]),
        matched=len(rows),
        page=page,
        pages=pages,
        lost=lost or {},
    )


def _searchable_text(info: ActorInfo) -> str:
    fields = (info.name, info.actor, info.parent, info.state, info.message, info.waiting_on)
    # One line for each field, so that no filter matches across two fields.
    return "\n".join([field for field in fields if field]).casefold()


def _row(info: ActorInfo) -> ActorRow:
    return ActorRow(
        name=info.name,
        family=info.parent,
        kind=info.actor,
        state=info.state,
        inbox=info.queued,
        handled=info.begun + info.signals,
        message=info.message,
        busy_for=info.busy_for,
        waiting_on=info.waiting_on,
        dropped=info.dropped,
        age=info.age,
        bound=info.bound,
        restarts=info.restarts,
        drops={loss.value: count for loss, count in info.drops.items()},
    )


class ActorTree:
    """The actors of `system`, for readers that must not slow down each other and the actors.

    `node` is the name of the server for `Tree`.
    """

    def __init__(self, system: ActorSystem, node: str = "") -> None:
        self._system = system
        self._node = node
        self._one_at_a_time = trio.Lock()

    @property
    def readers(self) -> int:
        """The number of readers that wait for their page or get it now."""
        statistics = self._one_at_a_time.statistics()
        return statistics.tasks_waiting + statistics.locked

    async def page(self, request: InspectionRequest) -> Tree:
        """Return the page that `request` asks for, after those of earlier readers."""
        async with self._one_at_a_time:
            lost = {loss.value: count for loss, count in self._system.dead_letters.counts.items()}
            return attrs.evolve(await make_page(self._system.walk(), request, lost), node=self._node)
