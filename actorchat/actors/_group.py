"""Groups: sets of addresses that receive the same messages. Members leave when they stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from actorchat.actors._ref import Ref, Watch

M_contra = TypeVar("M_contra", contravariant=True)


class Group(Generic[M_contra]):
    """Addresses that accept messages of type `M`, in the order in which they joined.

    A member that restarts or passivates stays. A member that stops, is killed or is given up leaves.
    """

    def __init__(self) -> None:
        self._members: dict[Ref[M_contra], Watch] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, ref: object) -> bool:
        return ref in self._members

    def __iter__(self) -> Iterator[Ref[M_contra]]:
        """Iterate over the current members."""
        return iter(tuple(self._members))

    def add(self, ref: Ref[M_contra]) -> bool:
        """Add `ref`. Returns False if it has stopped already."""
        if not ref.stopped and ref not in self._members:
            watch = self._members[ref] = Watch(lambda _watch, _end: self.discard(ref))
            ref._watch(watch)
        return not ref.stopped

    def discard(self, ref: Ref[M_contra]) -> None:
        """Remove `ref`. Does nothing if it is not a member."""
        self._members.pop(ref, None)

    def publish(self, message: M_contra) -> int:
        """`tell` the same object to all current members. Returns how many accepted it. Never waits.

        A full inbox follows its member's overflow policy.
        """
        return sum([ref.tell(message) for ref in list(self._members)])
