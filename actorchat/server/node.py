"""Makes a server a node of its deployment, if its chats are in a database that several servers share."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from typing import Final

import msgspec
import trio

from actorchat.chat.foreign_commits import NodeCaches
from actorchat.chat.ports import ChatReader, StorageUnavailable
from actorchat.nodes.factory import kind_of_bus, open_bus
from actorchat.nodes.node import Node, NodeState
from actorchat.nodes.registry import NameTaken
from actorchat.nodes.tables import NodeRow
from actorchat.server.accounts import Accounts
from actorchat.server.auth import Tokens
from actorchat.server.blocks import Blocks
from actorchat.server.bootstrap import ServerEnded, StartFailed
from actorchat.server.environment import Environment
from actorchat.server.settings import Settings
from actorchat.server.user_cache import UserCache
from actorchat.storage import Storage
from actorchat.storage.worker_threads import open_workers

__all__ = ["CacheReloader", "check_secrets", "encode_statistics", "open_node", "replaced_by", "warn_of_other_buses"]

_log: Final = logging.getLogger("actorchat.nodes")

RETRY: Final = 0.5
"""Seconds before storage is read again after a failure."""


async def open_node(
    stack: AsyncExitStack,
    settings: Settings,
    environment: Environment,
    storage: Storage,
    writer: str,
    sockets: Sequence[socket.socket],
) -> Node | None:
    """Register this server, which listens on `sockets`, among the nodes of its database. None if it can't have others.

    It has to be called before anything is read that other nodes may change. Closing `stack` unregisters a node that has
    not become ready. Raises `StartFailed` and `StorageUnavailable`.
    """
    if storage.node_log is None:
        return None
    # Imported here, because the library is an extra.
    from actorchat.nodes.postgres_tables import PostgresTables

    runner = await stack.enter_async_context(open_workers("nodes"))
    tables = PostgresTables(settings.storage_url)
    stack.push_async_callback(runner.run, tables.close)
    name = settings.node_name
    if not name or settings.workers > 1:
        # Different after each start, and on machines with one host name.
        name = f"{name or socket.gethostname()[:40]}-{environment.random.getrandbits(40):010x}"
    state = NodeState(name, version("actorchat"), _address(settings, sockets), kind_of_bus(settings.bus_url))
    bus = open_bus(settings.bus_url, settings.storage_url, f"actorchat {storage.identity}")
    node = Node(state, writer, log=storage.node_log, tables=tables, runner=runner, bus=bus)
    stack.push_async_callback(_leave_unless_ready, node)
    try:
        await node.begin()
    except NameTaken as error:
        name, where = error.holder.node, _where(error.holder)
        advice = "give this server another `node_name` (ACTORCHAT_NODE_NAME), or none"
        raise StartFailed(f"the node {name} is running already{where}: {advice}") from None
    return node


def _address(settings: Settings, sockets: Sequence[socket.socket]) -> str:
    """Where a server listens on `sockets`, "" if there are none."""
    if settings.unix is not None:
        return str(settings.unix)
    if not sockets:
        return ""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{sockets[0].getsockname()[1]}"


async def _leave_unless_ready(node: Node) -> None:
    if node.state.state == "starting":
        with suppress(StorageUnavailable):
            await node.registry.leave()


def replaced_by(holder: NodeRow) -> ServerEnded:
    """The error of a node whose name `holder` has taken over."""
    return ServerEnded(
        f"another server{_where(holder)} has taken over the node name {holder.node}, so this one ends: give each server"
        " a `node_name` (ACTORCHAT_NODE_NAME) of its own, or none"
    )


def _where(node: NodeRow) -> str:
    return f" at {node.address}" if node.address else ""


def encode_statistics(*, sockets: int, lag: float, losses: int, secrets: Sequence[str], bus: str) -> str:
    """The statistics that a node shows to others, as JSON. `secrets` are the fingerprints of those that it accepts."""
    return json.dumps({"sockets": sockets, "lag": round(lag, 3), "losses": losses, "secrets": secrets, "bus": bus})


class _Compared(msgspec.Struct):
    """The statistics that nodes compare with their own. Older versions don't tell all of them."""

    secrets: frozenset[str] = frozenset()
    bus: str | None = None


def _compared(row: NodeRow) -> _Compared:
    try:
        return msgspec.json.decode(row.statistics, type=_Compared)
    except msgspec.MsgspecError:
        return _Compared()


async def check_secrets(node: Node, tokens: Tokens) -> None:
    """Refuse to be a node beside others that would not accept this one's tokens, nor their own here.

    Raises `NameTaken`, `StartFailed` and `StorageUnavailable`.
    """
    own = frozenset(tokens.fingerprints())
    node.state.statistics = lambda: encode_statistics(
        sockets=0, lag=0.0, losses=0, secrets=tokens.fingerprints(), bus=node.state.bus
    )
    registry = node.registry
    await registry.renew()
    await registry.look()
    for row in registry.others:
        secrets = _compared(row).secrets
        # Of two that start at once, one goes on.
        if row.alive and secrets and own.isdisjoint(secrets) and (row.state != "starting" or row.node < registry.name):
            raise StartFailed(
                f"this server signs tokens with another secret than the node {row.node} of the same database: give all"
                " nodes the same `secret` (ACTORCHAT_SECRET)"
            )


def warn_of_other_buses(node: Node) -> None:
    """Log which nodes have a bus of another kind. Of two nodes, the later one says so, after `check_secrets`."""
    own = node.state.bus
    buses = [(row.node, _compared(row).bus or own) for row in node.registry.others if row.alive]
    others = ", ".join([f"{name} ({bus})" for name, bus in buses if bus != own])
    if others:
        _log.warning(
            "the bus of this node is %s, but that of other nodes is not: %s. They hear of each other a second later:"
            " give all nodes the same `bus` (ACTORCHAT_BUS)",
            own,
            others,
        )


class CacheReloader:
    """Reads accounts and blocks again after another node has changed them. `on_accounts` is called afterwards."""

    def __init__(
        self,
        chat_reader: ChatReader,
        accounts: Accounts,
        blocks: Blocks,
        on_accounts: Callable[[], object] = lambda: None,
    ) -> None:
        self._on_accounts = on_accounts
        self._chat_reader = chat_reader
        self._accounts = accounts
        self._blocks = blocks
        self._accounts_due = trio.Event()
        self._blocks_due = trio.Event()

    def follow(self, caches: NodeCaches, users: UserCache, forget_widget: Callable[[str | None], object]) -> None:
        """Let `caches` tell what has to be read again."""
        caches.is_known = users.is_in_memory
        caches.forget_people = users.forget
        caches.forget_widget = forget_widget
        caches.reload_accounts = lambda: self._accounts_due.set()
        caches.reload_blocks = lambda: self._blocks_due.set()

    async def run(self) -> None:
        """Read what is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reload_accounts)
            nursery.start_soon(self._reload_blocks)

    async def _reload_accounts(self) -> None:
        while True:
            await self._accounts_due.wait()
            self._accounts_due = trio.Event()
            changes = self._accounts.changes
            try:
                stored = await self._chat_reader.accounts()
            except StorageUnavailable:
                await trio.sleep(RETRY)
                self._accounts_due.set()
                continue
            if self._accounts.changes != changes:
                # What this node has decided meanwhile may be newer than what was read.
                self._accounts_due.set()
            else:
                self._accounts.load(stored)
                self._on_accounts()

    async def _reload_blocks(self) -> None:
        while True:
            await self._blocks_due.wait()
            self._blocks_due = trio.Event()
            changes = self._blocks.changes
            try:
                stored = await self._chat_reader.blocks()
            except StorageUnavailable:
                await trio.sleep(RETRY)
                self._blocks_due.set()
                continue
            if self._blocks.changes != changes:
                self._blocks_due.set()
            else:
                self._blocks.replace(stored)
