"""Shows the chats of people whose profile has changed again, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from actorchat.actors import Actor
from actorchat.chat.model import identity_of
from actorchat.chat.ports import StorageUnavailable
from actorchat.protocol import User

__all__ = ["ChatRefresher", "Renamed"]

RETRY = 1.0
"""Seconds after which chats that storage could not read or take are tried again."""


@attrs.frozen
class Renamed:
    """`user` has this profile now, and had another one before."""

    user: User


class ChatRefresher(Actor[Renamed]):
    """The actor that `show(user)` runs in: it shows all active chats of the user again.

    It raises `StorageUnavailable` if it could not show them all; then it is tried again until it could.
    """

    def __init__(self, show: Callable[[User], Awaitable[object]]) -> None:
        self._show = show

    async def receive(self, message: Renamed) -> None:
        try:
            await self._show(message.user)
        except StorageUnavailable:
            self.after(RETRY, message, key=identity_of(message.user))
