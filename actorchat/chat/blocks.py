"""Defines blocks of visitors and network addresses, and the operations on them. Has no IO."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

import attrs

from actorchat.chat.accounts import AccountOperation

__all__ = [
    "MAX_BLOCKS",
    "AddBlock",
    "Block",
    "BlockRemoved",
    "BlockStored",
    "RemoveBlock",
    "normal_address",
    "normal_network",
]

MAX_BLOCKS: Final = 10_000
"""Blocks at a time. All of them are in memory."""


@attrs.frozen(kw_only=True)
class Block:
    """A block of the visitor `user`, or of the addresses in `network`; the other one is None.

    `by` is the id of the operator who has blocked. `created` and `until` are in epoch seconds; None is for ever.
    """

    id: int
    user: int | None = None
    network: str | None = None
    reason: str = ""
    by: int
    created: int
    until: int | None = None

    def holds(self, now: float) -> bool:
        return self.until is None or now < self.until


@attrs.frozen
class AddBlock(AccountOperation):
    """Store a block. If its visitor or network is blocked already, that block gets its reason and its end.

    The id of `block` is replaced by an unused one.
    """

    block: Block


@attrs.frozen
class RemoveBlock(AccountOperation):
    """Remove a block. Refused with `not_found` if there is none with that id."""

    id: int


@attrs.frozen
class BlockStored:
    """The block as it is stored now, and the blocks that have ended and were removed."""

    block: Block
    ended: tuple[Block, ...] = ()


@attrs.frozen
class BlockRemoved:
    """The block was removed."""

    block: Block


def normal_network(text: str) -> str:
    """Return an address or network in its normal form, such as `10.0.0.0/8`. Raises ValueError."""
    network = ip_network(text, strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return str(IPv4Network((mapped, network.prefixlen - 96)))
    return str(network)


def normal_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address, an IPv4-mapped one as IPv4. None for anything else, such as the name of a Unix socket."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
