"""Keeps all blocks in memory, and finds out whether a visitor or an address is blocked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network

from actorchat.chat.accounts import Rights
from actorchat.chat.blocks import (
    AddBlock,
    Block,
    BlockRemoved,
    BlockStored,
    RemoveBlock,
    normal_address,
    normal_network,
)
from actorchat.chat.model import Identity
from actorchat.chat.ports import ChatFilter
from actorchat.chat.service import ChatService
from actorchat.http.ports import Caller
from actorchat.http.problems import Problem
from actorchat.protocol import Role, User

__all__ = ["Blocks"]

_Network = tuple[int, int, int]
"""A network: the version of IP, the length of the prefix, and the first address as a number."""


class Blocks:
    """The blocks of a server: stored ones, and the `networks` and `users` (ids of visitors) of the settings.

    `clock` returns epoch seconds.
    """

    def __init__(
        self,
        chats: ChatService,
        *,
        networks: Collection[str] = (),
        users: Collection[str] = (),
        clock: Callable[[], float],
    ) -> None:
        self._chats = chats
        self._clock = clock
        self.on_block: Callable[[Block], object] = lambda block: None
        """Called with each new block, to close sockets."""
        self.changes: int = 0
        """How many blocks this server has stored or removed."""
        self._by_id: dict[int, Block] = {}
        self._users: dict[int, Block] = {}
        self._networks: dict[_Network, Block] = {}
        self._prefixes: set[tuple[int, int]] = set()
        self._configured_users = frozenset(map(int, users))
        self._configured = frozenset(map(_network, networks))
        self._prefixes_changed()
        chats.on_block = self._block_decided

    def load(self, stored: Iterable[Block]) -> None:
        """Take over the blocks that were read from storage at the start."""
        for block in stored:
            self._add(block)

    def replace(self, stored: Iterable[Block]) -> None:
        """Take over all blocks as another server has changed them."""
        found = {block.id: block for block in stored}
        for block in list(self._by_id.values()):
            if found.get(block.id) != block:
                self._remove(block)
        for block in found.values():
            if block.id not in self._by_id:
                self._add(block)
                self.on_block(block)

    def blocks_user(self, user: User) -> bool:
        """Whether the visitor is blocked."""
        if user.role is not Role.USER:
            return False
        block = self._users.get(user.id)
        return user.id in self._configured_users or (block is not None and block.holds(self._clock()))

    def blocks_address(self, address: str) -> bool:
        """Whether visitors from this address are blocked."""
        if not self._prefixes:
            return False
        parsed = normal_address(address)
        if parsed is None:
            return False
        for version, length in self._prefixes:
            if parsed.version == version:
                key = (version, length, _masked(parsed, length))
                block = self._networks.get(key)
                if key in self._configured or (block is not None and block.holds(self._clock())):
                    return True
        return False

    def all(self) -> tuple[Block, ...]:
        """Return the stored blocks that have not ended, the newest first."""
        now = self._clock()
        return tuple([block for _, block in sorted(self._by_id.items(), reverse=True) if block.holds(now)])

    async def add(
        self, caller: Caller, *, user: int | None, address: str | None, reason: str, seconds: float | None
    ) -> Block:
        """Block a visitor or an address. Raises Problem and ChatRefused.

        A supervisor may block the visitors of their own sources, an administrator all.
        """
        if (user is None) is (address is None):
            raise Problem("malformed", "give either user or address", path="user")
        if user is not None and not await self._may_block(caller, user):
            raise Problem("not_found", "there is no such visitor in your sources", path="user")
        try:
            network = None if address is None else normal_network(address)
        except ValueError:
            raise Problem(
                "malformed", "address: expected an address or a network like 10.0.0.0/8", path="address"
            ) from None
        now = int(self._clock())
        block = Block(
            id=0,
            user=user,
            network=network,
            reason=reason,
            by=caller.user.id,
            created=now,
            until=None if seconds is None else now + max(1, int(seconds)),
        )
        decision = await self._chats.decide_on_block(AddBlock(block))
        assert isinstance(decision, BlockStored)  # noqa: S101 - what this operation comes to
        return decision.block

    async def remove(self, block_id: int) -> None:
        """Remove a block. Raises ChatRefused with `not_found` if there is none with that id."""
        await self._chats.decide_on_block(RemoveBlock(block_id))

    async def _may_block(self, caller: Caller, user: int) -> bool:
        if caller.rights is Rights.ADMIN:
            return await self._chats.chat_reader.person(Identity(Role.USER, user)) is not None
        which = ChatFilter(sources=caller.sources, owner_id=user, limit=1)
        return bool((await self._chats.chat_reader.chats(which)).chats)

    def _block_decided(self, decision: BlockStored | BlockRemoved) -> None:
        self.changes += 1
        if isinstance(decision, BlockRemoved):
            self._remove(decision.block)
            return
        for ended in decision.ended:
            self._remove(ended)
        self._add(decision.block)
        self.on_block(decision.block)

    def _add(self, block: Block) -> None:
        self._by_id[block.id] = block
        if block.user is not None:
            self._users[block.user] = block
        if block.network is not None:
            self._networks[_network(block.network)] = block
            self._prefixes_changed()

    def _remove(self, block: Block) -> None:
        self._by_id.pop(block.id, None)
        if block.user is not None:
            self._users.pop(block.user, None)
        if block.network is not None:
            self._networks.pop(_network(block.network), None)
            self._prefixes_changed()

    def _prefixes_changed(self) -> None:
        self._prefixes = {(version, length) for version, length, _ in (*self._networks, *self._configured)}


def _network(text: str) -> _Network:
    network = ip_network(text)
    return network.version, network.prefixlen, int(network.network_address)


def _masked(address: IPv4Address | IPv6Address, length: int) -> int:
    free = address.max_prefixlen - length
    return int(address) >> free << free
