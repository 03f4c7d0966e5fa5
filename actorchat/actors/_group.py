"""Owns a set of addresses that get the same messages. Members leave by themselves when they stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar
from weakref import WeakSet

from actorchat.actors._ref import Ref

__all__ = ["Group"]

M_contra = TypeVar("M_contra", contravariant=True)


class Group(Generic[M_contra]):
    """Addresses that all take messages of type `M`, in the order in which they joined.

    A member that restarts or passivates stays; one that stops, or is killed or given up, leaves.
    """

    def __init__(self) -> None:
        self._members: dict[Ref[M_contra], None] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, ref: object) -> bool:
        return ref in self._members

    def __iter__(self) -> Iterator[Ref[M_contra]]:
        """Over the members at this moment."""
        return iter(tuple(self._members))

    def add(self, ref: Ref[M_contra]) -> bool:
        """Join `ref`. False: it has stopped already."""
        if ref.stopped:
            return False
        self._members[ref] = None
        if ref._groups is None:
            ref._groups = WeakSet()
        ref._groups.add(self)
        return True

    def discard(self, ref: Ref[M_contra]) -> None:
        self._members.pop(ref, None)
        if ref._groups is not None:
            ref._groups.discard(self)

    def publish(self, message: M_contra) -> int:
        """`tell` everyone who is a member now the same object; how many took it. Never waits.

        What a member's full inbox does is that member's overflow policy.
        """
        return sum([ref.tell(message) for ref in list(self._members)])
