"""Limits of the server that a run may lower, so that they are reached often.

The limits of sockets, of the journal and of the whole chat are fields of `Environment`. The others are constants of
their modules, which are replaced for one run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import attrs

from actorchat.chat import operator_feed, replay, retention_sweeper, room, room_state, service, sweeper
from actorchat.server import attachments, auth, user_cache
from actorchat.server.environment import Environment
from actorchat.storage import changes, journal, row_cache

__all__ = ["BOUNDS", "Bound", "bounded_environment", "small_constants"]


@attrs.frozen
class Bound:
    """A limit and the `values` that a seed chooses from.

    The limit is either all of `constants`, as (module, name), or one `field` of `Environment`.
    """

    values: tuple[float, ...]
    constants: tuple[tuple[object, str], ...] = ()
    field: str | None = None


def _constant(module: object, name: str, *values: float) -> Bound:
    return Bound(values, ((module, name),))


def _field(name: str, *values: float) -> Bound:
    return Bound(values, field=name)


BOUNDS: Final[Mapping[str, Bound]] = {
    "page": _constant(replay, "PAGE", 1, 2, 7),
    "tail": _constant(room_state, "TAIL", 1, 2, 8),
    "recovery_page": _constant(room, "RECOVERY_PAGE", 3, 4, 7),
    "piece_bytes": _constant(replay, "PIECE_BYTES", 1, 600, 2_000),
    "max_batch": _constant(journal, "MAX_BATCH", 1, 2, 3),
    "room_idle": _constant(service, "ROOM_IDLE", 0.2, 1.0, 3.0),
    "room_in_flight": _constant(room, "ROOM_IN_FLIGHT", 1, 2, 4),
    "room_inbox": _constant(service, "ROOM_INBOX", 1, 2, 4),
    "journal_capacity": _field("journal_capacity", 1, 3, 8),
    "intake": _field("operations_in_flight", 1, 2, 5),
    "outbox_bytes": _field("sockets.outbox_bytes", 700, 3_000, 20_000),
    "outbox_frames": _field("sockets.outbox_frames", 2, 5, 40),
    "outbox_low": _field("sockets.outbox_low", 0, 500),
    "socket_in_flight": _field("sockets.operations_in_flight", 1, 2),
    "key_horizon": Bound((4, 16), ((changes, "KEY_HORIZON"), (row_cache, "KEY_HORIZON"))),
    "cached": _constant(row_cache, "_MAX_CACHED", 1, 2, 5),
    "held_items": _constant(operator_feed, "HELD_ITEMS", 1, 4),
    "remembered": _constant(user_cache, "_MAX_CACHED", 1, 3),
    "return_grace": Bound((0, 3), ((sweeper, "RETURN_GRACE"), (retention_sweeper, "RETURN_GRACE"))),
    "retention_interval": _constant(retention_sweeper, "INTERVAL", 1, 7),
    "upload_sweep": _constant(attachments, "SWEEP_SECONDS", 1, 10),
    "tokens": _constant(auth, "CACHED_TOKENS", 1, 3),
}


def bounded_environment(environment: Environment, chosen: Mapping[str, float]) -> Environment:
    """Return `environment` with the chosen bounds that are fields of it."""
    fields: dict[str, Any] = {}  # Any: fields have different types
    sockets: dict[str, Any] = {}  # Any: fields have different types
    for name, value in chosen.items():
        field = BOUNDS[name].field
        if field is not None:
            owner, _, last = field.rpartition(".")
            (sockets if owner else fields)[last] = value
    return attrs.evolve(environment, sockets=attrs.evolve(environment.sockets, **sockets), **fields)


@contextmanager
def small_constants(chosen: Mapping[str, float]) -> Iterator[None]:
    """Inside the block, replace the chosen bounds that are constants of modules."""
    with ExitStack() as stack:
        for name, value in chosen.items():
            for module, constant in BOUNDS[name].constants:
                stack.enter_context(mock.patch.object(module, constant, value))
        yield
