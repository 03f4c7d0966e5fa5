"""Shows the live actors of another node of the same database, through a table that both can reach."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Final
from uuid import uuid4

import attrs
import msgspec
import trio

from actorchat.actor_tree import ActorTree, InspectionRequest, Tree
from actorchat.chat.ports import StorageUnavailable
from actorchat.nodes.registry import LIFE, PERIOD, Registry
from actorchat.nodes.tables import MOST_INQUIRIES, Inquiry, NodeRow, Tables
from actorchat.server.inspection import InspectionFailed, TreeAnswer

__all__ = ["NODE_SECONDS", "answer_nodes", "inspect_node"]

NODE_SECONDS: Final = 10.0
"""Seconds that a node has for an answer. It looks once a second whether it is asked."""

MOST_ANSWERED: Final = 1_048_576
"""Bytes of an answer. A longer one has fewer rows than were asked for."""

_LOOK: Final = 0.2
"""Seconds between two looks for the answer."""
_MOST_NAMED: Final = 20

_log: Final = logging.getLogger("actorchat.server")


async def answer_nodes(registry: Registry, actors: ActorTree) -> None:
    """Answer what the node of `registry` is asked about `actors`, until cancelled. Errors are logged, never raised."""
    while True:
        await trio.sleep(PERIOD)
        if trio.current_time() - registry.reached_at > 2 * PERIOD:
            # The database is away. A try would take seconds, and those of the registry would wait for it.
            continue
        try:
            asked = await registry.runner.run(partial(registry.tables.asked, registry.name, registry.epoch))
            for inquiry in asked:
                answer = await _answer(actors, inquiry.request)
                await registry.runner.run(partial(registry.tables.answer, inquiry.id, answer))
        except StorageUnavailable:
            continue
        except Exception:
            _log.exception("`actorchat actors tree --node %s` stopped working", registry.name)
            return


async def _answer(actors: ActorTree, request: bytes) -> bytes:
    try:
        wanted = msgspec.json.decode(request, type=InspectionRequest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return msgspec.json.encode(TreeAnswer(refusal=f"invalid request: {error}"))
    tree = await actors.page(wanted)
    while len(answer := msgspec.json.encode(TreeAnswer(tree=tree))) > MOST_ANSWERED and tree.rows:
        tree = attrs.evolve(tree, rows=tree.rows[: len(tree.rows) // 2])
    return answer


async def inspect_node(tables: Tables, node: str, request: InspectionRequest) -> Tree:
    """Ask the node with this name, and return its answer. Raises InspectionFailed, after `NODE_SECONDS` at the latest.

    `tables` are used in threads, one at a time.
    """
    try:
        _check_alive(await trio.to_thread.run_sync(tables.nodes), node)
        inquiry = Inquiry(uuid4(), msgspec.json.encode(request))
        if not await trio.to_thread.run_sync(tables.ask, inquiry, node, NODE_SECONDS):
            raise InspectionFailed(f"{MOST_INQUIRIES} other inspections of nodes are running; try again")
        with trio.move_on_after(NODE_SECONDS):
            # A row that nobody takes expires.
            while True:
                answer = await trio.to_thread.run_sync(tables.take_answer, inquiry.id)
                if answer is not None:
                    return _tree(node, answer)
                await trio.sleep(_LOOK)
        # It may have ended just before, or meanwhile: that is known when its lease has run out.
        _check_alive(await trio.to_thread.run_sync(tables.nodes), node)
    except StorageUnavailable as error:
        raise InspectionFailed(str(error)) from None
    raise InspectionFailed(
        f"the node {node} did not answer within {NODE_SECONDS:.0f} s: it is too busy, or runs an older version"
    )


def _check_alive(rows: Sequence[NodeRow], node: str) -> None:
    for row in rows:
        if row.node == node:
            if not row.alive:
                raise InspectionFailed(
                    f"the node {node} is dead: it has not been heard of for {LIFE + row.silent:.0f} s"
                )
            return
    if not rows:
        raise InspectionFailed(f"there is no node {node}: no server runs on this database")
    names = ", ".join([row.node for row in rows[:_MOST_NAMED]]) + (", …" if len(rows) > _MOST_NAMED else "")
    raise InspectionFailed(f"there is no node {node}; the nodes are: {names}")


def _tree(node: str, answer: bytes) -> Tree:
    try:
        decoded = msgspec.json.decode(answer, type=TreeAnswer)
    except msgspec.MsgspecError:
        raise InspectionFailed(f"the node {node} runs a version with another answer format") from None
    if decoded.tree is None:
        raise InspectionFailed(f"the node {node} refused the request: {decoded.refusal}")
    # One of an older version does not tell its name.
    return attrs.evolve(decoded.tree, node=node)
